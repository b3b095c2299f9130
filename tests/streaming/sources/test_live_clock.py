"""The live clock against senders whose true capture times are known."""

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egolive.streaming.sources.live.live_clock import LiveClock

START = 1000.0
"""What the reader's clock shows when the first picture is taken."""


def sent(
    seconds: float, fps: float = 30.0, *, pace: float = 1.0, jitter: float = 0.0, seed: int = 0
) -> Iterator[tuple[float, float, float]]:
    """Pictures of a sender: true time of capture, time stamp, arrival at this machine."""
    rng = random.Random(seed)
    arrived = 0.0
    for number in range(int(seconds * fps)):
        captured = START + number / fps
        arrived = max(arrived, captured + rng.uniform(0.0, jitter))
        yield captured, 90.0 + number / fps * pace, arrived


def read(
    clock: LiveClock, pictures: Iterable[tuple[float, float, float]], work: float = 0.001
) -> list[tuple[float, float, float, bool]]:
    """Read them as fast as they come, each after `work` seconds for the one before.

    Returns:
        For each its true capture time, that which the clock says, when it was read, whether a gap was told.
    """
    found = []
    now = 0.0
    for captured, stamp, arrived in pictures:
        asked, now = now, max(now, arrived)
        clock.packet(stamp, now, now - asked)
        placed, gap = clock.place(stamp, now)
        found.append((captured, placed, now, gap))
        now += work
    return found


def errors(found: list[tuple[float, float, float, bool]]) -> list[float]:
    return [placed - captured for captured, placed, _, _ in found]


@given(
    fps=st.sampled_from([1.0, 5.0, 15.0, 30.0, 60.0]),
    pace=st.floats(0.995, 1.005),
    jitter=st.floats(0.0, 0.08),
    seed=st.integers(0, 999),
)
def test_a_steady_sender_is_followed_within_a_tenth_of_a_second(
    fps: float, pace: float, jitter: float, seed: int
) -> None:
    found = read(LiveClock(), sent(60, fps, pace=pace, jitter=jitter, seed=seed))
    assert max(abs(error) for error in errors(found)) <= 0.1
    assert not any(gap for *_, gap in found)


def test_ten_minutes_do_not_drift() -> None:
    found = read(LiveClock(), sent(600, 30, pace=1.002, jitter=0.03))
    assert max(abs(error) for error in errors(found)) <= 0.1


def test_times_never_go_back_and_are_never_later_than_arrival() -> None:
    found = read(LiveClock(), sent(30, 30, pace=0.99, jitter=0.2))
    times = [placed for _, placed, _, _ in found]
    assert all(one < other for one, other in pairwise(times))
    assert all(placed <= now + 1e-3 for _, placed, now, _ in found)


def test_an_opening_burst_was_captured_before_it_was_read() -> None:
    burst = [(START - 2.7 + n / 30, n / 30, START) for n in range(81)]
    after = [(START + n / 30, 2.7 + n / 30, START + n / 30) for n in range(30)]
    clock = LiveClock()
    for _, stamp, arrived in burst:
        clock.packet(stamp, arrived, 0.0)
    # Once the burst is over the clock knows: the first of the live pictures is not 2.7 s ahead.
    found = read(clock, after)
    assert max(abs(error) for error in errors(found)) <= 1e-3


def test_a_network_that_holds_pictures_back_shows_as_their_age() -> None:
    held = [(c, s, START + 9.0 if START + 5 <= c < START + 9 else a) for c, s, a in sent(20)]
    found = read(LiveClock(), held)
    assert max(abs(error) for error in errors(found)) <= 0.05
    assert max(now - placed for _, placed, now, _ in found) == pytest.approx(4.0, abs=0.1)
    assert not any(gap for *_, gap in found)


def test_a_reader_that_is_too_slow_falls_behind_and_says_so() -> None:
    found = read(LiveClock(), sent(20, 30), work=0.05)
    assert max(abs(error) for error in errors(found)) <= 0.05
    _, placed, now, _ = found[-1]
    assert now - placed == pytest.approx(10.0, abs=0.5)


@pytest.mark.parametrize("jump", [-80.0, -3.0, 5.0, 100_000.0])
def test_a_senders_clock_that_is_set_anew_makes_a_gap_and_times_go_on(jump: float) -> None:
    reset = [(c, s + (jump if c >= START + 10 else 0.0), a) for c, s, a in sent(20)]
    found = read(LiveClock(), reset)
    assert max(abs(error) for error in errors(found)) <= 0.05
    assert [captured for captured, _, _, gap in found if gap] == [pytest.approx(START + 10)]


def test_a_senders_clock_that_stood_still_is_noticed() -> None:
    pictures = list(sent(10))
    later = [(c + 22.0, s + 10.0, a + 22.0) for c, s, a in sent(10)]
    found = read(LiveClock(), [*pictures, *later])
    assert max(abs(error) for error in errors(found)[: len(pictures)]) <= 0.05
    # Its stamps leave 12 seconds out. For a second they may have been held back by the network.
    assert [gap for *_, gap in found].count(True) == 1
    assert max(abs(error) for error in errors(found)[len(pictures) + 75 :]) <= 0.05


def test_stamps_out_of_order_are_no_new_clock() -> None:
    pictures = list(sent(5))
    reordered = [pictures[i + order] for i in range(0, len(pictures) - 3, 4) for order in (0, 3, 1, 2)]
    clock = LiveClock()
    for _, stamp, arrived in reordered:
        clock.packet(stamp, arrived + 0.2, 0.02)
        assert clock.place(stamp, arrived + 0.2)[1] is False


@pytest.mark.parametrize("make", [lambda: LiveClock(stamped=False), LiveClock])
def test_without_stamps_arrival_counts(make: Callable[[], LiveClock]) -> None:
    clock = make()
    times = []
    for number in range(10):
        clock.packet(None, 50 + number * 0.2, 0.2)
        times.append(clock.place(None, 50 + number * 0.2)[0])
    assert times == pytest.approx([50 + number * 0.2 for number in range(10)])


def test_a_guessed_stamp_is_not_believed_where_the_stream_has_none() -> None:
    clock = LiveClock(stamped=False)
    for number in range(10):
        clock.packet(number / 25, 50 + number * 0.2, 0.2)
        assert clock.place(number / 25, 50 + number * 0.2)[0] == pytest.approx(50 + number * 0.2)
