"""From the frames of a source to the windows that questions are asked of: sampling, gaps, slices, windows.

All of it depends on frame times alone, so a live run and its replay get the same windows.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from egolive.streaming.frames import Frame, Interval, Slice, Window

__all__ = ["FrameSampler", "Sampled", "Slicer", "WindowState", "Windower", "Windows"]


_STEPS = 5
"""Steps between frames that tell how slow a source is."""
_SLOWEST = 10.0
"""Seconds between two frames beyond which a source is no stream."""


class FrameSampler:
    """Thins a stream to a steady rate, and finds its gaps.

    Picks the frames nearest to the ticks of a grid that begins anew after each gap. At most one frame is
    picked for a tick and none twice, so a source slower than `fps` passes whole.

    A gap is a frame marked as such, a change of the picture's size, or a hole: two samples' time without a
    frame, or three frames' time of a source that is slower than that. How slow a source is shows in its last
    frames, where its nominal rate is not known.

    Args:
        fps: Samples a second.
        source_fps: Nominal rate of the source, where it is known.
    """

    def __init__(self, fps: float, source_fps: float | None = None) -> None:
        if not fps > 0:
            raise ValueError(f"a sampling rate is above 0, got {fps}")
        self._fps = fps
        self._longest_hole = max(2 / fps, 3 / source_fps if source_fps else 0.0)
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._before: Frame | None = None
        self._anchor = 0.0
        self._tick = -1
        self.gaps = 0
        """Gaps so far."""

    def push(self, frame: Frame) -> tuple[Frame | None, Interval | None]:
        """Take the next frame of the source; no frame may be left out.

        Returns:
            The frame where it is picked, marked when it follows a gap; and the time of the gap just found.
        """
        before, self._before = self._before, frame
        if before is None:
            return self._restart(frame), None
        gap = (
            frame.gap
            or (frame.width, frame.height) != (before.width, before.height)
            or frame.time - before.time > max(self._longest_hole, 3 * self._slow_step())
        )
        self._steps.append(frame.time - before.time)
        if gap:
            self.gaps += 1
            return self._restart(replace(frame, gap=True)), Interval(before.time, frame.time)
        # Half the time between two frames makes it the nearest; a quarter tick is the most that the jitter of
        # a slow source may bring a frame forward.
        tolerance = min((frame.time - before.time) / 2, 0.25 / self._fps)
        tick = math.floor((frame.time - self._anchor + tolerance) * self._fps)
        if tick <= self._tick:
            return None, None
        self._tick = tick
        return frame, None

    def _slow_step(self) -> float:
        """Seconds between the last frames where they are further apart than samples, else 0."""
        step = median(self._steps) if self._steps else 0.0
        return min(step, _SLOWEST) if step > 1 / self._fps else 0.0

    def _restart(self, frame: Frame) -> Frame:
        self._anchor = frame.time
        self._tick = 0
        return frame


class Slicer:
    """Pairs sampled frames 0 and 1, 2 and 3, … counted from the start or the last gap.

    A frame is in one slice at most and a slice never spans a gap, so a slice that was encoded once stays
    valid in every window that holds it.
    """

    def __init__(self) -> None:
        self._first: Frame | None = None
        self._index = 0
        self._segment = 0

    def push(self, frame: Frame) -> Slice | None:
        """Take the next sampled frame; returns the slice that it completes."""
        if frame.gap:
            self._segment += 1
            self._first = None
        if self._first is None:
            self._first = frame
            return None
        made = Slice(self._first, frame, self._index, self._segment)
        self._first = None
        self._index += 1
        return made


class Windows:
    """Growing windows over the last slices, each handing over to a younger one when it is full.

    With `length` N, windows start every N slices and the older of two is the one that counts: lengths are
    1, 2, ..., 2N - 1 after a start or a gap, then again and again N, N + 1, ..., 2N - 1. The keys and values
    computed for a window stay valid until it hands over, and `Window.successor` says how many slices the
    younger one already holds, so that it can be prefilled meanwhile.

    Args:
        length: N, the slices of a full window.
    """

    def __init__(self, length: int) -> None:
        self._slices: list[Slice] = []
        self.resize(length)

    def resize(self, length: int) -> None:
        """Let windows be of another length from the next slice on.

        One that is too long by then hands over early; one that may become longer goes on growing, so that
        what was computed for it stays valid.
        """
        if length < 1:
            raise ValueError(f"a window holds at least one slice, got {length}")
        self._length = length

    def push(self, newest: Slice) -> Window:
        """Take the next slice; a slice behind a gap starts a new window."""
        if self._slices and self._slices[-1].segment != newest.segment:
            self._slices.clear()
        self._slices.append(newest)
        if len(self._slices) >= 2 * self._length:
            del self._slices[: -self._length]
        return self.newest()

    def newest(self) -> Window:
        """The window that counts now; there has to be a slice."""
        return Window(tuple(self._slices), successor=max(0, len(self._slices) - self._length))


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowState:
    """What a `Windower` has come to, without pictures; plain numbers, for JSON. Times in seconds."""

    before: tuple[float, int, int]
    """Time, width and height of the last frame."""
    steps: tuple[float, ...]
    anchor: float
    tick: int
    gaps: int
    first: tuple[int, float] | None
    """Index and time of a sampled frame that waits for its second one."""
    slice_index: int
    segment: int
    slices: tuple[tuple[int, float, int, float, int, int], ...]
    """Of the window to come: index and time of both frames, number and segment."""
    window: bool
    """Whether there is a window, which then is made of all these slices."""
    length: int
    """Slices of a full window."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One frame of the source, and the window by then."""

    frame: Frame
    """The frame, marked when the sampler found a gap before it."""
    sampled: bool
    """Whether it goes into windows."""
    window: Window | None
    """The newest window; None after a start or a gap, until a slice is complete."""
    gap: Interval | None
    """The gap that ends with this frame."""


