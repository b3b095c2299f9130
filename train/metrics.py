"""Measures of answers against truth, with their confidence intervals and chance levels. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from egolive.streaming.frames import Box, Interval

__all__ = [
    "bag_of_objects_accuracy",
    "balanced_accuracy",
    "best_constant_box",
    "best_constant_interval",
    "bootstrap",
    "constant_box_overlaps",
    "constant_interval_overlaps",
    "majority_share",
    "mean",
    "same_text",
]


def mean(values: Sequence[float] | Sequence[bool]) -> float:
    """The mean, or NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")


def bootstrap(
    values: Sequence[float] | Sequence[bool],
    *,
    groups: Sequence[int] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of the mean, by resampling the values.

    Args:
        values: what the mean is of.
        groups: what each value belongs to, as its episode: groups are then drawn with all their values,
            because questions about one episode go wrong together.
        draws: how often.
        seed: of the draws.
    """
    if not len(values):
        return float("nan"), float("nan")
    _, owners = np.unique(
        np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True
    )
    sums, counts = np.bincount(owners, np.asarray(values, float)), np.bincount(owners)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, len(sums), len(sums)) for _ in range(draws))
    means = [sums[places].sum() / counts[places].sum() for places in drawn]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def balanced_accuracy(truth: Sequence[bool], said: Sequence[bool]) -> float:
    """Mean of the accuracies on either class; 0.5 is chance, whatever the shares."""
    pairs = list(zip(truth, said, strict=True))
    return (mean([s for t, s in pairs if t]) + mean([not s for t, s in pairs if not t])) / 2


def same_text(said: str, truth: str) -> bool:
    """Equal but for case, outer blanks and a full stop."""
    return said.strip().rstrip(".").casefold() == truth.strip().rstrip(".").casefold()


def majority_share(truths: Sequence[str]) -> float:
    """What always giving the commonest answer would score."""
    return Counter(truths).most_common(1)[0][1] / len(truths) if truths else float("nan")


def best_constant_box(boxes: Sequence[Box]) -> float:
    """Mean IoU of each label's median box with that label's boxes.

    It is what a model scores that reads the question and never looks.
    """
    return mean(constant_box_overlaps(boxes))


def constant_box_overlaps(boxes: Sequence[Box]) -> list[float]:
    """IoU of each box with the median box of its label, label by label."""
    overlaps: list[float] = []
    for label in sorted({box.label for box in boxes}):
        same = [box for box in boxes if box.label == label]
        middle = Box(*np.median([tuple(box) for box in same], axis=0).tolist())
        overlaps += [middle.iou(box) for box in same]
    return overlaps


def best_constant_interval(intervals: Sequence[Interval]) -> float:
    """Mean IoU of the median interval with all of them."""
    return mean(constant_interval_overlaps(intervals))


def constant_interval_overlaps(intervals: Sequence[Interval]) -> list[float]:
    """IoU of each interval with the median one."""
    if not intervals:
        return []
    start, end = np.median([(i.start, i.end) for i in intervals], axis=0).tolist()
    return [Interval(start, max(start, end)).iou(i) for i in intervals]


def bag_of_objects_accuracy(
    train: Sequence[tuple[frozenset[str], str]], test: Sequence[tuple[frozenset[str], str]]
) -> float:
    """Accuracy of naming the goal from the set of visible things alone.

    Bernoulli naive Bayes with add-one smoothing.

    Args:
        train: (visible kinds, goal) of windows to learn from.
        test: the windows to name.
    """
    goals = sorted({goal for _, goal in train})
    kinds = sorted({kind for bag, _ in train for kind in bag})
    bags = np.array([[kind in bag for kind in kinds] for bag, _ in train], float)
    of_goal = np.array([[goal == g for g in goals] for _, goal in train], float)
    count = of_goal.sum(0)
    share = (of_goal.T @ bags + 1) / (count[:, None] + 2)
    prior = np.log(count / count.sum())
    right = []
    for bag, goal in test:
        seen = np.array([kind in bag for kind in kinds], float)
        score = prior + seen @ np.log(share.T) + (1 - seen) @ np.log(1 - share.T)
        right.append(goals[int(score.argmax())] == goal)
    return mean(right)
