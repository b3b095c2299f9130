"""Decoding with PyAV: pictures of the first video stream of a file or an address, with time stamps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path

import av
from av.format import Flags
from av.stream import Disposition

from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.errors import SourceError, SourceLost
from egolive.streaming.frames import Image, Pixels
from egolive.streaming.sources.addresses import refuses_transport, scheme_of, why_not_opened, without_password
from egolive.streaming.sources.limits import check_pixels, most_pixels
from egolive.streaming.sources.rgb import RgbConverter

__all__ = ["Decoder", "Picture", "TransportRefused", "seek_before", "video_stream"]

_HELD = frozenset({"h264", "hevc", "mpegts", "rtp", "rtsp", "sdp"})
"""Containers whose parser hands on an H.264 or H.265 picture when the next one begins, one step late."""
_SEEK_BACK = (0.0, 0.5, 2.0, 5.0, 12.0, 30.0, 120.0)
"""Seconds before the target at which a key frame is looked for."""
_FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpegtsraw,mpeg,mpegvideo,flv,live_flv,ogg,asf,asf_o,rm,wtv,mxf,gxf,nut,"
    "ivf,yuv4mpegpipe,h261,h263,h264,hevc,vvc,evc,av1,obu,m4v,vc1,vc1test,cavsvideo,avs2,avs3,dirac,"
    "dnxhd,dv,mjpeg,mjpeg_2000,mpjpeg,gif,apng,jpegxl_anim,jpegxl_pipe,jpeg_pipe,png_pipe,bmp_pipe,"
    "tiff_pipe,ppm_pipe,pgm_pipe,exr_pipe,hdr_pipe,dpx_pipe,"
    "pam_pipe,sunrast_pipe,xbm_pipe,xpm_pipe,flic,swf,smk,bink,roq,vivo,nsv,nuv,pva,dhav,cine,r3d,dxa,"
    "wav,w64,aiff,mp3,aac,ac3,eac3,flac,caf,au,amr"
)
"""Formats that are read as what they hold. None of them opens other files, as playlists, descriptions of
streams and patterns of names do."""
_FILE_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
"""FFmpeg's options for a file."""
_HTTP = "http,https,httpproxy,tls,tcp,crypto,data"
_NETWORK = (
    f"{_HTTP},udp,udplite,rtp,srtp,dtls,rtmp,rtmpe,rtmps,rtmpt,rtmpte,rtmpts,ffrtmpcrypt,ffrtmphttp,"
    "srt,rist,sctp,mmsh,mmst,ftp,sftp"
)
"""Protocols that an answer may use in turn: none that reads a file or a program of this machine."""


