"""Core data types: sizes, times, overlaps, and what they refuse."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egolive.streaming import Box, Frame, Interval, Slice, Window

times = st.floats(-1e4, 1e4, allow_nan=False)
intervals = st.tuples(times, times).map(lambda pair: Interval(min(pair), max(pair)))
boxes = st.tuples(times, times, times, times).map(
    lambda c: Box(min(c[0], c[1]), min(c[2], c[3]), max(c[0], c[1]), max(c[2], c[3]))
)


def frame(time: float, index: int = 0) -> Frame:
    return Frame(np.zeros((4, 6, 3), np.uint8), time, index)


def pair(start: float, index: int, segment: int = 0) -> Slice:
    return Slice(frame(start), frame(start + 0.5), index, segment)


def test_a_frame_tells_its_size_and_cannot_be_changed() -> None:
    one = frame(1.5, 3)
    assert (one.width, one.height) == (6, 4)
    assert repr(one) == "Frame(6x4, t=1.500 s, #3)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.time = 2.0  # type: ignore[misc]


def test_a_window_lists_its_frames_oldest_first_and_spans_them() -> None:
    window = Window((pair(1.0, 0), pair(2.0, 1)))
    assert [f.time for f in window.frames] == [1.0, 1.5, 2.0, 2.5]
    assert window.newest.time == 2.5
    assert window.interval == Interval(1.0, 2.5)
    assert len(window) == 2


def test_a_window_is_never_empty_and_never_crosses_a_gap() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Window(())
    with pytest.raises(ValueError, match="gap"):
        Window((pair(1.0, 0, segment=0), pair(5.0, 1, segment=1)))


def test_an_interval_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="ends after"):
        Interval(2.0, 1.0)
    with pytest.raises(ValueError, match="ends after"):
        Interval(float("nan"), 1.0)


@given(intervals, intervals, times)
def test_overlap_of_intervals_is_symmetric_bounded_and_moves_along(
    a: Interval, b: Interval, by: float
) -> None:
    assert 0 <= a.iou(b) == b.iou(a) <= 1
    assert a.iou(a) == 1
    assert a.shift(by).duration == pytest.approx(a.duration, abs=1e-6)


@given(boxes, boxes)
def test_overlap_of_boxes_is_symmetric_and_bounded(a: Box, b: Box) -> None:
    assert 0 <= a.iou(b) == b.iou(a) <= 1 + 1e-9
    assert a.iou(a) == (1 if a.area > 0 and a.iou(a) > 0 else 0)


def test_overlap_of_two_boxes_worked_out_by_hand() -> None:
    assert Box(0, 0, 4, 2).iou(Box(2, 0, 6, 2)) == pytest.approx(4 / 12)
    assert Box(0, 0, 1, 1).iou(Box(1, 0, 2, 1)) == 0
    assert tuple(Box(1, 2, 3, 4)) == (1, 2, 3, 4)
