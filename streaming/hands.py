"""Hands that a detector finds in pictures: the values, and the protocols of detectors and of what asks them.

A detector looks at single pictures and knows neither tasks nor threads. What asks one beside a run is in
`egolive.streaming.pipeline.hand_watch`. Pixels are those of the source frame, times seconds of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from egolive.streaming.frames import Box, Frame, Image

__all__ = ["Hand", "HandDetector", "HandWatch", "Look", "Point", "Side"]

Side = Literal["left", "right"]
Point = tuple[float, float]
"""x and y in pixels."""


@dataclass(frozen=True, slots=True)
class Hand:
    """One hand in one picture.

    Example:
        >>> import egolive
        >>> hand = egolive.Hand("left", egolive.Box(10, 20, 50, 80, "left hand", 0.9, by="detector"))
        >>> hand.side, hand.box.by
        ('left', 'detector')
    """

    side: Side
    """Whose hand it is, the wearer's left or right one."""
    box: Box
    """Labelled "left hand" or "right hand"; its score is the detector's own, in [0, 1]."""
    landmarks: tuple[Point, ...] = ()
    """Joints from the wrist to the tips, 21 in the order of MediaPipe; empty where a detector gives none."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a detector found in one picture; without hands it looked and found none."""

    time: float
    """Capture time of the picture, seconds."""
    index: int
    """Its running number in the source."""
    hands: tuple[Hand, ...] = ()

    def hand(self, side: Side) -> Hand | None:
        """The hand of a side; None where it was not found."""
        return next((hand for hand in self.hands if hand.side == side), None)


class HandDetector(Protocol):
    """Finds hands in pictures. One thread at a time uses it."""

    name: str
    """What people call it."""

    def detect(self, image: Image) -> Sequence[Hand]:
        """Find the wearer's hands: at most one of each side.

        Args:
            image: (H, W, 3) RGB bytes. Pictures of one stream come in order, so a detector may begin where
                it found the hands before.

        Raises:
            EgoliveError: It failed.
        """
        ...

    def forget(self) -> None:
        """Begin anew: the next picture has nothing to do with those before."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


class HandWatch(Protocol):
    """What a run asks for hands with each picture that it shows. One thread uses it."""

    def see(self, frame: Frame) -> Sequence[Look]:
        """Take a picture that is shown, and tell what was found since the one before, oldest first."""
        ...

    def take_error(self) -> str:
        """Why nothing more will be found, told once; "" while all is well and once it was told."""
        ...

    def forget(self, since: float) -> None:
        """The stream begins anew: pictures before this time say nothing about what comes."""
        ...

    def close(self) -> None:
        """End it, threads included; twice does nothing."""
        ...
