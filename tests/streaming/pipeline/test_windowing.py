"""Sampling by real times, pairing, gaps, windows and the time line under them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egolive.streaming import Frame, FrameSampler, Interval, Slice, Slicer, Window, Windows
from egolive.streaming.pipeline.windowing import Windower
from egolive.streaming.sources.files.timestamps import Timeline

PICTURE = np.zeros((2, 2, 3), np.uint8)
WIDER = np.zeros((2, 4, 3), np.uint8)


def frames(times: list[float]) -> list[Frame]:
    return [Frame(PICTURE, time, index) for index, time in enumerate(times)]


def sampled(source: list[Frame], fps: float = 2.0, source_fps: float | None = None) -> list[Frame]:
    sampler = FrameSampler(fps, source_fps)
    return [picked for picked, _ in map(sampler.push, source) if picked is not None]


def paired(samples: list[Frame]) -> list[Slice]:
    slicer = Slicer()
    return [made for made in map(slicer.push, samples) if made is not None]


@st.composite
def streams(draw: st.DrawFn) -> list[Frame]:
    """Steps of any length, some holes, some frames marked as standing behind a gap."""
    steps = draw(st.lists(st.floats(0.005, 2.0), min_size=1, max_size=120))
    marked = draw(st.sets(st.integers(1, 120), max_size=4))
    times = np.cumsum([0.0, *steps])
    return [Frame(PICTURE, float(time), i, gap=i in marked) for i, time in enumerate(times)]


@pytest.mark.parametrize("rate", [10, 24, 25, 30000 / 1001, 30, 50, 60, 90])
def test_steady_sources_are_sampled_at_the_rate_that_was_asked_for(rate: float) -> None:
    picked = sampled(frames([i / rate for i in range(round(20 * rate))]))
    assert len(picked) == 40
    # Each is the frame nearest to its tick.
    assert max(abs(f.time - tick / 2) for tick, f in enumerate(picked)) <= 0.5 / rate + 1e-9


def test_a_source_as_slow_as_the_sampling_passes_whole_in_spite_of_jitter() -> None:
    jitter = [0, 0.01, -0.02, 0.09, -0.1, 0.05, 0.0, -0.08]
    source = frames([i / 2 + shift for i, shift in enumerate(jitter)])
    assert sampled(source) == source


def test_a_source_slower_than_the_sampling_passes_whole_and_still_makes_pairs() -> None:
    source = frames([float(i) for i in range(10)])
    assert sampled(source) == source
    assert len(paired(sampled(source))) == 5


def test_a_variable_rate_is_sampled_by_time_not_by_count() -> None:
    fast_then_slow = [i / 60 for i in range(120)] + [2 + i / 5 for i in range(10)]
    times = [f.time for f in sampled(frames(fast_then_slow))]
    assert times == pytest.approx([0, 0.5, 1, 1.5, 2, 2.4, 3, 3.4], abs=0.101)


@given(streams(), st.floats(0.5, 10))
def test_sampling_keeps_the_order_and_never_exceeds_the_rate(source: list[Frame], fps: float) -> None:
    picked = sampled(source, fps)
    assert [f.index for f in picked] == sorted({f.index for f in picked})
    run: list[Frame] = []
    for f in picked:
        run = [f] if f.gap else [*run, f]
        assert len(run) - 1 <= (run[-1].time - run[0].time + 0.25 / fps) * fps + 1e-6


@given(streams())
def test_pairs_never_straddle_a_gap(source: list[Frame]) -> None:
    steps = [b.time - a.time for a, b in pairwise(source)]
    # What is no hole in a source that has been slow is one in any other.
    slow = [3 * max(steps[max(0, place - 5) : place], default=0.0) for place in range(len(steps))]
    holes = [
        (a, b)
        for (a, b), limit in zip(pairwise(source), slow, strict=True)
        if b.gap or b.time - a.time > max(1.0, limit)
    ]
    for pair in paired(sampled(source)):
        assert pair.first.index < pair.second.index
        for _, after in holes:
            assert not pair.first.index < after.index <= pair.second.index


@given(streams())
def test_pairs_are_anchored_at_even_samples_of_their_segment(source: list[Frame]) -> None:
    samples = sampled(source)
    slices = paired(samples)
    assert [s.index for s in slices] == list(range(len(slices)))
    segment, position, expected = 0, 0, []
    for before, sample in zip([None, *samples], samples, strict=False):
        if sample.gap:
            segment, position = segment + 1, 0
        if position % 2:
            assert before is not None
            expected.append((before.index, sample.index, segment))
        position += 1
    assert [(s.first.index, s.second.index, s.segment) for s in slices] == expected


@given(streams(), st.integers(1, 5))
def test_windows_grow_at_their_end_and_hand_over_to_one_that_was_announced(
    source: list[Frame], length: int
) -> None:
    windows = Windows(length)
    before: Window | None = None
    since_gap = 0
    for made in paired(sampled(source)):
        window = windows.push(made)
        if before is None or before.slices[0].segment != made.segment:
            since_gap = 0
            assert window.slices == (made,)
        elif len(before) == 2 * length - 1:
            # What the younger window held already, and the new slice.
            assert window.slices == (*before.slices[len(before) - before.successor :], made)
            assert len(window) == length
        else:
            assert window.slices == (*before.slices, made)
        since_gap += 1
        assert len(window) == since_gap if since_gap < 2 * length else length + since_gap % length
        assert window.successor == max(0, len(window) - length)
        before = window


def test_a_successor_that_cannot_be_is_refused() -> None:
    (first, second) = paired(frames([0.0, 0.5, 1.0, 1.5]))
    with pytest.raises(ValueError, match="successor"):
        Window((first, second), successor=2)


def test_a_hole_is_told_with_its_times_and_marks_the_frame_behind_it() -> None:
    sampler = FrameSampler(2.0, 30.0)
    for f in frames([0.0, 0.1, 0.2]):
        assert sampler.push(f)[1] is None
    picked, gap = sampler.push(Frame(PICTURE, 1.3, 3))
    assert gap == Interval(0.2, 1.3)
    assert picked == replace(Frame(PICTURE, 1.3, 3), gap=True)
    assert sampler.gaps == 1


def test_a_slow_source_is_no_gap_after_gap() -> None:
    sampler = FrameSampler(2.0, source_fps=0.5)
    assert all(sampler.push(f)[1] is None for f in frames([0, 2, 4, 6]))
    assert sampler.push(Frame(PICTURE, 13.0, 4))[1] == Interval(6, 13)


def test_a_change_of_size_is_a_gap() -> None:
    sampler = FrameSampler(2.0)
    sampler.push(Frame(PICTURE, 0.0, 0))
    picked, gap = sampler.push(Frame(WIDER, 0.1, 1))
    assert gap is not None
    assert picked is not None
    assert picked.gap


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_a_sampling_rate_that_cannot_work_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        FrameSampler(wrong)


def test_a_window_of_no_slices_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Windows(0)


@given(st.lists(st.none() | st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=50))
def test_stream_time_starts_at_zero_and_always_goes_up(stamps: list[float | None]) -> None:
    line = Timeline(step=0.04)
    times = [line.place(stamp)[0] for stamp in stamps]
    assert times[0] == 0
    assert all(b > a for a, b in pairwise(times))


@given(st.floats(-1e3, 1e3), st.lists(st.floats(0.001, 5), max_size=50))
def test_times_that_go_up_are_kept_but_for_the_start(start: float, steps: list[float]) -> None:
    stamps = [start + float(t) for t in np.cumsum([0.0, *steps])]
    line = Timeline(step=0.04)
    for stamp in stamps:
        time, gap = line.place(stamp)
        assert time == pytest.approx(stamp - start)
        assert not gap


def test_a_clock_that_was_set_anew_goes_on_behind_a_gap() -> None:
    line = Timeline(step=0.1)
    times, gaps = zip(*(line.place(t) for t in (100.0, 100.1, 3.0, 3.5)), strict=True)
    assert times == pytest.approx([0, 0.1, 0.2, 0.7])
    assert gaps == (False, False, True, False)


def test_a_frame_slightly_out_of_order_is_put_in_line_without_a_gap() -> None:
    line = Timeline(step=0.1)
    times, gaps = zip(*(line.place(t) for t in (0.0, 0.2, 0.1, 0.5)), strict=True)
    assert times == pytest.approx([0, 0.2, 0.3, 0.5])
    assert not any(gaps)


def test_a_slow_source_of_unknown_rate_makes_windows() -> None:
    windower = Windower(fps=2.0, slices=4)
    pushed = [windower.push(each) for each in frames([1.5 * n + 0.1 * (n % 2) for n in range(12)])]
    assert windower.gaps <= 1
    assert pushed[-1].window is not None
    assert len(pushed[-1].window) > 1
    assert windower.push(frames([1.5 * 11 + 8])[0]).gap is not None


def test_a_fast_source_keeps_its_shortest_gap() -> None:
    windower = Windower(fps=2.0, slices=4)
    *before, late = frames([number / 30 for number in range(30)] + [29 / 30 + 1.1])
    for each in before:
        windower.push(each)
    assert windower.push(late).gap is not None
