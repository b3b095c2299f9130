"""`open_source`: opens whatever a user names as input, by the form of its name."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.errors import ConfigError, SourceError
from egolive.streaming.paths import brief, existing_path, without_file_scheme
from egolive.streaming.sources.addresses import LIVE_SCHEMES, scheme_of, without_password
from egolive.streaming.sources.decoder import Decoder, TransportRefused
from egolive.streaming.sources.files.media_kind import kind_of, picture_format
from egolive.streaming.sources.files.picture_files import PictureFile
from egolive.streaming.sources.files.picture_folder import Folder
from egolive.streaming.sources.files.video_file import VideoFile
from egolive.streaming.sources.http_address import Kind, probe
from egolive.streaming.sources.limits import TooManyPixelsError
from egolive.streaming.sources.live.gstreamer import open_gstreamer
from egolive.streaming.sources.live.live_stream import LiveStream
from egolive.streaming.sources.live.reconnect import Reconnecting
from egolive.streaming.sources.live.snapshots import DEFAULT_POLL, Snapshots
from egolive.streaming.sources.live.webcam import open_webcam
from egolive.streaming.sources.source import Source
from egolive.streaming.sources.wrappers import Looped, Paced

__all__ = ["open_file", "open_source"]

_HTTP = ("http", "https")
_TRANSPORTS = ("auto", "tcp", "udp")
_SHORTEST_POLL, _LONGEST_POLL = 0.02, 60.0
"""Seconds."""
_UDP_PAUSE = 0.3
"""Seconds before UDP is tried once more."""
_TEST_SIZE = (640, 360)
_TEST_FPS = 30
_DAMAGED = {"JPEG": "jpeg_pipe", "PNG": "png_pipe"}
"""Photos of which FFmpeg shows what is left where Pillow refuses them, with FFmpeg's name of the format."""
_RTSP = {"fpsprobesize": "0"}
"""FFmpeg would read 20 pictures first to guess their rate: four seconds of a slow camera."""
_LONGEST_NUMBER = 9
"""Digits of a camera's number; more do not fit into OpenCV's integer."""


def open_source(
    spec: str | int | Path,
    *,
    realtime: bool = False,
    fps: float | None = None,
    loop: bool = False,
    size: tuple[int, int] | None = None,
    timeout: float = 5.0,
    reconnect_timeout: float = 0.0,
    source_fps: float | None = None,
    rtsp_transport: str = "auto",
    poll: float | None = None,
    clock: Clock | None = None,
) -> Source:
    """Open a camera, an address, a file, a folder of pictures or the test picture.

    Args:
        spec: `0` or "/dev/video0" (camera) · "rtsp://…", "http://…" (address) · "gst:…" (GStreamer pipeline
            without its sink) · "test:" or "test:640x360@30" (moving test picture, live) · path of a video, a
            picture, or a folder of pictures. Open live sources last: their time runs from here on.
        realtime: play a recording at its own speed, as if it were live.
        fps: frames a second, of a folder of pictures (2 without it), a camera or the test picture.
        loop: start a recording again when it is over.
        size: width and height, of a camera, a pipeline or the test picture.
        timeout: seconds to wait for an answer before a source counts as unreachable or lost.
        reconnect_timeout: seconds for which a live source that was lost is opened again; the first
            time it must open at once.
        source_fps: frames a second of a video file without time stamps of its own, such as raw H.264.
        rtsp_transport: "tcp", "udp", or "auto": TCP, and UDP where the server refuses it.
        poll: seconds from one request to the next, of an address that gives single pictures
            (http://…/snapshot.jpg); 0.5 without it.
        clock: what live time is read from; the machine's own without it.

    Raises:
        SourceError: it is not there, cannot be reached or cannot be decoded.
        ConfigError: an option does not fit the kind of source.

    Example:
        >>> import egolive
        >>> with egolive.open_source(egolive.example_clip()) as source:
        ...     times = [round(frame.time, 2) for frame in source]
        >>> source.live, len(times), times[:3]
        (False, 373, [0.0, 0.07, 0.13])
    """
    clock = clock or MonotonicClock()
    text = str(spec).strip()
    if isinstance(spec, Path) and text.isdecimal():
        # A path is no camera, even if its name is a number.
        text = f"./{text}"
    if fps is not None and not 0 < fps <= 1000:
        raise ConfigError(f"fps: {fps:g} frames a second cannot work; give more than 0 and at most 1000")
    if source_fps is not None and not 0 < source_fps <= 1000:
        raise ConfigError(f"source_fps: {source_fps:g} cannot work; give more than 0 and at most 1000")
    if size is not None and min(size) < 1:
        raise ConfigError(f"size: {size[0]}x{size[1]} is not a picture; give width and height in pixels")
    if rtsp_transport not in _TRANSPORTS:
        raise ConfigError(f"rtsp_transport: {rtsp_transport!r} is unknown; give auto, tcp or udp")
    if poll is not None and not _SHORTEST_POLL <= poll <= _LONGEST_POLL:
        raise ConfigError(f"poll: {poll:g} s cannot work; give {_SHORTEST_POLL:g} to {_LONGEST_POLL:g}")
    scheme = scheme_of(text)
    if rtsp_transport != "auto" and not scheme.startswith("rtsp"):
        raise ConfigError(f"rtsp_transport: {without_password(text)} is no rtsp:// address")
    if poll is not None and scheme not in _HTTP:
        raise ConfigError(f"poll: {without_password(text)} is no http:// address of a picture")
    if text.startswith("test:"):
        return Paced(_open_test(text, size=size, fps=fps, timeout=timeout), clock)
    if source_fps is not None and not _is_file(text):
        raise ConfigError(f"source_fps: {without_password(text)} is no video file without time stamps")
    connect = _camera(text, size=size, fps=fps, timeout=timeout, clock=clock)
    reopen = connect or _recording(
        text,
        fps=fps,
        source_fps=source_fps,
        size=size,
        address=partial(
            _open_address, timeout=timeout, rtsp_transport=rtsp_transport, poll=poll, clock=clock
        ),
        timeout=timeout,
    )
    source = Looped(reopen) if loop and connect is None else reopen()
    if source.live:
        return (
            Reconnecting(source, reopen, clock=clock, reconnect_timeout=reconnect_timeout)
            if reconnect_timeout > 0
            else source
        )
    return Paced(source, clock) if realtime else source


