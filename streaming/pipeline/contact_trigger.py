"""When hands touch, take or leave something, by how they move; no model is asked.

A hand that takes something or puts it down slows down there (Jeannerod, 1984, "The timing of natural
prehension movements"). So a hand that comes to rest is a reason to look, and so is one that is lost from
sight in the middle of the picture. Speeds are measured by optical flow inside the boxes of hands, against
that of the scene around them: the wearer's head moves everything. Boxes that jump, because a detector or a
model has given new ones, do not count as movement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egolive.streaming.frames import Box, Frame

__all__ = ["ContactTrigger"]

_SIDE = 320
"""Pixels of the longer side of the small pictures."""
_PERIOD = 0.095
"""Seconds between two pictures that are looked at: at 30 a second every third."""
_PAUSE = 0.5
"""Seconds without a picture after which movement cannot be told."""
_FAST, _SLOW = 0.4, 0.15
"""Longer sides of the picture per second from which on a hand moves, and below which it rests."""
_SLOWED = 0.3
"""Share of its highest speed below which a hand rests, too: to take something it need not stop."""
_GONE = 3
"""Pictures without a hand after which it is lost."""
_EDGE = 0.03
"""Shares of the picture from its edge: a hand that was last seen there has left, with what it holds."""
_SETTLE = 0.2
"""Seconds from the movement to the picture that is asked about: fingers close, objects lie still."""
_APART = 0.7
"""Least seconds between two triggers; what comes meanwhile is one."""
_STRAYS, _STRAYED = 3, 3
"""Points of the scene that move on their own from which on something moves, and pictures in a row."""
_HANDS = 2
"""Hands of a wearer: where all are known, what else moves is somebody else's."""
_REACH = 0.5
"""Share of its box by which a hand is larger than it: what it holds moves with it. Below it is the arm."""
_LEAST = 9
"""Points from which on the movement of the scene is known."""

_Points = NDArray[np.float32]


def _grid(columns: int, rows: int) -> _Points:
    """(columns * rows, 2), from 0 to 1."""
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


_SCENE = _grid(16, 9)
_HAND = 0.2 + 0.6 * _grid(5, 5)
"""Places in a box; its rim is more often background."""


@dataclass(slots=True)
class _Movement:
    """How a hand moves."""

    moving: bool = False
    fastest: float = 0.0
    missed: int = 0
    last: Box | None = None

    def push(self, speed: float) -> bool:
        """Take its speed; returns whether it has come to rest."""
        if not self.moving:
            self.moving, self.fastest = speed > _FAST, speed
            return False
        self.fastest = max(self.fastest, speed)
        if speed < max(_SLOW, _SLOWED * self.fastest):
            self.moving, self.fastest = False, 0.0
            return True
        return False


