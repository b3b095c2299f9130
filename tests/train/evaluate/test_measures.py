"""Measures against cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from egolive.streaming.frames import Box, Interval
from egolive.train.evaluate.measures import (
    bag_of_objects_accuracy,
    balanced_accuracy,
    best_constant_box,
    best_constant_interval,
    bootstrap,
    constant_box_overlaps,
    majority_share,
    mean,
    same_text,
)


def test_the_mean_of_nothing_is_not_a_number() -> None:
    assert mean([1, 2, 6]) == 3
    assert mean([True, False, True, True]) == 0.75
    assert math.isnan(mean([]))
    assert all(math.isnan(edge) for edge in bootstrap([]))


def test_the_bootstrap_interval_holds_the_true_mean_about_as_often_as_it_claims() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for draw in range(100):
        low, high = bootstrap((rng.random(60) < 0.7).tolist(), draws=300, seed=draw)
        assert low <= high
        held += low <= 0.7 <= high
    assert 88 <= held <= 100


def test_the_bootstrap_interval_narrows_with_the_root_of_the_number_of_values() -> None:
    values = np.random.default_rng(1).random(400)
    low, high = bootstrap(values.tolist())
    narrow = bootstrap(values.tolist() * 4)
    assert (high - low) == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert (narrow[1] - narrow[0]) == pytest.approx((high - low) / 2, rel=0.15)
    assert bootstrap(values.tolist()) == (low, high)


def test_values_that_belong_together_are_drawn_together() -> None:
    values = np.random.default_rng(2).random(50).tolist()
    low, high = bootstrap(values)
    # Four copies of each tell nothing more, if it is said which they are.
    copies, owners = values * 4, list(range(50)) * 4
    assert bootstrap(copies, groups=owners) == pytest.approx((low, high))
    alone = bootstrap(copies)
    assert alone[1] - alone[0] < 0.7 * (high - low)


def test_balanced_accuracy_does_not_pay_for_always_giving_the_commoner_answer() -> None:
    truth = [True] * 9 + [False]
    assert balanced_accuracy(truth, [True] * 10) == 0.5
    assert balanced_accuracy(truth, truth) == 1
    # Two of three and one of two.
    assert balanced_accuracy([True, True, True, False, False], [True, True, False, False, True]) == (
        pytest.approx((2 / 3 + 1 / 2) / 2)
    )
    assert math.isnan(balanced_accuracy([True], [True]))


def test_texts_are_the_same_but_for_case_blanks_and_a_full_stop() -> None:
    assert same_text(" Make tea. ", "make tea")
    assert not same_text("make coffee", "make tea")
    assert not same_text("", "make tea")


def test_the_majority_share_is_that_of_the_commonest_truth() -> None:
    assert majority_share(["a", "b", "a", "c"]) == 0.5
    assert math.isnan(majority_share([]))


def test_the_best_constant_box_is_the_median_of_the_others_of_its_label() -> None:
    boxes = [Box(0, 0, 10, 10), Box(0, 0, 20, 10), Box(0, 0, 10, 20)]
    # Of the second and third: 15 by 15; of the others: 10 by 15 and 15 by 10.
    assert constant_box_overlaps(boxes) == pytest.approx([100 / 225, 100 / 250, 100 / 250])
    boxes = [Box(0, 0, size, 10, label="mug") for size in (10, 20, 30, 40)]
    # Without it: 30, 30, 20 and 20 wide.
    assert constant_box_overlaps(boxes) == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1 / 2])
    # A label that occurs once is no answer to itself.
    assert constant_box_overlaps([*boxes, Box(0, 0, 25, 10, label="jar")])[0] == 1
    assert constant_box_overlaps([Box(0, 0, 10, 10)]) == [0]
    left = [Box(0, 0, 10, 10, label="left hand")] * 3
    right = [Box(100, 0, 110, 10, label="right hand")] * 3
    assert best_constant_box(left + right) == 1
    assert math.isnan(best_constant_box([]))


def test_the_best_constant_interval_is_the_median_of_the_others() -> None:
    # Of the others: 0 to 3, 0 to 2 and 0 to 3.
    spans = [Interval(0, 2), Interval(0, 4), Interval(0, 2)]
    assert best_constant_interval(spans) == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3)
    assert best_constant_interval([Interval(0, 2)]) == 0
    assert math.isnan(best_constant_interval([]))


def test_the_bag_of_objects_names_the_goal_that_the_things_speak_for() -> None:
    tea, car = frozenset({"mug", "kettle"}), frozenset({"hammer", "toy car"})
    train = [(tea, "make tea")] * 4 + [(car, "repair")] * 4
    assert bag_of_objects_accuracy(train, [(tea, "make tea"), (car, "repair")]) == 1
    assert bag_of_objects_accuracy(train, [(tea, "repair")]) == 0
    assert math.isnan(bag_of_objects_accuracy([], []))
    # A thing that training never saw says nothing; what is missing speaks too.
    assert bag_of_objects_accuracy(train, [(tea | {"lamp"}, "make tea")]) == 1
    assert bag_of_objects_accuracy(train, [(frozenset({"mug"}), "make tea")]) == 1


def test_the_bag_of_objects_cannot_tell_goals_with_the_same_things_apart() -> None:
    same = frozenset({"mug"})
    train = [(same, "make tea")] * 6 + [(same, "make coffee")] * 2
    test = [(same, "make tea")] * 3 + [(same, "make coffee")]
    assert bag_of_objects_accuracy(train, test) == 0.75
