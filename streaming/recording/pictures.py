"""Pictures on disk without loss: many in a video of H.264's lossless mode, single ones as PNG."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from egolive.streaming.durable_files import CheckedFile, MakeRoom
from egolive.streaming.errors import DataError, SinkError
from egolive.streaming.frames import Image
from egolive.streaming.sources.limits import check_pixels, most_pixels
from egolive.streaming.sources.rgb import RgbConverter

__all__ = ["PICTURES", "PictureFiles", "png_size", "read_pictures", "read_png", "write_png"]

PICTURES = "pictures"
"""What the names of files of pictures begin with."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class PictureFiles:
    """Writes pictures into Matroska files in a folder, which a kill leaves readable; one for each size.

    A picture of 640x360 takes about 8 ms of a core and, by what moves in it, 20 to 200 kB.

    Args:
        folder: An existing one.
        name: What the names of the files begin with.
        make_room: Asked before a full disk counts as a failure.
    """

    def __init__(self, folder: Path, name: str = PICTURES, *, make_room: MakeRoom | None = None) -> None:
        self._folder = folder
        self._name = name
        self._make_room = make_room
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None
        self._file: CheckedFile | None = None
        self._path = folder
        self._whole = 0
        self._size: tuple[int, ...] = ()
        self._files = 0
        self._count = 0

    def write(self, image: Image) -> None:
        """Append a picture, (H, W, 3) RGB.

        Raises:
            SinkError: It cannot be written.
        """
        try:
            if self._stream is None or image.shape != self._size:
                self._start(image)
            assert self._stream is not None
            assert self._container is not None
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            picture.pts, picture.time_base = self._count, Fraction(1, 1000)
            self._count += 1
            self._container.mux(self._stream.encode(picture))
            assert self._file is not None
            self._file.check()
            self._whole = self._path.stat().st_size
        except (av.FFmpegError, OSError) as error:
            self._abandon()
            raise self._failure(error) from error

    def close(self) -> None:
        """Finish the file; closing twice does nothing.

        Raises:
            SinkError: It cannot be written.
        """
        if self._container is None or self._stream is None or self._file is None:
            return
        container, self._container = self._container, None
        try:
            try:
                container.mux(self._stream.encode(None))
            finally:
                container.close()
                self._file.close()
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error

    def _abandon(self) -> None:
        """Give the file up where it cannot grow: it ends with its last whole picture."""
        container, self._container = self._container, None
        if container is None or self._file is None:
            return
        for close in (container.close, self._file.close):
            # What is lost by the first failure is told; these are about the same disk.
            with suppress(av.FFmpegError, OSError):
                close()
        with suppress(OSError):
            os.truncate(self._path, self._whole)

    def _start(self, image: Image) -> None:
        self.close()
        path = self._folder / f"{self._name}-{self._files:03d}.mkv"
        # A cluster of pictures is kept in memory until it is complete: each picture is one.
        options = {"flush_packets": "1", "cluster_size_limit": "1"}
        self._file, self._path, self._whole = CheckedFile(path, make_room=self._make_room), path, 0
        self._container = av.open(self._file, "w", format="matroska", container_options=options)
        # RGB throughout: a detour by YUV would round.
        options = {"qp": "0", "preset": "ultrafast", "tune": "zerolatency", "g": "300"}
        stream = self._container.add_stream("libx264rgb", options=options)
        stream.width, stream.height, stream.pix_fmt = image.shape[1], image.shape[0], "rgb24"
        stream.codec_context.time_base = Fraction(1, 1000)
        self._stream, self._size = stream, image.shape
        self._files += 1
        self._count = 0

    def _failure(self, error: Exception) -> SinkError:
        reason = error.strerror if isinstance(error, (OSError, av.FFmpegError)) else str(error)
        return SinkError(f"{self._folder}: pictures cannot be written ({reason}); check the free space")


def read_pictures(folder: Path, name: str = PICTURES) -> Iterator[Image]:
    """All pictures of a folder in the order in which they were written.

    Args:
        folder: Of a recording.
        name: What the names of the files begin with.

    Raises:
        DataError: A file is damaged; one that was cut off by a kill just ends earlier.
    """
    to_rgb = RgbConverter()
    for path in sorted(folder.glob(f"{name}-*.mkv")):
        if path.is_symlink() or not path.is_file():
            raise DataError(f"{path}: is no plain file; copy the recording again")
        try:
            # Of nothing but what a recorder writes: a recording may come from others.
            with av.open(
                str(path.absolute()),
                format="matroska",
                options={"max_pixels": str(most_pixels())},
                container_options={"protocol_whitelist": "file"},
                metadata_errors="ignore",
            ) as container:
                if not container.streams.video:
                    raise DataError(f"{path}: holds no pictures; record again")
                decoder = container.streams.video[0].codec_context
                if decoder is None or decoder.name != "h264":
                    raise DataError(f"{path}: holds another video than a recorder writes; record again")
                check_pixels(str(path), decoder.width, decoder.height)
                decoder.options = {"max_pixels": str(most_pixels())}
                for picture in container.decode(video=0):
                    yield to_rgb(picture)
        except av.EOFError:
            continue
        except av.FFmpegError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); record again") from error


def write_png(path: Path, image: Image) -> None:
    """Write a picture, (H, W, 3) RGB.

    Raises:
        OSError: It cannot be written.
    """
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    path.write_bytes(data.tobytes())


def png_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG file's bytes, without decoding; None where it is none."""
    if not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR" or len(data) < 24:
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def read_png(data: bytes) -> Image | None:
    """The RGB picture, (H, W, 3), of a PNG file's bytes; None where it cannot be decoded."""
    if png_size(data) is None:
        # OpenCV would try its other formats.
        return None
    # Of bytes: what it cannot open, OpenCV tells in lines of its own.
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    return None if pixels is None else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
