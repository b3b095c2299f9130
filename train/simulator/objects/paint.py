"""Drawing of shaded, textured shapes, of which object sprites consist.

Knows nothing of kinds of objects. Colours are BGR floats 0-255; lengths are world units from the middle.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["MARGIN", "Colour", "Painter", "bands", "mixed"]

Array = NDArray[Any]
Colour = tuple[float, float, float]
MARGIN = 22
"""World units round the object, for its shadow and what sticks out."""


def mixed(a: Colour, b: Colour, share: float) -> Colour:
    """Return the colour `share` of the way from `a` to `b`."""
    return (a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2]))


class Painter:
    """Paints one sprite, twice as fine as it will be shown."""

    def __init__(self, width: float, height: float, scale: float, grain: Array) -> None:
        self.scale = 2 * scale
        self.columns = math.ceil((width / 2 + MARGIN) * self.scale) * 2
        self.rows = math.ceil((height / 2 + MARGIN) * self.scale) * 2
        self.rgb = np.zeros((self.rows, self.columns, 3), np.float32)
        self.alpha = np.zeros((self.rows, self.columns), np.float32)
        self.grain = grain

    def _at(self, x: float, y: float) -> tuple[int, int]:
        return (
            round((self.columns / 2 + x * self.scale) * 16),
            round((self.rows / 2 + y * self.scale) * 16),
        )

    def blob(self, points: Sequence[tuple[float, float]]) -> Array:
        """Return the mask of a polygon."""
        mask = np.zeros((self.rows, self.columns), np.uint8)
        cv2.fillPoly(mask, [np.array([self._at(*p) for p in points], np.int32)], 255, cv2.LINE_AA, 4)
        return mask

    def oval(
        self, x: float, y: float, rx: float, ry: float, turn: float = 0.0, arc: tuple[float, float] = (0, 360)
    ) -> Array:
        """Return the mask of an ellipse, or of the part of it between two angles."""
        mask = np.zeros((self.rows, self.columns), np.uint8)
        axes = (round(rx * self.scale * 16), round(ry * self.scale * 16))
        cv2.ellipse(mask, self._at(x, y), axes, turn, arc[0], arc[1], 255, -1, cv2.LINE_AA, 4)
        return mask

    def line(self, points: Sequence[tuple[float, float]], width: float) -> Array:
        """Return the mask of a thick line."""
        mask = np.zeros((self.rows, self.columns), np.uint8)
        thick = max(1, round(width * self.scale))
        line = np.array([self._at(*p) for p in points], np.int32)
        cv2.polylines(mask, [line], False, 255, thick, cv2.LINE_AA, 4)
        return mask

    def ring(
        self, x: float, y: float, rx: float, ry: float, width: float, arc: tuple[float, float] = (0, 360)
    ) -> Array:
        """Return the mask of an ellipse's outline."""
        mask = np.zeros((self.rows, self.columns), np.uint8)
        axes = (round(rx * self.scale * 16), round(ry * self.scale * 16))
        thick = max(1, round(width * self.scale))
        cv2.ellipse(mask, self._at(x, y), axes, 0, arc[0], arc[1], 255, thick, cv2.LINE_AA, 4)
        return mask

    def round_box(self, x0: float, y0: float, x1: float, y1: float, corner: float) -> Array:
        """Return the mask of a rectangle with round corners."""
        points = []
        for cx, cy, begin in (
            (x1 - corner, y0 + corner, -90), (x1 - corner, y1 - corner, 0),
            (x0 + corner, y1 - corner, 90), (x0 + corner, y0 + corner, 180),
        ):  # fmt: skip
            for angle in range(begin, begin + 91, 18):
                a = math.radians(angle)
                points.append((cx + corner * math.cos(a), cy + corner * math.sin(a)))
        return self.blob(points)

    def fill(
        self, mask: Array, colour: Colour, shade: str = "flat", *, alpha: float = 1.0, gloss: float = 0.0,
        grain: float = 0.05, edge: float = 0.22, pattern: Array | None = None,
    ) -> None:  # fmt: skip
        """Paint a mask.

        Args:
            mask: uint8 coverage.
            colour: BGR.
            shade: "flat" (a slight slope of light), "tube" (an upright cylinder) or "dome" (a swelling).
            alpha: Opacity.
            gloss: Strength of the highlight, 0 to 1.
            grain: Strength of the surface noise.
            edge: How much darker the rim is.
            pattern: Factor on the colour per pixel, (rows, columns, 3).
        """
        x, y, w, h = cv2.boundingRect(mask)
        if w == 0:
            return
        part = (slice(y, y + h), slice(x, x + w))
        cover = mask[part].astype(np.float32) * np.float32(alpha / 255)
        u = np.linspace(-1, 1, w, dtype=np.float32)
        v = np.linspace(-1, 1, h, dtype=np.float32)[:, None]
        if shade == "tube":
            light = 0.5 + 0.62 * np.cos((u + 0.38) * 1.15) + 0 * v
            shine = np.exp(-(((u + 0.52) / 0.10) ** 2)) + 0.4 * np.exp(-(((u - 0.7) / 0.06) ** 2)) + 0 * v
        elif shade == "dome":
            lift = np.sqrt(np.maximum(0.0, 1 - 0.9 * (u * u + v * v)))
            light = 0.42 + 0.42 * lift - 0.24 * u - 0.26 * v
            shine = np.exp(-(((u + 0.38) ** 2 + (v + 0.42) ** 2) / 0.035))
        else:
            light = 1.0 - 0.07 * u - 0.08 * v
            shine = np.exp(-(((u + 0.7 * v + 0.35) / 0.16) ** 2)) * 0.6
        light = light + grain * self.grain[y : y + h, x : x + w]
        if edge:
            inner = cv2.boxFilter(
                mask[part], cv2.CV_32F, (int(3 * self.scale) | 1,) * 2, borderType=cv2.BORDER_CONSTANT
            )
            light = light * (1 - edge * np.clip(2 - inner * np.float32(2 / 255), 0, 1))
        body = np.array(colour, np.float32) * light[..., None]
        if pattern is not None:
            body = body * pattern[part]
        if gloss:
            body = body + 235 * gloss * shine[..., None]
        keep = (1 - cover)[..., None]
        self.rgb[part] = self.rgb[part] * keep + np.clip(body, 0, 255) * cover[..., None]
        self.alpha[part] = self.alpha[part] * (1 - cover) + cover

    def finish(self, shadow: float, light: tuple[float, float], dark: float) -> tuple[Array, Array]:
        """Return the sprite with and without its shadow on the table: premultiplied BGRA, uint8."""
        size = (self.columns // 2, self.rows // 2)
        rgb = cv2.resize(self.rgb, size, interpolation=cv2.INTER_AREA)
        alpha = cv2.resize(self.alpha, size, interpolation=cv2.INTER_AREA)
        bare = np.dstack([rgb, alpha * 255])
        half = self.scale / 2
        shift = np.array([[1, 0, -light[0] * shadow * half], [0, 1, -light[1] * shadow * half]], np.float32)
        cast = cv2.GaussianBlur(cv2.warpAffine(alpha, shift, size), (0, 0), (1.2 + 0.5 * shadow) * half)
        near = cv2.GaussianBlur(alpha, (0, 0), 1.6 * half)
        cast = np.clip(dark * np.maximum(cast, 0.8 * near), 0, 0.47)
        grounded = np.dstack([rgb, (alpha + cast * (1 - alpha)) * 255])
        return grounded.astype(np.uint8), bare.astype(np.uint8)


def bands(p: Painter, style: int, accent: Colour, colour: Colour) -> Array | None:
    """Return the colour factor of a pattern: plain, stripes, dots or checks."""
    if style == 0:
        return None
    y, x = np.mgrid[0 : p.rows, 0 : p.columns].astype(np.float32) / np.float32(p.scale)
    if style == 1:
        on = np.sin(y * 0.55) > 0.45
    elif style == 2:
        on = (np.sin(x * 0.6) * np.sin(y * 0.6)) > 0.5
    else:
        on = (np.sin(x * 0.35) > 0.3) ^ (np.sin(y * 0.35) > 0.3)
    factor = np.ones((p.rows, p.columns, 3), np.float32)
    factor[on] = np.clip(
        np.array(accent, np.float32) / np.maximum(np.array(colour, np.float32), 30), 0.3, 2.2
    )
    return factor