class Windower:
    """Sampler, slicer and windows in a row: takes every frame of a stream, in order.

    Args:
        fps: Frames a second that go into windows.
        slices: Slices of a full window.
        source_fps: Nominal rate of the source, where it is known.
    """

    def __init__(self, fps: float, slices: int, source_fps: float | None = None) -> None:
        self._sampler = FrameSampler(fps, source_fps)
        self._slicer = Slicer()
        self._windows = Windows(slices)
        self._window: Window | None = None

    @property
    def gaps(self) -> int:
        """Gaps so far."""
        return self._sampler.gaps

    def resize(self, slices: int) -> None:
        """Let full windows have so many slices from the next slice on."""
        self._windows.resize(slices)

    def push(self, frame: Frame) -> Sampled:
        """Take the next frame of the source."""
        sampled, gap = self._sampler.push(frame)
        if gap is not None:
            self._window = None
        if sampled is not None:
            frame = sampled
            made = self._slicer.push(sampled)
            if made is not None:
                self._window = self._windows.push(made)
        return Sampled(frame, sampled is not None, self._window, gap)

    def state(self) -> WindowState | None:
        """What it has come to; None before the first frame."""
        sampler, slicer = self._sampler, self._slicer
        if sampler._before is None:
            return None
        return WindowState(
            before=(sampler._before.time, sampler._before.width, sampler._before.height),
            steps=tuple(sampler._steps),
            anchor=sampler._anchor,
            tick=sampler._tick,
            gaps=sampler.gaps,
            first=None if slicer._first is None else (slicer._first.index, slicer._first.time),
            slice_index=slicer._index,
            segment=slicer._segment,
            slices=tuple(
                (one.first.index, one.first.time, one.second.index, one.second.time, one.index, one.segment)
                for one in self._windows._slices
            ),
            window=self._window is not None,
            length=self._windows._length,
        )

    def resume(self, state: WindowState) -> None:
        """Go on from a state; frames from before it have black pictures."""
        self.resize(state.length)
        time, width, height = state.before
        black = np.broadcast_to(np.zeros((), np.uint8), (height, width, 3))
        sampler, slicer = self._sampler, self._slicer
        sampler._before = Frame(black, time, 0)
        sampler._steps.extend(state.steps)
        sampler._anchor, sampler._tick, sampler.gaps = state.anchor, state.tick, state.gaps
        slicer._index, slicer._segment = state.slice_index, state.segment
        if state.first is not None:
            slicer._first = Frame(black, state.first[1], state.first[0])
        self._windows._slices = [
            Slice(Frame(black, t1, i1), Frame(black, t2, i2), index, segment)
            for i1, t1, i2, t2, index, segment in state.slices
        ]
        self._window = self._windows.newest() if state.window and state.slices else None
