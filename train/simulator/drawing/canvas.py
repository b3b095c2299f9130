"""A picture buffer with an object id for each pixel, from which boxes are computed."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Canvas"]

Array = NDArray[Any]


class Canvas:
    """BGR pixels and, per pixel, the id of the topmost object (0: none)."""

    def __init__(self, picture: Array) -> None:
        self.picture = picture
        self.top = np.zeros(picture.shape[:2], np.uint8)
        self.full: dict[int, int] = {}
        """For each object its area in pixels, without occlusion and without the picture's edges."""

    def blend(self, x: int, y: int, colour: Array, alpha: Array, number: int, opaque: int = 127) -> None:
        """Blend a premultiplied patch over the picture; where it is opaque, its object is the topmost."""
        rows, columns = alpha.shape
        part = self.picture[y : y + rows, x : x + columns]
        keep = cv2.cvtColor(cv2.subtract(255, alpha), cv2.COLOR_GRAY2BGR)  # type: ignore[call-overload]
        cv2.add(cv2.multiply(part, keep, scale=1 / 255), colour, dst=part)
        if number:
            top = self.top[y : y + rows, x : x + columns]
            top[alpha > opaque] = number

    def sprite(self, sprite: Array, matrix: Array, number: int) -> None:
        """Warp a premultiplied BGRA sprite by a 2x3 matrix onto the picture."""
        rows, columns = sprite.shape[:2]
        corners = (
            matrix[:, :2] @ np.array([[0, columns, 0, columns], [0, 0, rows, rows]], np.float64)
            + matrix[:, 2:]
        )
        x0, y0 = max(0, int(corners[0].min())), max(0, int(corners[1].min()))
        x1 = min(self.picture.shape[1], int(corners[0].max()) + 2)
        y1 = min(self.picture.shape[0], int(corners[1].max()) + 2)
        if x0 >= x1 or y0 >= y1:
            return
        local = matrix.copy()
        local[:, 2] -= (x0, y0)
        patch = cv2.warpAffine(sprite, local, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        alpha = np.ascontiguousarray(patch[..., 3])
        self.blend(x0, y0, cv2.cvtColor(patch, cv2.COLOR_BGRA2BGR), alpha, number)

    def box(self, number: int, least: float) -> tuple[float, float, float, float] | None:
        """Return the bounding box of an object's visible pixels; None where too few are visible.

        Args:
            number: Id of the object.
            least: Smallest number of pixels that counts as visible.
        """
        mask = (self.top == number).view(np.uint8)
        count = cv2.countNonZero(mask)
        if count < least or count < 0.25 * self.full.get(number, 0):
            return None
        x, y, w, h = cv2.boundingRect(mask)
        return (float(x), float(y), float(x + w), float(y + h))
