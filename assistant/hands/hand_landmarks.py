"""Cuts hands out of pictures for MediaPipe's landmark network, and reads what it says about them.

The network sees a square of 224 pixels in which the fingers point up, and tells 21 joints, whether a hand is
there at all, and whether it is a right one. The steps are those of
https://github.com/google-ai-edge/mediapipe/tree/master/mediapipe/tasks/cc/vision/hand_landmarker
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egolive.assistant.hands.palm_detection import Region, turn_of
from egolive.streaming.frames import Image

__all__ = ["JOINTS", "SIDE", "FoundHand", "cut", "next_region", "same_hand", "to_picture"]

Floats = NDArray[np.float32]

SIDE = 224
"""Pixels along the side of what the network sees."""
JOINTS = 21
_PALM = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)
"""Joints that hardly move against the palm: the next picture's region is made of these."""
_WRIST, _INDEX, _MIDDLE, _RING = 0, 6, 10, 14
"""The wrist, and the middle joints of three fingers: they tell which way a hand points."""
_LARGER, _AHEAD = 2.0, 0.1
"""Side of the next region in sides of these joints' box, and how far it lies towards the fingers."""
_NEAR = 0.2
"""Distance of joints, in sizes of the palm, below which they are the same."""
_SAME = 10
"""Same joints from which two hands are one, as MediaPipe counts them."""
_INSIDE = 0.6
"""Share of the smaller box of joints inside the larger one from which they are one, too: a part of a picture
shows a hand that fills it as another one."""


@dataclass(frozen=True, slots=True)
class FoundHand:
    """What the network said about a region."""

    joints: Floats
    """(21, 2), pixels of the picture."""
    score: float
    """Probability that it is a hand, in [0, 1]."""
    right: float
    """Probability that it is a right hand."""


def cut(image: Image, region: Region, side: int, *, replicate: bool) -> Floats:
    """A region as a network sees it.

    Args:
        image: (H, W, 3) RGB bytes.
        region: Which part; it may reach beyond the picture.
        side: Pixels along the side of the result.
        replicate: Go on with the edge's pixels beyond the picture, in place of black.

    Returns:
        (1, side, side, 3) in [0, 1].
    """
    border = cv2.BORDER_REPLICATE if replicate else cv2.BORDER_CONSTANT
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    small = cv2.warpAffine(image, _affine(region, side), (side, side), flags=flags, borderMode=border)
    return (np.asarray(small, np.float32) / np.float32(255))[None]


def to_picture(points: Floats, region: Region, side: int) -> Floats:
    """Points in a region that was cut out, (N, 2) in its pixels, as pixels of the picture."""
    affine = _affine(region, side)
    return (points @ affine[:, :2].T + affine[:, 2]).astype(np.float32)


def next_region(joints: Floats) -> Region:
    """Where a hand is likely to be in the next picture."""
    x0, y0 = joints[_WRIST].tolist()
    x1, y1 = ((joints[_INDEX] + joints[_RING]) / 4 + joints[_MIDDLE] / 2).tolist()
    turn = turn_of(x1 - x0, y1 - y0)
    palm = joints[list(_PALM)].astype(np.float64)
    middle = (palm.min(axis=0) + palm.max(axis=0)) / 2
    cos, sin = math.cos(turn), math.sin(turn)
    upright = (palm - middle) @ np.array([[cos, -sin], [sin, cos]])
    low, high = upright.min(axis=0), upright.max(axis=0)
    (across, up), (width, height) = ((low + high) / 2).tolist(), (high - low).tolist()
    up -= _AHEAD * height
    x, y = middle.tolist()
    return Region(
        x + across * cos - up * sin, y + across * sin + up * cos, _LARGER * max(width, height), turn
    )


def same_hand(one: Floats, other: Floats) -> bool:
    """Whether two sets of joints, (21, 2) each, are of one hand."""
    size = max(_palm_size(one), _palm_size(other))
    near = np.hypot(*(one - other).T) < _NEAR * size
    return int(near.sum()) >= _SAME or _inside(one, other) > _INSIDE


def _affine(region: Region, side: int) -> NDArray[np.float64]:
    """From pixels of what is cut out to pixels of the picture, (2, 3)."""
    scale = region.side / side
    cos, sin = scale * math.cos(region.turn), scale * math.sin(region.turn)
    half = side / 2
    return np.array([[cos, -sin, region.x - (cos - sin) * half], [sin, cos, region.y - (sin + cos) * half]])


def _palm_size(joints: Floats) -> float:
    """Longest side of the triangle of the wrist and the roots of the index and the little finger."""
    wrist, index, little = joints[0], joints[5], joints[17]
    return float(max(np.hypot(*(a - b)) for a, b in ((wrist, index), (index, little), (little, wrist))))


def _inside(one: Floats, other: Floats) -> float:
    """Share of the smaller box of joints that is inside the other one."""
    low = np.maximum(one.min(axis=0), other.min(axis=0))
    high = np.minimum(one.max(axis=0), other.max(axis=0))
    shared = float(np.prod(np.maximum(high - low, 0)))
    areas = [float(np.prod(joints.max(axis=0) - joints.min(axis=0))) for joints in (one, other)]
    return shared / max(min(areas), 1e-6)
