"""The kinematic model of a hand: 3D joints, posed and projected to capsules in picture pixels."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egolive.train.simulator.planning.motion import Grip, HandPose

__all__ = ["ARM", "FRONT", "PALM", "Capsule", "Point3", "build_skeleton"]

Array = NDArray[Any]
Point3 = tuple[float, float, float]
PALM, FRONT, ARM = 1, 2, 3
"""Parts of a hand: the palm and what lies behind a held object, what lies in front of it, the forearm."""

_KNUCKLES = ((-13.5, 37.0, 0.5), (-4.5, 40.0, 2.0), (4.8, 38.0, 1.0), (13.0, 33.0, -1.5))
_SPLAY = (-7.0, -1.5, 4.0, 11.0)
_BONES = ((19.0, 13.0, 10.0), (21.0, 14.0, 10.5), (19.0, 13.0, 10.0), (15.0, 10.0, 9.0))
_RADII = ((6.2, 5.4, 4.9, 3.9), (6.3, 5.6, 5.0, 4.0), (6.0, 5.3, 4.8, 3.8), (5.2, 4.6, 4.1, 3.4))
# Which parts lie in front of a held object, by grip: "thumb", "index", "fingers", "palm".
_IN_FRONT = {
    "wrap": ("thumb",),
    "pinch": ("thumb", "index"),
    "fist": ("thumb", "index", "fingers", "palm"),
    "top": ("thumb", "index", "fingers", "palm"),
    "flat": ("thumb", "index", "fingers", "palm"),
    "edge": ("thumb", "index", "fingers", "palm"),
    "press": ("thumb", "index", "fingers", "palm"),
    "rest": ("thumb", "index", "fingers", "palm"),
}


class Capsule:
    """A tapered capsule in picture pixels."""

    __slots__ = ("a", "b", "part", "ra", "rb")

    def __init__(self, a: Point3, b: Point3, ra: float, rb: float, part: int) -> None:
        self.a, self.b, self.ra, self.rb, self.part = a, b, ra, rb, part


def _finger(grip: Grip, which: int) -> list[Point3]:
    """Return a finger's four joints in the hand's own axes: x across, y to the fingertips, z off the back."""
    first = grip.pointer if which == 0 else grip.others + 3 * (which - 1)
    second = first + grip.bend + (0 if which == 0 else 4)
    angles = (first, second, second + 0.6 * grip.bend)
    splay = math.radians(_SPLAY[which] * (1 - min(first, 60) / 120) + grip.curl * 0.15 * (which - 1.5))
    x, y, z = _KNUCKLES[which]
    joints = [(x, y, z)]
    for bone, angle in zip(_BONES[which], angles, strict=True):
        flex = math.radians(angle)
        x += bone * math.sin(splay) * math.cos(flex)
        y += bone * math.cos(splay) * math.cos(flex)
        z -= bone * math.sin(flex)
        joints.append((x, y, z))
    return joints


def _thumb(grip: Grip) -> list[Point3]:
    out, down = math.radians(grip.thumb_out), math.radians(grip.thumb_down)
    x, y, z = -9.0, 9.0, -4.0
    joints = [(x, y, z)]
    for bone, share in ((20.0, 1.15), (15.0, 0.6), (12.5, 0.2)):
        angle = out * share
        x -= bone * math.sin(angle) * math.cos(down)
        y += bone * math.cos(angle) * math.cos(0.6 * down)
        z -= bone * math.sin(down) * 0.9
        joints.append((x, y, z))
    return joints


def _centre(name: str, fingers: list[list[Point3]], thumb: list[Point3]) -> Point3:
    """Return the point of the hand that meets the grip point of the object."""
    index, middle = fingers[0], fingers[1]
    match name:
        case "wrap":
            points = [middle[1], middle[2], thumb[3], (0.0, 24.0, -14.0)]
        case "pinch":
            points = [index[3], thumb[3]]
        case "top":
            points = [index[3], thumb[3], middle[3], middle[3]]
        case "press":
            points = [index[3]]
        case "edge":
            points = [(0.0, 66.0, 0.0)]
        case "fist":
            points = [(0.0, 34.0, -8.0), index[2]]
        case _:
            points = [(0.0, 42.0, 0.0)]
    return tuple(sum(axis) / len(points) for axis in zip(*points, strict=True))  # type: ignore[return-value]


def build_skeleton(
    pose: HandPose, size: float, thick: float, to_picture: Array, flip: bool
) -> tuple[list[Capsule], list[Any]]:
    """Return the capsules in picture pixels, and the fingers' joints for creases and nails."""
    grip = pose.grip
    fingers = [_finger(grip, which) for which in range(4)]
    thumb = _thumb(grip)
    roll = math.radians(grip.roll)
    cr, sr = math.cos(roll), math.sin(roll)
    right = pose.right != flip
    side = 1.0 if right else -1.0
    yaw = math.radians(-pose.yaw if flip else pose.yaw)
    cy, sy = math.cos(yaw), math.sin(yaw)
    scale = float(np.hypot(to_picture[0, 0], to_picture[1, 0])) * size

    def turned(p: Point3) -> Point3:
        x, z = (p[0] * cr + p[2] * sr) * side, -p[0] * sr + p[2] * cr
        return x * cy + p[1] * sy, x * sy - p[1] * cy, z

    first, second, share = pose.blend
    a, b = turned(_centre(first, fingers, thumb)), turned(_centre(second, fingers, thumb))
    middle = [p + share * (q - p) for p, q in zip(a, b, strict=True)]
    x0 = (-pose.x if flip else pose.x) - size * middle[0]
    y0 = pose.y - size * middle[1]
    m = to_picture

    def placed(p: Point3) -> Point3:
        x, y, z = turned(p)
        wx, wy = x0 + size * x, y0 + size * y
        return (
            float(m[0, 0] * wx + m[0, 1] * wy + m[0, 2]),
            float(m[1, 0] * wx + m[1, 1] * wy + m[1, 2]),
            (z + 60) * scale,
        )

    in_front = _IN_FRONT[second if share > 0.5 else first]

    def part(name: str) -> int:
        return FRONT if name in in_front else PALM

    fat = scale * thick
    capsules = []
    wrist = placed((0.0, -2.0, -3.0))
    elbow_w = (-pose.elbow[0] if flip else pose.elbow[0], pose.elbow[1])
    elbow = (
        float(m[0, 0] * elbow_w[0] + m[0, 1] * elbow_w[1] + m[0, 2]),
        float(m[1, 0] * elbow_w[0] + m[1, 1] * elbow_w[1] + m[1, 2]),
        40 * scale,
    )
    capsules.append(Capsule(wrist, elbow, 12.5 * fat, 25 * fat, ARM))
    for which, base in enumerate(((-8.0, 3.0, -3.0), (-3.0, 2.0, -1.5), (3.0, 2.0, -2.0), (8.0, 3.0, -4.0))):
        knuckle = _KNUCKLES[which]
        capsules.append(Capsule(placed(base), placed(knuckle), 10.0 * fat, 7.4 * fat, part("palm")))
    capsules.append(Capsule(placed((-6.0, 5.0, -3.0)), placed(thumb[1]), 9.0 * fat, 7.4 * fat, part("palm")))
    joints = [[placed(p) for p in finger] for finger in fingers]
    thumbs = [placed(p) for p in thumb]
    for which in (3, 2, 1, 0):
        name = "index" if which == 0 else "fingers"
        for bone in range(3):
            ra, rb = _RADII[which][bone] * fat, _RADII[which][bone + 1] * fat
            capsules.append(Capsule(joints[which][bone], joints[which][bone + 1], ra, rb, part(name)))
    for bone, (ra, rb) in enumerate(((7.6, 6.4), (6.4, 5.6), (5.6, 4.4))):
        capsules.append(
            Capsule(
                thumbs[bone], thumbs[bone + 1], ra * fat, rb * fat, part("palm" if bone == 0 else "thumb")
            )
        )
    return capsules, [*joints, thumbs]
