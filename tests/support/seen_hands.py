"""Hands and detectors that see what a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import EngineError
from egolive.streaming.frames import Box, Frame, Image
from egolive.streaming.hands import Hand, Look, Side


def seen(side: Side, x1: float, y1: float, x2: float, y2: float, score: float = 0.9) -> Hand:
    """A hand whose 21 joints lie on the diagonal of its box."""
    steps = np.linspace(0, 1, 21)
    joints = tuple((float(x1 + (x2 - x1) * step), float(y1 + (y2 - y1) * step)) for step in steps)
    return Hand(side, Box(x1, y1, x2, y2, f"{side} hand", score, by="detector"), joints)


def look(time: float, *hands: Hand) -> Look:
    """A look at the picture of a time, ten pictures a second."""
    return Look(time, round(10 * time), hands)


class BrightHands:
    """Implements `HandDetector`: a hand is the box round all white pixels, left of the middle a left one.

    It fails at the picture whose number is given, and takes time of a clock where one is given.
    """

    name = "bright"

    def __init__(
        self,
        *,
        clock: VirtualClock | None = None,
        seconds: float = 0.0,
        fails_at: int | None = None,
        error: Exception | None = None,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self.pictures = 0
        self.forgotten = 0
        self.closed = 0
        self.threads: set[str] = set()
        self._clock, self._seconds = clock, seconds
        self._fails_at, self._error = fails_at, error or EngineError("the detector is broken")
        self._before = before

    def detect(self, image: Image) -> Sequence[Hand]:
        self._before()
        self.threads.add(threading.current_thread().name)
        self.pictures += 1
        if self._clock is not None:
            self._clock.advance(self._seconds)
        if self.pictures == self._fails_at:
            raise self._error
        rows, columns = np.nonzero((image > 250).all(axis=2))
        if not len(rows):
            return []
        side: Side = "left" if columns.mean() < image.shape[1] / 2 else "right"
        corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        return [seen(side, *(float(value) for value in corners))]

    def forget(self) -> None:
        self.forgotten += 1

    def close(self) -> None:
        self.closed += 1


def bright(time: float, x: int | None, *, index: int | None = None) -> Frame:
    """A textured picture of 160 x 90 with a white square of 30 pixels whose left edge is at x, or none."""
    image = np.random.default_rng(0).integers(0, 200, (90, 160, 3), dtype=np.uint8)
    if x is not None:
        image[50:80, x : x + 30] = 255
    return Frame(image, time, round(10 * time) if index is None else index)
