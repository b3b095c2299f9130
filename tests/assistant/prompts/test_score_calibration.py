"""Scores of a model become probabilities that were measured, and an improbable answer is "not sure"."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egolive.assistant.prompts.parsing import parse
from egolive.assistant.prompts.score_calibration import KINDS, calibrated, kind_of
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.profiles import NANO, Calibration, Curve
from egolive.streaming.frames import Box, Interval

HALF = Calibration((Curve("hand", (0.5, 1.0), (0.2, 0.8)), Curve("none", (0.5,), (0.9,))), threshold=0.5)


def hand(score: float | None, phrase: str = "left hand") -> Answer:
    return Answer(
        Question("ground", phrase), phrase, boxes=(Box(1, 2, 3, 4, phrase, score),), score=score, time=1.0
    )


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (hand(0.5), "hand"),
        (hand(0.5, "the right hand"), "hand"),
        (hand(0.5, "object in the left hand"), "object"),
        (hand(0.5, "red mug"), "box"),
        (Answer(Question("ground", "red mug"), "none", absent=True), "none"),
        (Answer(Question("when", "pour"), "1 to 2", intervals=(Interval(1, 2),)), "when"),
        (Answer(Question("when", "pour"), "none", absent=True), None),
        (Answer(Question("intent"), "make tea"), "intent"),
        (Answer(Question("next"), "pour"), "next"),
        (Answer(Question("ask", "Why?"), "because"), None),
        (Answer(Question("ground", "red mug"), "?", status="unparsed"), None),
    ],
)
def test_each_answer_has_the_kind_that_its_probability_is_of(answer: Answer, kind: str | None) -> None:
    assert kind_of(answer) == kind
    assert kind is None or kind in KINDS


def test_a_score_becomes_what_was_measured_of_its_kind() -> None:
    answer = calibrated(hand(0.75), HALF)
    assert answer.score == pytest.approx(0.5)
    assert answer.boxes[0].score == pytest.approx(0.5)
    assert answer.calibrated
    assert not answer.unsure


def test_an_answer_below_the_threshold_is_not_sure() -> None:
    answer = calibrated(hand(0.74), HALF)
    assert answer.unsure
    assert answer.boxes, "it is kept, for those who want to know"


@pytest.mark.parametrize("answer", [hand(0.75, "red mug"), hand(None)], ids=["another kind", "no score"])
def test_what_was_not_measured_stays_and_is_not_called_calibrated(answer: Answer) -> None:
    assert calibrated(answer, HALF) == answer
    assert calibrated(hand(0.75), None) == hand(0.75)
    assert not answer.calibrated


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8, unique=True), st.data())
def test_a_curve_never_falls_and_stays_between_its_points(scores: list[float], data: st.DataObject) -> None:
    chances = sorted(data.draw(st.lists(st.floats(0, 1), min_size=len(scores), max_size=len(scores))))
    curve = Curve("hand", tuple(sorted(scores)), tuple(chances))
    told = [curve.at(n / 20) for n in range(21)]
    assert all(one <= other + 1e-9 for one, other in pairwise(told))
    assert all(chances[0] - 1e-9 <= value <= chances[-1] + 1e-9 for value in told)


def test_words_have_the_probability_of_all_their_tokens() -> None:
    probs: list[tuple[str, float]] = [("make", 0.5), (" tea", 0.8)]
    answer = parse("make tea", Question("intent"), NANO, source_size=(1, 1), token_probs=probs)
    assert answer.score == pytest.approx(0.4)
    assert parse("make tea", Question("intent"), NANO, source_size=(1, 1)).score is None


def test_none_has_a_probability_and_a_box_that_of_its_numbers() -> None:
    question = Question("ground", "left hand")
    none = parse("none", question, NANO, source_size=(9, 9), token_probs=[("none", 0.7)])
    assert none.absent
    assert none.score == pytest.approx(0.7)
    text = [("<|box_start|>", 0.1), ("(", 1.0), ("100", 0.9), (",", 1.0), ("100", 0.9), ("),(", 1.0)]
    text += [("500", 0.4), (",", 1.0), ("500", 0.4), (")", 1.0), ("<|box_end|>", 0.1)]
    box = parse("".join(piece for piece, _ in text), question, NANO, source_size=(9, 9), token_probs=text)
    assert box.score is not None
    assert box.score == box.boxes[0].score


def test_reasoning_does_not_count_and_free_questions_have_no_score() -> None:
    probs = [("<think>", 1.0), ("hm", 0.01), ("</think>", 1.0), ("<answer>", 1.0), ("tea", 0.9)]
    probs.append(("</answer>", 1.0))
    text = "".join(piece for piece, _ in probs)
    answer = parse(text, Question("intent", think=True), NANO, source_size=(1, 1), token_probs=probs)
    assert answer.text == "tea"
    assert answer.score == pytest.approx(0.9)
    free = parse("tea", Question("ask", "What?"), NANO, source_size=(1, 1), token_probs=[("tea", 0.9)])
    assert free.score is None
