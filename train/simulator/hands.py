"""Draws one hand with its forearm: a 3-D skeleton, a height field of tapered capsules, and light on it.

The picture of a hand is an RGBA patch with a part for each pixel, so that a held object can be drawn between the
palm and the fingers in front of it.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from egolive.train.simulator.motion import Grip, HandPose

__all__ = ["ARM", "FRONT", "PALM", "HandLook", "HandPatch", "draw_hand"]

Array = NDArray[Any]
Point3 = tuple[float, float, float]
PALM, FRONT, ARM = 1, 2, 3
"""Parts of a patch: the palm and what lies behind a held object, what lies in front of it, the forearm."""

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


@dataclass(frozen=True, slots=True)
class HandLook:
    """How the wearer's hands look: BGR ramps by brightness (256, 1, 3), sizes, light from (x, y, z)."""

    skin: Array
    sleeve: Array
    nail: tuple[int, int, int]
    size: float
    thick: float
    sleeve_from: float
    """Where the sleeve begins, as a share of the forearm; 1 or more is none."""
    grain: Array
    """Fine brightness variation, (512, 512) float32."""
    light: Point3
    watch: bool


@dataclass(frozen=True, slots=True)
class HandPatch:
    """A drawn hand: picture offset, BGR, coverage 0-255, part per pixel, and the unclipped hand's pixel count."""

    x: int
    y: int
    colour: Array
    alpha: Array
    part: Array
    area: int


class _Capsule:
    """A tapered capsule in picture pixels."""

    __slots__ = ("a", "b", "part", "ra", "rb")

    def __init__(self, a: Point3, b: Point3, ra: float, rb: float, part: int) -> None:
        self.a, self.b, self.ra, self.rb, self.part = a, b, ra, rb, part


def _finger(grip: Grip, which: int) -> list[Point3]:
    """Return a finger's four joints in the hand's own axes: x across, y towards the fingertips, z off the back."""
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


def _skeleton(
    pose: HandPose, look: HandLook, to_picture: Array, flip: bool
) -> tuple[list[_Capsule], list[Any]]:
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
    scale = float(np.hypot(to_picture[0, 0], to_picture[1, 0])) * look.size

    def turned(p: Point3) -> Point3:
        x, z = (p[0] * cr + p[2] * sr) * side, -p[0] * sr + p[2] * cr
        return x * cy + p[1] * sy, x * sy - p[1] * cy, z

    first, second, share = pose.blend
    a, b = turned(_centre(first, fingers, thumb)), turned(_centre(second, fingers, thumb))
    middle = [p + share * (q - p) for p, q in zip(a, b, strict=True)]
    x0 = (-pose.x if flip else pose.x) - look.size * middle[0]
    y0 = pose.y - look.size * middle[1]
    m = to_picture

    def placed(p: Point3) -> Point3:
        x, y, z = turned(p)
        wx, wy = x0 + look.size * x, y0 + look.size * y
        return (
            float(m[0, 0] * wx + m[0, 1] * wy + m[0, 2]),
            float(m[1, 0] * wx + m[1, 1] * wy + m[1, 2]),
            (z + 60) * scale,
        )

    in_front = _IN_FRONT[second if share > 0.5 else first]

    def part(name: str) -> int:
        return FRONT if name in in_front else PALM

    fat = scale * look.thick
    capsules = []
    wrist = placed((0.0, -2.0, -3.0))
    elbow_w = (-pose.elbow[0] if flip else pose.elbow[0], pose.elbow[1])
    elbow = (
        float(m[0, 0] * elbow_w[0] + m[0, 1] * elbow_w[1] + m[0, 2]),
        float(m[1, 0] * elbow_w[0] + m[1, 1] * elbow_w[1] + m[1, 2]),
        40 * scale,
    )
    capsules.append(_Capsule(wrist, elbow, 12.5 * fat, 25 * fat, ARM))
    for which, base in enumerate(((-8.0, 3.0, -3.0), (-3.0, 2.0, -1.5), (3.0, 2.0, -2.0), (8.0, 3.0, -4.0))):
        knuckle = _KNUCKLES[which]
        capsules.append(_Capsule(placed(base), placed(knuckle), 10.0 * fat, 7.4 * fat, part("palm")))
    capsules.append(_Capsule(placed((-6.0, 5.0, -3.0)), placed(thumb[1]), 9.0 * fat, 7.4 * fat, part("palm")))
    joints = [[placed(p) for p in finger] for finger in fingers]
    thumbs = [placed(p) for p in thumb]
    for which in (3, 2, 1, 0):
        name = "index" if which == 0 else "fingers"
        for bone in range(3):
            ra, rb = _RADII[which][bone] * fat, _RADII[which][bone + 1] * fat
            capsules.append(_Capsule(joints[which][bone], joints[which][bone + 1], ra, rb, part(name)))
    for bone, (ra, rb) in enumerate(((7.6, 6.4), (6.4, 5.6), (5.6, 4.4))):
        capsules.append(
            _Capsule(
                thumbs[bone], thumbs[bone + 1], ra * fat, rb * fat, part("palm" if bone == 0 else "thumb")
            )
        )
    return capsules, [*joints, thumbs]


