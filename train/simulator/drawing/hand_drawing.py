"""Draws one hand with its forearm: a height field of tapered capsules, and light on it.

The picture of a hand is an RGBA patch with a part for each pixel, so that a held object can be drawn between
the palm and the fingers in front of it.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from egolive.train.simulator.drawing.skeleton import ARM, FRONT, PALM, Capsule, Point3, build_skeleton
from egolive.train.simulator.planning.motion import HandPose

__all__ = ["HandLook", "HandPatch", "draw_hand"]

Array = NDArray[Any]


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
    """A drawn hand: picture offset, BGR, coverage 0-255, part per pixel, pixels of the unclipped hand."""

    x: int
    y: int
    colour: Array
    alpha: Array
    part: Array
    area: int


def _stamp(capsule: Capsule, x0: int, y0: int, height: Array, alpha: Array, part: Array) -> None:
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
    capsules, joints = build_skeleton(pose, look.size, look.thick, to_picture, flip)
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
    arm: Capsule,
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
