"""Whether anything has moved in a stream of pictures, by comparing small grey versions of them.

Noise of the camera and changes of exposure are no motion. Slow motion adds up: each picture is compared with
the one since which nothing has moved, not with the one before.
"""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

from egolive.streaming.frames import Frame, Image

__all__ = ["MotionGate"]

_CELLS = (64, 36)
"""Width and height of the small pictures: of 640x360 pixels, a cell is 10x10."""
_PERIOD = 0.2
"""Seconds between two pictures that are looked at."""
_LEAST = 6.0
"""Grey levels by which a cell differs at least: less is what video compression does to a still scene."""
_SIGMAS = 6.0
"""The same in standard deviations of the noise."""
_MOVED = 3
"""Cells that differ at least."""
_NOISE_OF = 25
"""Pictures of which the quietest tells the noise: motion of the camera changes all cells too."""
_MOST_NOISE = 3.0
"""Grey levels; a cell is the mean of many pixels, so that a camera with more shows nothing else."""

_Small = NDArray[np.float32]


class MotionGate:
    """Finds since when nothing has moved. One thread owns it.

    Args:
        settle: Seconds without motion after which a scene counts as still.
    """

    def __init__(self, *, settle: float = 1.0) -> None:
        self._settle = settle
        self._since = 0.0
        self._looked = float("-inf")
        self._reference: _Small | None = None
        self._before: _Small | None = None
        self._changes: deque[float] = deque(maxlen=_NOISE_OF)
        self._size = (0, 0)

    def push(self, frame: Frame) -> float | None:
        """Take the next picture.

        Returns:
            Stream time since which nothing has moved; None while something does.
        """
        if frame.gap or (frame.width, frame.height) != self._size:
            self._size = (frame.width, frame.height)
            self._reference = self._before = None
        elif 0 <= frame.time - self._looked < _PERIOD:
            return self._still(frame.time)
        self._looked = frame.time
        small = _small(frame.image)
        if self._before is not None:
            # From the median, as most of a scene does not move, to a standard deviation.
            self._changes.append(1.4826 * float(np.median(np.abs(_residual(small, self._before)))))
        self._before = small
        if self._reference is None or self._differs(small, self._reference):
            self._reference, self._since = small, frame.time
        return self._still(frame.time)

    def _still(self, now: float) -> float | None:
        return self._since if now - self._since >= self._settle else None

    def _differs(self, small: _Small, reference: _Small) -> bool:
        change = np.abs(_residual(small, reference))
        noise = min(min(self._changes, default=0.0), _MOST_NOISE)
        return int(np.count_nonzero(change > max(_LEAST, _SIGMAS * noise))) >= _MOVED


def _small(image: Image) -> _Small:
    small = cv2.resize(image, _CELLS, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.float32)


def _residual(one: _Small, other: _Small) -> _Small:
    """What differs between two pictures once brightness and contrast are made equal, in grey levels."""
    kept = np.ones(one.shape, bool)
    residual = one - other
    for _ in range(2):
        # The second time without the cells that the first fit explains worst: what moved is among them.
        x, y = other[kept], one[kept]
        middle = float(x.mean())
        spread = float(((x - middle) ** 2).sum())
        gain = float(((x - middle) * (y - y.mean())).sum()) / spread if spread > 1.0 else 1.0
        residual = one - (float(y.mean()) + gain * (other - middle))
        kept = np.abs(residual) <= np.quantile(np.abs(residual), 0.8)
    return np.asarray(residual, np.float32)
