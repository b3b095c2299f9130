"""Pictures that carry a number and the time at which they were taken, readable from their pixels.

Black and white cells, large enough for JPEG and H.264 in 4:2:0: a number, a time of `time.monotonic()` in
milliseconds and a checksum. All processes of a machine share that clock, so a test can compare the time of a
frame with the time at which a server in another process took it.

Needs the standard library alone: Debian's Python, which runs the RTSP server, has no NumPy.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

__all__ = ["SIZE", "Mark", "paint", "read"]

SIZE = (320, 192)
"""Width and height without another size, pixels."""
_COLUMNS, _ROWS = 16, 5
_NUMBER_BITS, _TIME_BITS, _CHECK_BITS = 24, 40, 16


class Mark(NamedTuple):
    """What a picture carries."""

    number: int
    time: float
    """Seconds of `time.monotonic()`, in steps of 1 ms."""


def _checksum(value: int) -> int:
    return zlib.crc32(value.to_bytes(8, "big")) & (1 << _CHECK_BITS) - 1


def paint(number: int, time: float, size: tuple[int, int] = SIZE) -> bytes:
    """The RGB bytes of a picture, row by row.

    Args:
        number: 0 to 2^24 - 1.
        time: Seconds of `time.monotonic()`.
        size: Width and height, pixels; at least 128 x 40.
    """
    width, height = size
    value = (number << _TIME_BITS) | round(time * 1000)
    bits = f"{value << _CHECK_BITS | _checksum(value):0{_COLUMNS * _ROWS}b}"
    picture = bytearray()
    for row in range(_ROWS):
        line = bytearray()
        for column in range(_COLUMNS):
            cell = (column + 1) * width // _COLUMNS - column * width // _COLUMNS
            line += (b"\xeb\xeb\xeb" if bits[row * _COLUMNS + column] == "1" else b"\x10\x10\x10") * cell
        picture += line * ((row + 1) * height // _ROWS - row * height // _ROWS)
    return bytes(picture)


def read(pixels: np.ndarray) -> Mark:
    """The mark of a picture.

    Args:
        pixels: height x width x 3, uint8.

    Raises:
        ValueError: The checksum is wrong: the picture is spoilt, or is none of these.
    """
    height, width = pixels.shape[:2]
    value = 0
    for row in range(_ROWS):
        y = (2 * row + 1) * height // (2 * _ROWS)
        for column in range(_COLUMNS):
            x = (2 * column + 1) * width // (2 * _COLUMNS)
            value = value << 1 | int(pixels[y - 2 : y + 3, x - 2 : x + 3].mean() > 127)
    value, checksum = value >> _CHECK_BITS, value & (1 << _CHECK_BITS) - 1
    if checksum != _checksum(value):
        raise ValueError("the checksum is wrong: a spoilt picture, or one without a mark")
    return Mark(value >> _TIME_BITS, (value & (1 << _TIME_BITS) - 1) / 1000)
