"""From sampled frames to slices, and from slices to the windows that a question is asked of."""

from __future__ import annotations

from collections import deque

from egolive.streaming.frames import Frame, Slice, Window

__all__ = ["Slicer", "Windows"]


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
    """The last slices, as a window that grows from one slice to `length` and then slides by one.

    Args:
        length: slices of a full window.
    """

    def __init__(self, length: int) -> None:
        if length < 1:
            raise ValueError(f"a window holds at least one slice, got {length}")
        self._slices: deque[Slice] = deque(maxlen=length)

    def push(self, newest: Slice) -> Window:
        """Take the next slice; a slice behind a gap starts a new window."""
        if self._slices and self._slices[-1].segment != newest.segment:
            self._slices.clear()
        self._slices.append(newest)
        return Window(tuple(self._slices))
