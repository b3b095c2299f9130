"""Hands in Python: who found a box, what is a guess, and what is not known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine
from scripted import our_threads
from seen_hands import BrightHands, bright

import egolive
from egolive.assistant.hands import hand_choice
from egolive.assistant.hands.hand_choice import HandChoice
from egolive.assistant.schema.profiles import EGOTHINKER_V1, SIMULATED_NANO
from egolive.streaming.frames import Frame
from egolive.streaming.sources.source import Source


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert our_threads() == []


@pytest.fixture
def detectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[BrightHands]:
    """Stands in for the installed detector; the list gets each one that is opened."""
    opened: list[BrightHands] = []

    def detector(self: HandChoice, *, stream: bool = True) -> BrightHands | None:
        if self.file is None:
            return None
        opened.append(BrightHands())
        return opened[-1]

    monkeypatch.setattr(hand_choice, "has_runtime", lambda: True)
    monkeypatch.setattr(hand_choice, "find_model", lambda given=None: tmp_path)
    monkeypatch.setattr(HandChoice, "detector", detector)
    return opened


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def model(engine: FakeEngine) -> egolive.Model:
    return egolive.Model(engine)


class Square(Source):
    """A bright square that moves slowly, as a recording."""

    live = False
    name = "square"
    fps = 10.0
    size = (160, 90)
    broken = 0

    def __iter__(self) -> Iterator[Frame]:
        for index in range(10):
            yield bright(index / 10, 84 + index, index=index)

    def close(self) -> None: ...


def test_a_hand_is_the_detectors_and_the_tracker_carries_it(
    model: egolive.Model, detectors: list[BrightHands]
) -> None:
    results = list(model.stream(Square(), tasks=["hands", "objects"]))
    first, second = results[0], results[1]
    (box,) = (one for one in first.boxes if one.label == "right hand")
    assert (tuple(box), box.by, box.finder, box.supported) == (
        (84, 50, 114, 80),
        "detector",
        "detector",
        True,
    )
    (box,) = (one for one in second.boxes if one.label == "right hand")
    assert (box.by, box.finder) == ("tracker", "detector")
    assert box.age == pytest.approx(0.1)
    (hand,) = second.hands
    assert (hand.side, tuple(hand.box), len(hand.landmarks)) == ("right", tuple(box), 21)
    assert first.absent == ("left hand",)
    # The hand is not there, so whether it holds something is not "no".
    assert first.unknown == ("object in the left hand",)
    assert len(detectors) == 1
    assert detectors[0].closed == 1


def test_the_model_alone_is_asked_where_that_is_wanted(
    model: egolive.Model, detectors: list[BrightHands]
) -> None:
    results = list(model.stream(Square(), tasks=["hands"], hands="model"))
    assert {(box.finder, box.supported) for result in results for box in result.boxes} == {("model", None)}
    assert detectors == []
    list(model.stream(egolive.example_clip(), tasks=["hands"], seconds=0.3))
    assert detectors == []


def test_the_detector_alone_answers_for_hands(
    engine: FakeEngine, model: egolive.Model, detectors: list[BrightHands]
) -> None:
    results = list(model.stream(Square(), tasks=["hands"], hands="detector"))
    assert engine.asked == []
    assert all(result.boxes[0].finder == "detector" for result in results)
    assert len(results) == 10
    assert detectors[0].pictures == 5


@pytest.mark.usefixtures("detectors")
def test_boxes_that_nothing_supports_are_guesses() -> None:
    image = np.zeros((90, 160, 3), np.uint8)
    nano = egolive.Model(FakeEngine(profile=SIMULATED_NANO)).ask(image, "right hand", task="ground")
    assert (nano.boxes, nano.guesses, nano.found) == ((), (), "unknown")
    able = FakeEngine(lambda _: "[0.5, 0.5, 0.75, 1.0]", profile=EGOTHINKER_V1)
    other = egolive.Model(able).ask(image, "right hand", task="ground")
    assert other.boxes == ()
    assert [tuple(box) for box in other.guesses] == [(80, 45, 120, 90)]
    assert other.found == "unknown"


def test_one_picture_is_asked_of_the_detector_too(
    engine: FakeEngine, model: egolive.Model, detectors: list[BrightHands]
) -> None:
    image = bright(0.0, 84).image
    answer = model.ask(image, "right hand", task="ground", hands="detector")
    assert engine.asked == []
    assert ([tuple(box) for box in answer.boxes], answer.by) == ([(84, 50, 114, 80)], "detector")
    both = model.ask(image, "right hand", task="ground")
    assert (both.by, len(engine.asked)) == ("detector", 1)
    assert model.ask(image, "left hand", task="ground").found == "none"
    held = model.ask(image, "object in the left hand", task="ground")
    assert (held.found, held.unknown) == ("unknown", "no left hand in sight")
    assert model.ask(image, "red mug", task="ground", hands="model").found == "none"
    assert all(detector.closed == 1 for detector in detectors)


def test_wrong_settings_are_told(model: egolive.Model, tmp_path: Path) -> None:
    for hands, file, told in (
        ("both", None, "hands is auto"),
        ("off", None, "nothing is asked"),
        ("auto", tmp_path / "missing.task", "there is no such file"),
        ("model", tmp_path, "has no effect"),
    ):
        with pytest.raises(egolive.ConfigError, match=told):
            model.stream("test:", tasks=["hands"], hands=hands, hands_model=file)  # type: ignore[arg-type]
