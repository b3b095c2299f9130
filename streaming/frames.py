"""Core data types: Frame, Slice, Window, Box, Interval.

All are frozen and cheap to hold; pixels are shared, never copied. Times are seconds from the start of the
stream, pixels are those of the source frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "Finder", "Frame", "Image", "Interval", "Pixels", "Slice", "Window"]

Image = NDArray[np.uint8]
"""Pixels, shape (height, width, 3), RGB, uint8."""


Finder = Literal["", "detector", "model", "tracker"]
"""Who says where a box is: the hand detector, the model, or the tracker that carried it on from another
picture. Empty: nobody said."""


class Pixels(Protocol):
    """A picture that is converted to RGB at its first access; most are neither sampled nor drawn."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3), known before."""
        ...

    def __call__(self) -> Image:
        """The picture, (H, W, 3) uint8; converted once, by the thread that asks first."""
        ...


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of the stream.

    Example:
        >>> import egolive, numpy as np
        >>> egolive.Frame(np.zeros((360, 640, 3), np.uint8), time=0.5, index=15)
        Frame(640x360, t=0.500 s, #15)
    """

    pixels: Image | Pixels
    """The picture, or what makes it; read it as `image`."""
    time: float
    """Capture time in seconds from the start of the stream."""
    index: int
    """Running number in the source, dropped frames counted."""
    gap: bool = False
    """True when something is missing between the frame before and this one: no window may span it."""
    captured: float | None = None
    """When a live picture was taken, in seconds of the clock that the source was opened with; else None."""

    @property
    def image(self) -> Image:
        """RGB pixels, (H, W, 3) uint8."""
        return self.pixels if isinstance(self.pixels, np.ndarray) else self.pixels()

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])

    def __repr__(self) -> str:
        gap = ", gap" if self.gap else ""
        return f"Frame({self.width}x{self.height}, t={self.time:.3f} s, #{self.index}{gap})"


@dataclass(frozen=True, slots=True)
class Slice:
    """Two consecutive sampled frames: Qwen2-VL's temporal patch, the unit that the vision tower sees."""

    first: Frame
    second: Frame
    index: int
    """Running number of the slice in the stream; with `segment`, its name in every cache."""
    segment: int = 0
    """Number of gaps before it: slices of one window share it."""

    @property
    def time(self) -> float:
        """Capture time of the newer frame, seconds."""
        return self.second.time

    @property
    def frames(self) -> tuple[Frame, Frame]:
        """Both frames, oldest first."""
        return (self.first, self.second)


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive slices with no gap inside: what one question is asked of."""

    slices: tuple[Slice, ...]
    successor: int = 0
    """How many of its newest slices the window that takes over from it will begin with; 0 where none does."""

    def __post_init__(self) -> None:
        if not self.slices:
            raise ValueError("a window holds at least one slice")
        if not 0 <= self.successor < len(self.slices):
            raise ValueError(
                f"a successor shares some of {len(self.slices)} slices, but not all, got {self.successor}"
            )
        if len({s.segment for s in self.slices}) != 1:
            raise ValueError("a window may not cross a gap")

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def frames(self) -> tuple[Frame, ...]:
        """All frames, oldest first."""
        return tuple(frame for s in self.slices for frame in s.frames)

    @property
    def newest(self) -> Frame:
        """The newest frame."""
        return self.slices[-1].second

    @property
    def interval(self) -> Interval:
        """Capture times of the first and the last frame."""
        return Interval(self.slices[0].first.time, self.slices[-1].second.time)


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of stream time, in seconds.

    Example:
        >>> import egolive
        >>> egolive.Interval(1.0, 3.5).duration
        2.5
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if not self.end >= self.start:
            raise ValueError(f"an interval ends after it starts, got {self.start} to {self.end}")

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.end - self.start

    def iou(self, other: Interval) -> float:
        """Intersection over union on the time line, in [0, 1]; two equal instants count as 1.

        Example:
            >>> import egolive
            >>> egolive.Interval(0, 2).iou(egolive.Interval(1, 4))
            0.25
        """
        shared = min(self.end, other.end) - max(self.start, other.start)
        union = max(self.end, other.end) - min(self.start, other.start)
        if union <= 0:
            return 1.0
        return max(0.0, shared) / union

    def shift(self, seconds: float) -> Interval:
        """The same stretch, `seconds` later.

        Example:
            >>> import egolive
            >>> egolive.Interval(0, 2).shift(1.5)
            Interval(start=1.5, end=3.5)
        """
        return Interval(self.start + seconds, self.end + seconds)


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box in pixels of the source frame, x to the right and y down.

    Example:
        >>> import egolive
        >>> box = egolive.Box(10, 20, 50, 80, label="left hand", score=0.9)
        >>> box.label, box.area
        ('left hand', 2400)
        >>> x1, y1, x2, y2 = box
    """

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""
    score: float | None = None
    """Probability in [0, 1]; None where it is unknown, as with a server that tells none."""
    by: Finder = field(default="", compare=False, kw_only=True)
    """Who put it where it is. Two boxes in one place are equal whoever did."""
    found_by: Finder = field(default="", compare=False, kw_only=True)
    """Who found it, where the tracker carried it on; else empty."""
    supported: bool | None = field(default=None, compare=False, kw_only=True)
    """Whether a hand detector saw what the model claims: a hand there, or the hand that holds it. None where
    none looked."""

    @property
    def finder(self) -> Finder:
        """Who found it, before it was carried on."""
        return self.found_by or self.by

    @property
    def area(self) -> float:
        """Square pixels; 0 for an inverted box."""
        return max(0.0, self.x2 - self.x1) * max(0.0, self.y2 - self.y1)

    def iou(self, other: Box) -> float:
        """Intersection over union, in [0, 1]; 0 where either box is empty.

        Example:
            >>> import egolive
            >>> egolive.Box(0, 0, 10, 10).iou(egolive.Box(5, 0, 10, 10))
            0.5
        """
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        shared = max(0.0, width) * max(0.0, height)
        union = self.area + other.area - shared
        return shared / union if shared > 0 else 0.0

    def __iter__(self) -> Iterator[float]:
        return iter((self.x1, self.y1, self.x2, self.y2))
