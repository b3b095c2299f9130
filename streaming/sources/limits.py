"""How many pixels a picture may have, for every decoder of this process.

A file of 20 kB can hold a picture of a gigabyte. The size stands in its header, and is looked at before
anything is decoded.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image as PillowImage

from egolive.streaming.errors import SourceError

__all__ = ["TooManyPixelsError", "check_pixels", "limit_pixels", "most_pixels", "open_picture"]

_quiet = threading.Lock()
"""Filters of warnings are the process's, not the thread's."""

_most = 120_000_000
"""Photos of telephones have 108 million; 8K video 33 million."""


class TooManyPixelsError(SourceError):
    """A picture has more pixels than are decoded."""


def most_pixels() -> int:
    """The most pixels of one picture."""
    return _most


def limit_pixels(most: int) -> None:
    """Set the limit of this process."""
    global _most  # decoders are made in many places, by people who know nothing of it
    _most = most


def check_pixels(name: str, width: int, height: int) -> None:
    """Refuse a picture by its header.

    Raises:
        TooManyPixelsError: It has more pixels than may be.
    """
    if width * height > _most:
        raise TooManyPixelsError(
            f"{name}: has {width}x{height} pixels, at most {_most / 1e6:g} million are decoded; "
            "save it smaller"
        )


def open_picture(file: Path | BinaryIO, formats: tuple[str, ...]) -> PillowImage.Image:
    """`PIL.Image.open` without its warning of large pictures: `check_pixels` refuses what is too large.

    Raises:
        OSError: It is no picture of these formats.
        PIL.Image.DecompressionBombError: It is larger than Pillow opens at all.
    """
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
        return PillowImage.open(file, formats=formats)
