"""The governor over simulated costs and a simulated load: deadlines, answers, hysteresis, held settings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from governed import BOXES, FPS, WORDS, Costs, play, still

from egolive.streaming.pipeline.choice import Choice, LoadReading

SLOW = Costs(picture=0.1, piece=0.08, word=0.12)


def slowed(factor: float) -> Costs:
    return Costs(SLOW.picture, SLOW.piece, SLOW.word, lambda _: factor)


@pytest.mark.parametrize("factor", [1.0, 5.0, 10.0])
def test_deadlines_hold_and_answers_come_nearly_as_often_as_under_the_best_fixed_setting(
    factor: float,
) -> None:
    governed = play(slowed(factor))
    fixed = [play(slowed(factor), governed=False, every=every) for every in (1, 8)]
    assert governed.held >= 0.95
    assert governed.stale == 0
    assert len(governed.shown) >= 0.8 * max(len(run.shown) for run in fixed)
    assert {result.task for result in governed.shown} == {*BOXES, *WORDS}
    assert len(governed.choices) < 10


def test_an_engine_that_meets_no_deadline_when_asked_everything_answers_when_asked_less() -> None:
    fixed = [play(slowed(20.0), governed=False, every=every) for every in (1, 8)]
    assert max(run.held for run in fixed) < 0.5
    governed = play(slowed(20.0))
    assert governed.held >= 0.95
    assert len(governed.shown) > max(len(run.shown) for run in fixed)
    assert governed.choices[-1][1].size < 1


def test_costs_that_become_ten_times_higher_are_followed_within_two_pieces_of_work() -> None:
    costs = Costs(SLOW.picture, SLOW.piece, SLOW.word, lambda time: 10.0 if 30 < time < 60 else 1.0)
    run = play(costs, seconds=90.0)
    late = sorted({result.time for result in run.expired if result.time > 29})
    assert len(late) <= 2
    assert all(result.time < 45 for result in run.expired)
    # And back again.
    assert run.choices[-1][1].pictures == len(BOXES)
    assert run.choices[-1][1].every <= 3


def test_noisy_costs_do_not_make_it_change_its_mind_all_the_time() -> None:
    rng = np.random.default_rng(0)
    noise = iter(lambda: float(rng.uniform(0.7, 1.5)), None)
    run = play(Costs(SLOW.picture, SLOW.piece, SLOW.word, lambda _: 4 * next(noise)), seconds=90.0)
    assert run.held >= 0.95
    changed = [time for time, _ in run.choices]
    assert len(changed) <= 9


def test_what_the_user_holds_is_left_alone() -> None:
    run = play(slowed(20.0), seconds=30.0, held=("every", "slices", "size"))
    assert {(one.every, one.slices, one.size) for _, one in run.choices} == {(2, 4, 1.0)}
    free = play(slowed(20.0), seconds=30.0)
    assert {one.every for _, one in free.choices} != {2}
    assert {one.slices for _, one in free.choices} != {4}


def test_the_first_work_is_small_because_nothing_is_known_yet() -> None:
    run = play(slowed(10.0), seconds=10.0)
    assert [len(work.tasks) for work in run.works[:1]] == [1]
    assert run.choices[0][1].reason == "costs are not known yet"
    assert not run.expired


def test_boxes_take_turns_where_fewer_are_asked_at_once() -> None:
    run = play(slowed(14.0), seconds=40.0)
    few = [work.tasks for work in run.works if len(work.tasks) < len(BOXES) and work.window is None]
    assert {task for tasks in few for task in tasks} == set(BOXES)


class Sensors:
    """Readings that change at given times, by the number of times that they are asked for: once a second."""

    def __init__(self, **stretches: tuple[int, int, LoadReading]) -> None:
        self._stretches = stretches.values()
        self._asked = -1

    def __call__(self) -> LoadReading:
        self._asked += 1
        found: Iterator[LoadReading] = (r for a, b, r in self._stretches if a <= self._asked < b)
        return next(found, LoadReading(headroom=30.0, temperature=60.0, on_battery=False, others_cpu=0.0))


def duties(choices: list[tuple[float, Choice]]) -> list[tuple[float, str]]:
    found: list[tuple[float, str]] = []
    for _, choice in choices:
        if not found or found[-1][0] != choice.duty:
            found.append((choice.duty, choice.reason))
    return found


def test_a_hot_machine_rests_until_it_has_cooled_down() -> None:
    hot = LoadReading(temperature=93.0, headroom=2.0)
    warm = LoadReading(temperature=89.0, headroom=6.0)
    run = play(SLOW, seconds=40.0, sense=Sensors(hot=(10, 20, hot), warm=(20, 30, warm)))
    assert [duty for duty, _ in duties(run.choices)] == [1.0, 0.5, 1.0]
    assert "the machine is hot (93 °C)" in duties(run.choices)[1][1]
    worked = [work.time for work in run.works]
    assert sum(10.5 < time < 29.5 for time in worked) < 0.7 * 19 / 10 * sum(time < 10 for time in worked)
    # Warm is not cool: it goes on resting.
    changed = [time for time, one in run.choices if one.duty == 1.0 and time > 5]
    assert min(changed) >= 30


@pytest.mark.parametrize(
    ("reading", "duty", "why"),
    [
        (LoadReading(on_battery=True, battery=0.8), 0.6, "on battery (80%)"),
        (LoadReading(on_battery=True, battery=0.1), 0.3, "on battery (10%)"),
        (LoadReading(throttled=True), 0.5, "the machine slows itself down"),
        (LoadReading(others_cpu=0.9), 0.95, "other programs keep the processor busy"),
        (LoadReading(), 1.0, "the deadlines hold"),
    ],
    ids=["battery", "low battery", "throttled", "busy", "unknown"],
)
def test_the_load_is_lowered_and_the_reason_told(reading: LoadReading, duty: float, why: str) -> None:
    run = play(SLOW, seconds=8.0, sense=lambda: reading)
    assert run.choices[-1][1].duty == duty
    assert why in run.choices[-1][1].reason


def test_where_nothing_moves_little_is_asked_and_answers_stay_current() -> None:
    seconds = 100.0
    run = play(SLOW, seconds=seconds, picture=still)
    always = play(SLOW, seconds=seconds, picture=still, governed=False)
    assert len(run.works) <= 0.06 * len(always.works)
    assert run.stale == 0
    assert run.choices[-1][1].still_since == 0.0
    assert run.choices[-1][1].reason.startswith("nothing moves")
    # A heartbeat stays.
    times = [work.time for work in run.works if work.time > 10]
    assert times
    assert min(later - earlier for earlier, later in zip(times[::2], times[2::2], strict=False)) >= 15


def test_motion_is_answered_at_once_and_what_was_before_is_out_of_date() -> None:
    run = play(SLOW, seconds=40.0, picture=lambda t: still(t) if t < 30 else np.flip(still(t), axis=1))
    still_work = [work for work in run.works if 12 < work.time < 30]
    assert len(still_work) < 8
    assert min(work.time for work in run.works if work.time >= 30) <= 30 + 3 / FPS
    moved = next(one for time, one in run.choices if time >= 30)
    assert moved.still_since is None


def test_the_wearer_is_answered_although_nothing_moves() -> None:
    run = play(SLOW, seconds=15.0, picture=still, put={120: "what is this?", 130: "intent"})
    asked = [(work.time, work.tasks) for work in run.works if work.time > 11]
    assert (12.0, ("what is this?",)) in asked
    # A task that recurs anyway is demanded, too.
    assert any("intent" in tasks for time, tasks in asked if 13 <= time < 14)


def test_on_contact_everything_is_asked_once_and_again_when_a_hand_has_done_something() -> None:
    run = play(SLOW, seconds=60.0, touched={300: "the left hand has come to rest"})
    always = play(SLOW, seconds=60.0, governed=False)
    assert len(run.works) <= 0.2 * len(always.works)
    # Nothing goes out of date, for all that.
    assert (run.stale, run.held) == (0, 1.0)
    times = [work.picture.time for work in run.works if {*work.tasks} & {*BOXES}]
    assert all(later - earlier <= 0.6 * 5.0 + 1 for earlier, later in pairwise(times))
    # At 27 s it was asked for the sake of age, at 30 s because of the hand, and next when that is old.
    assert 30.0 in times
    assert min(time for time in times if time > 30.5) >= 32.5
    chosen = next(choice for time, choice in run.choices if time >= 30)
    assert chosen.contact_since == 30.0
    assert chosen.reason.startswith("the left hand has come to rest")
    assert chosen.still_since is None


def test_on_contact_words_are_not_asked_more_often_than_every_few_slices() -> None:
    busy = dict.fromkeys(range(50, 600, 5), "the right hand has come to rest")
    run = play(SLOW, seconds=60.0, touched=busy)
    words = [work.time for work in run.works if {*work.tasks} & {*WORDS}]
    assert len(words) > 10
    assert min(later - earlier for earlier, later in pairwise(words)) >= 1.8


def test_on_contact_the_wearer_is_answered_at_once() -> None:
    run = play(SLOW, seconds=20.0, touched={}, put={120: "what is this?"})
    assert (12.0, ("what is this?",)) in [(work.time, work.tasks) for work in run.works]
