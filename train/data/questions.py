"""Questions with true answers about simulated episodes, for training and evaluation.

Truth is kept in the units of the stream (pixels of the picture, seconds); `egolive.assistant.prompts.prompts`
renders it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from egolive.assistant.schema.answers import Question
from egolive.streaming.frames import Box, Interval
from egolive.train.simulator.episode import Episode, FrameTruth, Step
from egolive.train.simulator.planning.goals import OBJECT_KINDS, goals_consistent_with, next_steps_possible

__all__ = ["HANDS", "SEEN_S", "Asked", "picture_questions", "steps_seen", "window_questions"]

HANDS = ("left hand", "right hand")
SEEN_S = 1.0
"""A step counts as seen in a window when at least this many seconds of it are."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its true answer; exactly one of text, box, interval is the truth, or none of them."""

    question: Question
    text: str = ""
    box: Box | None = None
    interval: Interval | None = None

    @property
    def absent(self) -> bool:
        """What is asked for is not there: the right answer is "none"."""
        return not self.text and self.box is None and self.interval is None


def picture_questions(truth: FrameTruth, rng: random.Random, *, phrases: int = 2) -> list[Asked]:
    """Both hands, what each holds, up to `phrases` visible things and, half the time, one that is absent."""
    asked = []
    for hand in HANDS:
        asked.append(_grounding(truth, hand, hand))
        held = truth.held.get(hand)
        asked.append(_grounding(truth, f"object in the {hand}", held))
    visible = sorted(set(truth.boxes) - set(HANDS))
    for name in rng.sample(visible, min(phrases, len(visible))):
        asked.append(_grounding(truth, name, name))
    if rng.random() < 0.5:
        absent = rng.choice([kind for kind in OBJECT_KINDS if kind not in truth.boxes])
        asked.append(_grounding(truth, absent, absent))
    rng.shuffle(asked)
    return asked


def _grounding(truth: FrameTruth, phrase: str, name: str | None) -> Asked:
    rect = truth.boxes.get(name) if name else None
    box = Box(*rect, label=phrase) if rect else None
    return Asked(Question("ground", phrase), box=box)


def steps_seen(episode: Episode, start: float, end: float) -> list[Step]:
    """Steps of which the window from `start` to `end` (seconds) shows at least `SEEN_S`, in order."""
    return [step for step in episode.steps if min(step.end, end) - max(step.start, start) >= SEEN_S]


def window_questions(
    episode: Episode, start: float, end: float, rng: random.Random, *, whens: int = 1
) -> list[Asked]:
    """Intent, next step and `whens` intervals, each only where the window really decides the answer.

    Intent is asked when the steps seen fit one goal alone; next when a step is under way and one step
    alone may follow it. Intervals are seconds of the stream, cut to the window.
    """
    asked = []
    seen = steps_seen(episode, start, end)
    if seen and goals_consistent_with([step.text for step in seen]) == {episode.goal}:
        asked.append(Asked(Question("intent"), text=episode.goal))
    running = [place for place, step in enumerate(episode.steps) if step.start + SEEN_S <= end < step.end]
    later = episode.steps[running[0] + 1 :] if running else ()
    if later:
        done = [step.text for step in episode.steps[: running[0] + 1]]
        follows = next_steps_possible(episode.goal, done)
        if follows == {later[0].text}:
            asked.append(Asked(Question("next"), text=later[0].text))
    for step in rng.sample(seen, min(whens, len(seen))):
        interval = Interval(max(step.start, start), min(step.end, end))
        asked.append(Asked(Question("when", step.text), interval=interval))
    return asked


def absent_when(
    episode: Episode, start: float, end: float, others: Sequence[str], rng: random.Random
) -> Asked:
    """An event that the window does not show, neither whole nor in part."""
    shown = {step.text for step in episode.steps if step.end > start and step.start < end}
    return Asked(Question("when", rng.choice([text for text in others if text not in shown])))
