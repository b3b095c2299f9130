"""Writes pictures to an H.264 file that stays playable when the program is killed."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import av
import cv2
import numpy as np
from av.video.frame import PictureType

from egolive.streaming.errors import SinkError
from egolive.streaming.frames import Image

__all__ = ["VideoWriter"]

_TICKS = 90_000
"""Time stamps a second; the usual tick of video containers, finer than any camera."""
_BT709, _BT601, _LIMITED = 1, 6, 1
"""ITU-T H.273: primaries and transfer, matrix, range."""


class VideoWriter:
    """An MP4 file in fragments of about a second: what was written a second ago survives a kill.

    Frames may come at any times, as long as these go up. The first picture decides the size, rounded up to
    even numbers; pictures of another size are stretched to it. No sound.

    Args:
        path: the file, overwritten; its folder is made.
        preset: x264's speed; "veryfast" makes files about half the size for twice the work.

    Raises:
        SinkError: the file cannot be written.
    """

    def __init__(self, path: str | Path, *, preset: Literal["ultrafast", "veryfast"] = "ultrafast") -> None:
        self.path = Path(path)
        self._preset = preset
        self._last_tick: int | None = None
        self._last_key = -math.inf
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(
                str(self.path.absolute()),
                "w",
                format="mp4",
                container_options={
                    "movflags": "frag_keyframe+empty_moov+default_base_moof",
                    "flush_packets": "1",
                },
            )
            # PyAV opens the file with the first picture; a path that cannot work is better known now.
            self.path.open("wb").close()
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
        if time - self._last_key >= 1.0:
            # A fragment begins at a key frame, so the time between them is what a kill can cost.
            picture.pict_type = PictureType.I
            self._last_key = time
        try:
            self._container.mux(stream.encode(picture))
        except (av.FFmpegError, OSError) as error:
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
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if self._stream is None:
                self.path.unlink(missing_ok=True)
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
