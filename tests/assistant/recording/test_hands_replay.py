"""What a hand detector saw is kept with a run, and comes back from there."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine
from scripted import PATIENCE, our_threads
from seen_hands import BrightHands, bright

from egolive.assistant.hands.hand_choice import draws_guesses
from egolive.assistant.live.assistant import LIVE_QUESTIONS, Assistant
from egolive.assistant.live.hand_fusion import HandsBeside
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import CallbackSink, EventSink, Shown, Sink
from egolive.assistant.recording.run_replay import RunSettings, record_into, replay_run
from egolive.assistant.schema.answers import Question
from egolive.streaming.clock import MonotonicClock, VirtualClock
from egolive.streaming.errors import DataError, EngineError
from egolive.streaming.frames import Frame
from egolive.streaming.hands import HandWatch
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.hand_watch import LiveHands, SteppedHands
from egolive.streaming.recording.recording import Recording, Segments
from egolive.streaming.sources.source import Source

HANDS = (Question("ground", "left hand"), Question("ground", "right hand"))


class Resting(VirtualClock):
    """Lets a detector rest at no cost in time, and counts how often it does."""

    def __init__(self) -> None:
        super().__init__()
        self.rests = threading.Semaphore(0)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.rests.release()
        return super().wait(event, seconds)


class Square(Source):
    """A white square that moves to the right for three seconds, with a gap meanwhile, and is gone then."""

    def __init__(
        self, *, live: bool, clock: VirtualClock | None = None, before: Callable[[int], None] = lambda _: None
    ) -> None:
        self.live = live
        self._before = before
        self.name = "square"
        self.fps: float | None = 10.0
        self.size: tuple[int, int] | None = (160, 90)
        self.broken = 0
        self._clock = clock

    def __iter__(self) -> Iterator[Frame]:
        for index in range(40):
            self._before(index)
            if self._clock is not None:
                self._clock.advance(0.1)
            time = index / 10 + (7.0 if index >= 20 else 0.0)
            yield bright(time, 2 + 4 * index if index < 30 else None, index=index)

    def close(self) -> None: ...


def record(
    folder: Path,
    *,
    live: bool,
    segments: Segments | None = None,
    fails_at: int | None = None,
    sinks: Sequence[Sink] = (),
) -> list[dict[str, Any]]:
    clock = VirtualClock() if live else MonotonicClock()
    engine = FakeEngine()
    metrics = Metrics(clock)
    settings = RunSettings(model="fake", questions=LIVE_QUESTIONS, fps=2.0, slices=2, every=1, hands=HANDS)
    detector = BrightHands(fails_at=fails_at, error=EngineError("the detector is broken"))
    resting = Resting()
    watch: HandWatch = LiveHands(detector, clock=resting) if live else SteppedHands(detector)

    def before(index: int) -> None:
        # A machine that is busy may show all pictures before the detector has its turn.
        if live and index in (10, 30):
            assert resting.rests.acquire(timeout=PATIENCE)

    run_stream(
        Square(live=live, clock=clock if isinstance(clock, VirtualClock) else None, before=before),
        Assistant(engine, clock=clock, metrics=metrics),
        [EventSink(folder / "run.jsonl"), *sinks],
        fps=2.0,
        slices=2,
        metrics=metrics,
        clock=clock,
        recorder=record_into(folder / "kept", settings, engine, segments=segments),
        hands=HandsBeside(watch, HANDS, draws_guesses(engine.profile)),
    )
    assert detector.closed == 1
    assert our_threads() == []
    return events(folder / "run.jsonl")


def again(folder: Path, name: str = "again", sinks: Sequence[Sink] = ()) -> list[dict[str, Any]]:
    written = [EventSink(folder / f"{name}.jsonl"), *sinks]
    done = replay_run(Recording(folder / "kept"), FakeEngine(), written)
    assert done.same == done.answers
    return events(folder / f"{name}.jsonl")


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def of(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in found if event["type"] == kind]


class Drawn(CallbackSink):
    """Keeps each picture with what is drawn on it."""

    only_new = False

    def __init__(self) -> None:
        super().__init__(lambda _: None)
        self.pictures: list[np.ndarray] = []

    def emit(self, shown: Shown) -> None:
        self.pictures.append(shown.picture)


@pytest.mark.parametrize("live", [True, False], ids=["camera", "file"])
def test_what_was_seen_comes_back_with_the_same_pictures(tmp_path: Path, *, live: bool) -> None:
    drawn, drawn_again = Drawn(), Drawn()
    then = record(tmp_path, live=live, sinks=[drawn])
    now = again(tmp_path, sinks=[drawn_again])
    figures = ("metrics",)
    assert [event for event in now if event["type"] not in figures] == [
        event for event in then if event["type"] not in figures
    ]
    looks = of(then, "hands")
    assert len(looks) >= (1 if live else 15)
    if not live:
        sides = {hand["label"] for look in looks for hand in look["hands"]}
        assert sides == {"left hand", "right hand"}
        assert [] in [look["hands"] for look in looks]
    pairs = zip(drawn.pictures, drawn_again.pictures, strict=True)
    assert all((one == other).all() for one, other in pairs)


def test_a_look_says_who_and_where_and_when(tmp_path: Path) -> None:
    first = of(record(tmp_path, live=False), "hands")[0]
    (hand,) = first["hands"]
    assert {key: first[key] for key in ("by", "t", "shown", "age")} == {
        "by": "detector",
        "t": 0.0,
        "shown": 0.0,
        "age": 0.0,
    }
    assert [hand[key] for key in ("x1", "y1", "x2", "y2")] == [2, 50, 32, 80]
    assert (hand["label"], hand["by"], hand["score"]) == ("left hand", "detector", 0.9)
    assert len(hand["landmarks"]) == 21


def test_answers_of_the_model_are_marked_and_none_in_an_unseen_hand_is_unknown(tmp_path: Path) -> None:
    answers = [event for event in of(record(tmp_path, live=False), "answer") if event["task"] == "ground"]
    assert {box["by"] for event in answers for box in event["boxes"]} == {"model"}
    # The engine sees a right hand in one place all the time; the square comes by there.
    marks = {box["supported"] for event in answers for box in event["boxes"] if box["label"] == "right hand"}
    assert marks == {True, False}
    in_left = [event["found"] for event in answers if event["phrase"] == "object in the left hand"]
    assert set(in_left) == {"none", "unknown"}
    unseen = [event for event in answers if event["found"] == "unknown"]
    assert unseen
    assert all(event["unknown"] for event in unseen)


def test_segments_keep_what_was_seen_with_them(tmp_path: Path) -> None:
    record(tmp_path, live=False, segments=Segments(seconds=1.0))
    whole = of(again(tmp_path, "whole"), "hands")
    assert len(whole) > 15
    for path in (tmp_path / "kept").glob("*-000001*"):
        path.unlink()
    rest = of(again(tmp_path, "rest"), "hands")
    assert rest == [look for look in whole if look["t"] >= 1.0]


def test_a_detector_that_fails_is_told_once_and_the_run_goes_on(tmp_path: Path) -> None:
    found = record(tmp_path, live=False, fails_at=4)
    (warning,) = of(found, "warning")
    assert warning["text"] == "no hands are looked for any more: the detector is broken"
    assert len(of(found, "hands")) == 3
    assert found[-1]["shown"] == 40
    assert of(again(tmp_path), "hands") == of(found, "hands")


def test_a_line_that_is_damaged_is_told(tmp_path: Path) -> None:
    record(tmp_path, live=False)
    log = tmp_path / "kept" / "recording.jsonl"
    text = log.read_text(encoding="utf-8")
    for wrong in ('["left",0.9,[2.0,50.0', '["middle",0.9,[2.0,50.0', '["left",9,[2.0,50.0'):
        changed = text.replace(" ", "").replace('["left",0.9,[2.0,50.0', wrong, 1)
        log.write_text(changed, encoding="utf-8")
        if wrong.startswith('["left",0.9'):
            assert Recording(tmp_path / "kept").looks
            continue
        with pytest.raises(DataError, match="damaged"):
            Recording(tmp_path / "kept")
    shutil.rmtree(tmp_path / "kept")
