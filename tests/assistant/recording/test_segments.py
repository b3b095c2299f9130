"""Recordings in segments: whole, trimmed, cut off, and the folder in which a run starts again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine

from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import CallbackSink
from egolive.assistant.recording.run_replay import Replayed, RunSettings, record_into, replay_run
from egolive.assistant.schema.answers import Answer, Question
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import DataError
from egolive.streaming.frames import Frame
from egolive.streaming.metrics import Metrics
from egolive.streaming.recording.recording import Recording, Segments
from egolive.streaming.recording.run_folders import new_run_folder, recorded_run
from egolive.streaming.sources.source import Source

QUESTIONS = (Question("intent"), Question("ground", "right hand"))


class Camera(Source):
    """Ten noisy pictures a second, with a gap, by a clock of its own."""

    live = False
    name = "camera"
    fps: float | None = 10.0
    size: tuple[int, int] | None = (64, 36)
    broken = 0

    def __init__(self, clock: VirtualClock, gap_at: int) -> None:
        self._clock, self._gap_at = clock, gap_at

    def __iter__(self) -> Iterator[Frame]:
        for index in range(120):
            self._clock.advance(0.1)
            image = np.random.default_rng(index).integers(0, 256, (36, 64, 3), dtype=np.uint8)
            yield Frame(image, index / 10, index, gap=index == self._gap_at)

    def close(self) -> None: ...


def record(folder: Path, *, gap_at: int = -1) -> None:
    clock = VirtualClock()
    settings = RunSettings(model="fake", questions=QUESTIONS, fps=2.0, slices=2)
    metrics = Metrics(clock)
    engine = FakeEngine(clock=clock, seconds_per_token=0.02)
    assistant = Assistant(engine, questions=QUESTIONS, clock=clock, metrics=metrics)
    recorder = record_into(folder, settings, engine, segments=Segments(seconds=2.5))
    run_stream(
        Camera(clock, gap_at),
        assistant,
        [CallbackSink(lambda _: None)],
        fps=2.0,
        slices=2,
        metrics=metrics,
        clock=clock,
        recorder=recorder,
    )


def again(folder: Path) -> tuple[list[Answer], Replayed]:
    answers: list[Answer] = []
    done = replay_run(Recording(folder), FakeEngine(), [CallbackSink(answers.append)])
    return answers, done


def said(answers: list[Answer]) -> list[tuple[object, ...]]:
    """What was reused is left out: what is gone cannot be."""
    return [(one.question, one.time, one.text, one.boxes, one.window) for one in answers]


def remove(folder: Path, numbers: range) -> None:
    for number in numbers:
        for path in folder.glob(f"*-{number:06d}*"):
            path.unlink()


@pytest.mark.parametrize("gap_at", [-1, 43], ids=["no gap", "a gap"])
def test_what_is_left_of_a_trimmed_recording_is_answered_as_before(tmp_path: Path, gap_at: int) -> None:
    record(tmp_path, gap_at=gap_at)
    before, whole = again(tmp_path)
    assert whole.same == whole.answers > 5
    assert whole.lost == 0
    assert len(list(tmp_path.glob("recording-*.jsonl"))) == 5
    # At 7.5 s, in the midst of a window, and with answers on their way.
    remove(tmp_path, range(1, 4))
    after, trimmed = again(tmp_path)
    assert trimmed.same == trimmed.answers > 2
    assert Recording(tmp_path).first == 75
    kept = [answer for answer in before if answer.time >= 7.5]
    assert trimmed.answers + trimmed.lost == len(kept)
    assert 0 < trimmed.lost < len(kept) / 2
    # What is not repeated saw pictures that are gone, or was asked together with what did.
    assert said(after) == [one for one in said(kept) if one in said(after)]


def test_a_hole_is_told(tmp_path: Path) -> None:
    record(tmp_path)
    remove(tmp_path, range(2, 3))
    with pytest.raises(DataError, match="segment 2 is missing"):
        Recording(tmp_path)


def test_pictures_without_their_lines_are_left_aside(tmp_path: Path) -> None:
    record(tmp_path)
    (tmp_path / "recording-000001.jsonl").unlink()
    _, done = again(tmp_path)
    assert done.same == done.answers > 2


def test_the_last_segment_may_be_cut_off(tmp_path: Path) -> None:
    record(tmp_path)
    last = max(tmp_path.glob("recording-*.jsonl"))
    last.write_bytes(last.read_bytes()[:-200])
    _, done = again(tmp_path)
    assert done.same == done.answers > 5


def test_a_run_after_a_cut_gets_a_folder_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    assert new_run_folder(folder, segmented=False) == (folder, 0)
    assert new_run_folder(folder, segmented=True) == (folder / "run-000001", 1)
    folder.mkdir()
    (folder / "recording.json").write_text("{}")
    (folder / "recording.jsonl").write_text('{"frame": 0, "t": 0.0, "gap": false}\n')
    assert new_run_folder(folder, segmented=False) == (folder / "run-000001", 1)
    # One that ended is not added to, and neither is a folder of other things.
    (folder / "recording.jsonl").write_text('{"end": {}}\n')
    assert new_run_folder(folder, segmented=False) == (folder, 0)
    (folder / "thesis.txt").write_text("mine")
    assert new_run_folder(folder, segmented=True) == (folder, 0)


def test_the_only_run_of_a_folder_is_found(tmp_path: Path) -> None:
    record(tmp_path / "run-000001")
    assert recorded_run(tmp_path) == tmp_path / "run-000001"
    record(tmp_path / "run-000002")
    with pytest.raises(DataError, match="run-000002"):
        recorded_run(tmp_path)
