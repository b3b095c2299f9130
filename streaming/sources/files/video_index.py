"""When the pictures of a video file are shown: all of them, or those of a stretch, without decoding.

What was found out about a file is kept and used again while the file stays as it is.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.format import Flags
from numpy.typing import NDArray

from egolive.streaming.sources.decoder import Decoder, video_stream
from egolive.streaming.sources.files.timestamps import Timeline

__all__ = ["SAME_TIME", "VideoIndex", "index_of"]

_log = logging.getLogger(__name__)

SAME_TIME = 1e-4
"""Seconds by which times that were rounded differently may differ."""
_SMALL = 16 * 1024**2
"""Bytes of a file that is read whole at once; of a larger one, only the stretches that are asked for."""
_RESET = 1.0
"""Seconds by which decoding times step back where a file holds two recordings, one behind the other."""
_SAMPLES = 64
"""Places of a file at which its clock is looked at, to see whether it runs through."""
_KEPT = 64
"""Files whose index is kept."""


class VideoIndex:
    """Times of the pictures of one file, in seconds from its first picture.

    Args:
        decoder: the opened file; the index opens it anew where it reads.
        origin: time stamp of the first picture, seconds.
        step: seconds between two pictures, where a time stamp says nothing.
    """

    def __init__(self, decoder: Decoder, origin: float, step: float) -> None:
        self.origin = origin
        self.guess_told = False
        """Whether the user was told that times are guessed."""
        self._step = step
        self._all: NDArray[np.float64] | None = None
        self._runs_through: bool | None = None
        self._number: int | None = None
        size = decoder.container.size
        self._small = 0 < size <= _SMALL
        # Only formats that are made to be cut and joined can hold two recordings.
        self._may_be_joined = bool(decoder.container.format.flags & Flags.ts_discont.value)
        self._lock = threading.Lock()

    def times(
        self, decoder: Decoder, start: float, end: float, *, first_only: bool = False
    ) -> NDArray[np.float64]:
        """Times of the pictures from `start` to `end`, rising; empty where the file does not tell.

        Args:
            decoder: the opened file.
            start: seconds from the first picture.
            end: seconds from the first picture.
            first_only: whether the first of them is enough.
        """
        with self._lock:
            part = (start > 0 or end < np.inf) and not self._small
            try:
                if self._all is None and not (part and self.runs_through(decoder)):
                    self._all = self._read_all(decoder)
                found = self._read(decoder, start, end, first_only) if self._all is None else self._all
            except av.FFmpegError as error:
                # It may still be played, with its broken pieces left out.
                _log.debug("times cannot be read without decoding: %s", error)
                found = self._all = np.zeros(0)
        return found[(found >= start - SAME_TIME) & (found <= end + SAME_TIME)]

    def count(self, decoder: Decoder) -> int:
        """How many pictures the file holds, read without decoding; for files without time stamps."""
        if self._number is None:
            with decoder.open() as container:
                self._number = sum(1 for packet in container.demux(video_stream(container)) if packet.size)
        return self._number

    def runs_through(self, decoder: Decoder) -> bool:
        """Whether one clock stamped the whole file, so that it can be searched by time."""
        if self._runs_through is None:
            if not self._may_be_joined:
                self._runs_through = True
            elif self._small:
                self._all = self._read_all(decoder)
            else:
                stamps = _samples(decoder)
                # Pictures out of order are no reset, nor is the order of packets.
                self._runs_through = all(b > a - _RESET for a, b in pairwise(stamps))
        return bool(self._runs_through)

    def _read_all(self, decoder: Decoder) -> NDArray[np.float64]:
        """Every picture, on the time line that `Timeline` makes of it when it is played."""
        segments: list[list[float]] = [[]]
        before = -np.inf
        with decoder.open() as container:
            for order, stamp in _stamped(container.demux(video_stream(container)), decoder.unordered):
                if order <= before - _RESET:
                    segments.append([])
                before = order
                segments[-1].append(stamp)
        self._runs_through = len(segments) == 1
        timeline = Timeline(self._step)
        segments[0] = [stamp for stamp in segments[0] if stamp >= self.origin]
        return np.array([timeline.place(stamp)[0] for part in segments for stamp in sorted(part)])

    def _read(self, decoder: Decoder, start: float, end: float, first_only: bool) -> NDArray[np.float64]:
        """The pictures of a stretch alone."""
        stamps: list[float] = []
        with decoder.open() as container:
            for order, stamp in _stamped(
                decoder.packets_from(container, self.origin + start), decoder.unordered
            ):
                # No picture is shown before it is decoded.
                if order > self.origin + end + SAME_TIME or (first_only and stamps and order > min(stamps)):
                    break
                if self.origin + start - SAME_TIME <= stamp:
                    stamps.append(stamp)
        return np.array(sorted(stamps)) - self.origin


_indices: OrderedDict[tuple[str, int, int], VideoIndex] = OrderedDict()
_indices_lock = threading.Lock()


def index_of(decoder: Decoder, origin: float, step: float) -> VideoIndex:
    """The index of an opened file; the one that is there already where the file has not changed."""
    try:
        status = Path(decoder.address).stat()
    except (OSError, ValueError):
        return VideoIndex(decoder, origin, step)
    key = (decoder.address, status.st_size, status.st_mtime_ns)
    with _indices_lock:
        found = _indices.pop(key, None) or VideoIndex(decoder, origin, step)
        _indices[key] = found
        while len(_indices) > _KEPT:
            _indices.popitem(last=False)
    return found


def _samples(decoder: Decoder) -> list[float]:
    """Decoding times at places spread over a file, in the order of the file."""
    found = []
    with decoder.open() as container:
        size = container.size
        for place in range(_SAMPLES + 1):
            stamp = next(_stamps_at(container, min(place * size // _SAMPLES, size - 1)), None)
            if stamp is not None:
                found.append(stamp)
    return found


def _stamps_at(container: av.container.InputContainer, place: int) -> Iterator[float]:
    """Decoding times of the packets from a place of the file on, in bytes."""
    try:
        container.seek(place, unsupported_byte_offset=True)
        for order, _ in _stamped(container.demux(video_stream(container))):
            yield order
    except av.FFmpegError as error:
        _log.debug("no packet at byte %d: %s", place, error)


def _stamped(packets: Iterator[av.Packet], unordered: bool = False) -> Iterator[tuple[float, float]]:
    """Time of decoding and time stamp of each picture, in seconds; the same where only the first is true."""
    for packet in packets:
        stamped = packet.dts if unordered else packet.pts
        if stamped is None or packet.is_discard:
            continue
        stamp = float(stamped * packet.time_base)
        yield (stamp if packet.dts is None else float(packet.dts * packet.time_base)), stamp
