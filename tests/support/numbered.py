"""Videos whose pictures show their own number, in the containers and codings that people have.

A picture is a row of black and white blocks, its number in binary, the lowest bit first; the complement
stands below, so that a picture that was decoded wrongly does not read as a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

__all__ = ["number_of", "picture_of", "write_numbered"]

_BITS = 12
_BLOCK = 8
"""Pixels; a macroblock of chroma in 4:2:0, so that blocks do not mix."""
_HEIGHT = 32


def picture_of(number: int) -> NDArray[np.uint8]:
    """The picture of a number, (32, 96, 3)."""
    bits = np.array([255 * (number >> bit & 1) for bit in range(_BITS)], np.uint8).repeat(_BLOCK)
    half = np.broadcast_to(bits, (_HEIGHT // 2, len(bits)))
    return np.repeat(np.concatenate([half, 255 - half])[..., None], 3, axis=2)


def number_of(image: NDArray[np.uint8]) -> int:
    """The number that a decoded picture shows.

    Raises:
        ValueError: It was not decoded rightly.
    """
    blocks = image.mean(2).reshape(2, _HEIGHT // 2, _BITS, _BLOCK)[:, 4:-4, :, 2:-2].mean((1, 3))
    if not (np.abs(blocks[0] - blocks[1]) > 128).all():
        raise ValueError("the picture shows no number; it was decoded wrongly")
    return int(sum(1 << bit for bit in range(_BITS) if blocks[0, bit] > blocks[1, bit]))


def write_numbered(
    path: Path,
    times: Sequence[float],
    *,
    container: str | None = None,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    muxer: Mapping[str, str] | None = None,
    fps: int = 10,
    gop: int = 25,
    b_frames: int = 0,
    first: int = 0,
) -> Path:
    """Write a numbered video.

    Args:
        path: The file; its suffix names the container.
        times: Seconds of each picture on the file's clock.
        container: FFmpeg's name of the container, where the suffix does not tell.
        codec: FFmpeg's name of the encoder.
        options: Of the encoder.
        muxer: Options of the container.
        fps: Nominal pictures a second.
        gop: Pictures from one key frame to the next.
        b_frames: Most B-frames in a row.
        first: Number of the first picture.
    """
    # Clock of the codings that allow no finer one than their picture rate.
    base = (
        Fraction(1, fps) if codec in ("mpeg2video", "mpeg4") or path.suffix == ".avi" else Fraction(1, 90_000)
    )
    with av.open(str(path), "w", format=container, options=dict(muxer or {})) as sink:
        stream = sink.add_stream(codec, rate=fps, options=dict(options or {}))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = _BITS * _BLOCK, _HEIGHT, "yuv420p"
        stream.codec_context.time_base = base
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.bit_rate = 400_000
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture_of(first + index), format="rgb24")
            frame.pts, frame.time_base = round(time / base), base
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
    return path
