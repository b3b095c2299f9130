"""Cameras and files behind HTTP addresses: snapshots, streams, files with and without parts, refusals."""

from __future__ import annotations

import itertools
import logging
import socket
import threading
import time
import traceback
from pathlib import Path

import numbered_pictures
import pytest
from mjpeg_server import MjpegServer, numbered_clip

from egolive.streaming.clock import MonotonicClock
from egolive.streaming.errors import ConfigError, SourceError, SourceLost
from egolive.streaming.frames import Frame
from egolive.streaming.pipeline.windowing import Windower
from egolive.streaming.sources.addresses import without_password
from egolive.streaming.sources.opening import open_source

PASSWORD = "p@ss:w/o?r#d%&"
LOGIN = ("ann", PASSWORD)
COUNT = 60
"""Pictures of a file: so many that FFmpeg does not reach the end of an MP4 by reading on."""


def numbers(frames: list[Frame]) -> list[int]:
    return [numbered_pictures.read(frame.image).number for frame in frames]


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    size = (640, 384)
    return {
        "clip.mp4": numbered_clip("mp4", count=COUNT, size=size),
        "clip.ts": numbered_clip("mpegts", count=COUNT, size=size),
    }


def test_snapshots_become_windows_with_the_time_of_their_arrival() -> None:
    with MjpegServer(fps=30) as server, open_source(server.url("snapshot.jpg"), poll=0.1) as source:
        assert source.live
        assert source.fps == 10
        frames = list(itertools.islice(source, 12))
        assert server.requests["connections"] == 2  # the probe's, and one that is kept
    windower = Windower(5.0, 2, source.fps)
    windows = [windower.push(frame).window for frame in frames]
    assert windows[-1] is not None
    assert windower.gaps == 0
    for frame in frames:
        mark = numbered_pictures.read(frame.image)
        assert frame.captured is not None
        assert frame.captured - mark.time < 0.1
    span = numbered_pictures.read(frames[-1].image).time - numbered_pictures.read(frames[0].image).time
    assert frames[-1].time - frames[0].time == pytest.approx(span, abs=0.1)


@pytest.mark.parametrize("conditional", [True, False])
def test_a_snapshot_that_stays_the_same_is_no_new_picture(conditional: bool) -> None:
    with MjpegServer(fps=5) as server, open_source(server.url("snapshot.jpg"), poll=0.03) as source:
        server.conditional = conditional
        shown = numbers(list(itertools.islice(source, 4)))
        assert shown == sorted(set(shown))
        assert server.requests["GET /snapshot.jpg"] > 12


@pytest.mark.parametrize("stalls", [True, False])
def test_a_snapshot_camera_that_does_not_answer_is_lost_and_comes_back(stalls: bool) -> None:
    with MjpegServer(fps=30) as server:
        with open_source(server.url("snapshot.jpg"), poll=0.05, timeout=0.4) as source:
            next(iter(source))
            server.stall(60) if stalls else server.stop()
            begun = time.monotonic()
            with pytest.raises(SourceLost, match=r"no answer within 0\.4 s|connection refused"):
                list(source)
            assert time.monotonic() - begun < 2
        server.stalled_until = 0.0
        if not stalls:
            server.start()
        with open_source(server.url("snapshot.jpg"), poll=0.05, timeout=0.4, reconnect_timeout=5) as source:
            frames = iter(source)
            before = next(frames)
            server.stop()
            threading.Timer(0.7, server.start).start()
            after = next(frame for frame in frames if frame.gap)
            assert after.time - before.time > 0.6


def test_snapshots_that_change_size_or_break_go_on() -> None:
    with MjpegServer(fps=30) as server, open_source(server.url("snapshot.jpg"), poll=0.03) as source:
        next(iter(source))
        server.size = (640, 384)
        frames = itertools.islice(source, 10)
        assert (640, 384) in {(frame.width, frame.height) for frame in frames}
        assert source.size == (640, 384)


def test_a_stream_of_pictures_is_live_and_keeps_pace() -> None:
    with MjpegServer(fps=15) as server, open_source(server.url("stream.mjpg")) as source:
        assert source.live
        frames = list(itertools.islice(source, 20))
    marks = [numbered_pictures.read(frame.image) for frame in frames]
    assert frames[-1].time - frames[0].time == pytest.approx(marks[-1].time - marks[0].time, abs=0.15)


