"""Turns the time stamps of a container into stream time: from zero, never back."""

from __future__ import annotations

__all__ = ["Timeline"]

_REORDER_LIMIT = 1.0
"""A step back by more seconds than this is a clock that was set anew, not a frame out of place."""


class Timeline:
    """Places frames on the time line of the stream.

    Args:
        step: seconds to assume between two frames where a time stamp says nothing.
    """

    def __init__(self, step: float) -> None:
        self._step = step
        self._origin: float | None = None
        self._last: float | None = None

    def place(self, stamp: float | None) -> tuple[float, bool]:
        """Seconds from the first frame, and whether the time line was broken just before this one.

        A missing stamp, or one slightly out of order, is put one step after the frame before; a stamp far
        back means that the sender started a new clock, so its times go on from here.
        """
        if self._last is None:
            self._origin = stamp
            self._last = 0.0
            return 0.0, False
        following = self._last + self._step
        gap = False
        if stamp is None:
            time = following
        elif self._origin is None:
            self._origin, time = stamp - following, following
        else:
            time = stamp - self._origin
            if time <= self._last - _REORDER_LIMIT:
                self._origin, time, gap = stamp - following, following, True
            elif time <= self._last:
                time = following
        self._last = time
        return time, gap
