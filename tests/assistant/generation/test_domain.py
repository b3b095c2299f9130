"""A model that knows one world alone says so of every other, and refuses what it never learned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine, FakeSession

from egolive.assistant.ask import ask, ask_task
from egolive.assistant.generation.domain import DomainJudge, advice, check_question
from egolive.assistant.live.answer_text import certainty, in_words
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.overlay import coloured_boxes, draw, status_line
from egolive.assistant.live.sinks import answer_event
from egolive.assistant.model.media import bundled_clip
from egolive.assistant.model.simulated_source import from_simulator
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import FULL_REUSE, Reuse
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO, SIMULATED_NANO, load_profile
from egolive.streaming.errors import UsageError
from egolive.streaming.frames import Box, Frame, Image, Interval

HAND = Question("ground", "right hand")


def answer(familiarity: float | None, *, time: float = 1.0, words: bool = False) -> Answer:
    question = Question("intent") if words else HAND
    boxes = () if words else (Box(1, 2, 30, 40, "right hand", 0.9),)
    window = Interval(0, time) if words else None
    return Answer(
        question,
        "make tea",
        boxes=boxes,
        time=time,
        window=window,
        score=0.9,
        calibrated=True,
        familiarity=familiarity,
    )


class FamiliarEngine(FakeEngine):
    """Tells how familiar pictures are by their brightness."""

    def session(self, reuse: Reuse = FULL_REUSE) -> FamiliarSession:
        return FamiliarSession(self)


class FamiliarSession(FakeSession):
    """One session of it."""

    def familiarity(self, request: int) -> float | None:
        parts = self._engine.asked[-1][request].prompt.parts
        frames = [part.frames[-1] for part in parts if not isinstance(part, str)]
        return float(frames[-1].mean()) / 255 if frames else None


def picture(brightness: int) -> Image:
    return np.full((140, 224, 3), brightness, np.uint8)


def test_nano_says_what_it_was_trained_on_and_what_to_take_for_other_scenes() -> None:
    profile = load_profile(Path(bundled_clip()).parents[1] / "nano")
    assert profile.domain == "simulated kitchens and workbenches only"
    line = advice(profile)
    assert line.startswith("nano knows only simulated scenes; for real ones use --model hyf015/EgoThinker-v1")
    assert "\n" not in line
    assert advice(EGOTHINKER_V1) == ""
    assert advice(replace(NANO, domain="factories only")).startswith("nano knows factories only; for real")


@pytest.mark.parametrize("words", ["What is on the table?", "Is it red", "(07,671)", "find the mug"])
def test_a_free_question_is_refused_in_one_line_with_the_four(words: str) -> None:
    with pytest.raises(UsageError) as error:
        check_question(words, SIMULATED_NANO)
    told = str(error.value)
    assert "\n" not in told
    assert all(f"--task {task}" in told for task in ("intent", "next", "ground", "when"))
    check_question(words, NANO)


@pytest.mark.parametrize(
    "words",
    ["What is the wearer doing?", "What comes next?", "Find the red mug.", "When did the wearer pour tea?"],
)
def test_its_own_questions_are_taken_in_their_words(words: str) -> None:
    check_question(words, SIMULATED_NANO)


def test_a_conversation_with_a_free_question_is_refused_before_the_engine_works(pixels: Image) -> None:
    engine = FakeEngine(profile=SIMULATED_NANO)
    content = [{"type": "image", "image": pixels}, {"type": "text", "text": "What is it?"}]
    with pytest.raises(UsageError, match="no free questions"):
        ask([[{"role": "user", "content": content}]], engine)
    assert engine.asked == []


def test_what_the_simulator_made_is_known_by_its_files(tmp_path: Path) -> None:
    assert from_simulator(bundled_clip())
    assert from_simulator(str(bundled_clip()))
    clip = tmp_path / "00001.mp4"
    clip.write_bytes(b"x")
    assert not from_simulator(clip)
    (tmp_path / "00001.json").write_text("{}")
    assert not from_simulator(clip)
    (tmp_path / "manifest.json").write_text("[]")
    assert not from_simulator(clip)
    (tmp_path / "manifest.json").write_text(json.dumps({"split": "test", "seed": 0, "look": 2}))
    assert from_simulator(clip)
    for other in ("test:160x90@10", "rtsp://camera/stream", "0", "", None, b"bytes", 3):
        assert not from_simulator(other)


def test_a_familiar_picture_is_inside_and_a_strange_one_outside() -> None:
    inside, outside, unknown = (
        DomainJudge(SIMULATED_NANO).judged(answer(score)) for score in (0.9, 0.1, None)
    )
    assert (inside.domain, inside.guess, inside.score) == ("inside", False, 0.9)
    assert (outside.domain, outside.guess, unknown.domain, unknown.guess) == (
        "outside",
        True,
        "unknown",
        True,
    )
    for one in (outside, unknown):
        assert (one.score, one.boxes[0].score, one.calibrated) == (None, None, False)
    assert DomainJudge(NANO).judged(answer(0.1)).domain is None
    assert DomainJudge(SIMULATED_NANO, simulated=True).judged(answer(0.1)).domain == "inside"


def test_one_picture_that_looks_otherwise_changes_nothing_and_several_do() -> None:
    judge = DomainJudge(SIMULATED_NANO)
    told = [judge.judged(answer(s, time=float(t))).domain for t, s in enumerate([0.1] * 5 + [0.9] + [0.1])]
    assert set(told) == {"outside"}
    told = [judge.judged(answer(0.9, time=10.0 + t)).domain for t in range(9)]
    assert (told[0], told[-1]) == ("outside", "inside")
    judge.forget()
    assert judge.judged(answer(0.1)).domain == "outside"
    # At the beginning a single strange one is enough.
    first = DomainJudge(SIMULATED_NANO)
    assert [first.judged(answer(s, time=t)).domain for t, s in ((0.0, 0.9), (0.5, 0.1))] == [
        "inside",
        "outside",
    ]


def test_questions_about_one_picture_count_it_once() -> None:
    judge = DomainJudge(SIMULATED_NANO)
    for time in (0.0, 1.0, 2.0):
        judge.judged(answer(0.9, time=time))
    told = [judge.judged(answer(0.1, time=3.0)).domain for _ in range(6)]
    assert set(told) == {"inside"}


@pytest.mark.parametrize(("brightness", "guess"), [(30, True), (220, False)])
def test_the_verdict_reaches_live_answers_and_single_questions(brightness: int, guess: bool) -> None:
    engine = FamiliarEngine(profile=SIMULATED_NANO)
    with Assistant(engine) as assistant:
        (live,) = assistant.answer([HAND], picture=Frame(picture(brightness), 0.0, 0))
    asked = ask_task(HAND, engine, picture=picture(brightness))
    content = [{"type": "image", "image": picture(brightness)}, {"type": "text", "text": "Find the mug."}]
    (chat,) = ask([[{"role": "user", "content": content}]], engine)
    for one in (live, asked, chat):
        assert one.familiarity == pytest.approx(brightness / 255)
        assert one.guess is guess


def test_everywhere_an_answer_stands_a_guess_is_called_one() -> None:
    judge = DomainJudge(SIMULATED_NANO)
    box, words = (judge.judged(answer(0.1, words=one)) for one in (False, True))
    nothing = replace(box, question=Question("ground", "object in the left hand"), boxes=(), absent=True)
    for one in (box, words, nothing):
        assert in_words(one).startswith("guess: ")
        assert certainty(one) == ""
        event = answer_event(one, 1.0)
        assert (event["domain"], event["score"], event["calibrated"]) == ("outside", None, False)
    status = status_line([box, words, nothing], 1.0)
    assert "guesses" in status
    assert "empty" not in status
    ((drawn, colour),) = coloured_boxes([box], 1.0)
    assert (drawn.label, drawn.score) == ("guess: right hand", None)
    assert max(colour) == min(colour), "grey"
    frame = Frame(picture(90), 1.0, 0)
    known = replace(words, domain="inside", score=0.9, calibrated=True)
    assert (draw(frame, [words], 1.0) != draw(frame, [known], 1.0)).any()


def test_what_is_not_sure_is_neither_drawn_nor_said() -> None:
    unsure = replace(answer(0.9), unsure=True)
    assert in_words(unsure) == "not sure"
    assert coloured_boxes([unsure], 1.0) == []
    assert status_line([unsure], 1.0) == "right hand not sure"
    assert answer_event(unsure, 1.0)["unsure"] is True


def test_a_score_that_nobody_measured_is_called_uncalibrated() -> None:
    raw = replace(answer(0.9), calibrated=False)
    assert certainty(raw) == "0.90 uncalibrated"
    assert certainty(answer(0.9)) == "90%"
    assert status_line([raw], 1.0) == "scores uncalibrated"
    ((drawn, _),) = coloured_boxes([raw], 1.0)
    assert drawn.score is None
