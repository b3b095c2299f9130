"""Reads the output of MediaPipe's palm detector: anchors, boxes and key points, and which belong together.

The network sees a square of 192 pixels and tells, for each of 2,016 anchors, a box, seven key points of the
palm, and a logit. Settings as in
https://github.com/google-ai-edge/mediapipe/blob/master/mediapipe/tasks/cc/vision/hand_detector/hand_detector_graph.cc
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIDE", "Palm", "Region", "anchors", "decode", "merge", "region_of", "turn_of"]

Floats = NDArray[np.float32]

SIDE = 192
"""Pixels along the side of what the network sees."""
_LAYERS = ((8, 2), (16, 6))
"""Pixels of a cell, and anchors in each: three layers of 16 pixels count as one."""
_OVERLAP = 0.3
"""Intersection over union from which two boxes are of one palm."""
_WRIST, _MIDDLE = 0, 2
"""Key points: centre of the wrist, and the root of the middle finger."""
_LARGER = 2.6
"""Side of the region of a hand, in sides of its palm."""
_AHEAD = 0.5
"""How far the region lies towards the fingers, in heights of the palm."""


@dataclass(frozen=True, slots=True)
class Palm:
    """One palm, in the unit of what was decoded: squares of the network's picture, or pixels."""

    score: float
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2."""
    points: Floats
    """Key points, (7, 2)."""

    def moved(self, scale: float, shift: tuple[float, float]) -> Palm:
        """The palm in another unit: scaled, then shifted."""
        x1, y1, x2, y2 = (value * scale + shift[place % 2] for place, value in enumerate(self.box))
        points = self.points * np.float32(scale) + np.array(shift, np.float32)
        return Palm(self.score, (x1, y1, x2, y2), points)


@dataclass(frozen=True, slots=True)
class Region:
    """A square that is turned so that the fingers point up in it."""

    x: float
    y: float
    """Its centre, pixels."""
    side: float
    """Its side, pixels."""
    turn: float
    """By how much it is turned clockwise, radians."""


@cache
def anchors() -> Floats:
    """Centres of the anchors, (2016, 2), as shares of the picture; they have no size of their own."""
    centres = []
    for stride, count in _LAYERS:
        cells = SIDE // stride
        steps = (np.arange(cells, dtype=np.float32) + 0.5) / cells
        grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        centres.append(np.repeat(grid, count, axis=0))
    found = np.concatenate(centres).astype(np.float32)
    found.setflags(write=False)
    return found


def decode(raw: Floats, logits: Floats, threshold: float) -> list[Palm]:
    """The palms that are likely enough, each several times; the likeliest first.

    Args:
        raw: (2016, 18): x, y, width and height, then seven pairs, in pixels of the network's picture, places
            from the anchor on.
        logits: (2016,).
        threshold: Least probability.

    Returns:
        Palms in shares of the network's picture.
    """
    scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -100, 100)))
    kept = np.flatnonzero(scores >= threshold)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    palms = []
    for place in kept:
        values, centre = raw[place] / SIDE, anchors()[place]
        x, y = values[:2] + centre
        width, height = (float(value) for value in values[2:4])
        box = (float(x) - width / 2, float(y) - height / 2, float(x) + width / 2, float(y) + height / 2)
        palms.append(Palm(float(scores[place]), box, values[4:18].reshape(7, 2) + centre))
    return palms


def merge(palms: list[Palm]) -> list[Palm]:
    """One palm for each group that overlaps: its members' mean, weighted by their scores.

    Args:
        palms: The likeliest first.
    """
    left, found = list(palms), []
    while left:
        best = left[0]
        group = [palm for palm in left if palm is best or _iou(palm.box, best.box) > _OVERLAP]
        members = {id(palm) for palm in group}
        left = [palm for palm in left if id(palm) not in members]
        weights = np.array([palm.score for palm in group])
        weights /= weights.sum()
        x1, y1, x2, y2 = (weights @ np.array([palm.box for palm in group])).tolist()
        points = np.tensordot(weights, np.stack([palm.points for palm in group]), axes=1)
        found.append(Palm(best.score, (x1, y1, x2, y2), points.astype(np.float32)))
    return found


def region_of(palm: Palm) -> Region:
    """Where the whole hand of a palm is, which is in pixels."""
    x1, y1, x2, y2 = palm.box
    (wrist_x, wrist_y), (middle_x, middle_y) = palm.points[_WRIST].tolist(), palm.points[_MIDDLE].tolist()
    turn = turn_of(middle_x - wrist_x, middle_y - wrist_y)
    ahead = _AHEAD * (y2 - y1)
    return Region(
        (x1 + x2) / 2 + ahead * math.sin(turn),
        (y1 + y2) / 2 - ahead * math.cos(turn),
        _LARGER * max(x2 - x1, y2 - y1),
        turn,
    )


def turn_of(right: float, down: float) -> float:
    """By how much a direction is turned clockwise from straight up, radians in [-pi, pi)."""
    turn = math.pi / 2 - math.atan2(-down, right)
    return turn - 2 * math.pi * math.floor((turn + math.pi) / (2 * math.pi))


def _iou(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)