def _camera(
    text: str, *, size: tuple[int, int] | None, fps: float | None, timeout: float, clock: Clock
) -> Callable[[], Source] | None:
    """How to open a camera or pipeline; None where the text names neither."""
    numbered = text.isdecimal() and len(text) <= _LONGEST_NUMBER
    if numbered or text.startswith("/dev/video"):
        camera = int(text) if numbered else text
        return partial(open_webcam, camera, size=size, fps=fps, timeout=timeout, clock=clock)
    if text.startswith("gst:"):
        _refuse(text, fps=fps)
        pipeline = text.removeprefix("gst:").strip()
        return partial(open_gstreamer, pipeline, size=size, timeout=timeout, clock=clock)
    return None


def _recording(
    text: str,
    *,
    fps: float | None,
    source_fps: float | None,
    size: tuple[int, int] | None,
    timeout: float,
    address: Callable[[str], Source],
) -> Callable[[], Source]:
    """How to open a folder, a file or an address (which may turn out to be live)."""
    _refuse(text, size=size)
    text = without_file_scheme(text)
    if "://" in text:
        _refuse(text, fps=fps)
        try:
            _ = urlsplit(text).port
        except ValueError:
            raise SourceError(
                f"{without_password(text)}: not an address that can be read; check its spelling, "
                "and write odd characters of the password as %40 for @, %2F for /, %23 for #"
            ) from None
        return partial(address, text)
    path = existing_path(text)
    if path is None:
        raise SourceError(f"{brief(text)}: there is no such file or folder; check the path")
    if path.is_dir():
        return partial(Folder, path, fps=fps or 2.0)
    if not path.is_file():
        raise SourceError(
            f"{text}: neither a file nor a folder; give a video, a folder of pictures or a camera"
        )
    _refuse(text, fps=fps)
    return partial(open_file, path, name=text, source_fps=source_fps, timeout=timeout)


def _is_file(text: str) -> bool:
    path = existing_path(without_file_scheme(text))
    return path is not None and path.is_file()


def _refuse(text: str, *, fps: float | None = None, size: tuple[int, int] | None = None) -> None:
    """Tell the user which option does not fit this kind of source."""
    if fps is not None:
        raise ConfigError(
            f"fps: {without_password(text)} brings its own times; fps is for cameras and folders"
        )
    if size is not None:
        raise ConfigError(f"size: {without_password(text)} brings its own size; size is for cameras")


def _open_test(text: str, *, size: tuple[int, int] | None, fps: float | None, timeout: float) -> VideoFile:
    """The moving test picture of FFmpeg, without end."""
    match = re.fullmatch(r"test:(?:(\d+)x(\d+))?(?:@(\d+(?:\.\d+)?))?", text)
    if match is None:
        raise SourceError(
            f"{text}: not a test picture; write test: or test:{_TEST_SIZE[0]}x{_TEST_SIZE[1]}@{_TEST_FPS}"
        )
    named_size = (int(match[1]), int(match[2])) if match[1] else None
    width, height = size or named_size or _TEST_SIZE
    rate = fps or float(match[3] or _TEST_FPS)
    graph = f"testsrc2=size={width}x{height}:rate={rate:g}"
    name = f"test:{width}x{height}@{rate:g}"
    return VideoFile(Decoder(graph, name=name, timeout=timeout, container_format="lavfi"))


