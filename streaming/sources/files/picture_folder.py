"""A folder of pictures, told by what they hold, read as a video."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from egolive.streaming.errors import SourceError
from egolive.streaming.frames import Frame
from egolive.streaming.sources.files.media_kind import picture_format
from egolive.streaming.sources.files.picture_files import read_picture
from egolive.streaming.sources.source import Source

__all__ = ["Folder"]

_SUFFIXES = frozenset({".bmp", ".heic", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Of files that are counted as broken, rather than left out, where they hold no picture."""


class Folder(Source):
    """The pictures of a folder in the order of their names, numbers by value: frame_9 stands before frame_10.

    Args:
        path: the folder; those inside it are not entered.
        fps: pictures a second. The default is the rate at which the assistant samples, so that it sees each.

    Raises:
        SourceError: it cannot be read, or holds no picture.
    """

    def __init__(self, path: Path, *, fps: float = 2.0) -> None:
        self.live = False
        self.name = str(path)
        self.fps: float | None = fps
        self.broken = 0
        self._closed = False
        try:
            pictures = [entry for entry in path.iterdir() if _is_picture(entry)]
        except OSError as error:
            raise SourceError(
                f"{path}: cannot be opened ({error.strerror}); check that you may read it"
            ) from error
        if not pictures:
            raise SourceError(f"{path}: a folder without pictures; JPEG, PNG, WebP, TIFF and others are read")
        pictures.sort(key=lambda entry: _by_number(entry.name))
        self._step = 1 / fps
        self._frames = self._read(pictures)
        self._first = next(self._frames, None)
        if self._first is None:
            raise SourceError(
                f"{path}: none of its {len(pictures)} pictures can be decoded; are they damaged?"
            )
        self.size: tuple[int, int] | None = (self._first.width, self._first.height)

    def __iter__(self) -> Iterator[Frame]:
        """One frame for each picture that can be decoded."""
        if self._first is not None:
            frame, self._first = self._first, None
            yield frame
        yield from self._frames

    def close(self) -> None:
        """Stop at the next picture."""
        self._closed = True

    def _read(self, pictures: list[Path]) -> Iterator[Frame]:
        for index, path in enumerate(pictures):
            if self._closed:
                return
            try:
                image = read_picture(path, name=str(path))
            except SourceError:
                self.broken += 1
                continue
            self.size = (int(image.shape[1]), int(image.shape[0]))
            yield Frame(image, index * self._step, index)


def _is_picture(entry: Path) -> bool:
    """Whether a file holds a picture, or says so by its name; those that systems hide do not count."""
    if entry.name.startswith("."):
        return False
    return picture_format(entry) is not None or (entry.suffix.lower() in _SUFFIXES and not entry.is_dir())


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sort key: runs of digits by value, everything else by letter."""
    return [
        (int(run), "") if run.isdecimal() else (-1, run) for run in re.split(r"(\d+)", name.lower()) if run
    ]
