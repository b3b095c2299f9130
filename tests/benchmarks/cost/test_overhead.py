"""What is not looked at costs nothing: no RGB, no boxes followed; and the bench that measures it."""

from __future__ import annotations

import threading
from pathlib import Path

import av
import numpy as np
import pytest
from fakes import FakeEngine

from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import CallbackSink, EventSink, Sink, VideoSink
from egolive.assistant.schema.answers import Question
from egolive.benchmarks.cost import overhead
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Frame, Image
from egolive.streaming.metrics import Metrics
from egolive.streaming.sources.decoder import Decoder
from egolive.streaming.sources.files.video_file import VideoFile
from egolive.streaming.sources.opening import open_source
from egolive.streaming.sources.rgb import RgbConverter
from egolive.streaming.video_writer import VideoWriter


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path) as writer:
        for index in range(30):
            writer.write(np.full((36, 64, 3), 4 * index, np.uint8), index / 10)
    return path


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each picture that is converted to RGB."""
    convert, count = RgbConverter.__call__, list[int]()

    def counted(self: RgbConverter, picture: av.VideoFrame) -> Image:
        count.append(1)
        return convert(self, picture)

    monkeypatch.setattr(RgbConverter, "__call__", counted)
    return count


def test_a_frame_is_converted_once_and_only_when_it_is_looked_at(clip: Path, converted: list[int]) -> None:
    with VideoFile(Decoder(clip)) as source:
        frames = list(source)
    # The first tells whether the others can be converted.
    assert len(converted) == 1
    assert {(frame.width, frame.height) for frame in frames} == {(64, 36)}
    assert len(converted) == 1
    # The file is closed by now, and threads look at once.
    images: list[Image] = []
    threads = [threading.Thread(target=lambda: images.append(frames[20].image)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(converted) == 2
    assert all(image is images[0] for image in images)
    assert images[0].shape == (36, 64, 3)
    assert abs(float(images[0].mean()) - 80) < 3


def run(clip: Path, sinks: list[Sink]) -> Metrics:
    metrics = Metrics()
    questions = (Question("intent"), Question("ground", "right hand"))
    with Assistant(FakeEngine(), questions=questions, metrics=metrics) as assistant:
        run_stream(open_source(clip), assistant, sinks, fps=2.0, slices=2, metrics=metrics)
    return metrics


def test_without_an_overlay_neither_rgb_is_made_nor_boxes_followed(
    clip: Path, tmp_path: Path, converted: list[int]
) -> None:
    metrics = run(clip, [EventSink(tmp_path / "events.jsonl"), CallbackSink(lambda _: None)])
    # Those that the model sees: two a second.
    assert len(converted) == 6
    assert metrics.stage("track") is None
    assert (tmp_path / "events.jsonl").read_text().count('"boxes": [{') == 6


def test_with_an_overlay_both_are(clip: Path, tmp_path: Path, converted: list[int]) -> None:
    metrics = run(clip, [VideoSink(VideoWriter(tmp_path / "overlay.mp4"))])
    assert len(converted) == 30
    track = metrics.stage("track")
    assert track is not None
    assert track.count == 30


def test_a_frame_of_plain_pixels_is_what_it_is() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    frame = Frame(image, 0.0, 0)
    assert frame.image is image
    assert (frame.width, frame.height) == (6, 4)


def test_the_bench_tells_shares_and_lost_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "_SIZES", {"720p30": (64, 36)})
    figures = overhead.measure(seconds=1.0)
    assert [run["overlay"] for run in figures["runs"]] == [False, True]
    for one in figures["runs"]:
        assert (one["frames"], one["lost"]) == (30, 0)
        assert one["cpu_share"] > 0
        assert one["answers"] > 0


def test_seconds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="seconds"):
        overhead.overhead(seconds=0.0)
