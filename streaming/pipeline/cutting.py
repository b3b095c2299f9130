"""From the frames of a source to what there is to think about: sampled frames, gaps, the newest window.

A live run and its replay cut a stream by the same rules, which depend on frame times alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from egolive.streaming.frames import Frame, Interval, Window
from egolive.streaming.pipeline.frame_sampling import FrameSampler
from egolive.streaming.pipeline.windowing import Slicer, Windows

__all__ = ["Sampled", "Windower"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One frame in its place in the stream."""

    frame: Frame
    """As it goes on: marked when the sampler found a gap before it."""
    sampled: bool
    """Whether it goes into windows."""
    window: Window | None
    """The newest window by then; None after a start or a gap, until a slice is complete."""
    gap: Interval | None
    """The gap that ends with this frame."""


class Windower:
    """Takes every frame of a stream, in order.

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
