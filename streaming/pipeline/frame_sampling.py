"""Thins a stream to a steady rate by the times of its frames, and finds its gaps."""

from __future__ import annotations

import math
from dataclasses import replace

from egolive.streaming.frames import Frame, Interval

__all__ = ["FrameSampler"]


class FrameSampler:
    """Picks the frames nearest to the ticks of a grid that begins anew after each gap.

    At most one frame is picked for a tick and none twice, so a source slower than `fps` passes whole. The
    picks depend on the frame times alone: the same recording always gives the same ones.

    A gap is a frame marked as such, a change of the picture's size, or a hole: two samples' time without a
    frame, or three frames' time of a source that is slower than that.

    Args:
        fps: samples a second.
        source_fps: nominal rate of the source, where it is known.
    """

    def __init__(self, fps: float, source_fps: float | None = None) -> None:
        if not fps > 0:
            raise ValueError(f"a sampling rate is above 0, got {fps}")
        self._fps = fps
        self._longest_hole = max(2 / fps, 3 / source_fps if source_fps else 0.0)
        self._before: Frame | None = None
        self._anchor = 0.0
        self._tick = -1
        self.gaps = 0
        """Gaps so far."""

    def push(self, frame: Frame) -> tuple[Frame | None, Interval | None]:
        """Look at the next frame of the source; every one must be shown.

        Returns:
            The frame where it is picked, marked when it follows a gap; and the time of the gap just found.
        """
        before, self._before = self._before, frame
        if before is None:
            return self._restart(frame), None
        gap = (
            frame.gap
            or (frame.width, frame.height) != (before.width, before.height)
            or frame.time - before.time > self._longest_hole
        )
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

    def _restart(self, frame: Frame) -> Frame:
        self._anchor = frame.time
        self._tick = 0
        return frame
