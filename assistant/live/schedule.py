"""Scheduling rules of questions: first those of the wearer, then boxes, then intent and next step.

The rules are applied by `egolive.streaming.pipeline.scheduler`.
"""

from __future__ import annotations

from collections.abc import Iterable

from egolive.assistant.schema.answers import Question
from egolive.streaming.pipeline.scheduler import TaskRule

__all__ = ["recurring_rules", "wearer_rule"]

_WEARER, _BOXES, _WORDS = 0, 1, 2
_BOXES_DEADLINE = 5.0
"""Seconds after which a hand is elsewhere, and few trackers still follow it."""
_WORDS_DEADLINE = 15.0
"""Seconds that an intent outlives; steps of everyday work take about as long."""
_MAX_WAIT = 2.0
"""Seconds for which boxes may keep intent and next step waiting."""


def recurring_rules(
    questions: Iterable[Question], *, every: int = 1, deadline: float | None = None
) -> dict[Question, TaskRule]:
    """The rules of recurring questions: boxes of each new picture, the rest every few slices.

    Args:
        questions: What is asked again and again.
        every: Slices from one question about the window to the next.
        deadline: Seconds after which an answer is not current any more; as befits the task without it.
    """
    return {
        question: TaskRule("picture", _BOXES, deadline=deadline or _BOXES_DEADLINE)
        if question.task == "ground"
        else TaskRule("window", _WORDS, every, deadline or _WORDS_DEADLINE, _MAX_WAIT)
        for question in questions
    }


def wearer_rule(question: Question) -> TaskRule:
    """The rule of a question that the wearer asks once; it goes first and its answer is never too late."""
    return TaskRule("picture" if question.task == "ground" else "window", _WEARER)