class ContactTrigger:
    """Tells when to ask because of what hands do. Not thread-safe.

    Example:
        >>> import numpy as np
        >>> from egolive.streaming.frames import Frame
        >>> trigger = ContactTrigger()
        >>> still = np.zeros((90, 160, 3), np.uint8)
        >>> [trigger.push(Frame(still, index / 10, index), {}) for index in range(3)]
        [None, None, None]
    """

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._size = (0, 0)
        self._grey: NDArray[np.uint8] | None = None
        self._hands: dict[str, Box] = {}
        self._known: dict[str, _Movement] = {}
        self._strayed = 0
        self._time = self._told = float("-inf")
        self._due: tuple[float, str] | None = None

    def push(self, frame: Frame, hands: Mapping[str, Box], *, watched: bool = False) -> str | None:
        """Take the next picture.

        Args:
            frame: The picture that is shown.
            hands: The boxes of the hands that are known on it, by name; in its pixels.
            watched: Whether a detector looks for hands. Without one, movement where no hand is known counts
                too: a hand that has come in is known only once the model has been asked.

        Returns:
            What a hand has done, in words, when it is time to ask; else None.
        """
        passed = frame.time - self._time
        if frame.gap or (frame.width, frame.height) != self._size or not 0 <= passed <= _PAUSE:
            self._forget(frame)
        elif passed < _PERIOD:
            return None
        grey = _small(frame)
        if self._grey is not None:
            for reason in self._reasons(grey, hands, frame, watched=watched):
                # The first names it; the later ones need the same look.
                self._due = self._due or (frame.time + _SETTLE, reason)
        self._grey, self._time, self._hands = grey, frame.time, dict(hands)
        if self._due is None or frame.time < self._due[0] or frame.time - self._told < _APART:
            return None
        reason = self._due[1]
        self._due, self._told = None, frame.time
        return reason

    def _forget(self, frame: Frame) -> None:
        self._size = (frame.width, frame.height)
        self._grey = None
        self._hands, self._known, self._strayed = {}, {}, 0
        self._due = None
        self._told = float("-inf")

    def _reasons(
        self, grey: NDArray[np.uint8], hands: Mapping[str, Box], frame: Frame, *, watched: bool
    ) -> list[str]:
        assert self._grey is not None
        unit = np.array([frame.width, frame.height], np.float32)
        before = {
            name: np.array([*self._hands[name]], np.float32).reshape(2, 2) / unit for name in self._hands
        }
        places = [_SCENE, *(low + _HAND * (high - low) for low, high in before.values())]
        shifts, found = _flow(self._grey, grey, np.concatenate(places))
        shifts /= np.float32(max(frame.time - self._time, 1e-3))
        cuts = np.cumsum([len(place) for place in places])[:-1]
        (scene, *moved), (seen, *kept) = np.split(shifts, cuts), np.split(found, cuts)
        after = [np.array([*box], np.float32).reshape(2, 2) / unit for box in hands.values()]
        free = seen & ~_near([*before.values(), *after])
        ground = np.median(scene[free], axis=0) if free.sum() >= _LEAST else np.zeros(2, np.float32)
        reasons = []
        for name, shift, ok in zip(before, moved, kept, strict=True):
            movement = self._known.get(name)
            if movement is None or ok.sum() < len(_HAND) // 4:
                continue
            speed = float(np.hypot(*(np.median(shift[ok], axis=0) - ground)))
            if movement.push(speed):
                reasons.append(f"the {name} has come to rest")
        reasons += self._come_and_gone(hands)
        if watched or len(hands) >= _HANDS:
            self._strayed = 0
            return reasons
        moving = int(np.count_nonzero(np.hypot(*(scene[free] - ground).T) > _FAST)) >= _STRAYS
        if moving:
            self._strayed += 1
            if self._strayed == _STRAYED:
                reasons.append("something moves")
        else:
            if self._strayed >= _STRAYED:
                reasons.append("something has come to rest")
            self._strayed = 0
        return reasons

    def _come_and_gone(self, hands: Mapping[str, Box]) -> list[str]:
        reasons = []
        for name, box in hands.items():
            if name not in self._known:
                # It was carried in: its next rest counts, whatever speed was seen.
                self._known[name] = _Movement(moving=True, fastest=_FAST)
            self._known[name].missed, self._known[name].last = 0, box
        for name, movement in list(self._known.items()):
            movement.missed += name not in hands
            if movement.missed >= _GONE:
                del self._known[name]
                if movement.last is None or not _at_edge(movement.last, self._size):
                    reasons.append(f"the {name} is lost from sight")
        return reasons


def _at_edge(box: Box, size: tuple[int, int]) -> bool:
    """Whether a box reaches the edge of a picture of this width and height."""
    width, height = size
    across, down = _EDGE * width, _EDGE * height
    return box.x1 < across or box.y1 < down or box.x2 > width - across or box.y2 > height - down


def _small(frame: Frame) -> NDArray[np.uint8]:
    scale = min(1.0, _SIDE / max(frame.width, frame.height))
    size = (max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
    small = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _flow(
    before: NDArray[np.uint8], after: NDArray[np.uint8], places: _Points
) -> tuple[_Points, NDArray[np.bool_]]:
    """How far points move, in longer sides of the picture, and which were found."""
    rows, columns = before.shape
    points = (places * (columns, rows)).astype(np.float32)
    ends, found, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, winSize=(11, 11), maxLevel=3)
    return np.asarray(ends - points, np.float32) / max(rows, columns), np.asarray(found)[:, 0] > 0


def _near(boxes: list[_Points]) -> NDArray[np.bool_]:
    """Points of the scene that lie at a hand or below it, where its arm is."""
    near = np.zeros(len(_SCENE), np.bool_)
    for low, high in boxes:
        reach = _REACH * (high - low)
        near |= (np.abs(_SCENE[:, 0] - (low[0] + high[0]) / 2) < (high[0] - low[0]) / 2 + reach[0]) & (
            _SCENE[:, 1] > low[1] - reach[1]
        )
    return near
