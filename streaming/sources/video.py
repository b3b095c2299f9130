"""Video files and network streams, read with PyAV; `test:` pictures come through here as well.

A file is decoded as fast as it is read, without loss; `wrappers.Paced` plays it at its own speed.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import av
from av.stream import Disposition

from egolive.streaming.errors import SourceError, SourceLost
from egolive.streaming.frames import Frame, Image, Pixels
from egolive.streaming.sources.rgb import RgbConverter
from egolive.streaming.sources.source import Source
from egolive.streaming.sources.timestamps import Timeline

__all__ = ["Video", "without_password"]

_LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt", "tcp"})
_MAX_FAILED_READS = 100
"""Reads that may fail in a row before the rest of a file is given up."""
_SEEK_SECONDS = 5.0
"""Pictures that lie further behind the start than this are reached by a jump to a key frame."""
_SAME_TIME = 1e-4
"""Seconds by which times that were rounded differently may differ."""


class Video(Source):
    """A video file, or a stream from the network.

    Network streams are live, unless they come by HTTP and have a length; then they are files far away.

    Args:
        address: path or URL, or a filter graph for `container_format="lavfi"`.
        name: what messages call it; without it, the address without its password.
        timeout: seconds to wait for an answer, when opening and at every read.
        container_format: FFmpeg's name of the container, found out without it.

    Raises:
        SourceError: it cannot be reached, or holds no picture that can be decoded.
    """

    def __init__(
        self,
        address: str | Path,
        *,
        name: str | None = None,
        timeout: float = 5.0,
        container_format: str | None = None,
    ) -> None:
        scheme = urlsplit(address).scheme if isinstance(address, str) and "://" in address else ""
        self.name = name or without_password(str(address))
        self.broken = 0
        self._address = str(address)
        self._format = container_format
        self._timeout = timeout
        self._closed = False
        # PyAV must not close a container that another thread is reading.
        self._reading = threading.Lock()
        try:
            self._container = self._open(scheme)
        except av.FFmpegError as error:
            raise SourceError(_why_not_opened(self.name, scheme, error)) from error
        try:
            self._open_stream(scheme)
        except BaseException:
            self._container.close()
            raise

    def _open(self, scheme: str = "") -> av.container.InputContainer:
        # UDP loses packets on the first busy Wi-Fi; a broken picture costs more than TCP's delay.
        options = {"rtsp_transport": "tcp"} if scheme.startswith("rtsp") else {}
        return av.open(
            self._address,
            format=self._format,
            container_options=options,
            timeout=(self._timeout, self._timeout),
            metadata_errors="ignore",
        )

    def _open_stream(self, scheme: str) -> None:
        self.live = scheme in _LIVE_SCHEMES or (bool(scheme) and self._container.duration is None)
        stream = _video_stream(self._container)
        if stream is None:
            raise SourceError(f"{self.name}: holds no video; give a video file, an address or a camera")
        self._stream = stream
        if self._stream.codec_context is None:
            raise SourceError(f"{self.name}: no decoder for its video; convert it to H.264")
        # Decoding several frames at once is faster, but holds each back by some frames.
        self._stream.thread_type = "SLICE" if self.live else "AUTO"
        rate = self._stream.average_rate or self._stream.guessed_rate
        # Streams without a constant rate claim the tick of their clock, thousands a second.
        self.fps = float(rate) if rate is not None and 0 < rate <= 1000 else None
        self._timeline = Timeline(step=1 / self.fps if self.fps else 1 / 30)
        self._to_rgb = RgbConverter()
        self.size: tuple[int, int] | None = None
        self._numbers = count()
        self._rest = self._decode()
        # Reading the first picture here is what tells a readable file from one that only has a header.
        self._first = next(self._rest, None)
        if self._first is None:
            raise SourceError(
                f"{self.name}: no picture can be decoded ({self.broken} broken pieces); is it damaged?"
            )

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the end of the file, or until a live stream is lost."""
        for stamp, pixels in iter(self._next, None):
            time, gap = self._timeline.place(stamp)
            yield Frame(pixels, time, next(self._numbers), gap)
        if self.live and not self._closed:
            raise SourceLost(f"{self.name}: the stream ended; check the camera and its network")

    def stamps(self) -> list[float]:
        """Time stamps of all pictures of a file in seconds, rising, read without decoding; empty: unknown."""
        try:
            with self._open() as container:
                packets = (p for p in container.demux(_video_stream(container)) if not p.is_discard)
                return sorted(float(p.pts * p.time_base) for p in packets if p.pts is not None)
        except av.FFmpegError:
            return []

    def frames_at(self, times: Sequence[float], origin: float) -> Iterator[Frame]:
        """Frames of a file at some of its times; to be read in place of its other frames.

        Args:
            times: Seconds from `origin`, rising. The first frame at or after each; none comes twice.
            origin: The time stamp at which time is 0, one of `stamps`.

        Raises:
            SourceError: No picture can be decoded there.
        """
        if times[0] > _SEEK_SECONDS and self._seek(origin + times[0]):
            self._first, self._rest = None, self._decode()
        pending, numbers = deque(times), count()
        for stamp, pixels in iter(self._next, None):
            time = (stamp or 0.0) - origin
            if time + _SAME_TIME < pending[0]:
                continue
            yield Frame(pixels() if callable(pixels) else pixels, max(0.0, time), next(numbers))
            while time + _SAME_TIME >= pending[0]:
                pending.popleft()
                if not pending:
                    return
        if len(pending) == len(times):
            raise SourceError(f"{self.name}: no picture can be decoded there; the file is damaged or cut off")

    def close(self) -> None:
        """Close the file or connection; waits for a read that is under way, at most the timeout."""
        self._closed = True
        with self._reading:
            self._container.close()

    def _seek(self, stamp: float) -> bool:
        """Go to the last key frame before a time stamp; False where the file cannot be searched."""
        try:
            self._container.seek(int(stamp / self._stream.time_base), stream=self._stream)
        except av.FFmpegError:
            return False
        return True

    def _next(self) -> tuple[float | None, Image | Pixels] | None:
        """The next picture; None at the end."""
        first, self._first = self._first, None
        return first if first is not None else next(self._rest, None)

    def _decode(self) -> Iterator[tuple[float | None, Image | Pixels]]:
        """Time stamps and pixels in the order of showing; what is broken is counted and skipped."""
        packets = self._container.demux(self._stream)
        failed_reads = 0
        while failed_reads < _MAX_FAILED_READS:
            with self._reading:
                if self._closed:
                    return
                try:
                    packet = next(packets, None)
                except av.FFmpegError as error:
                    self._raise_if_lost(error)
                    self.broken += 1
                    failed_reads += 1
                    packets = self._container.demux(self._stream)
                    continue
                if packet is None:
                    return
                failed_reads = 0
                try:
                    pictures = packet.decode()
                except av.FFmpegError:
                    self.broken += 1
                    continue
            for picture in pictures:
                try:
                    pixels = self._to_rgb.lazily(picture)
                except av.FFmpegError:
                    self.broken += 1
                    continue
                self.size = (int(pixels.shape[1]), int(pixels.shape[0]))
                yield picture.time, pixels

    def _raise_if_lost(self, error: av.FFmpegError) -> None:
        if isinstance(error, (av.error.ExitError, av.error.TimeoutError)):
            problem = f"{self.name}: no data for {self._timeout:g} s"
        elif self.live and not isinstance(error, av.error.InvalidDataError):
            problem = f"{self.name}: the connection broke ({error.strerror})"
        else:
            return
        if self.live:
            raise SourceLost(f"{problem}; check the camera and its network") from error
        raise SourceError(f"{problem}; check the disk or the network it lies on") from error