def _stamp(capsule: _Capsule, x0: int, y0: int, height: Array, alpha: Array, part: Array) -> None:
    """Raise the height field by one capsule."""
    (ax, ay, az), (bx, by, bz) = capsule.a, capsule.b
    ra, rb = capsule.ra, capsule.rb
    rows, columns = height.shape
    left = max(0, int(min(ax - ra, bx - rb)) - 1 - x0)
    right = min(columns, int(max(ax + ra, bx + rb)) + 3 - x0)
    top = max(0, int(min(ay - ra, by - rb)) - 1 - y0)
    bottom = min(rows, int(max(ay + ra, by + rb)) + 3 - y0)
    if left >= right or top >= bottom:
        return
    xs = np.arange(left + x0, right + x0, dtype=np.float32) - np.float32(ax)
    ys = (np.arange(top + y0, bottom + y0, dtype=np.float32) - np.float32(ay))[:, None]
    dx, dy = bx - ax, by - ay
    share = np.clip((xs * np.float32(dx) + ys * np.float32(dy)) / np.float32(dx * dx + dy * dy + 1e-3), 0, 1)
    gap2 = (xs - share * np.float32(dx)) ** 2 + (ys - share * np.float32(dy)) ** 2
    radius = np.float32(ra) + share * np.float32(rb - ra)
    cover = np.clip(radius - np.sqrt(gap2) + 0.5, 0, 1)
    rise = np.sqrt(np.maximum(radius * radius - gap2, 0)) + np.float32(az) + share * np.float32(bz - az)
    rise[cover <= 0] = -1e3
    here = (slice(top, bottom), slice(left, right))
    higher = rise > height[here]
    np.copyto(height[here], rise, where=higher)
    np.copyto(part[here], capsule.part, where=higher & (cover > 0.02))
    np.maximum(alpha[here], cover, out=alpha[here])


def draw_hand(
    pose: HandPose, look: HandLook, to_picture: Array, size: tuple[int, int], flip: bool
) -> HandPatch | None:
    """Draw a hand into its own patch, or return None when nothing of it can be in the picture.

    Args:
        pose: The hand in the right-handed layout.
        look: Skin, sleeve and light.
        to_picture: 2x3 matrix from world units (of the flipped layout, where `flip`) to picture pixels.
        size: Picture width and height.
        flip: Mirror the layout left to right.
    """
    capsules, joints = _skeleton(pose, look, to_picture, flip)
    hand = capsules[1:]
    box = [
        min(min(c.a[0], c.b[0]) - c.ra for c in hand), min(min(c.a[1], c.b[1]) - c.ra for c in hand),
        max(max(c.a[0], c.b[0]) + c.ra for c in hand), max(max(c.a[1], c.b[1]) + c.ra for c in hand),
    ]  # fmt: skip
    width, height = size
    if box[0] > width or box[1] > height or box[2] < 0 or box[3] < 0:
        return None
    arm = capsules[0]
    x0 = int(min(box[0], max(-4.0, arm.b[0] - arm.rb))) - 2
    y0 = int(box[1]) - 2
    x1 = int(max(box[2], min(width + 4.0, arm.b[0] + arm.rb))) + 3
    y1 = int(max(box[3], min(height + 4.0, arm.b[1] + arm.rb))) + 3
    field = np.full((y1 - y0, x1 - x0), -1e3, np.float32)
    alpha = np.zeros_like(field)
    part = np.zeros(field.shape, np.uint8)
    for capsule in capsules:
        _stamp(capsule, x0, y0, field, alpha, part)
    area = int(np.count_nonzero((part == PALM) | (part == FRONT)))
    field = np.maximum(field, 0)
    scale = float(np.hypot(to_picture[0, 0], to_picture[1, 0])) * look.size
    colour = _shade(field, part, joints, look, scale, (x0, y0), arm)
    left, top = max(0, -x0), max(0, -y0)
    right, bottom = min(field.shape[1], width - x0), min(field.shape[0], height - y0)
    if left >= right or top >= bottom:
        return None
    here = (slice(top, bottom), slice(left, right))
    cover = (alpha[here] * 255).astype(np.uint8)
    return HandPatch(x0 + left, y0 + top, colour[here], cover, np.ascontiguousarray(part[here]), area)


