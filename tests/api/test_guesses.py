"""Whoever reads results in Python cannot take a guess for knowledge."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from fakes import FakeEngine

import egolive
from egolive.assistant.schema.profiles import SIMULATED_NANO

FRAME = egolive.Frame(np.full((120, 160, 3), 90, np.uint8), 2.0, 4)
HAND = egolive.Box(20, 30, 60, 90, "left hand", 0.8)


def answers(**more: object) -> list[egolive.Answer]:
    told = [
        egolive.Answer(egolive.Question("intent"), "make tea", time=2.0),
        egolive.Answer(egolive.Question("next"), "pour", time=2.0),
        egolive.Answer(egolive.Question("ground", "left hand"), "left hand", boxes=(HAND,), time=2.0),
        egolive.Answer(egolive.Question("ground", "object in the left hand"), "mug", boxes=(HAND,), time=2.0),
        egolive.Answer(egolive.Question("ground", "right hand"), "none", absent=True, time=2.0),
    ]
    return [replace(answer, **more) for answer in told]  # type: ignore[arg-type]


def test_what_is_known_is_told() -> None:
    result = egolive.FrameResult(FRAME, answers(domain="inside"))
    assert (result.intent, result.next, result.domain) == ("make tea", "pour", "inside")
    assert len(result.boxes) == 2
    assert result.absent == ("right hand",)
    assert egolive.FrameResult(FRAME, answers()).domain is None


@pytest.mark.parametrize("domain", ["outside", "unknown"])
def test_what_is_guessed_is_not_known_and_stays_in_the_answers(domain: str) -> None:
    result = egolive.FrameResult(FRAME, answers(domain=domain))
    assert (result.intent, result.next, result.domain, result.absent) == (None, None, domain, ())
    assert [box.label for box in result.boxes] == ["left hand"], "what it holds is left out"
    assert [answer.text for answer in result.answers][:2] == ["make tea", "pour"]
    assert all(answer.guess for answer in result.answers)


def test_what_is_not_sure_says_so_in_its_answer() -> None:
    result = egolive.FrameResult(FRAME, answers(unsure=True, calibrated=True))
    assert result.intent == "make tea"
    assert all(answer.unsure for answer in result.answers)


@pytest.fixture
def model() -> Iterator[egolive.Model]:
    with egolive.Model(FakeEngine(profile=SIMULATED_NANO)) as model:
        yield model


def test_guesses_are_logged_once_for_a_model(
    model: egolive.Model, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("egolive"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            answer = model.ask(FRAME, "left hand", task="ground", hands="model")
            assert answer.guess
    (record,) = caplog.records
    assert "nano knows only simulated scenes; for real ones use --model" in record.getMessage()


def test_free_questions_are_refused_everywhere(model: egolive.Model) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is on the table?"}]}]
    with pytest.raises(egolive.UsageError, match="no free questions"):
        model.ask(FRAME, "What is on the table?")
    with pytest.raises(egolive.UsageError, match="no free questions"):
        model.ask(messages)
    with pytest.raises(egolive.UsageError, match="no free questions"):
        model.stream("test:64x36@10", tasks=["What is on the table?"])
    with model.stream("test:64x36@10", tasks=["hands"]) as stream:
        with pytest.raises(egolive.UsageError, match="no free questions"):
            stream.ask("What is on the table?")
        stream.ask(egolive.Question("when", "pour the water"))
