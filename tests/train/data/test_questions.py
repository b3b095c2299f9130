"""What the simulator is asked about itself is true, and decided by what can be seen."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from itertools import product

import pytest

from egolive.streaming.frames import Interval
from egolive.train.data.questions import (
    HANDS,
    SEEN_S,
    Asked,
    absent_when,
    picture_questions,
    steps_seen,
    window_questions,
)
from egolive.train.simulator.episode import (
    GOALS,
    OBJECT_KINDS,
    Episode,
    FrameTruth,
    episode_of,
    plan_episode,
    render_frame,
)
from egolive.train.simulator.planning.goals import goal_rule, goal_steps

EPISODES = 40
ALL_STEPS = sorted({step for goal in GOALS for step in goal_steps(goal)})


@cache
def scripts(goal: str) -> tuple[tuple[str, ...], ...]:
    """Every order of steps that may reach a goal."""
    rule = goal_rule(goal)
    return tuple(
        tuple(step.text for step in sequence)
        for slots in rule.fillings()
        for sequence in rule.sequences(slots)
    )


@cache
def episodes() -> tuple[Episode, ...]:
    return tuple(
        episode_of(plan_episode(index, seed=3, split=split), fps=2.0)
        for split, index in product(("train", "test"), range(EPISODES // 2))
    )


def windows(length: float = 7.5) -> Iterator[tuple[Episode, float, float, random.Random]]:
    """Windows at every other second of some episodes."""
    for episode in episodes():
        for second in range(0, max(1, int(episode.duration - length)), 2):
            yield episode, float(second), second + length, random.Random(f"{episode.index} {second}")


def asked_of(task: str) -> Iterator[tuple[Episode, float, float, Asked | None]]:
    """Each window with the question of a kind that is asked of it, or None."""
    for episode, start, end, rng in windows():
        found = [one for one in window_questions(episode, start, end, rng) if one.question.task == task]
        assert len(found) <= 1
        yield episode, start, end, found[0] if found else None


def test_the_intent_is_asked_exactly_where_the_steps_seen_fit_one_goal_alone() -> None:
    asked = undecided = 0
    for episode, start, end, one in asked_of("intent"):
        seen = {step.text for step in steps_seen(episode, start, end)}
        fitting = {goal for goal in GOALS if any(seen <= set(script) for script in scripts(goal))}
        assert episode.goal in fitting
        assert (one is not None) == (bool(seen) and len(fitting) == 1)
        if one is None:
            undecided += bool(seen)
        else:
            asked += 1
            assert one.text == episode.goal
    assert asked > 50
    assert undecided > 5


def test_the_next_step_is_asked_only_where_one_step_alone_may_follow() -> None:
    asked = open_ended = 0
    for episode, _, end, one in asked_of("next"):
        running = [step for step in episode.steps if step.start + SEEN_S <= end < step.end]
        if one is None:
            open_ended += bool(running)
            continue
        asked += 1
        done = tuple(step.text for step in episode.steps if step.start <= running[0].start)
        follows = {
            script[len(done)]
            for script in scripts(episode.goal)
            if len(script) > len(done) and script[: len(done)] == done
        }
        assert {one.text} == follows
        later = [step.text for step in episode.steps if step.start > running[0].start]
        assert one.text == later[0]
    assert asked > 20
    assert open_ended > 20


def test_an_interval_is_that_of_the_step_cut_to_the_window() -> None:
    asked = cut = 0
    for episode, start, end, one in asked_of("when"):
        if one is None:
            assert not steps_seen(episode, start, end)
            continue
        (step,) = (step for step in episode.steps if step.text == one.question.phrase)
        assert one.interval == Interval(max(step.start, start), min(step.end, end))
        assert one.interval.duration >= SEEN_S
        asked += 1
        cut += step.start < start or step.end > end
    assert asked > 50
    assert cut > 10


def test_no_step_is_asked_about_twice_in_one_window() -> None:
    for episode, start, end, rng in windows():
        asked = window_questions(episode, start, end, rng, whens=9)
        phrases = [one.question.phrase for one in asked if one.question.task == "when"]
        assert sorted(phrases) == sorted(step.text for step in steps_seen(episode, start, end))


def test_an_absent_event_is_one_that_the_window_shows_nothing_of() -> None:
    hard = 0
    for episode, start, end, rng in windows():
        one = absent_when(episode, start, end, ALL_STEPS, rng)
        assert one.absent
        for step in episode.steps:
            if step.text == one.question.phrase:
                hard += 1
                assert step.end <= start or step.start >= end
    assert hard > 0, "some absent events happen elsewhere in the episode"


def test_a_window_that_shows_too_little_of_a_step_asks_nothing_about_it() -> None:
    episode = episodes()[0]
    step = episode.steps[0]
    rng = random.Random(0)
    assert window_questions(episode, step.start - 2, step.start + 0.9 * SEEN_S, rng) == []
    barely = window_questions(episode, step.start - 2, step.start + 1.1 * SEEN_S, rng)
    assert step.text in [one.question.phrase for one in barely]


def test_picture_questions_tell_what_the_frame_shows() -> None:
    held = absent = 0
    for split, index in product(("train", "test"), range(3)):
        plan = plan_episode(index, seed=3, split=split)
        for share in (0.02, 0.3, 0.6):
            _, truth = render_frame(plan, share * plan.duration, (224, 126))
            asked = picture_questions(truth, random.Random(index))
            phrases = [one.question.phrase for one in asked]
            assert len(set(phrases)) == len(phrases)
            assert set(phrases) >= {*HANDS, *(f"object in the {hand}" for hand in HANDS)}
            for one in asked:
                hand = one.question.phrase.removeprefix("object in the ")
                name = truth.held[hand] if hand != one.question.phrase else hand
                expected = truth.boxes.get(name) if name else None
                assert (tuple(one.box) if one.box else None) == expected
                assert one.absent == (expected is None)
                held += hand != one.question.phrase and not one.absent
                absent += one.absent
    assert held > 0
    assert absent > 0


def test_half_of_the_pictures_are_asked_about_a_thing_that_is_not_there() -> None:
    truth = FrameTruth(0.0, {"mug": (0.0, 0.0, 9.0, 9.0)}, dict.fromkeys(HANDS), {}, -1)
    extra = 0
    for seed in range(200):
        phrases = {one.question.phrase for one in picture_questions(truth, random.Random(seed))}
        missing = phrases & (set(OBJECT_KINDS) - {"mug"})
        assert len(missing) <= 1
        assert "mug" in phrases
        extra += len(missing)
    assert 70 < extra < 130


def test_an_empty_frame_is_asked_about_and_everything_is_absent() -> None:
    truth = FrameTruth(0.0, {}, dict.fromkeys(HANDS), {}, -1)
    asked = picture_questions(truth, random.Random(0))
    assert len(asked) >= 4
    assert all(one.absent for one in asked)


@pytest.mark.parametrize("length", [1.5, 3.5])
def test_short_windows_are_asked_about_too(length: float) -> None:
    tasks = {
        one.question.task
        for episode, start, end, rng in windows(length)
        for one in window_questions(episode, start, end, rng)
    }
    assert tasks == {"intent", "next", "when"}
