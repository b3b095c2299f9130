"""Regions that are cut out and put back, where a hand will be, and which hands are one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egolive.assistant.hands.hand_landmarks import cut, next_region, same_hand, to_picture
from egolive.assistant.hands.palm_detection import Region

UPRIGHT = np.array(
    # The wrist at the bottom, the thumb, and four fingers upwards whose roots are at a height of 60.
    [(50, 100), (38, 90), (30, 80), (24, 70), (20, 62)]
    + [(x, y) for x in (40, 50, 60, 68) for y in (60, 40, 30, 20)],
    np.float32,
)


def test_an_upright_region_is_cut_as_it_is() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:40] = 255
    found = cut(image, Region(30, 20, 20, 0.0), 20, replicate=False)
    assert found.shape == (1, 20, 20, 3)
    assert found.dtype == np.float32
    assert (found == 1).all()


def test_a_region_that_is_turned_brings_what_is_on_its_right_to_the_top() -> None:
    image = np.zeros((41, 41, 3), np.uint8)
    image[15:26, 30:41] = 200
    found = cut(image, Region(20, 20, 40, math.pi / 2), 40, replicate=False)[0, :, :, 0]
    assert found[2:9, 17:24].min() == pytest.approx(200 / 255)
    assert found[12:].max() == 0


@pytest.mark.parametrize(("replicate", "beyond"), [(True, 1.0), (False, 0.0)])
def test_beyond_the_picture_is_black_or_its_edge(replicate: bool, beyond: float) -> None:
    image = np.full((20, 20, 3), 255, np.uint8)
    found = cut(image, Region(0, 10, 20, 0.0), 20, replicate=replicate)
    assert found[0, 10, 2, 0] == beyond
    assert found[0, 10, 15, 0] == 1


@given(st.floats(-math.pi, math.pi), st.floats(5, 300), st.floats(-50, 400), st.floats(-50, 300))
def test_the_middle_and_the_size_of_a_region_come_back(turn: float, side: float, x: float, y: float) -> None:
    region = Region(x, y, side, turn)
    points = np.array([(112, 112), (112, 0), (224, 112)], np.float32)
    middle, top, right = to_picture(points, region, 224).astype(float)
    assert middle.tolist() == pytest.approx([x, y], abs=0.01)
    # Up in the region is the way the fingers point.
    assert (top - middle).tolist() == pytest.approx(
        [side / 2 * math.sin(turn), -side / 2 * math.cos(turn)], abs=0.01
    )
    assert np.hypot(*(right - middle)) == pytest.approx(side / 2, abs=0.01)


def test_the_next_region_is_round_the_palm_and_ahead_of_it() -> None:
    region = next_region(UPRIGHT)
    # The wrist is at x = 50, the middle joints of three fingers at x = 40, 50 and 60: straight up.
    assert region.turn == pytest.approx(0)
    # The palm's joints span 24 to 68 and 40 to 100; a tenth of 60 further up.
    assert (region.x, region.y) == pytest.approx((46, 64))
    assert region.side == pytest.approx(120)


@pytest.mark.parametrize("turn", [0.5, -2.0, 3.0])
def test_the_next_region_turns_with_the_hand(turn: float) -> None:
    cos, sin = math.cos(turn), math.sin(turn)
    turned = (UPRIGHT @ np.array([[cos, sin], [-sin, cos]], np.float32)).astype(np.float32)
    still, region = next_region(UPRIGHT), next_region(turned)
    assert math.remainder(region.turn - turn, 2 * math.pi) == pytest.approx(0, abs=1e-4)
    assert region.side == pytest.approx(still.side, rel=1e-4)
    expected = (still.x * cos - still.y * sin, still.x * sin + still.y * cos)
    assert (region.x, region.y) == pytest.approx(expected, abs=0.5)


def test_hands_are_one_where_their_joints_are() -> None:
    assert same_hand(UPRIGHT, UPRIGHT + 5)
    # The joints' box is 48 wide and 80 high: 30 to the right, 0.375 of it is still in common.
    assert not same_hand(UPRIGHT, UPRIGHT + np.array([30, 0], np.float32))
    assert not same_hand(UPRIGHT, UPRIGHT + 200)


def test_a_hand_inside_another_is_a_part_of_it() -> None:
    middle = UPRIGHT.mean(axis=0)
    part = middle + (UPRIGHT - middle)[::-1] / 2
    assert same_hand(UPRIGHT, part)
    assert same_hand(part, UPRIGHT)
    # A mirror image in the same place has other joints.
    assert same_hand(UPRIGHT, UPRIGHT[::-1])