def _address_options(scheme: str) -> dict[str, str]:
    """FFmpeg's options for an address: what comes from there may name parts by HTTP, nothing else."""
    protocols = _HTTP if scheme in ("http", "https") else f"{_NETWORK},{scheme}"
    own = "hls,dash,webvtt" if scheme in ("http", "https") else "rtsp,rtp,sap,rdt"
    return {"protocol_whitelist": protocols, "format_whitelist": f"{_FORMATS},{own}"}


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
    """Seconds of the clock at which the last packet that it needed had come."""
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
        self._counting = False
        self._unsure = 0
        self._inside = 0
        """Packets that were given to the decoder and have not come out as pictures."""
        self._format = container_format
        limits = _address_options(self.scheme) if self.scheme else {}
        self._options = {**(_FILE_OPTIONS if isinstance(address, Path) else limits), **(options or {})}
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
            # For finding out what the streams are, which decodes a picture too.
            options={"max_pixels": str(most_pixels())},
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
    def seconds(self) -> float | None:
        """Length by the container, None where it does not say."""
        duration = self.container.duration
        return None if duration is None else float(duration / av.time_base)

    @property
    def stamped(self) -> bool:
        """Whether the container carries time stamps; else FFmpeg makes them up from a guessed rate."""
        return not self.container.format.flags & Flags.no_timestamps.value

    @property
    def unordered(self) -> bool:
        """Whether pictures are reordered and the container does not say when they are shown: H.264 in AVI.

        The n-th picture that is shown then gets the n-th time of decoding.
        """
        context = self.stream.codec_context
        return (
            self.container.format.name == "avi" and context.name in ("h264", "hevc") and context.has_b_frames
        )

    def skip_to_key(self) -> None:
        """Leave out packets up to the next key frame, undecoded."""
        self._skipping = self._counting = True

    def _checked_stream(self) -> av.VideoStream:
        stream = video_stream(self.container)
        if stream is None:
            raise SourceError(f"{self.name}: holds no video; give a video file, an address or a camera")
        if stream.codec_context is None:
            raise SourceError(f"{self.name}: no decoder for its video; convert it to H.264")
        check_pixels(self.name, stream.codec_context.width, stream.codec_context.height)
        # Pictures may become larger in the middle of a stream.
        stream.codec_context.options = {"max_pixels": str(most_pixels())}
        return stream

    def close(self) -> None:
        """Close the file or connection; waits for a read that is under way, at most the timeout."""
        self.closed = True
        with self._reading:
            self.container.close()

    def seek(self, stamp: float) -> None:
        """Go to a key frame at or before a time stamp in seconds; to the start where none is found there."""
        with self._reading:
            if self.closed:
                return
            if seek_before(self.container, stamp):
                # What stands before the key frame needs pictures that were never decoded.
                self._skipping, self._inside = True, 0
                self._unsure = _unsure_keys(self.container)
                return
            self.container.close()
            self.container = self.open()
            self.stream = self._checked_stream()

    def packets_from(self, container: av.container.InputContainer, stamp: float) -> Iterator[av.Packet]:
        """Packets of a container of this file, just opened, from a key frame at or before a time stamp on.

        Args:
            container: what `open` returned.
            stamp: seconds.
        """
        if not seek_before(container, stamp):
            with self.open() as anew:
                yield from anew.demux(video_stream(anew))
            return
        left = 1 + _unsure_keys(container)
        for packet in container.demux(video_stream(container)):
            left -= left > 0 and packet.is_keyframe
            if not left:
                yield packet

    def pictures(self) -> Iterator[Picture]:
        """Pictures from where reading stands; what is broken is counted and skipped.

        Raises:
            SourceError: the file cannot be read any more.
            SourceLost: the live source does not answer any more.
        """
        packets = self.container.demux(self.stream)
        name = self.stream.codec_context.name
        held = self.container.format.name in _HELD and name in ("h264", "hevc")
        begun: float | None = None
        unordered, decoded = self.unordered, list[float]()
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
                now = self._clock.now()
                # The read before ended when this picture began to come.
                arrived = begun if held and begun is not None else now
                begun = now
                if packet is None:
                    return
                failed_reads = 0
                if self.on_packet is not None and packet.size:
                    sent = None if packet.pts is None else float(packet.pts * packet.time_base)
                    self.on_packet(sent, arrived, now - asked)
                if self._skipping and packet.size:
                    if not packet.is_keyframe or self._unsure:
                        self._unsure -= bool(packet.is_keyframe)
                        self.skipped += self._counting
                        continue
                    self._skipping = False
                    self.skipped += max(0, self._inside) if self._counting else 0
                    self._counting = False
                    self._inside = 0
                    self.stream.codec_context.flush_buffers()
                if unordered and packet.dts is not None:
                    heappush(decoded, float(packet.dts * packet.time_base))
                try:
                    pictures = packet.decode()
                except av.FFmpegError:
                    self.broken += 1
                    continue
                self._inside += bool(packet.size) - len(pictures)
            for picture in pictures:
                stamp = heappop(decoded) if unordered and decoded else picture.time
                try:
                    pixels = self._to_rgb.lazily(picture)
                except av.FFmpegError:
                    self.broken += 1
                    continue
                self.size = (int(pixels.shape[1]), int(pixels.shape[0]))
                yield Picture(stamp, arrived, now - asked, pixels)

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


def seek_before(container: av.container.InputContainer, stamp: float) -> bool:
    """Go to a key frame that is shown at or before a time stamp; False: there is none but the first.

    FFmpeg's jump may land behind its target: where B-frames or an open GOP stand between the order of
    decoding and that of showing, in MPEG streams, and in fragmented files. So it is checked, and tried
    further ahead.

    Args:
        container: is left at the key frame; where False is returned, anywhere.
        stamp: seconds.
    """
    stream = video_stream(container)
    if stream is None or stream.time_base is None:
        return False
    for back in _SEEK_BACK:
        offset = int((stamp - back) / stream.time_base)
        try:
            container.seek(offset, stream=stream)
            keys = (p for p in container.demux(stream) if p.is_keyframe and p.size)
            key = next(islice(keys, _unsure_keys(container), None), None)
            if key is not None and key.pts is not None and key.pts * stream.time_base <= stamp:
                container.seek(offset, stream=stream)
                return True
        except av.FFmpegError:
            return False
    return False


def _unsure_keys(container: av.container.InputContainer) -> int:
    """How many key frames to pass over behind a jump.

    MPEG streams stamp some pictures only; what FFmpeg makes up for those of the first groups is not exact:
    150 ms were seen in a program stream of small pictures, up to the third key frame.
    """
    return 2 if container.format.flags & Flags.ts_discont.value else 0


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first video stream that is not a cover picture."""
    streams = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next(streams, None)
