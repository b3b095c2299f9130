"""Writes pictures to an H.264 file that stays playable when the program is killed."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import av
import cv2
import numpy as np
from av.video.frame import PictureType

from egolive.streaming.durable_files import CheckedFile, MakeRoom
from egolive.streaming.errors import SinkError
from egolive.streaming.frames import Image

__all__ = ["VideoWriter"]

_TICKS = 90_000
"""Time stamps a second; the usual tick of video containers, finer than any camera."""
_BOXES = (b"ftyp", b"moov", b"moof", b"mdat", b"mfra", b"free", b"sidx", b"styp")
"""Of an MP4 file in fragments, one after the other; a fragment is a moof and its mdat."""
_BT709, _BT601, _LIMITED = 1, 6, 1
"""ITU-T H.273: primaries and transfer, matrix, range."""


class VideoWriter:
    """An MP4 file in fragments of about a quarter of a second: what was written a second ago survives a kill.

    Frames may come at any times, as long as these go up. The first picture decides the size, rounded up to
    even numbers; pictures of another size are stretched to it. No sound.

    Args:
        path: the file, overwritten; its folder is made.
        preset: x264's speed; "veryfast" makes files about half the size for twice the work.
        make_room: Asked before a full disk counts as a failure.

    Raises:
        SinkError: the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        preset: Literal["ultrafast", "veryfast"] = "ultrafast",
        make_room: MakeRoom | None = None,
    ) -> None:
        self.path = Path(path)
        self._preset = preset
        self._last_tick: int | None = None
        self._last_key = -math.inf
        self._pictures = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = CheckedFile(self.path, make_room=make_room)
            self._container = av.open(
                self._file,
                "w",
                format="mp4",
                container_options={
                    "movflags": "frag_keyframe+empty_moov+default_base_moof",
                    "frag_duration": "250000",
                    "flush_packets": "1",
                },
            )
        except OSError as error:
            raise self._failure(error) from error
        except av.FFmpegError as error:
            raise self._failure(error) from error
        self._stream: av.VideoStream | None = None
        self._closed = False

    def write(self, image: Image, time: float) -> None:
        """Append a picture.

        Args:
            image: (H, W, 3) RGB.
            time: seconds from the start; a time that is not after the last one is moved just after it.

        Raises:
            SinkError: the disk is full or gone.
            ValueError: the writer is closed.
        """
        if self._closed:
            raise ValueError("the video writer is closed")
        stream = self._stream or self._start(image)
        tick = round(time * _TICKS)
        if self._last_tick is not None:
            tick = max(tick, self._last_tick + 1)
        self._last_tick = tick
        picture = _yuv(image, stream.width, stream.height)
        picture.pts = tick
        picture.time_base = Fraction(1, _TICKS)
        self._pictures += 1
        # A key frame ends a fragment. So the first one holds a single picture: the file can be played from
        # then on. Later they are cut each quarter of a second too, each by the first picture behind it.
        if time - self._last_key >= 1.0 or self._pictures == 2:
            picture.pict_type = PictureType.I
            self._last_key = time
        try:
            self._container.mux(stream.encode(picture))
            self._file.check()
        except (av.FFmpegError, OSError) as error:
            self._abandon()
            raise self._failure(error) from error

    def close(self) -> None:
        """Finish the file; an empty one is removed. Closing twice does nothing.

        Raises:
            SinkError: the disk is full or gone.
        """
        if self._closed:
            return
        self._closed = True
        try:
            try:
                if self._stream is not None:
                    self._container.mux(self._stream.encode(None))
            finally:
                self._container.close()
            self._file.close()
            if self._stream is None and self.path.is_file():
                self.path.unlink()
        except (av.FFmpegError, OSError) as error:
            self._abandon()
            raise self._failure(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _abandon(self) -> None:
        """Give the file up where it cannot grow: it ends with its last whole fragment, if it has one."""
        self._closed = True
        for close in (self._container.close, self._file.close):
            # What is lost by the first failure is told; these are about the same disk.
            with suppress(av.FFmpegError, OSError):
                close()
        with suppress(OSError):
            if not self.path.is_file():
                # A device or a pipe is not ours to cut or remove.
                return
            if whole := _whole_fragments(self.path):
                os.truncate(self.path, whole)
            else:
                self.path.unlink()

    def _start(self, image: Image) -> av.VideoStream:
        height, width = _even(image).shape[:2]
        stream = self._container.add_stream(
            "libx264",
            # Without look-ahead and delayed frames a kill costs no more than the fragment under way.
            options={"preset": self._preset, "tune": "zerolatency", "crf": "23"},
        )
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, _TICKS)
        context.gop_size = 600
        context.color_primaries = context.color_trc = _BT709
        context.colorspace, context.color_range = _BT601, _LIMITED
        self._stream = stream
        return stream

    def _failure(self, error: Exception) -> SinkError:
        reason = error.strerror if isinstance(error, (OSError, av.FFmpegError)) else str(error)
        return SinkError(
            f"{self.path}: cannot be written ({reason}); check the folder, its rights and free space"
        )


def _whole_fragments(path: Path) -> int:
    """Bytes of an MP4 file up to the end of its last whole fragment; 0 where it has none.

    What a full disk tore off is not decoded by every player.
    """
    length, whole, place = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        before = b""
        while True:
            file.seek(place)
            head = file.read(8)
            size, kind = int.from_bytes(head[:4]), head[4:]
            if before == b"mdat" and (place == length or kind in _BOXES):
                whole = place
            if kind not in _BOXES or size < 8 or place + size > length:
                return whole
            place, before = place + size, kind


def _even(image: Image) -> Image:
    """The picture with its last row and column doubled where H.264 wants even numbers."""
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return image
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _yuv(image: Image, width: int, height: int) -> av.VideoFrame:
    """The picture in BT.601 limited range, 4:2:0, by OpenCV: about two thirds of what FFmpeg's scaler takes.

    Colour is averaged over two by two pixels; OpenCV's own conversion takes it from one of the four, which
    leaves thin coloured lines grey.
    """
    image = np.ascontiguousarray(_even(image))
    if image.shape[:2] != (height, width):
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    planes = np.empty((height * 3 // 2, width), np.uint8)
    # JPEG's full range, brought to 16 to 235 and 16 to 240.
    cv2.convertScaleAbs(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), planes[:height], alpha=219 / 255, beta=16)
    half = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    scale = 224 / 255
    full = cv2.cvtColor(half, cv2.COLOR_RGB2YCrCb)
    colour = cv2.convertScaleAbs(full, alpha=scale, beta=128 * (1 - scale))
    planes[height:].reshape(2, height // 2, width // 2)[:] = colour[:, :, 2], colour[:, :, 1]
    return av.VideoFrame.from_numpy_buffer(planes, "yuv420p")
