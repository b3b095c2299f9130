"""From sampled frames to slices, and from slices to the windows that a question is asked of."""

from __future__ import annotations

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
    """The last slices as windows that grow at their end for a while, then hand over to a younger one.

    With `length` N, windows start every N slices and the older of two is the one that counts: lengths are
    1, 2, ..., 2N - 1 after a start or a gap, then again and again N, N + 1, ..., 2N - 1. What was read of a
    window stays valid until it hands over, and `Window.successor` says what the younger one already holds, so
    that it can be read meanwhile.

    Sliding windows grow from one slice to N and then lose the oldest for each new one: each begins anew, and
    none has a successor.

    Args:
        length: N, the slices of a full window.
        sliding: Slide in place of growing and handing over.
    """

    def __init__(self, length: int, *, sliding: bool = False) -> None:
        if length < 1:
            raise ValueError(f"a window holds at least one slice, got {length}")
        self._length = length
        self._sliding = sliding
        self._slices: list[Slice] = []

    def push(self, newest: Slice) -> Window:
        """Take the next slice; a slice behind a gap starts a new window."""
        if self._slices and self._slices[-1].segment != newest.segment:
            self._slices.clear()
        self._slices.append(newest)
        if self._sliding:
            del self._slices[: -self._length]
            return Window(tuple(self._slices))
        if len(self._slices) == 2 * self._length:
            del self._slices[: self._length]
        return Window(tuple(self._slices), successor=max(0, len(self._slices) - self._length))
