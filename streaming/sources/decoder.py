"""Decoding with PyAV: pictures of the first video stream of a file or an address, with time stamps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
from av.format import Flags
from av.stream import Disposition

from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.errors import SourceError, SourceLost
from egolive.streaming.frames import Image, Pixels
from egolive.streaming.sources.addresses import refuses_transport, scheme_of, why_not_opened, without_password
from egolive.streaming.sources.rgb import RgbConverter

__all__ = ["Decoder", "Picture", "TransportRefused"]

_MAX_FAILED_READS = 100
"""Reads that may fail in a row before the rest of a file is given up."""


class TransportRefused(SourceError):  # noqa: N818  # named as SourceLost is
    """An RTSP server does not offer the transport that it was asked for."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture."""

    stamp: float | None
    """Time stamp of the container in seconds, None where it has none."""
    arrived: float
    """Seconds of the clock at which the last packet that it needed had been read."""
    waited: float
    """Seconds for which that read waited for data."""
    pixels: Image | Pixels


class Decoder:
    """The first video stream of a file or an address, decoded in the order of showing.

    Args:
        address: path or URL, or a filter graph for `container_format="lavfi"`.
        name: what messages call it; without it, the address without its password.
        timeout: seconds to wait for an answer, when opening and at every read.
        container_format: FFmpeg's name of the container, found out without it.
        options: FFmpeg's options for the protocol and the container.
        clock: what arrival is read from.

    Raises:
        SourceError: it cannot be reached, or holds no video that can be decoded.
    """

    def __init__(
        self,
        address: str | Path,
        *,
        name: str | None = None,
        timeout: float = 5.0,
        container_format: str | None = None,
        options: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.address = str(address)
        self.scheme = scheme_of(address) if isinstance(address, str) else ""
        self.name = name or without_password(str(address))
        self.broken = 0
        """Pieces that could not be decoded and were skipped, so far."""
        self.size: tuple[int, int] | None = None
        """Width and height of the newest picture, pixels."""
        self.live = False
        """Whether messages speak of a camera, and a broken connection can be opened again."""
        self.closed = False
        self.skipped = 0
        """Pictures that were left out by `skip_to_key`, so far."""
        self.on_packet: Callable[[float | None, float, float], None] | None = None
        """Told of each packet before it is decoded: time stamp, arrival, seconds waited for it."""
        self._skipping = False
        self._inside = 0
        """Packets that were given to the decoder and have not come out as pictures."""
        self._format = container_format
        self._options = dict(options or {})
        self._timeout = timeout
        self._clock = clock or MonotonicClock()
        # PyAV must not close a container that another thread is reading.
        self._reading = threading.Lock()
        self._to_rgb = RgbConverter()
        try:
            self.container = self.open()
        except av.FFmpegError as error:
            problem = why_not_opened(self.name, self.scheme, error)
            # FFmpeg's error holds the address, password included: a traceback would show it.
            raise (TransportRefused if refuses_transport(error) else SourceError)(problem) from None
        try:
            self.stream = self._checked_stream()
        except BaseException:
            self.container.close()
            raise

    def open(self) -> av.container.InputContainer:
        """The container, opened once more."""
        return av.open(
            self.address,
            format=self._format,
            container_options=self._options,
            timeout=(self._timeout, self._timeout),
            metadata_errors="ignore",
        )

    @property
    def fps(self) -> float | None:
        """Nominal frames a second, as FFmpeg guesses; None where it does not."""
        rate = self.stream.average_rate or self.stream.guessed_rate
        # Streams without a constant rate claim the tick of their clock, thousands a second.
        return float(rate) if rate is not None and 0 < rate <= 1000 else None

    @property
    def stamped(self) -> bool:
        """Whether the container carries time stamps; else FFmpeg makes them up from a guessed rate."""
        return not self.container.format.flags & Flags.no_timestamps.value

    def skip_to_key(self) -> None:
        """Leave out packets up to the next key frame, undecoded."""
        self._skipping = True

    def _checked_stream(self) -> av.VideoStream:
        stream = video_stream(self.container)
        if stream is None:
            raise SourceError(f"{self.name}: holds no video; give a video file, an address or a camera")
        if stream.codec_context is None:
            raise SourceError(f"{self.name}: no decoder for its video; convert it to H.264")
        return stream

    def close(self) -> None:
        """Close the file or connection; waits for a read that is under way, at most the timeout."""
        self.closed = True
        with self._reading:
            self.container.close()

    def seek(self, stamp: float) -> bool:
        """Go to a key frame before a time stamp in seconds; False where it cannot be searched."""
        try:
            self.container.seek(int(stamp / self.stream.time_base), stream=self.stream)
        except av.FFmpegError:
            return False
        return True

    def pictures(self) -> Iterator[Picture]:
        """Pictures from where reading stands; what is broken is counted and skipped.

        Raises:
            SourceError: the file cannot be read any more.
            SourceLost: the live source does not answer any more.
        """
        packets = self.container.demux(self.stream)
        failed_reads = 0
        while failed_reads < _MAX_FAILED_READS:
            with self._reading:
                if self.closed:
                    return
                asked = self._clock.now()
                try:
                    packet = next(packets, None)
                except av.FFmpegError as error:
                    self._raise_if_lost(error)
                    self.broken += 1
                    failed_reads += 1
                    packets = self.container.demux(self.stream)
                    continue
                arrived = self._clock.now()
                if packet is None:
                    return
                failed_reads = 0
                if self.on_packet is not None and packet.size:
                    stamp = None if packet.pts is None else float(packet.pts * packet.time_base)
                    self.on_packet(stamp, arrived, arrived - asked)
                if self._skipping and packet.size:
                    if not packet.is_keyframe:
                        self.skipped += 1
                        continue
                    self._skipping = False
                    self.skipped += max(0, self._inside)
                    self._inside = 0
                    self.stream.codec_context.flush_buffers()
                try:
                    pictures = packet.decode()
                except av.FFmpegError:
                    self.broken += 1
                    continue
                self._inside += bool(packet.size) - len(pictures)
            for picture in pictures:
                try:
                    pixels = self._to_rgb.lazily(picture)
                except av.FFmpegError:
                    self.broken += 1
                    continue
                self.size = (int(pixels.shape[1]), int(pixels.shape[0]))
                yield Picture(picture.time, arrived, arrived - asked, pixels)

    def _raise_if_lost(self, error: av.FFmpegError) -> None:
        if isinstance(error, (av.error.ExitError, av.error.TimeoutError)):
            problem = f"{self.name}: no data for {self._timeout:g} s"
        elif self.live and not isinstance(error, av.error.InvalidDataError):
            problem = f"{self.name}: the connection broke ({error.strerror})"
        else:
            return
        if self.live:
            raise SourceLost(f"{problem}; check the camera and its network") from None
        raise SourceError(f"{problem}; check the disk or the network it lies on") from None


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first video stream that is not a cover picture."""
    streams = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next(streams, None)
