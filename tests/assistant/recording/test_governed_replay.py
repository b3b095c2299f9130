"""Governed live runs: what was chosen is in events and recordings, and a replay does the same again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fakes import FakeEngine

from egolive.assistant.cli import main as cli
from egolive.assistant.cli.options import ModelOptions
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.governing import choice_in_words
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import CallbackSink, EventSink, Shown
from egolive.assistant.recording.run_replay import RunSettings, record_into, replay_run
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import NANO
from egolive.streaming.clock import VirtualClock
from egolive.streaming.frames import Frame
from egolive.streaming.pipeline.choice import Choice
from egolive.streaming.pipeline.results import Result
from egolive.streaming.pipeline.scheduler import Work
from egolive.streaming.recording.recording import Recording, Segments
from egolive.streaming.sources.source import Source

QUESTIONS = (Question("intent"), Question("ground", "right hand"), Question("ground", "left hand"))
FREE = replace(NANO, picture=None, image_pixels=(1, 160 * 90), video_pixels=(1, 160 * 90))
"""A profile that takes pictures of any size."""
FIRST = Choice(every=1, slices=2, pictures=2, windows=1, reason="at first")
CHOICES = {
    0: FIRST,
    30: replace(FIRST, slices=1, size=0.25, pictures=1, reason="less"),
    60: replace(FIRST, slices=4, apart=True, reason="more"),
    80: replace(FIRST, still_since=7.0, duty=0.5, heartbeat=30.0, contact_since=6.5, reason="nothing moves"),
}


class Camera(Source):
    """Noise by the clock."""

    def __init__(self, clock: VirtualClock) -> None:
        self.live = True
        self.name = "camera"
        self.fps: float | None = 10.0
        self.size: tuple[int, int] | None = (160, 90)
        self.broken = 0
        self._clock = clock

    def __iter__(self) -> Iterator[Frame]:
        for index in range(160):
            self._clock.advance(0.1)
            picture = np.random.default_rng(index).integers(0, 256, (90, 160, 3), dtype=np.uint8)
            yield Frame(picture, index / 10, index)

    def close(self) -> None: ...


class Scripted:
    """A governor that chooses what it is told to."""

    on_contact = False

    def __init__(self) -> None:
        self.worked_on: list[tuple[tuple[Question, ...], float]] = []

    def touched(self, time: float, reason: str) -> None: ...

    def see(self, frame: Frame) -> Choice | None:
        return CHOICES.get(frame.index)

    def worked(self, work: Work[Question], results: Sequence[tuple[Result[Question, Answer], float]]) -> None:
        self.worked_on.append((work.tasks, work.size))


class Shows(CallbackSink):
    """Remembers what was shown as current."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)
        self.seen: list[tuple[float, tuple[str, ...], str]] = []

    def emit(self, shown: Shown) -> None:
        self.seen.append((shown.now, tuple(str(answer.time) for answer in shown.answers), shown.governor))


def record(
    folder: Path, *, segments: Segments | None = None
) -> tuple[list[dict[str, Any]], FakeEngine, Shows, Scripted]:
    clock = VirtualClock()
    settings = RunSettings(model="fake", questions=QUESTIONS, fps=2.0, slices=2, deadline=1.5)
    engine = FakeEngine(profile=FREE, clock=clock, seconds_per_token=0.01)
    assistant = Assistant(engine, questions=QUESTIONS, deadline=1.5, clock=clock)
    shows, governor = Shows(), Scripted()
    run_stream(
        Camera(clock),
        assistant,
        [EventSink(folder / "run.jsonl"), shows],
        fps=2.0,
        slices=2,
        clock=clock,
        recorder=record_into(folder / "kept", settings, engine, segments=segments),
        governor=governor,
    )
    return events(folder / "run.jsonl"), engine, shows, governor


