"""Anchors, boxes, groups and regions of palms, against numbers that were worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from egolive.assistant.hands.palm_detection import Palm, Region, anchors, decode, merge, region_of, turn_of


def test_anchors_are_the_centres_of_their_cells() -> None:
    found = anchors()
    assert found.shape == (2016, 2)
    # 24 x 24 cells of 8 pixels with two anchors each, then 12 x 12 of 16 pixels with six.
    assert found[0].tolist() == found[1].tolist() == pytest.approx([4 / 192, 4 / 192])
    assert found[2].tolist() == pytest.approx([12 / 192, 4 / 192])
    assert found[2 * 24].tolist() == pytest.approx([4 / 192, 12 / 192])
    assert found[1152].tolist() == found[1157].tolist() == pytest.approx([8 / 192, 8 / 192])
    assert found[1158].tolist() == pytest.approx([24 / 192, 8 / 192])
    assert found[-1].tolist() == pytest.approx([184 / 192, 184 / 192])


def raw(place: int, values: list[float], logit: float) -> tuple[np.ndarray, np.ndarray]:
    numbers, logits = np.zeros((2016, 18), np.float32), np.full(2016, -20, np.float32)
    numbers[place], logits[place] = values, logit
    return numbers, logits


def test_a_box_and_its_points_count_from_the_anchor() -> None:
    points = [float(number) for number in range(14)]
    numbers, logits = raw(1158, [4.8, -1.6, 38.4, 19.2, *points], 0.0)
    (palm,) = decode(numbers, logits, 0.3)
    assert palm.score == 0.5
    # The anchor is at (24, 8): the centre is (28.8, 6.4), and half of the size is (19.2, 9.6).
    assert np.multiply(palm.box, 192).tolist() == pytest.approx([9.6, -3.2, 48.0, 16.0], abs=1e-4)
    assert (palm.points[0] * 192).tolist() == pytest.approx([24, 9], abs=1e-4)
    assert (palm.points[6] * 192).tolist() == pytest.approx([36, 21], abs=1e-4)


@pytest.mark.parametrize(("logit", "count"), [(-0.86, 0), (-0.84, 1), (1000.0, 1), (-1000.0, 0)])
def test_a_palm_needs_the_least_probability(logit: float, count: int) -> None:
    # The logit of 0.3 is -0.847; what is out of range is cut, and nothing overflows.
    with np.errstate(all="raise"):
        assert len(decode(*raw(5, [0.0] * 18, logit), 0.3)) == count


def palm(score: float, x: float, *, side: float = 0.2, points: float = 0.0) -> Palm:
    return Palm(score, (x, 0.1, x + side, 0.1 + side), np.full((7, 2), points, np.float32))


def test_palms_that_overlap_become_their_weighted_mean() -> None:
    # 0.15 of 0.25 in common: 0.6. The third one shares nothing.
    found = merge([palm(0.9, 0.1, points=1.0), palm(0.8, 0.5), palm(0.3, 0.15, points=5.0)])
    assert [one.score for one in found] == [0.9, 0.8]
    assert found[0].box == pytest.approx((0.1125, 0.1, 0.3125, 0.3))
    assert found[0].points.tolist() == [[pytest.approx(2.0)] * 2] * 7
    assert found[1].box == pytest.approx((0.5, 0.1, 0.7, 0.3))


def test_palms_side_by_side_stay_two() -> None:
    # 0.04 of 0.36 in common: 0.11 is less than 0.3.
    assert len(merge([palm(0.9, 0.1), palm(0.8, 0.26)])) == 2


@pytest.mark.parametrize(
    ("direction", "turn"),
    [((0, -1), 0.0), ((1, 0), math.pi / 2), ((0, 1), -math.pi), ((-1, 0), -math.pi / 2)],
    ids=["up", "right", "down", "left"],
)
def test_a_turn_is_counted_clockwise_from_up(direction: tuple[float, float], turn: float) -> None:
    assert turn_of(*direction) == pytest.approx(turn)


def pointing(x: float, y: float) -> Palm:
    points = np.zeros((7, 2), np.float32)
    points[0], points[2] = (100, 100), (100 + x, 100 + y)
    return Palm(0.9, (80, 90, 120, 110), points)


def test_the_region_of_a_hand_lies_ahead_of_its_palm() -> None:
    # 40 x 20 pixels round (100, 100): 2.6 times 40 wide, and half of 20 towards the fingers.
    up, right = region_of(pointing(0, -30)), region_of(pointing(30, 0))
    assert (up.x, up.y, up.side, up.turn) == pytest.approx((100, 90, 104, 0))
    assert (right.x, right.y, right.side, right.turn) == pytest.approx((110, 100, 104, math.pi / 2))


def test_a_palm_in_a_part_of_the_picture_is_moved_to_where_that_is() -> None:
    moved = palm(0.9, 0.25, points=0.5).moved(100, (40, -10))
    assert moved.box == pytest.approx((65, 0, 85, 20))
    assert moved.points[0].tolist() == pytest.approx([90, 40])
    assert Region(90, 40, 10, 0.0).side == 10