def _shade(
    field: Array,
    part: Array,
    joints: list[Any],
    look: HandLook,
    scale: float,
    at: tuple[int, int],
    arm: _Capsule,
) -> Array:
    x0, y0 = at
    groove = np.zeros(part.shape, np.uint8)
    for chain in joints:
        for bone in range(1, len(chain) - 1):
            (px, py, _), (qx, qy, _) = chain[bone], chain[bone + 1]
            length = math.hypot(qx - px, qy - py) + 1e-6
            nx, ny = -(qy - py) / length * 4 * scale, (qx - px) / length * 4 * scale
            for shift in (-0.5 * scale, 1.6 * scale):
                sx, sy = (qx - px) / length * shift, (qy - py) / length * shift
                a = (round(px + nx + sx - x0), round(py + ny + sy - y0))
                b = (round(px - nx + sx - x0), round(py - ny + sy - y0))
                cv2.line(groove, a, b, 150, 1, cv2.LINE_AA)
    relief = cv2.GaussianBlur(field, (0, 0), 0.8 * scale + 0.2)
    relief -= cv2.GaussianBlur(groove, (3, 3), 0).astype(np.float32) * np.float32(0.006 * scale)
    gx = cv2.Scharr(relief, cv2.CV_32F, 1, 0, scale=1 / 32)
    gy = cv2.Scharr(relief, cv2.CV_32F, 0, 1, scale=1 / 32)
    lx, ly, lz = look.light
    lit = (lz - lx * gx - ly * gy) / np.sqrt(1 + gx * gx + gy * gy)
    hollow = np.clip(
        (field - cv2.boxFilter(field, -1, (int(9 * scale) | 1, int(9 * scale) | 1))) / (9 * scale), -0.6, 0.25
    )
    rows, columns = field.shape
    tone = (0.36 + 0.6 * np.maximum(lit, 0) + 0.3 * hollow) * look.grain[:rows, :columns]
    level = np.clip(tone * 255, 0, 255).astype(np.uint8)
    colour: Array = cv2.applyColorMap(level, look.skin)
    for chain in joints:  # nails, where the back of the fingertip faces the camera
        (px, py, pz), (qx, qy, qz) = chain[-2], chain[-1]
        flat = math.hypot(qx - px, qy - py)
        if flat > 0.55 * math.hypot(flat, qz - pz):
            centre = (int((px + 0.95 * (qx - px) - x0) * 16), int((py + 0.95 * (qy - py) - y0) * 16))
            axes = (int(2.9 * scale * 16), int(2.1 * scale * 16))
            angle = math.degrees(math.atan2(qy - py, qx - px))
            cv2.ellipse(colour, centre, axes, angle, 0, 360, look.nail, -1, cv2.LINE_AA, 4)
    if look.sleeve_from < 1 or look.watch:
        dx, dy = arm.b[0] - arm.a[0], arm.b[1] - arm.a[1]
        xs = np.arange(columns, dtype=np.float32) + (x0 - arm.a[0])
        ys = (np.arange(rows, dtype=np.float32) + (y0 - arm.a[1]))[:, None]
        along = (xs * np.float32(dx) + ys * np.float32(dy)) / np.float32(dx * dx + dy * dy + 1)
        if look.sleeve_from < 1:
            cloth = cv2.applyColorMap(cv2.multiply(level, 1.0 + 0.0), look.sleeve)
            mask = (part == ARM) & (along > look.sleeve_from)
            np.copyto(colour, cloth, where=mask[..., None])
            seam = (part == ARM) & (np.abs(along - look.sleeve_from - 0.02) < 0.008)
            colour[seam] = colour[seam] // 2
        if look.watch:
            colour[(part == ARM) & (np.abs(along - 0.12) < 0.03)] = (40, 36, 34)
    return colour
