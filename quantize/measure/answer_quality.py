"""How well an engine answers: the simulator's test episodes, asked window by window as a stream would be.

The same episodes and questions for every engine, so that what one loses against another is told question by
question. What the questions are is decided in `egolive.train.data.questions`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from egolive.assistant.live.assistant import Assistant
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Engine
from egolive.streaming.frames import Box, Frame, Slice, Window
from egolive.streaming.pipeline.windowing import Windows
from egolive.train.data.questions import Asked, window_questions
from egolive.train.evaluate.evaluate import FPS, grounding_truth, render_at
from egolive.train.evaluate.measures import bootstrap, mean, same_text
from egolive.train.simulator.episode import FrameTruth, Plan, episode_of, plan_episode

__all__ = ["Given", "agreement", "ask_episodes", "loss", "same_box", "scores_of", "windows_of"]

Kind = Literal["box", "absent", "intent", "next", "when"]
_HOP = 2
"""Slices from one window that is asked about to the next."""
_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Given:
    """One question, what was said, and what that is worth."""

    episode: int
    kind: Kind
    score: float
    """Boxes and intervals: overlap with the true one; everything else: 1 where it is right."""
    text: str
    box: Box | None


def ask_episodes(
    engine: Engine, episodes: int, *, seed: int = 0, slices: int = 8, told: Callable[[], None] = lambda: None
) -> list[Given]:
    """Ask an engine about held-out episodes.

    Args:
        engine: Answers greedily.
        episodes: How many of the simulator's test split.
        seed: Of the simulator.
        slices: In a full window.
        told: Called after each episode.
    """
    given: list[Given] = []
    with Assistant(engine) as assistant:
        for index in range(episodes):
            plan = plan_episode(index, seed=seed, split="test")
            rng = random.Random(f"compare {seed} {index}")
            assistant.forget()
            for window, truth in windows_of(plan, slices):
                span = window.interval
                boxes = [Asked(Question("ground", phrase), box=box) for phrase, box in grounding_truth(truth)]
                asked = boxes + window_questions(episode_of(plan, fps=FPS), span.start, span.end, rng)
                answers = assistant.answer([one.question for one in asked], window=window)
                given += [_judge(index, one, answer) for one, answer in zip(asked, answers, strict=True)]
            told()
    return given


def scores_of(given: Sequence[Given], kind: Kind) -> list[float]:
    """The scores of one kind of question."""
    return [one.score for one in given if one.kind == kind]


def agreement(before: Sequence[Given], after: Sequence[Given]) -> float:
    """Share of the questions that both engines answer with the same words and the same box."""
    pairs = zip(before, after, strict=True)
    return mean([one.text == other.text and _corners(one) == _corners(other) for one, other in pairs])


def loss(before: Sequence[Given], after: Sequence[Given], kind: Kind) -> tuple[float, float, float]:
    """Mean loss from one engine to another on the same questions, and its 95 % interval.

    Episodes are drawn with repetition, not questions: those of one episode hang together.

    Returns:
        Mean, lower and upper bound; above 0 where the second one is worse.
    """
    pairs = [(one, other) for one, other in zip(before, after, strict=True) if one.kind == kind]
    lost = [one.score - other.score for one, other in pairs]
    return mean(lost), *bootstrap(lost, groups=[one.episode for one, _ in pairs], draws=_DRAWS)


def same_box(before: Sequence[Given], after: Sequence[Given]) -> float:
    """Mean overlap of two engines' boxes, 0 where one of them gives none, over what either of them gives."""
    pairs = [(one.box, other.box) for one, other in zip(before, after, strict=True) if one.box or other.box]
    return mean([one.iou(other) if one is not None and other is not None else 0.0 for one, other in pairs])


def _corners(given: Given) -> list[float]:
    """Of the box, without its score, which differs in the last digits."""
    return list(given.box) if given.box else []


def windows_of(plan: Plan, slices: int) -> Iterator[tuple[Window, FrameTruth]]:
    """Windows through an episode as a stream has them, each with what its newest frame shows.

    They grow from half of `slices` to one less than `slices`, and begin anew.
    """
    windows = Windows(max(1, slices // 2))
    for number in range(int(plan.duration * FPS) // 2):
        times = [(2 * number + place) / FPS for place in (0, 1)]
        (first, _), (second, truth) = (render_at(plan, time) for time in times)
        frames = Frame(first, times[0], 2 * number), Frame(second, times[1], 2 * number + 1)
        window = windows.push(Slice(*frames, number))
        if number % _HOP == _HOP - 1:
            # Nothing is read ahead: what the next window begins with would be read twice.
            yield replace(window, successor=0), truth


def _judge(episode: int, asked: Asked, answer: Answer) -> Given:
    box = answer.boxes[0] if answer.boxes else None
    kind: Kind
    if asked.question.task == "ground":
        kind = "box" if asked.box is not None else "absent"
        right = float(answer.absent) if asked.box is None else asked.box.iou(box) if box else 0.0
    elif asked.interval is not None:
        kind = "when"
        right = max((asked.interval.iou(found) for found in answer.intervals[:1]), default=0.0)
    else:
        kind = "intent" if asked.question.task == "intent" else "next"
        right = float(same_text(answer.text, asked.text))
    return Given(episode, kind, right, answer.text, box)
