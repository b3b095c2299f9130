"""What is shown as true of what detector, model and tracker say, what as a guess, what as unknown."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from seen_hands import look, seen

from egolive.assistant.live.answer_text import in_words
from egolive.assistant.live.hand_fusion import HandFusion, hand_side, held_side, support
from egolive.assistant.live.overlay import label_of, status_line
from egolive.assistant.schema.answers import Answer, Question
from egolive.streaming.frames import Box

LEFT, RIGHT = Question("ground", "left hand"), Question("ground", "right hand")
IN_LEFT, IN_RIGHT = (Question("ground", f"object in the {side} hand") for side in ("left", "right"))
HAND = (100.0, 100.0, 150.0, 160.0)
AT_IT = (140.0, 110.0, 190.0, 150.0)
AWAY = (400.0, 10.0, 440.0, 50.0)


def says(question: Question, *boxes: tuple[float, float, float, float], time: float = 1.0) -> Answer:
    """The model's answer: these boxes, or none."""
    found = tuple(Box(*box, question.phrase, 0.5, by="model") for box in boxes)
    return Answer(question, "" if boxes else "none", boxes=found, absent=not boxes, time=time)


def beside() -> HandFusion:
    return HandFusion(questions=(LEFT, RIGHT))


def fused(fusion: HandFusion, *answers: Answer, now: float = 1.0) -> dict[Question, Answer]:
    """What is shown at a time at which nothing has moved."""
    return {answer.question: answer for answer in fusion.settle(fusion.merge(answers, now))}


def test_a_hand_is_where_the_detector_sees_it() -> None:
    fusion = beside()
    fusion.see(look(1.0, seen("left", *HAND)))
    shown = fused(fusion, says(LEFT, AWAY), says(RIGHT))
    (box,) = shown[LEFT].boxes
    assert ((*box,), box.by, box.supported, shown[LEFT].by) == (HAND, "detector", True, "detector")
    assert shown[LEFT].guesses == ()
    assert (shown[RIGHT].found, in_words(shown[RIGHT])) == ("none", "none")


def test_without_an_answer_of_the_model_the_detector_speaks_alone() -> None:
    fusion = beside()
    fusion.see(look(1.0, seen("right", *HAND)))
    assert {question: answer.found for question, answer in fused(fusion).items()} == {
        LEFT: "none",
        RIGHT: "yes",
    }


@pytest.mark.parametrize("guesses", [True, False])
def test_a_box_that_no_look_supports_is_a_guess_or_nothing(*, guesses: bool) -> None:
    fusion = HandFusion(questions=(LEFT, RIGHT), guesses=guesses)
    fusion.see(look(1.0))
    shown = fused(fusion, says(LEFT, HAND))[LEFT]
    assert shown.boxes == ()
    assert [(*box,) for box in shown.guesses] == ([HAND] if guesses else [])
    assert all(box.supported is False and label_of(box).endswith("guess") for box in shown.guesses)
    assert shown.found == "unknown"
    assert "the detector sees no left hand there" in in_words(shown)


def test_what_a_hand_holds_is_shown_where_the_hand_is() -> None:
    fusion = beside()
    fusion.see(look(1.0, seen("left", *HAND)))
    shown = fused(fusion, says(IN_LEFT, AT_IT), says(IN_RIGHT, AWAY))
    assert [(*box,) for box in shown[IN_LEFT].boxes] == [AT_IT]
    assert shown[IN_LEFT].boxes[0].supported is True
    assert (shown[IN_RIGHT].boxes, shown[IN_RIGHT].found) == ((), "unknown")
    assert [(*box,) for box in shown[IN_RIGHT].guesses] == [AWAY]
    assert "no right hand in sight" in in_words(shown[IN_RIGHT])
    away = fused(fusion, says(IN_LEFT, AWAY))[IN_LEFT]
    assert (away.boxes, away.unknown) == ((), "not at the left hand")


@pytest.mark.parametrize("looks", [True, False])
def test_a_hand_that_nobody_sees_is_not_empty(*, looks: bool) -> None:
    fusion = beside()
    if looks:
        fusion.see(look(1.0))
    shown = fused(fusion, says(LEFT), says(IN_LEFT))
    assert shown[IN_LEFT].found == "unknown"
    assert not shown[IN_LEFT].absent
    status = status_line([*shown.values()], 1.0)
    assert "no left hand" in status
    assert "empty" not in status


def test_a_hand_in_sight_may_be_empty() -> None:
    for looks in (True, False):
        fusion = beside()
        if looks:
            fusion.see(look(1.0, seen("left", *HAND)))
        shown = fused(fusion, says(LEFT, HAND), says(IN_LEFT))
        assert shown[IN_LEFT].found == "none"
        assert "left hand empty" in status_line([*shown.values()], 1.0)


STATES = ("missing", "none", "lost", "box", "unparsed")


def in_state(question: Question, state: str) -> list[Answer]:
    told = {
        "none": says(question),
        "box": says(question, HAND),
        # The tracker has lost the box.
        "lost": replace(says(question, HAND), boxes=()),
        "unparsed": replace(says(question, HAND), boxes=(), status="unparsed"),
    }
    return [told[state]] if state in told else []


@pytest.mark.parametrize(("looks", "sees"), [(False, False), (True, False), (True, True)])
def test_lost_and_empty_never_stand_together(*, looks: bool, sees: bool) -> None:
    for hand, held in product(STATES, STATES):
        fusion = beside()
        if looks:
            fusion.see(look(1.0, *([seen("left", *HAND)] if sees else [])))
        given = [*in_state(LEFT, hand), *in_state(IN_LEFT, held)]
        shown = fused(fusion, *given)
        status = status_line([*shown.values()], 1.0)
        hand_seen = LEFT in shown and bool(shown[LEFT].boxes)
        assert "empty" not in status or hand_seen
        for answer in shown.values():
            kinds = (bool(answer.boxes), answer.absent, bool(answer.unknown))
            assert sum(kinds) <= 1
            # What a hand holds is a fact only with the hand.
            if answer.question == IN_LEFT and answer.boxes:
                assert hand_seen or (LEFT not in shown and not looks)