def _video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first video stream that is not a cover picture."""
    streams = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next(streams, None)


_SECRET = re.compile(
    r"([?&;][^=&;]*(?:pass|pwd|psw|token|secret|key|auth|user|login|sig)[^=&;]*=)[^&;#]*", re.IGNORECASE
)
"""A value in an address that its name gives away."""


def without_password(address: str) -> str:
    """The address with users, passwords and keys replaced by stars, fit for messages."""
    if "://" not in address:
        return address
    address = _SECRET.sub(r"\1***", address)
    try:
        parts = urlsplit(address)
    except ValueError:
        # No address, but it may hold a password all the same.
        scheme, _, rest = address.partition("://")
        _, at, host = rest.rpartition("@")
        return f"{scheme}://***@{host}" if at else address
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"***@{host}")) if at and user else address


def _why_not_opened(name: str, scheme: str, error: av.FFmpegError) -> str:
    silent = isinstance(error, (av.error.ExitError, av.error.TimeoutError))
    # FFmpeg calls it invalid data when an RTSP server does not answer.
    if silent or (scheme and isinstance(error, av.error.InvalidDataError)):
        return f"{name}: no answer that can be read in time; check the address, the network and the camera"
    if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
        return (
            f"{name}: access refused; put user and password into the address (rtsp://user:password@host/...)"
        )
    if scheme:
        return f"{name}: cannot be reached ({error.strerror}); check the address, the network and the camera"
    if isinstance(error, av.error.InvalidDataError):
        return f"{name}: not a video that can be read; it is of another kind, damaged or cut off"
    return f"{name}: cannot be opened ({error.strerror}); check the path and that you may read it"
