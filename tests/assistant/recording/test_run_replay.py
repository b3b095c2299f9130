"""Recorded runs that run again: the same windows, drops and moments, and answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine, nano_script
from numpy.testing import assert_array_equal

from egolive.assistant.cli import main as cli
from egolive.assistant.cli.options import ModelOptions
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import CallbackSink, EventSink, Shown, Sink
from egolive.assistant.recording.run_replay import RunSettings, record_into, replay_run, settings_of
from egolive.assistant.schema.answers import Question
from egolive.streaming.clock import MonotonicClock, VirtualClock
from egolive.streaming.errors import DataError, SinkError
from egolive.streaming.frames import Frame, Image
from egolive.streaming.metrics import Metrics
from egolive.streaming.recording.pictures import PictureFiles, read_pictures
from egolive.streaming.recording.recording import Recording
from egolive.streaming.sources.source import Source

QUESTIONS = (Question("intent"), Question("ground", "right hand"), Question("ground", "left hand"))


class Camera(Source):
    """Noise whose times are given, with a gap, and a change of size at the end."""

    def __init__(self, count: int, *, live: bool, clock: VirtualClock | None = None) -> None:
        self.live = live
        self.name = "camera"
        self.fps: float | None = 10.0
        self.size: tuple[int, int] | None = (64, 36)
        self.broken = 0
        self._count, self._clock = count, clock

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            if self._clock is not None:
                self._clock.advance(0.1)
            time = index / 10 + (7.0 if index >= self._count // 2 else 0.0)
            size = (36, 64) if index < self._count - 10 else (40, 50)
            yield Frame(picture(index, size), time, index)

    def close(self) -> None: ...


def picture(seed: int, size: tuple[int, int] = (36, 64)) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def record(folder: Path, *, live: bool, stop_after: int | None = None) -> list[dict[str, Any]]:
    """Run a camera with a busy engine, recorded; returns the events of the run but for its figures."""
    clock = VirtualClock() if live else MonotonicClock()
    settings = RunSettings(model="fake", questions=QUESTIONS, fps=2.0, slices=2, every=1)
    metrics = Metrics(clock)
    engine = FakeEngine(
        clock=clock if isinstance(clock, VirtualClock) else None, seconds_per_token=0.02 if live else 0.0
    )
    assistant = Assistant(engine, questions=QUESTIONS, clock=clock, metrics=metrics)
    assistant.put(Question("ask", "What is this?"))
    stop = threading.Event()
    shown = 0

    class Stopper(CallbackSink):
        def emit(self, shown_now: Shown) -> None:
            nonlocal shown
            shown += 1
            if shown == stop_after:
                stop.set()

    sinks: list[Sink] = [EventSink(folder / "run.jsonl"), Stopper(lambda _: None)]
    camera = Camera(80, live=live, clock=clock if isinstance(clock, VirtualClock) else None)
    recorder = record_into(folder / "kept", settings, engine)
    run_stream(
        camera,
        assistant,
        sinks,
        fps=2.0,
        slices=2,
        metrics=metrics,
        clock=clock,
        stop=stop,
        recorder=recorder,
    )
    return events(folder / "run.jsonl")


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def again(folder: Path, name: str, engine: FakeEngine | None = None) -> list[dict[str, Any]]:
    replay_run(Recording(folder / "kept"), engine or FakeEngine(), [EventSink(folder / name)])
    return events(folder / name)


def without_figures(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in found if event["type"] != "metrics"]


@pytest.mark.parametrize("live", [True, False], ids=["camera", "file"])
def test_a_run_comes_out_as_it_was_and_twice_the_same(tmp_path: Path, *, live: bool) -> None:
    then = record(tmp_path, live=live)
    again(tmp_path, "first.jsonl")
    again(tmp_path, "second.jsonl")
    assert (tmp_path / "first.jsonl").read_bytes() == (tmp_path / "second.jsonl").read_bytes()
    now = events(tmp_path / "first.jsonl")
    assert without_figures(now) == without_figures(then)
    # How often the engine's turn came in a live run is the machine's business.
    assert sum(event["type"] == "answer" for event in then) > (3 if live else 20)
    assert sum(event.get("task") == "ask" for event in then) == 1
    assert [event["type"] for event in then].count("gap") == 2
    counted = (
        "captured",
        "shown",
        "answers",
        "windows",
        "gaps",
        "drops",
        "requests",
        "stream_seconds",
        "ended",
    )
    assert {key: now[-1][key] for key in counted} == {key: then[-1][key] for key in counted}
    if live:
        assert then[-1]["drops"].get("show_busy", 0) + then[-1]["shown"] == 80
        assert now[-1]["answer_age_s"] == then[-1]["answer_age_s"]


def test_another_engine_sees_the_same_windows_at_the_same_moments(tmp_path: Path) -> None:
    def where(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        keys = ("task", "phrase", "t", "shown", "age", "window", "timing")
        return [tuple(map(str, map(event.get, keys))) for event in found if event["type"] == "answer"]

    then = record(tmp_path, live=True)
    engine = FakeEngine(lambda prompt: "none" if "Find" in prompt else "knead the dough")
    now = again(tmp_path, "other.jsonl", engine)
    assert where(now) == where(then)
    assert {event["text"] for event in now if event["type"] == "answer"} <= {"none", "knead the dough", ""}


def test_what_is_said_otherwise_is_counted(tmp_path: Path) -> None:
    record(tmp_path, live=False)
    recording = Recording(tmp_path / "kept")
    same = replay_run(recording, FakeEngine(), [])
    assert same.same == same.answers > 0
    other = replay_run(recording, FakeEngine(lambda p: "sing" if "doing" in p else nano_script(p)), [])
    assert 0 < other.same < other.answers
    assert len(other.differing) == other.answers - other.same
    assert {answer.question.task for answer in other.differing} == {"intent"}


def test_a_run_that_was_stopped_or_killed_replays_as_far_as_it_went(tmp_path: Path) -> None:
    then = record(tmp_path, live=False, stop_after=50)
    assert without_figures(again(tmp_path, "again.jsonl")) == without_figures(then)
    log = tmp_path / "kept" / "recording.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:-20]) + '\n{"frame": 3')
    answers = [event for event in again(tmp_path, "killed.jsonl") if event["type"] == "answer"]
    assert answers
    assert answers == [event for event in then if event["type"] == "answer"][: len(answers)]


def test_a_recording_without_an_answer_passes_no_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ModelOptions, "load", lambda self: FakeEngine())
    record(tmp_path, live=False, stop_after=20)
    kept, log = tmp_path / "kept", tmp_path / "kept" / "recording.jsonl"
    replayed = ["replay", str(kept), "--model", "nano", "--check"]
    assert cli.call(replayed) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if "outcomes" in line:
            line["outcomes"] = []
        if "shown" in line:
            line["new"] = 0
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    assert cli.call(replayed) == 1
    assert "holds no answer, so nothing could be checked" in capsys.readouterr().err


def test_pictures_come_back_pixel_by_pixel_whatever_their_size(tmp_path: Path) -> None:
    files = PictureFiles(tmp_path)
    pictures = [picture(seed, size) for seed, size in enumerate([(36, 64)] * 3 + [(35, 51)] * 2)]
    for image in pictures:
        files.write(image)
    files.close()
    for image, kept in zip(pictures, read_pictures(tmp_path), strict=True):
        assert_array_equal(image, kept)


def test_a_folder_that_holds_something_is_not_recorded_into(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    settings = RunSettings(model="fake", questions=QUESTIONS, fps=2.0, slices=2)
    with pytest.raises(SinkError, match="not empty"):
        record_into(tmp_path, settings, FakeEngine())


def test_a_damaged_recording_is_told_in_one_line(tmp_path: Path) -> None:
    record(tmp_path, live=False)
    log = tmp_path / "kept" / "recording.jsonl"
    whole = log.read_text()
    log.write_text(whole.replace('"slices": 2', '"slices": 1', 1))
    with pytest.raises(DataError, match="slices"):
        again(tmp_path, "x.jsonl")
    log.write_text(whole.replace('"t": 0.1', '"t": "soon"', 1))
    with pytest.raises(DataError, match=r"recording\.jsonl, line \d+: damaged \(t: .*\); record again"):
        again(tmp_path, "x.jsonl")
    log.write_text("[" * 100_000 + "\n" + whole)
    with pytest.raises(DataError, match=r"recording\.jsonl, line 1: damaged \(Invalid JSON: recursion limit"):
        again(tmp_path, "x.jsonl")
    log.write_text(whole)
    head = tmp_path / "kept" / "recording.json"
    known = head.read_text()
    head.write_text(known.replace('"format": 1', '"format": 2'))
    with pytest.raises(DataError, match=r"recording\.json: .*format 2, which another egolive wrote"):
        again(tmp_path, "x.jsonl")
    head.write_text(known.replace('"every": 1', '"every": 1, "speed": 2'))
    with pytest.raises(DataError, match=r"its settings are damaged \(settings\.speed: "):
        again(tmp_path, "x.jsonl")
    head.write_text(known)
    (tmp_path / "kept" / "pictures-000.mkv").unlink()
    with pytest.raises(DataError, match="picture of frame"):
        again(tmp_path, "x.jsonl")
    with pytest.raises(DataError, match="no recording"):
        Recording(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"every": 0},
        {"deadline": -1},
        {"fps": None},
        {"questions": [{"task": "sing"}]},
        {"questions": [{"task": "intent", "phrase": {}}]},
        {"questions": [{"task": "intent", "think": []}]},
        {"questions": 3},
        {"model": None},
    ],
    ids=str,
)
def test_settings_that_no_run_had_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    record(tmp_path, live=False)
    path = tmp_path / "kept" / "recording.json"
    head = json.loads(path.read_text())
    path.write_text(json.dumps(head | {"settings": head["settings"] | change}))
    with pytest.raises(DataError, match=r"settings|question"):
        settings_of(Recording(tmp_path / "kept"))
