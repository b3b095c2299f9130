"""Rewards against cases worked out by hand, every edge case of the published rewards among them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from examples import few
from hypothesis import given
from hypothesis import strategies as st

from egolive.assistant.prompts.prompts import render_answer
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO
from egolive.streaming.frames import Box, Interval
from egolive.train.finetune.rewards import (
    box_reward,
    format_reward,
    generalized_box_iou,
    generalized_interval_iou,
    interval_reward,
    trl_rewards,
)

GROUND = Question("ground", "left hand", think=True)
WHEN = Question("when", "open the fridge", think=True)
BARE = Question("ground", "left hand")
SIZE = (1000, 500)
TRUTH = Box(100, 100, 300, 200)
"""On `SIZE`, in thousandths: 100, 200, 300, 400."""
SPAN = Interval(2, 4)


def boxed(text: str, truth: Box | None = TRUTH, shaped: float = 0.0) -> float:
    return box_reward(text, truth, EGOTHINKER_V1, source_size=SIZE, shaped=shaped)


def timed(text: str, truth: Interval | None = SPAN, shaped: float = 0.0) -> float:
    return interval_reward(text, truth, EGOTHINKER_V1, duration=10.0, shaped=shaped)


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        ("<think>A hand.</think><answer>[1, 2, 3, 4]</answer>", 1),
        (" \n<think>A\nhand.</think>\n\n<answer> [1,2,3,4] </answer>\n", 1),
        ("<think>A hand.</think><answer>[0.1, 0.2, 0.3, 0.4]</answer>", 1),
        ("<think>No hand.</think><answer>none</answer>", 1),
        ("<think>No hand.</think><answer>None</answer><|im_end|>", 1),
        # What the published reward pays for.
        ("<think></think><answer></answer>", 0),
        ("<think>A hand.</think><answer> </answer>", 0),
        ("<think> </think><answer>[1, 2, 3, 4]</answer>", 0),
        ("<think>A.</think><answer>[1, 2, 3, 4]</answer><answer>[1, 2, 3, 4]</answer>", 0),
        ("<think>A.</think></think><answer>[1, 2, 3, 4]</answer>", 0),
        ("<think>A.<answer>[1, 2, 3, 4]</answer></think><answer>[1, 2, 3, 4]</answer>", 0),
        ("<think>A hand.</think><answer>it is over there</answer>", 0),
        # What it does not pay for either.
        ("Well. <think>A hand.</think><answer>[1, 2, 3, 4]</answer>", 0),
        ("<think>A hand.</think><answer>[1, 2, 3, 4]</answer> Done.", 0),
        ("<think>A hand.</think> so <answer>[1, 2, 3, 4]</answer>", 0),
        ("<think>A hand.</think>[1, 2, 3, 4]", 0),
        ("<think>A hand.<answer>[1, 2, 3, 4]</answer>", 0),
        ("<answer>[1, 2, 3, 4]</answer>", 0),
        ("", 0),
        # Not the form that was asked for, though it can be read.
        ("<think>A hand.</think><answer>[1, 2, 3, 4].</answer>", 0),
        ("<think>A hand.</think><answer>[[1, 2, 3, 4]]</answer>", 0),
        ("<think>A hand.</think><answer>[[1, 2, 3, 4], [5, 6, 7, 8]]</answer>", 0),
        ("<think>A hand.</think><answer>(1,2),(3,4)</answer>", 0),
        ("<think>A hand.</think><answer>```json\n[1, 2, 3, 4]\n```</answer>", 0),
        ("<think>A hand.</think><answer>(1.00,2.00)</answer>", 0),
    ],
)
def test_the_format_with_reasoning_is_one_full_think_block_and_one_readable_answer(
    text: str, earned: float
) -> None:
    assert format_reward(text, GROUND, EGOTHINKER_V1) == earned


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        ("(1.20,3.40)", 1),
        ("(1, 3.)", 0),
        ("(1,3)", 1),
        ("none", 1),
        ("1.2 to 3.4", 0),
        ("(1.2s,3.4s)", 0),
        ("[1.2,3.4]", 0),
        ("(1.2,3.4) and (5,6)", 0),
    ],
)
def test_the_format_of_an_interval_is_one_pair_of_numbers(text: str, earned: float) -> None:
    assert format_reward(f"<think>Later.</think><answer>{text}</answer>", WHEN, EGOTHINKER_V1) == earned
    assert format_reward(text, Question("when", "open the fridge"), NANO) == earned


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        ("<|box_start|>(1,2),(3,4)<|box_end|>", 1),
        ("<|box_start|>(1,2),(3,4)<|box_end|><|im_end|>\n", 1),
        ("(1,2),(3,4)", 1),
        ("none", 1),
        ("[1, 2, 3, 4]", 0),
        ("(1,2),(3,4)(5,6),(7,8)", 0),
        ("<think>A hand.</think><answer>(1,2),(3,4)</answer>", 0),
        ("<answer>(1,2),(3,4)</answer>", 0),
        ("The hand: (1,2),(3,4)", 0),
        ("  ", 0),
    ],
)
def test_the_bare_format_is_the_answer_alone(text: str, earned: float) -> None:
    assert format_reward(text, BARE, NANO) == earned
    # A model that never learned to think is not asked to.
    assert format_reward(text, GROUND, NANO) == earned


def test_free_answers_have_any_words_but_no_tags() -> None:
    assert format_reward("make tea", Question("intent"), NANO) == 1
    assert format_reward("", Question("intent"), NANO) == 0
    assert format_reward("<answer>make tea</answer>", Question("intent"), NANO) == 0
    thought = "<think>A kettle.</think><answer>make tea</answer>"
    assert format_reward(thought, Question("intent", think=True), EGOTHINKER_V1) == 1
    assert format_reward(thought, Question("intent"), EGOTHINKER_V1) == 0


@pytest.mark.parametrize("profile", [EGOTHINKER_V1, NANO])
@pytest.mark.parametrize("question", [GROUND, BARE, WHEN])
def test_what_training_shows_earns_everything(profile: Any, question: Question) -> None:
    answers = [
        Answer(question, "none", reasoning="Nothing there.", absent=True),
        Answer(question, "", reasoning="There.", boxes=(TRUTH,))
        if question.task == "ground"
        else Answer(question, "", reasoning="There.", intervals=(Interval(2, 4),)),
    ]
    for answer in answers:
        text = render_answer(profile, answer, source_size=SIZE)
        assert format_reward(text, question, profile) == 1
        if question.task == "ground":
            truth = answer.boxes[0] if answer.boxes else None
            assert box_reward(text, truth, profile, source_size=SIZE, shaped=0.3) == pytest.approx(1)
        else:
            span = answer.intervals[0] if answer.intervals else None
            assert interval_reward(text, span, profile, duration=10.0, shaped=0.3) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        ("<think>A hand.</think><answer>[100, 200, 300, 400]</answer>", 1),
        # 200 to 300 of 100 to 300: half of it.
        ("<answer>[200, 200, 300, 400]</answer>", 0.5),
        # The same box moved by half its width: 1 part shared of 3.
        ("[200, 200, 400, 400]", 1 / 3),
        ("[500, 600, 700, 800]", 0),
        # Touching is not overlapping.
        ("[300, 200, 500, 400]", 0),
        # Each of these earns 0 by the published rule, and says the right box.
        ("<answer>[0.1, 0.2, 0.3, 0.4]</answer>", 1),
        ("<answer>[100.0, 200.0, 300.0, 400.0]</answer>", 1),
        ("<answer>[[100, 200, 300, 400]]</answer>", 1),
        ("<answer>```json\n[100, 200, 300, 400]\n```</answer>", 1),
        ("<answer>[100, 200, 300, 400].</answer>", 1),
        ("<answer>(100,200),(300,400)</answer>", 1),
        ("<|box_start|>(100,200),(300,400)<|box_end|>", 1),
        ('<answer>{"bbox_2d": [100, 200, 300, 400]}</answer>', 1),
        ("<answer>[300, 400, 100, 200]</answer>", 1),
        # Of several, the first counts; of several blocks, the last.
        ("<answer>[[500, 600, 700, 800], [100, 200, 300, 400]]</answer>", 0),
        ("<answer>[500, 600, 700, 800]</answer><answer>[100, 200, 300, 400]</answer>", 1),
        # No box, an empty one, one from outside the picture, a thought that never ends.
        ("", 0),
        ("<think></think><answer></answer>", 0),
        ("<answer>over there</answer>", 0),
        ("<answer>none</answer>", 0),
        ("<answer>[100, 200, 100, 400]</answer>", 0),
        ("<answer>[100, 200, 3000, 4000]</answer>", 0),
        ("<answer>[100, 200, 300]</answer>", 0),
        ("<think>Perhaps [100, 200, 300, 400], or perhaps", 0),
    ],
)
def test_a_box_earns_its_overlap_with_the_true_one(text: str, earned: float) -> None:
    assert boxed(text) == pytest.approx(earned)


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        ("<answer>(2.00,4.00)</answer>", 1),
        ("(2, 4)", 1),
        ("(3,5)", 1 / 3),
        ("(2,3)", 0.5),
        ("(4,6)", 0),
        ("(6,8)", 0),
        # Each of these earns 0 by the published rule.
        ("<answer>2.00 to 4.00</answer>", 1),
        ("<answer>[2.0, 4.0]</answer>", 1),
        ("<answer>(2.0s,4.0s)</answer>", 1),
        ("<answer>(2.,4.)</answer>", 1),
        # A reversed one is no answer; one beyond the end of the clip is cut to it.
        ("<answer>(4.00,2.00)</answer>", 0),
        ("<answer>(2.00,40.00)</answer>", 2 / 8),
        ("<answer>(20.00,40.00)</answer>", 0),
        ("<answer>(3.00,3.00)</answer>", 0),
        ("<answer>none</answer>", 0),
        ("<answer></answer>", 0),
        ("", 0),
    ],
)
def test_an_interval_earns_its_overlap_with_the_true_one(text: str, earned: float) -> None:
    assert timed(text) == pytest.approx(earned)


def test_none_is_right_where_nothing_is_there_and_only_there() -> None:
    none = "<think>Not there.</think><answer>none</answer>"
    assert boxed(none, None) == timed(none, None) == 1
    assert boxed("It cannot be seen.", None) == 1
    assert boxed("[100, 200, 300, 400]", None) == timed("(2,4)", None) == 0
    assert boxed("", None) == timed("", None) == 0
    assert boxed("the left hand", None) == 0
    assert boxed(none, shaped=0.5) == timed(none, shaped=0.5) == 0


def test_the_unit_of_resized_pixels_is_that_of_the_picture_the_model_saw() -> None:
    pixels = replace(EGOTHINKER_V1, unit="pixels")
    text = "[50, 100, 150, 200]"
    assert box_reward(text, TRUTH, pixels, source_size=SIZE, seen_size=(500, 500)) == 1
    assert box_reward(text, TRUTH, pixels, source_size=SIZE) < 1


def test_the_shaped_term_tells_near_from_far_where_nothing_overlaps() -> None:
    touching, near, far = "[300, 200, 500, 400]", "[400, 200, 600, 400]", "[800, 200, 1000, 400]"
    assert boxed(touching) == boxed(near) == boxed(far) == 0
    # Hulls 400, 500 and 900 wide, of which the boxes cover 400.
    assert boxed(touching, shaped=0.2) == pytest.approx(0.2 * (1 + 0) / 2)
    assert boxed(near, shaped=0.2) == pytest.approx(0.2 * (1 - 1 / 5) / 2)
    assert boxed(far, shaped=0.2) == pytest.approx(0.2 * (1 - 5 / 9) / 2)
    assert timed("(4,6)", shaped=0.2) == pytest.approx(0.1)
    # 2 to 4 and 6 to 8: a hull of 6 s with 2 s between.
    assert timed("(6,8)", shaped=0.2) == pytest.approx(0.1 * (1 - 1 / 3))
    assert boxed("over there", shaped=0.2) == timed("later", shaped=0.2) == 0


def test_generalized_overlap_agrees_with_the_cases_of_its_definition() -> None:
    square = Box(0, 0, 2, 2)
    assert generalized_box_iou(square, square) == 1
    # One of two inside: the hull is the larger box.
    assert generalized_box_iou(square, Box(0, 0, 1, 1)) == pytest.approx(1 / 4)
    # Overlap 1 of 7, hull 9.
    assert generalized_box_iou(square, Box(1, 1, 3, 3)) == pytest.approx(1 / 7 - 2 / 9)
    # Apart at the corners: hull 16, covered 8.
    assert generalized_box_iou(square, Box(2, 2, 4, 4)) == pytest.approx(-1 / 2)
    assert generalized_interval_iou(Interval(0, 2), Interval(1, 3)) == pytest.approx(1 / 3)
    assert generalized_interval_iou(Interval(0, 1), Interval(3, 4)) == pytest.approx(-1 / 2)
    assert generalized_interval_iou(Interval(1, 1), Interval(1, 1)) == 1
    with pytest.raises(ValueError, match="no generalized IoU"):
        generalized_box_iou(Box(1, 1, 1, 1), Box(1, 1, 1, 1))


corner = st.integers(0, 999)


@few(50)
@given(corner, corner, corner, corner, st.floats(0, 1))
def test_no_box_earns_more_than_the_true_one_or_less_than_none(
    x1: int, y1: int, x2: int, y2: int, shaped: float
) -> None:
    earned = boxed(f"[{x1}, {y1}, {x2}, {y2}]", shaped=shaped)
    assert 0 <= earned <= boxed("[100, 200, 300, 400]", shaped=shaped) + 1e-9


@few(50)
@given(st.text(max_size=60))
def test_no_text_breaks_a_reward(text: str) -> None:
    for earned in (boxed(text), boxed(text, None), timed(text), format_reward(text, WHEN, EGOTHINKER_V1)):
        assert 0 <= earned <= 1


def test_trl_gets_one_value_for_each_completion_and_none_where_a_reward_does_not_apply() -> None:
    completions = [
        [{"role": "assistant", "content": "<think>A.</think><answer>[100, 200, 300, 400]</answer>"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "(2,3)"}]}],
        [{"role": "assistant", "content": "make tea"}],
        [{"role": "assistant", "content": "none"}],
    ]
    columns: dict[str, list[Any]] = {
        "task": ["ground", "when", "intent", "ground"],
        "think": [True, False, False, None],
        "box": [[100, 100, 300, 200], None, None, None],
        "source_size": [[1000, 500], None, None, [1000, 500]],
        "interval": [None, [2, 4], None, None],
        "duration": [None, 10.0, None, None],
        "trainer_state": [None],
    }
    rewards = trl_rewards(EGOTHINKER_V1)
    earned = {
        reward.__name__: reward(completions=completions, prompts=[""] * 4, **columns) for reward in rewards
    }
    assert earned == {
        "format": [1, 1, 1, 1],
        "box": [1, None, None, 1],
        "interval": [None, 0.5, None, None],
    }


def test_trl_may_give_plain_text_and_rows_of_one_task() -> None:
    form, box, interval = trl_rewards(NANO, shaped=0.5)
    texts, task = ["(600,200),(800,400)", "none"], ["ground", "ground"]
    truths = {"box": [[100, 100, 300, 200]] * 2, "source_size": [[1000, 500]] * 2}
    assert form(completions=texts, task=task) == [1, 1]
    assert box(completions=texts, task=task, **truths) == [pytest.approx(0.5 * (1 - 3 / 7) / 2), 0]
    assert interval(completions=texts, task=task, **truths) == [None, None]
