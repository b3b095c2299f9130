"""Measures of answers against truth, with their confidence intervals and chance levels. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

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
    groups: Sequence[Hashable] | None = None,
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
    numbers: dict[Hashable, int] = {}
    owners = [numbers.setdefault(group, len(numbers)) for group in (groups or range(len(values)))]
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
    """What a model scores that reads the question and never looks: the mean of `constant_box_overlaps`."""
    return mean(constant_box_overlaps(boxes))


def constant_box_overlaps(boxes: Sequence[Box]) -> list[float]:
    """IoU of each box with the median of the others of its label, or of all others where it is the only one.

    Without the box itself: a rare label's median would be the answer.

    Returns:
        As many as there are boxes, label by label; 0 for a box that is alone.
    """
    overlaps: list[float] = []
    corners = np.array([tuple(box) for box in boxes])
    of_all = _medians_of_others(corners) if len(boxes) > 1 else np.full((len(boxes), 4), np.nan)
    for label in sorted({box.label for box in boxes}):
        places = [place for place, box in enumerate(boxes) if box.label == label]
        middles = _medians_of_others(corners[places]) if len(places) > 1 else of_all[places]
        overlaps += [_iou(middle, boxes[place]) for place, middle in zip(places, middles, strict=True)]
    return overlaps


def best_constant_interval(intervals: Sequence[Interval]) -> float:
    """What a model scores that never looks: the mean of `constant_interval_overlaps`."""
    return mean(constant_interval_overlaps(intervals))


def constant_interval_overlaps(intervals: Sequence[Interval]) -> list[float]:
    """IoU of each interval with the median of the others; 0 for one that is alone."""
    if len(intervals) < 2:
        return [0.0] * len(intervals)
    middles = _medians_of_others(np.array([(i.start, i.end) for i in intervals])).tolist()
    return [
        Interval(start, max(start, end)).iou(one)
        for (start, end), one in zip(middles, intervals, strict=True)
    ]


def _medians_of_others(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each of (n, columns) rows, n > 1, the columns' medians without that row."""
    ordered = np.sort(values, axis=0)
    ranks = values.argsort(axis=0).argsort(axis=0)
    halves = ((len(values) - 2) // 2, (len(values) - 1) // 2)
    # What stands in the middle of the others moves by one where the row itself stands in front of it.
    low, high = (np.where(ranks > half, ordered[half], ordered[half + 1]) for half in halves)
    return np.asarray((low + high) / 2)


def _iou(corners: NDArray[np.float64], box: Box) -> float:
    return 0.0 if np.isnan(corners).any() else Box(*corners.tolist()).iou(box)


def bag_of_objects_accuracy(
    train: Sequence[tuple[frozenset[str], str]], test: Sequence[tuple[frozenset[str], str]]
) -> float:
    """Accuracy of naming the goal from the set of visible things alone.

    Bernoulli naive Bayes with add-one smoothing.

    Args:
        train: (visible kinds, goal) of windows to learn from.
        test: the windows to name; NaN without any.
    """
    if not test:
        return float("nan")
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
