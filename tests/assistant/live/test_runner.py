"""One run from source to files: statuses, gaps, figures and the wearer's questions."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fakes import FakeEngine

from egolive.assistant.cli.typed_questions import lines_to
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.runner import Runner, run_stream
from egolive.assistant.live.sinks import CallbackSink, EventSink, Shown, Sink
from egolive.assistant.schema.answers import Answer, Question
from egolive.streaming.clock import VirtualClock
from egolive.streaming.frames import Box, Frame
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.latest_results import Showing
from egolive.streaming.pipeline.results import Result
from egolive.streaming.sources.source import Source

PATIENCE = 60.0
"""Seconds after which a test that waits for another thread gives up; never reached when the code works."""
HAND = Question("ground", "right hand")


class Camera(Source):
    """Pictures by the clock; live, each comes when the engine is at rest and the one before is shown."""

    def __init__(
        self,
        clock: VirtualClock,
        seconds: float,
        *,
        fps: float,
        before: Callable[[int], object],
        speed: int = 0,
        live: bool = True,
    ) -> None:
        self.live = live
        self.name = "camera"
        self.fps: float | None = fps
        self.size: tuple[int, int] | None = (64, 36)
        self.broken = 0
        self._clock, self._pictures, self._rate, self._before = clock, round(seconds * fps), fps, before
        self._speed = speed
        noise = np.random.default_rng(0).integers(0, 256, (36, 64, 3), dtype=np.uint8)
        self._scene = cv2.GaussianBlur(np.tile(noise, (1, 4, 1)), (7, 7), 0)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._pictures):
            self._before(index)
            self._clock.advance(1 / self._rate if index else 0.0)
            left = 64 + index * self._speed
            yield Frame(self._scene[:, left : left + 64].copy(), self._clock.now(), index)

    def close(self) -> None: ...


class Lockstep:
    """A sink that lets the camera go on once a picture is shown and what it brought is answered."""

    def __init__(self) -> None:
        self.shown: list[Shown] = []
        self._emitted = threading.Semaphore(0)
        self._answered = threading.Semaphore(0)

    def wait(self, index: int) -> None:
        if index > 0:
            assert self._emitted.acquire(timeout=PATIENCE)
            assert self._answered.acquire(timeout=PATIENCE)

    def follow(self, assistant: Assistant) -> None:
        """Count the times that work on boxes, which each picture brings, comes to its end."""
        done = assistant.scheduler.done

        def counted(work: Any, *args: Any, **options: Any) -> None:
            done(work, *args, **options)
            if HAND in work.tasks:
                self._answered.release()

        assistant.scheduler.done = counted  # type: ignore[method-assign]

    def emit(self, shown: Shown) -> None:
        self.shown.append(shown)
        self._emitted.release()

    def note(self, event: object) -> None: ...

    def close(self) -> None: ...


def run(
    folder: Path,
    *,
    seconds: float = 30.0,
    fps: float = 2.0,
    before: Callable[[int], object] = lambda _: None,
    after: Callable[[Assistant, VirtualClock], object] = lambda *_: None,
    speed: int = 0,
    live: bool = True,
    **engine: Any,
) -> tuple[list[dict[str, Any]], list[Shown], list[Answer]]:
    """Play a camera and return the events, what was shown, and what a program was told."""
    clock = VirtualClock()
    metrics = Metrics(clock)
    lockstep, told = Lockstep(), list[Answer]()
    questions = (Question("intent"), HAND)
    assistant = Assistant(
        FakeEngine(clock=clock, **engine), questions=questions, every=2, metrics=metrics, clock=clock
    )
    lockstep.follow(assistant)

    def step(index: int) -> None:
        if live:
            lockstep.wait(index)
        before(index)
        after(assistant, clock)

    sinks: list[Sink] = [EventSink(folder / "events.jsonl"), CallbackSink(told.append), lockstep]
    camera = Camera(clock, seconds, fps=fps, before=step, speed=speed, live=live)
    run_stream(camera, assistant, sinks, fps=2.0, slices=2, metrics=metrics, clock=clock)
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], lockstep.shown, told


def test_figures_are_written_every_ten_seconds_and_at_the_end(tmp_path: Path) -> None:
    events, shown, _ = run(tmp_path, seconds=35.0)
    metrics = [event for event in events if event["type"] == "metrics"]
    assert [round(event["t"]) for event in metrics] == [10, 20, 30, 34]
    last = metrics[-1]
    assert events[-1] == last
    assert {"capture", "wait", "first_token", "decode", "parse", "draw"} <= set(last["stages"])
    for figures in (*last["stages"].values(), last["glass_to_overlay_ms"], last["answer_age_s"]):
        assert set(figures) == {"n", "p50", "p95", "p99", "max"}
    assert set(last["reuse"]) == {"slices_encoded", "prompt_tokens_reused", "draft_accepted"}
    assert last["counts"]["prompt_tokens"] > 0
    assert last["memory_mb"] > 10
    assert last["requests"]["repeated"] > 10
    assert (last["captured"], last["shown"], last["ended"]) == (70, 70, "source")
    assert shown[0].figures == ""
    assert "s old" in shown[-1].figures


def test_intent_is_asked_every_second_slice_and_boxes_of_each_picture(tmp_path: Path) -> None:
    events, _, _ = run(tmp_path)
    times = [event["t"] for event in events if event.get("task") == "intent"]
    assert np.diff(times) == pytest.approx(2.0)
    # Whether the boxes of the last picture are found before the run is over is open.
    boxes = [event["t"] for event in events if event.get("task") == "ground" and event["t"] < 29.5]
    assert boxes == pytest.approx(np.arange(0, 29.5, 0.5))


def test_what_comes_too_late_is_in_the_file_but_neither_shown_nor_told(tmp_path: Path) -> None:
    def statuses_of_boxes() -> list[str]:
        return [event["status"] for event in events if event.get("task") == "ground"]

    # Told with the picture four seconds after it, boxes are in time: they are current for five.
    events, _, _ = run(tmp_path, seconds=60.0, fps=0.25)
    assert set(statuses_of_boxes()) == {"ok"}
    # Now a box takes 14 tokens and three seconds more; how many of them the next picture waits for is open.
    events, shown, told = run(tmp_path, seconds=60.0, fps=0.25, seconds_per_token=0.2)
    assert not any(event["type"] == "gap" for event in events)
    boxes = [event for event in events if event.get("task") == "ground"]
    assert len(boxes) > 10
    assert statuses_of_boxes().count("expired") >= 3
    # Overtaken ones are younger than that and still not told.
    assert all(event["age"] <= 5 for event in boxes if event["status"] == "ok")
    assert all(event["status"] == "expired" for event in boxes if event["age"] > 5)
    assert len([answer for answer in told if answer.question == HAND]) == statuses_of_boxes().count("ok")
    for picture in shown:
        assert all(picture.now - answer.time <= 5 for answer in picture.answers if answer.question == HAND)
    for event in events:
        if event["type"] == "answer" and event["status"] == "ok":
            assert event["age"] <= 15


def test_boxes_go_with_what_they_are_round_until_the_next_answer(tmp_path: Path) -> None:
    # A recording, so that each answer comes with its own picture: the camera turns by a pixel a picture, ten
    # pictures a second, and boxes are asked of every fifth.
    events, shown, _ = run(tmp_path, seconds=2.0, fps=10.0, speed=1, live=False)
    found = [event["boxes"][0]["x1"] for event in events if event.get("task") == "ground"]
    assert len(set(found)) == 1
    moved = 0
    for picture in shown:
        for answer in picture.answers:
            if answer.question == HAND and answer.boxes:
                age = round(10 * (picture.frame.time - answer.time))
                assert answer.boxes[0].x1 == pytest.approx(found[0] - age, abs=0.5)
                moved += age > 0
    assert moved == 16
    assert "track" in events[-1]["stages"]


def test_how_long_a_picture_waited_is_in_its_answers(tmp_path: Path) -> None:
    # The engine begins at once here, but boxes go first, and the engine takes 0.3 s for them.
    events, _, _ = run(tmp_path, seconds=10.0, seconds_per_token=0.3 / 14)
    queued = {event["task"]: event["timing"]["queued"] for event in events if event["type"] == "answer"}
    assert queued["ground"] == pytest.approx(0.0)
    assert queued["intent"] >= 0.25


def test_a_hand_whose_box_is_carried_to_where_it_rests_is_told_as_contact() -> None:
    scene, hand = (
        cv2.GaussianBlur(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8), (7, 7), 0)
        for seed, size in ((0, (180, 320, 3)), (1, (40, 40, 3)))
    )
    told: list[tuple[float, str]] = []
    player = Runner([], Metrics(VirtualClock()), on_contact=lambda time, reason: told.append((time, reason)))
    answer = Answer(HAND, "", boxes=(Box(100, 60, 140, 100),), time=0.0)
    current = [Result(HAND, answer, 0.0)]
    for index, left in enumerate([100] * 8 + [100 + 15 * step for step in range(1, 7)] + [190] * 8):
        picture = scene.copy()
        picture[60:100, left : left + 40] = hand
        player.show(Showing(Frame(picture, index / 10, index), index / 10, (), current))
    assert [reason for _, reason in told] == ["the right hand has come to rest"] * 2
    # The first when it was first seen; the second 0.2 s after the last movement, of 1.3 s.
    assert told[1][0] == pytest.approx(1.6, abs=0.11)
    silent = Runner([], Metrics(VirtualClock()))
    silent.show(Showing(Frame(scene, 0.0, 0), 0.0, (), current))


def test_a_gap_is_written_and_nothing_of_before_is_current_behind_it(tmp_path: Path) -> None:
    jumped = False

    def jump(assistant: Assistant, clock: VirtualClock) -> None:
        nonlocal jumped
        if clock.now() >= 20 and not jumped:
            jumped = True
            clock.advance(40.0)

    events, shown, _ = run(tmp_path, after=jump)
    (gap,) = (event for event in events if event["type"] == "gap")
    assert gap["end"] - gap["start"] > 40
    for picture in shown:
        if picture.frame.time >= gap["end"]:
            assert all(answer.time >= gap["end"] for answer in picture.answers)
    for event in events:
        if event.get("window"):
            start, end = event["window"]
            assert end <= gap["start"] or start >= gap["end"]


def test_a_question_put_while_running_is_answered_once_and_stays(tmp_path: Path) -> None:
    question = Question("ask", "What is this?")
    put = False

    def ask(assistant: Assistant, clock: VirtualClock) -> None:
        nonlocal put
        if clock.now() >= 5.0 and not put:
            put = True
            assistant.put(question)

    events, shown, told = run(tmp_path, seconds=15.0, after=ask)
    (event,) = (event for event in events if event.get("task") == "ask")
    assert event["text"] == "It is a mug."
    assert event["window"] is not None
    assert [answer.question for answer in told].count(question) == 1
    assert shown[-1].answers[-1].question == question


def test_a_question_stops_an_answer_that_is_under_way_which_is_written_as_preempted(tmp_path: Path) -> None:
    clock = VirtualClock()
    question = Question("ask", "What is this?")
    assistant = Assistant(FakeEngine(clock=clock), questions=(HAND,), clock=clock)
    picture = Frame(np.zeros((36, 64, 3), np.uint8), 1.0, 0)
    assistant.scheduler.see(picture, None, 1.0)
    work = assistant.scheduler.take(1.0)
    assert work is not None
    assistant.put(Question("ground", "red mug"))
    (result,) = assistant(work)
    assert (result.task, result.status, result.time) == (HAND, "preempted", 1.0)
    assert (result.value.status, result.value.text, result.value.boxes) == ("preempted", "", ())
    assistant.scheduler.done(work, [HAND])
    assistant.put(question)
    first = assistant.scheduler.take(1.0)
    assert first is not None
    assert first.tasks == (Question("ground", "red mug"),)


@pytest.mark.skipif(os.name != "posix", reason="a stream cannot be waited for")
def test_lines_that_are_typed_are_handed_on_and_leaving_does_not_wait() -> None:
    lines: list[str] = []
    second = threading.Event()

    def take(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            second.set()

    reading, writing = os.pipe()
    with os.fdopen(reading) as stream, lines_to(take, stream):
        os.write(writing, b"  Where is my cup?\n\nUnd der L")
        os.write(writing, "öffel?\nnot finis".encode())
        assert second.wait(PATIENCE)
    os.close(writing)
    assert lines == ["Where is my cup?", "Und der Löffel?"]