def events(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [event for event in found if event["type"] != "metrics"]


def sizes(engine: FakeEngine) -> list[tuple[tuple[int, int, int], ...]]:
    """Of each ask, of each of its questions: number of frames, height and width as the model sees them."""
    return [
        tuple(
            (len(part.frames), part.height, part.width)
            for request in asked
            for part in request.prompt.parts
            if isinstance(part, Vision)
        )
        for asked in engine.asked
    ]


def test_a_governed_run_comes_out_as_it_was(tmp_path: Path) -> None:
    then, engine, shows, governor = record(tmp_path)
    again, shows_again = FakeEngine(profile=FREE), Shows()
    done = replay_run(Recording(tmp_path / "kept"), again, [EventSink(tmp_path / "again.jsonl"), shows_again])
    assert events(tmp_path / "again.jsonl") == then
    assert shows_again.seen == shows.seen
    assert (done.same, done.differing) == (done.answers, [])
    assert done.answers > 10
    # What was preempted before its first token is not asked again.
    assert set(sizes(again)) <= set(sizes(engine))
    told = [event for event in then if event["type"] == "governor"]
    assert [event["reason"] for event in told] == ["at first", "less", "more", "nothing moves"]
    assert [event["t"] for event in told] == [0.0, 3.0, 6.0, 8.0]
    assert told[1]["choice"] == CHOICES[30].as_json()
    assert {size for _, size in governor.worked_on} == {1.0, 0.25}
    pictures = {height * width for asked in sizes(again) for count, height, width in asked if count == 1}
    assert min(pictures) <= 0.25 * max(pictures)


def test_what_was_chosen_before_the_oldest_segment_that_is_left_still_holds(tmp_path: Path) -> None:
    record(tmp_path, segments=Segments(seconds=2.5))
    whole = replay_run(Recording(tmp_path / "kept"), FakeEngine(profile=FREE), [])
    assert (whole.same, whole.differing) == (whole.answers, [])
    # From 5 s on: windows of one slice had been chosen at 3 s, those of four at 6 s.
    for path in [path for number in (1, 2) for path in (tmp_path / "kept").glob(f"*-{number:06d}*")]:
        path.unlink()
    recording = Recording(tmp_path / "kept")
    assert recording.start is not None
    assert recording.start.choice is not None
    assert recording.start.choice.choice == CHOICES[30]
    done = replay_run(recording, FakeEngine(profile=FREE), [EventSink(tmp_path / "again.jsonl")])
    assert done.same == done.answers > 3
    told = [event["reason"] for event in events(tmp_path / "again.jsonl") if event["type"] == "governor"]
    assert told == ["less", "more", "nothing moves"]


def test_the_choices_of_a_recording_are_checked_by_replay(tmp_path: Path, monkeypatch: Any) -> None:
    record(tmp_path)
    monkeypatch.setattr(ModelOptions, "load", lambda _: FakeEngine(profile=FREE))
    command = ["replay", str(tmp_path / "kept"), "--model", "nano", "--check"]
    assert cli.call(command) == 0
    log = tmp_path / "kept" / "recording.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join(line for line in lines if '"reason": "more"' not in line) + "\n")
    # Without what was chosen the windows come out otherwise.
    assert cli.call(command) == 1


def test_what_was_answered_stays_current_where_nothing_moves(tmp_path: Path) -> None:
    _, _, shows, _ = record(tmp_path)
    ages = [
        max((now - float(time) for time in times), default=0.0) for now, times, _ in shows.seen if now > 14.5
    ]
    assert min(ages) > 1.5
    assert all(line.endswith("(nothing moves)") for now, _, line in shows.seen if now > 9)


def test_a_choice_is_one_line_for_people() -> None:
    assert choice_in_words(CHOICES[30], 1.0) == (
        "words every 1 s, 1 box at once, windows of 1 slices, pictures of 25% of their pixels (less)"
    )
    assert choice_in_words(CHOICES[80], 1.0).startswith("idle, looks again every 30 s, asks on contact")