def test_a_hand_that_one_look_missed_stays_for_a_moment() -> None:
    fusion = beside()
    fusion.see(look(1.0, seen("left", *HAND)))
    first = fused(fusion)[LEFT]
    fusion.see(look(1.2))
    kept = fusion.merge([], 1.2)[0]
    # The same object: the tracker goes on with it.
    assert kept is fusion.merge([], 1.25)[0]
    assert kept.boxes[0] == first.boxes[0]
    assert kept.time == 1.0
    assert fused(fusion, now=1.35)[LEFT].found == "none"
    fusion.see(look(1.4))
    assert fused(fusion, now=1.4)[LEFT].found == "none"


def test_looks_grow_stale_and_the_model_counts_again() -> None:
    fusion = beside()
    fusion.see(look(1.0))
    assert fused(fusion, says(LEFT, HAND), now=1.9)[LEFT].boxes == ()
    shown = fused(fusion, says(LEFT, HAND, time=2.0), now=2.2)[LEFT]
    assert [(*box,) for box in shown.boxes] == [HAND]
    assert shown.boxes[0].supported is None


def test_a_gap_forgets_what_was_seen() -> None:
    fusion = beside()
    fusion.see(look(1.0, seen("left", *HAND)))
    fusion.forget()
    assert fused(fusion, says(LEFT, AWAY))[LEFT].boxes[0].by == "model"


def test_other_questions_are_left_alone() -> None:
    fusion = beside()
    fusion.see(look(1.0))
    mug, intent = says(Question("ground", "red mug"), HAND), Answer(Question("intent"), "make tea")
    merged = fusion.merge([intent, mug], 1.0)
    assert fusion.settle(merged)[-1] is mug
    # Hands stand before the other things, behind the words.
    assert [answer.question for answer in merged] == [intent.question, LEFT, RIGHT, mug.question]
    assert fusion.judge(mug) is mug
    assert (hand_side(mug.question), held_side(mug.question)) == (None, None)


@pytest.mark.parametrize(
    ("hands", "answer", "found", "supported"),
    [
        ([seen("left", *HAND)], says(LEFT, (105, 105, 150, 160)), "yes", [True]),
        # The detector's side may be wrong; that there is a hand is not.
        ([seen("right", *HAND)], says(LEFT, HAND), "yes", [True]),
        ([seen("left", *HAND)], says(LEFT, AWAY), "unknown", [False]),
        ([], says(LEFT, HAND), "unknown", [False]),
        ([], says(LEFT), "none", []),
        ([seen("left", *HAND)], says(LEFT), "unknown", []),
        ([seen("left", *HAND)], says(IN_LEFT, AT_IT), "yes", [True]),
        ([seen("left", *HAND)], says(IN_LEFT, AWAY), "unknown", [False]),
        ([seen("right", *HAND)], says(IN_LEFT, AT_IT), "unknown", [False]),
        ([seen("left", *HAND)], says(IN_LEFT), "none", []),
        ([], says(IN_LEFT), "unknown", []),
    ],
)
def test_new_answers_are_marked_as_they_are_written_down(
    hands: list[object], answer: Answer, found: str, supported: list[bool]
) -> None:
    fusion = beside()
    fusion.see(look(1.2, *hands))  # type: ignore[arg-type]
    judged = fusion.judge(answer)
    assert judged.found == found
    assert [box.supported for box in judged.boxes] == supported
    # Only a look near the picture of the answer counts.
    late = fusion.judge(replace(answer, time=3.0))
    assert all(box.supported is None for box in late.boxes)


def test_without_a_detector_the_models_own_word_about_the_hand_counts() -> None:
    fusion = HandFusion()
    fusion.hear([says(LEFT), says(RIGHT, HAND), says(IN_LEFT), says(IN_RIGHT)])
    assert fusion.judge(says(IN_LEFT)).found == "unknown"
    assert fusion.judge(says(IN_RIGHT)).found == "none"
    assert fusion.judge(says(IN_LEFT, HAND)).found == "unknown"
    assert fusion.judge(says(IN_RIGHT, AT_IT)).boxes[0].supported is None
    # Of another picture nothing is known.
    assert fusion.judge(says(IN_LEFT, time=2.0)).found == "none"


def test_joints_move_and_grow_with_their_box() -> None:
    fusion = beside()
    fusion.see(look(1.0, seen("left", 100, 100, 150, 160)))
    (answer,) = [one for one in fusion.merge([], 1.1) if one.question == LEFT]
    carried = replace(answer, boxes=(replace(answer.boxes[0], x1=120, y1=90, x2=220, y2=210, by="tracker"),))
    (hand,) = fusion.hands(fusion.settle([carried]))
    assert [*hand.box] == [120, 90, 220, 210]
    assert hand.landmarks[0] == pytest.approx((120, 90))
    assert hand.landmarks[10] == pytest.approx((170, 150))
    assert hand.landmarks[20] == pytest.approx((220, 210))


def test_a_thing_is_at_a_hand_that_nearly_touches_it() -> None:
    hand = Box(*HAND)
    # A fifth of 50 pixels further.
    assert support(Box(159, 110, 180, 150), hand)
    assert not support(Box(161, 110, 180, 150), hand)
    assert not support(Box(110, 173, 140, 190), hand)