def open_file(path: Path, *, name: str, source_fps: float | None = None, timeout: float = 5.0) -> Source:
    """Open a file as what it holds, whatever its name.

    Args:
        path: a file that is there.
        name: what messages call it.
        source_fps: frames a second of a video without time stamps.
        timeout: seconds to wait for the disk.

    Raises:
        SourceError: it cannot be decoded, or only names other files.
        ConfigError: it has time stamps, and `source_fps` was given.
    """
    kind, form = kind_of(path), picture_format(path)
    if kind == "playlist":
        raise SourceError(f"{name}: a playlist, which only names other files; give the video that it names")
    if kind == "animation" and form == "HEIF":
        raise SourceError(f"{name}: a sequence of HEIF pictures, which cannot be read; save it as MP4")
    # FFmpeg reads GIF and APNG; but of HEIF one tile, of an animated AVIF the first picture, of WebP none.
    if form in ("WEBP", "AVIF", "HEIF") or (kind == "photo" and form not in (*_DAMAGED, "GIF")):
        return PictureFile(path, name=name, animated=kind == "animation")
    if kind == "photo" and form in _DAMAGED:
        try:
            return PictureFile(path, name=name, animated=False)
        except TooManyPixelsError:
            raise
        except SourceError:
            decoder = Decoder(path.absolute(), name=name, timeout=timeout, container_format=_DAMAGED[form])
            return VideoFile(decoder)
    # FFmpeg takes what stands before a colon for a protocol, unless the path begins at the root.
    options = {} if source_fps is None else {"framerate": f"{source_fps:g}"}
    decoder = Decoder(path.absolute(), name=name, timeout=timeout, options=options)
    return VideoFile(decoder, source_fps=source_fps)


def _open_address(
    address: str, *, timeout: float, rtsp_transport: str, poll: float | None, clock: Clock
) -> Source:
    """An address is live, unless it comes by HTTP and has an end; then it is a file far away."""
    address = _quoted_login(address)
    scheme = scheme_of(address)
    if scheme.startswith("rtsp"):
        return LiveStream(_open_rtsp(address, rtsp_transport, timeout=timeout, clock=clock), clock)
    if scheme not in _HTTP:
        decoder = Decoder(address, timeout=timeout, clock=clock)
        live = scheme in LIVE_SCHEMES or decoder.container.duration is None
        return LiveStream(decoder, clock) if live else VideoFile(decoder)
    probed = probe(address, timeout)
    if probed.kind is Kind.PICTURE:
        return Snapshots(address, poll=poll or DEFAULT_POLL, timeout=timeout, clock=clock)
    if poll is not None:
        if probed.content is not None:
            probed.content.close()
        raise ConfigError(f"poll: {without_password(address)} gives no single pictures")
    if probed.content is not None:
        return _Fetched(probed.content, without_password(address), timeout)
    decoder = Decoder(address, timeout=timeout, clock=clock)
    live = probed.kind is Kind.STREAM and decoder.container.duration is None
    return LiveStream(decoder, clock) if live else VideoFile(decoder)


def _open_rtsp(address: str, transport: str, *, timeout: float, clock: Clock) -> Decoder:
    """By TCP where the server offers it: UDP loses packets on the first busy Wi-Fi, and pictures break."""
    begun = clock.now()
    first = "tcp" if transport == "auto" else transport
    try:
        return Decoder(address, timeout=timeout, options={**_RTSP, "rtsp_transport": first}, clock=clock)
    except TransportRefused:
        if transport != "auto":
            raise
    udp = {**_RTSP, "rtsp_transport": "udp"}
    rest = max(timeout - (clock.now() - begun), timeout / 2)
    try:
        return Decoder(address, timeout=rest, options=udp, clock=clock)
    except SourceError:
        # Servers may answer 503 while they take down what the first try had begun.
        clock.wait(threading.Event(), _UDP_PAUSE)
    return Decoder(address, timeout=rest, options=udp, clock=clock)


def _quoted_login(address: str) -> str:
    """The address with user and password percent-encoded, as FFmpeg needs them."""
    parts = urlsplit(address)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return address
    user, colon, password = login.partition(":")
    quoted = quote(unquote(user), safe="") + colon + quote(unquote(password), safe="")
    return urlunsplit(parts._replace(netloc=f"{quoted}@{host}"))


class _Fetched(VideoFile):
    """A file from the network in a temporary one, which is removed when this is closed."""

    def __init__(self, content: IO[bytes], name: str, timeout: float) -> None:
        self._content = content
        try:
            super().__init__(Decoder(Path(content.name), name=name, timeout=timeout))
        except BaseException:
            content.close()
            raise

    def close(self) -> None:
        """Close and remove it."""
        super().close()
        self._content.close()
