"""Photos and animations decoded with Pillow, HEIF by pillow-heif: upright RGB, transparency on white."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from egolive.streaming.errors import SourceError
from egolive.streaming.frames import Frame, Image
from egolive.streaming.sources.files.media_kind import picture_format
from egolive.streaming.sources.limits import check_pixels, open_picture
from egolive.streaming.sources.source import Source

__all__ = ["PictureFile", "read_picture", "rgb_of"]

_FORMATS = (
    *("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "ICO", "PSD"),
    *("QOI", "TGA", "PCX", "SGI", "DDS"),
)
"""Not among them are those that start a program (EPS) or are no pictures of cameras and screens."""
_UNREADABLE = (
    UnidentifiedImageError,
    PillowImage.DecompressionBombError,
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    RuntimeError,
)
"""What Pillow raises for a picture that it cannot decode; RuntimeError is libavif's."""
_UNTIMED = 0.1
"""Seconds for which a picture of an animation is shown that names no time; browsers do the same."""


def read_picture(source: Path | bytes, *, name: str) -> Image:
    """The picture of a file or of its bytes; the first, where there are several.

    Raises:
        SourceError: It is no picture, damaged, or too large; or HEIF, and pillow-heif is not installed.
    """
    try:
        with _opened(source, name) as opened:
            return rgb_of(opened)
    except _UNREADABLE as error:
        raise SourceError(
            f"{name}: not a picture that can be read; it is of another kind, or damaged"
        ) from error


def rgb_of(opened: PillowImage.Image) -> Image:
    """Pixels as they are meant to be shown, (H, W, 3) uint8."""
    upright = ImageOps.exif_transpose(opened)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _grey(upright)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layered = upright.convert("RGBA")
        upright = PillowImage.new("RGBA", layered.size, (255, 255, 255, 255))
        upright.alpha_composite(layered)
    return np.array(upright.convert("RGB"), dtype=np.uint8)


class PictureFile(Source):
    """A photo as a source of one frame, or an animation that FFmpeg cannot read, at its own times.

    Args:
        path: The file.
        name: What messages call it.
        animated: Whether all of its pictures are wanted.

    Raises:
        SourceError: It cannot be read.
    """

    def __init__(self, path: Path, *, name: str, animated: bool) -> None:
        self.live = False
        self.name = name
        self.fps: float | None = None
        self.broken = 0
        self._closed = False
        self._frames = self._read(path) if animated else iter((Frame(read_picture(path, name=name), 0.0, 0),))
        self._first = next(self._frames, None)
        if self._first is None:
            raise SourceError(f"{name}: no picture of it can be decoded; is it damaged?")
        self.size: tuple[int, int] | None = (self._first.width, self._first.height)

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the end of the file."""
        if self._first is not None and not self._closed:
            frame, self._first = self._first, None
            yield frame
        yield from self._frames

    def close(self) -> None:
        """Stop at the next picture."""
        self._closed = True

    def _read(self, path: Path) -> Iterator[Frame]:
        time, index = 0.0, 0
        try:
            with _opened(path, self.name) as opened:
                for number in range(getattr(opened, "n_frames", 1)):
                    if self._closed:
                        return
                    try:
                        opened.seek(number)
                        image = rgb_of(opened)
                    except _UNREADABLE:
                        self.broken += 1
                    else:
                        yield Frame(image, time, index)
                        index += 1
                    time += (opened.info.get("duration") or 0) / 1000 or _UNTIMED
        except _UNREADABLE as error:
            raise SourceError(
                f"{self.name}: not an animation that can be read; it is damaged or cut off"
            ) from error


def _opened(source: Path | bytes, name: str) -> PillowImage.Image:
    heif = picture_format(source) == "HEIF"
    if heif and not _reads_heif():
        raise SourceError(
            f"{name}: a HEIF photo, which needs pillow-heif; run pip install pillow-heif, or save it as JPEG"
        )
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    opened = open_picture(file, ("HEIF",) if heif else _FORMATS)
    try:
        check_pixels(name, *opened.size)
    except SourceError:
        opened.close()
        raise
    return opened


@cache
def _reads_heif() -> bool:
    """Whether Pillow has learned HEIF; FFmpeg would take one tile of many for the photo."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _grey(picture: PillowImage.Image) -> Image:
    """A picture of more than 8 bits a pixel; Pillow's own conversion cuts off all that is above 255."""
    # Thermal pictures have no number where nothing was measured.
    values: NDArray[np.float64] = np.nan_to_num(np.asarray(picture, dtype=np.float64), posinf=0.0, neginf=0.0)
    least = 65_535 if picture.mode.startswith("I;16") else 1 if picture.mode == "F" else 255
    most = float(values.max(initial=0.0))
    white = next(limit for limit in (least, 255, 65_535, most) if max(least, most) <= limit)
    grey = np.clip(values * (255 / white), 0, 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