@pytest.mark.parametrize("name", ["clip.ts", "clip.mp4"])
@pytest.mark.parametrize("framing", ["length", "ranges", "chunked", "close"])
def test_a_file_on_a_web_server_is_read_once_to_its_end(
    name: str, framing: str, clips: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with MjpegServer(files=clips) as server:
        server.framing = framing
        with open_source(server.url(f"moved/{name}"), reconnect_timeout=60) as source:
            assert not source.live
            assert numbers(list(source)) == list(range(COUNT))
            fetched = list(tmp_path.iterdir())
        assert bool(fetched) == (framing != "ranges")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("status/401", "access refused; put user and password"),
        ("status/403", "access refused"),
        ("nothing", r"nothing is there \(404\); check the path"),
        ("status/500", r"the server failed \(500\)"),
        ("page.html", "a web page, not a video"),
        ("noise.mp4", "not a video that can be read"),
        ("empty.mp4", "empty answer"),
    ],
)
def test_what_is_refused_is_named_in_one_line(path: str, reason: str) -> None:
    files = {"page.html": b"<!DOCTYPE html><p>Log in", "noise.mp4": bytes(range(256)) * 99, "empty.mp4": b""}
    with MjpegServer(files=files) as server, pytest.raises(SourceError, match=reason) as caught:
        open_source(server.url(path), timeout=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_port_where_nothing_listens(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(SourceError, match="connection refused"):
        open_source(f"{scheme}://127.0.0.1:{port}/camera", timeout=2)


def test_a_name_without_host_and_a_server_without_tls() -> None:
    for scheme in ("http", "rtsp", "rtmp"):
        with pytest.raises(SourceError, match="no host of this name"):
            open_source(f"{scheme}://camera.invalid/stream", timeout=2)
    with MjpegServer() as server, pytest.raises(SourceError, match="no TLS connection"):
        open_source(server.url("stream.mjpg", scheme="https"), timeout=2)


@pytest.mark.parametrize("path", ["snapshot.jpg", "stream.mjpg", "clip.mp4"])
def test_passwords_with_odd_characters_are_used_and_told_to_nobody(
    path: str, clips: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with MjpegServer(login=LOGIN, files=clips) as server:
        with open_source(server.url(path)) as source:
            next(iter(source))
            assert "***@127.0.0.1" in source.name
        right = server.url(path)
        server.login = ("ann", "another")
        for address in (right, right.replace("%2F", "/")):
            with pytest.raises(SourceError) as caught:
                open_source(address, timeout=2)
            told = "".join(traceback.format_exception(caught.value)) + caplog.text
            for part in ("p%40ss", "p@ss", "%3Fr", "?r#d", "cEBzcz"):
                assert part not in told


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://ann:s3cret@host/a",
        "rtsp://ann:s3c/ret@host/a",
        "http://ann:%73s3cret@host:80/a?b=c",
        "http://host/snap.cgi?usr=ann&pwd=s3cret&loginpas=s3cret",
        "http://host/snap.cgi?%70assword=s3cret",
        "http://host/[?token=s3cret",
        "http://[ann:s3cret@host/a",
    ],
)
def test_addresses_in_messages_hold_no_password(address: str) -> None:
    told = without_password(address)
    assert "s3c" not in told
    assert "ret" not in told
    assert "host" in told


def test_options_for_another_kind_of_address_are_refused() -> None:
    with MjpegServer() as server, pytest.raises(ConfigError, match="gives no single pictures"):
        open_source(server.url("stream.mjpg"), poll=1)
    for options in ({"poll": 1.0}, {"rtsp_transport": "udp"}):
        with pytest.raises(ConfigError, match=r"is no (http|rtsp)://"):
            open_source("test:", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give auto, tcp or udp"):
        open_source("rtsp://host/a", rtsp_transport="quic")
    with pytest.raises(ConfigError, match="poll"):
        open_source("http://host/a", poll=float("nan"))


def test_closing_ends_the_wait_for_the_next_snapshot() -> None:
    with MjpegServer() as server:
        source = open_source(server.url("snapshot.jpg"), poll=30, clock=MonotonicClock())
        frames = iter(source)
        next(frames)
        threading.Timer(0.2, source.close).start()
        begun = time.monotonic()
        assert list(frames) == []
        assert time.monotonic() - begun < 2
