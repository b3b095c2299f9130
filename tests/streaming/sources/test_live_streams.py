"""Live streams from real servers on loopback, whose pictures carry the time at which they were taken."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from statistics import median

import av
import numpy as np
import pytest
from mjpeg_server import MjpegServer
from numbered_pictures import SIZE, paint, read
from rtsp_server import RtspServer, needs_rtsp_server

from egolive.streaming import Frame, MonotonicClock, Source, open_source

CLOCK = MonotonicClock()


def watch(source: Source, seconds: float, *, work: float = 0.0) -> list[tuple[Frame, float, float]]:
    """Frames for some seconds, each with its true time of capture and when it was read, on the same clock."""
    found: list[tuple[Frame, float, float]] = []
    begun = CLOCK.now()
    for frame in source:
        now = CLOCK.now()
        if now - begun > seconds:
            return found
        # The marks are written on the clock that stops in sleep; a test does not sleep that long.
        found.append((frame, now - time.monotonic() + read(frame.image).time, now))
        time.sleep(work)
    return found


def errors(found: list[tuple[Frame, float, float]]) -> list[float]:
    return [_captured(frame) - true for frame, true, _ in found]


def _captured(frame: Frame) -> float:
    assert frame.captured is not None
    return frame.captured


def check_time(found: list[tuple[Frame, float, float]]) -> None:
    """Stream time keeps pace with the true times of capture, and capture with the clock.

    Within 0.1 s, and never off by what a machine that is busy with other work does not explain.
    """
    assert median(abs(error) for error in errors(found)) <= 0.1
    assert max(abs(error) for error in errors(found)) <= 0.6
    first = found[len(found) // 2]
    drift = [(frame.time - first[0].time) - (true - first[1]) for frame, true, _ in found]
    assert median(abs(error) for error in drift) <= 0.1


@needs_rtsp_server
@pytest.mark.parametrize(("fps", "codec"), [(5, "jpeg"), (15, "h264"), (30, "jpeg")])
def test_rtsp_pictures_have_the_time_at_which_they_were_taken(fps: int, codec: str) -> None:
    with RtspServer(fps=fps, codec=codec) as server, open_source(server.url) as source:
        found = watch(source, 1.5)
    assert len(found) >= fps - 3
    check_time(found)
    # What the opening had buffered is not now, and is not shown as now.
    assert source.dropped > 0
    assert found[0][2] - found[0][1] <= 0.6


@needs_rtsp_server
def test_what_waited_unread_is_left_out() -> None:
    with RtspServer(fps=30, codec="jpeg") as server, open_source(server.url) as source:
        # As long as an engine takes to load.
        time.sleep(1.0)
        found = watch(source, 0.7)
    check_time(found)
    assert found[0][2] - found[0][1] <= 0.6


@needs_rtsp_server
def test_a_reader_that_is_too_slow_knows_how_far_it_is_behind() -> None:
    with RtspServer(fps=30, codec="jpeg") as server, open_source(server.url) as source:
        found = watch(source, 3.0, work=0.07)
    check_time(found)
    frame, _, now = found[-1]
    assert now - _captured(frame) >= 0.7


@needs_rtsp_server
def test_a_camera_that_stalls_and_changes_its_size_keeps_true_times() -> None:
    with RtspServer(fps=15, codec="jpeg") as server, open_source(server.url) as source:
        found = watch(source, 0.5)
        server.stall(1.5)
        found += watch(source, 2.5)
        server.resize(480, 288)
        found += watch(source, 1.0)
    check_time(found)
    assert max(b[0].time - a[0].time for a, b in pairwise(found)) >= 1.4
    assert {(frame.width, frame.height) for frame, _, _ in found} == {SIZE, (480, 288)}


@needs_rtsp_server
def test_stream_time_goes_on_over_a_restart() -> None:
    with (
        RtspServer(fps=15, codec="jpeg") as server,
        open_source(server.url, timeout=2.0, reconnect_timeout=20.0) as source,
    ):
        found = watch(source, 0.5)
        server.stop()
        restart = threading.Timer(0.5, server.start)
        restart.start()
        found += watch(source, 3.5)
        restart.join()
    check_time(found)
    assert [frame.gap for frame, _, _ in found].count(True) == 1
    assert found[-1][0].time - found[0][0].time >= 2.5


@pytest.mark.parametrize("fps", [5, 15])
def test_a_multipart_camera_has_the_time_of_arrival(fps: int) -> None:
    with MjpegServer(fps=fps) as server, open_source(server.url("stream.mjpg")) as source:
        # FFmpeg believes in 25 pictures a second here, whatever comes.
        assert source.fps is None
        found = watch(source, 2.0)
    check_time(found)
    frame, _, now = found[-1]
    assert frame.time - found[0][0].time == pytest.approx(now - found[0][2], abs=0.2)


@pytest.mark.robustness
@pytest.mark.parametrize("fps", [5, 15, 30])
def test_ten_seconds_of_a_multipart_camera_are_ten_seconds(fps: int) -> None:
    with MjpegServer(fps=fps) as server, open_source(server.url("stream.mjpg")) as source:
        found = watch(source, 10.0)
    check_time(found)
    assert found[-1][0].time - found[0][0].time == pytest.approx(10.0, abs=0.3)


@contextmanager
def raw_h264(fps: int) -> Iterator[str]:
    """The address of a camera that sends H.264 without a container, as Raspberry Pi's tools do."""
    listening = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        connection, _ = listening.accept()
        encoder = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height = SIZE
        encoder.pix_fmt = "yuv420p"
        encoder.time_base = Fraction(1, fps)
        encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(fps), "crf": "12"}
        started = time.monotonic()
        number = 0
        with connection:
            while not over.wait(max(0.0, started + number / fps - time.monotonic())):
                width, height = SIZE
                pixels = np.frombuffer(paint(number, time.monotonic()), np.uint8)
                picture = av.VideoFrame.from_ndarray(pixels.reshape(height, width, 3), format="rgb24")
                picture.pts = number
                try:
                    for packet in encoder.encode(picture):
                        connection.sendall(bytes(packet))
                except OSError:
                    return
                number += 1

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        over.set()
        thread.join(10)
        listening.close()


def test_raw_h264_over_tcp_has_the_time_of_arrival() -> None:
    with raw_h264(fps=10) as address, open_source(address) as source:
        found = watch(source, 2.0)
    assert len(found) >= 15
    # The parser sees the end of a picture when the next one begins: a picture is one step late.
    check_time(found)
    assert found[-1][0].time - found[0][0].time == pytest.approx(found[-1][2] - found[0][2], abs=0.3)
