"""The vocabulary of goals, steps and objects, and which goals and next steps a list of steps allows."""

from collections.abc import Iterator, Sequence
from functools import cache

from egolive.train.simulator.planning.catalogue import HELD_OUT, RULES, GoalRule, StepRule

__all__ = [
    "GOALS",
    "HELD_OUT",
    "OBJECT_KINDS",
    "VERBS",
    "GoalRule",
    "StepRule",
    "goal_rule",
    "goal_steps",
    "goals_consistent_with",
    "next_steps_possible",
]


_BY_NAME = {rule.name: rule for rule in RULES}
GOALS: tuple[str, ...] = tuple(_BY_NAME)


def goal_rule(goal: str) -> GoalRule:
    """Return a goal's rule; raises KeyError for a goal that is not in `GOALS`."""
    return _BY_NAME[goal]


@cache
def _sequences(goal: str) -> tuple[tuple[str, ...], ...]:
    rule = _BY_NAME[goal]
    return tuple(
        tuple(step.text for step in sequence)
        for slots in rule.fillings()
        for sequence in rule.sequences(slots)
    )


def _all_steps() -> Iterator[tuple[str, StepRule]]:
    for rule in RULES:
        for slots in rule.fillings():
            for step in rule.steps:
                yield rule.name, step.filled(slots)


VERBS: tuple[str, ...] = tuple(sorted({step.verb for _, step in _all_steps()}))
OBJECT_KINDS: tuple[str, ...] = tuple(
    sorted({kind for _, step in _all_steps() for kind in (step.object, step.target, step.via) if kind})
)


def goal_steps(goal: str) -> tuple[str, ...]:
    """Return every step text the goal can contain, over all slots, sorted."""
    return tuple(sorted({text for sequence in _sequences(goal) for text in sequence}))


def goals_consistent_with(steps: Sequence[str]) -> set[str]:
    """Return the goals with a script that contains all of these step texts, in whatever order."""
    wanted = set(steps)
    return {goal for goal in GOALS if any(wanted <= set(sequence) for sequence in _sequences(goal))}


def next_steps_possible(goal: str, done: Sequence[str]) -> set[str]:
    """Return the step texts that may come right after those done so far; empty when the goal is reached."""
    prefix = tuple(done)
    found = (
        seq[len(prefix)]
        for seq in _sequences(goal)
        if len(seq) > len(prefix) and seq[: len(prefix)] == prefix
    )
    return set(found)
