"""Webcams and GStreamer pipelines, with stand-ins for the devices."""

import sys
import time
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from egolive.streaming import Frame, Source, VirtualClock, open_source
from egolive.streaming.errors import SourceError, SourceLost
from egolive.streaming.sources.live.gstreamer import GstPipe
from egolive.streaming.sources.live.webcam import OpenCvCamera


class FakeCapture:
    """Stands in for cv2.VideoCapture: a few pictures, then nothing; reading takes a second."""

    def __init__(self, clock: VirtualClock, pictures: int) -> None:
        self.clock = clock
        self.left = pictures
        self.asked: dict[int, float] = {}
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802 (OpenCV's name)
        return True

    def set(self, key: int, value: float) -> bool:
        self.asked[key] = value
        return True

    def get(self, _: int) -> float:
        return 30.0

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        self.clock.advance(1.0)
        if self.left == 0:
            return False, None
        self.left -= 1
        return True, np.full((4, 6, 3), (10, 20, 30), np.uint8)

    def release(self) -> None:
        self.released = True


def collect(source: Source, frames: list[Frame]) -> None:
    for frame in source:
        frames.append(frame)


def test_a_webcam_gives_rgb_with_the_time_of_arrival_and_is_lost_when_it_stalls() -> None:
    clock = VirtualClock(start=100)
    capture = FakeCapture(clock, pictures=4)
    frames: list[Frame] = []
    with OpenCvCamera(cast(Any, capture), name="camera 0", timeout=5, clock=clock) as camera:
        assert camera.live
        assert (camera.fps, camera.size) == (30, (6, 4))
        with pytest.raises(SourceLost, match=r"camera 0: no picture for 5 s"):
            collect(camera, frames)
    assert [(f.time, f.index) for f in frames] == [(0, 0), (1, 1), (2, 2)]
    assert frames[0].image[0, 0].tolist() == [30, 20, 10]
    assert capture.released


@pytest.mark.parametrize(("said", "age"), [(0.3, 0.3), (40.0, 0.0), (-5.0, 0.0)])
def test_a_webcams_own_time_stamp_counts_where_it_can_be_true(said: float, age: float) -> None:
    class Stamping(FakeCapture):
        def get(self, key: int) -> float:
            return (time.monotonic() - said) * 1e3 if key == cv2.CAP_PROP_POS_MSEC else 30.0

    clock = VirtualClock(start=100)
    with OpenCvCamera(cast(Any, Stamping(clock, 3)), name="camera 0", timeout=5, clock=clock) as camera:
        frame = next(iter(camera))
    assert frame.captured == pytest.approx(102 - age, abs=0.1)


def test_a_webcam_that_gives_no_picture_is_told_when_it_is_opened() -> None:
    clock = VirtualClock()
    capture = FakeCapture(clock, pictures=0)
    with pytest.raises(SourceError, match="opens but gives no picture in 3 s"):
        OpenCvCamera(cast(Any, capture), name="camera 0", timeout=3, clock=clock)
    assert capture.released


def test_a_camera_that_is_not_there_is_told_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match="camera 87: ") as caught:
        open_source("87")
    assert "\n" not in str(caught.value)
    # OpenCV's own complaints do not reach the terminal.
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="device files are Linux's")
def test_a_webcam_is_asked_for_the_size_and_rate_that_the_user_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock()
    capture = FakeCapture(clock, pictures=1)
    opened: list[tuple[object, int]] = []

    def open_capture(camera: object, backend: int) -> FakeCapture:
        opened.append((camera, backend))
        return capture

    monkeypatch.setattr(cv2, "VideoCapture", open_capture)
    monkeypatch.setattr(Path, "exists", lambda _: True)
    open_source(0, size=(1280, 720), fps=60, clock=clock).close()
    assert opened == [(0, cv2.CAP_V4L2)]
    assert capture.asked[cv2.CAP_PROP_BUFFERSIZE] == 1
    assert capture.asked[cv2.CAP_PROP_FRAME_WIDTH] == 1280
    assert capture.asked[cv2.CAP_PROP_FRAME_HEIGHT] == 720
    assert capture.asked[cv2.CAP_PROP_FPS] == 60


PIPE = "import sys; [sys.stdout.buffer.write({row} * 3) for _ in range({count})]"


def pipe(code: str, timeout: float = 20.0) -> GstPipe:
    return GstPipe(
        f"{sys.executable} -c '{code}'",
        name="gst:fake",
        size=(2, 3),
        timeout=timeout,
        clock=VirtualClock(),
    )


@pytest.mark.skipif(sys.platform == "win32", reason="pipelines are run on Linux")
def test_a_pipeline_gives_pictures_without_the_padding_of_their_rows_until_it_ends() -> None:
    row = bytes([1, 2, 3, 4, 5, 6, 99, 99])
    frames: list[Frame] = []
    source = pipe(PIPE.format(row=f"bytes({list(row)})", count=4))
    with source, pytest.raises(SourceLost, match="the pipeline ended"):
        collect(source, frames)
    # The first went into finding out that it runs.
    assert len(frames) == 3
    assert frames[0].image.tolist() == [[[1, 2, 3], [4, 5, 6]]] * 3


@pytest.mark.skipif(sys.platform == "win32", reason="pipelines are run on Linux")
def test_a_pipeline_that_fails_says_why_in_one_line() -> None:
    with pytest.raises(SourceError, match="no such element") as caught:
        pipe('import sys; sys.exit("first line\\nno such element: v5l2src")')
    assert "\n" not in str(caught.value)


def test_a_machine_without_gstreamer_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    GStreamer:    NO\n")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SourceError, match="install gstreamer"):
        open_source("gst:videotestsrc")
