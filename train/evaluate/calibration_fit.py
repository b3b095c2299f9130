"""Fits what scores mean to answers whose truth is known, and measures how far probabilities are off.

Pure functions. A point is a score that an answer had, and whether the answer was right; what "right" means is
told by `egolive.assistant.prompts.score_calibration.KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egolive.assistant.prompts.score_calibration import KINDS, kind_of
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.profiles import Calibration, Curve
from egolive.streaming.frames import Box, Interval
from egolive.train.evaluate.measures import mean
from egolive.train.evaluate.result_files import Record

__all__ = [
    "GROUPS",
    "Point",
    "calibration_error",
    "coverage_curve",
    "fit_calibration",
    "fit_curve",
    "measured",
    "points_of",
]

GROUPS: Mapping[str, tuple[str, ...]] = {
    "box": ("hand", "object", "box"),
    "words": ("intent", "next"),
    "none": ("none",),
    "when": ("when",),
}
"""Kinds of answers that are measured together."""

_BINS = 10
"""Of the calibration error, of equal width."""
_STEPS = 16
"""Most points of a curve."""
_LEAST = 20
"""Answers behind each of them."""
FEWEST = 100
"""Answers of a kind without which it gets no curve."""


@dataclass(frozen=True, slots=True)
class Point:
    """One answer whose truth is known."""

    kind: str
    score: float
    right: bool


def points_of(records: Sequence[Record]) -> list[Point]:
    """The points of results of `egolive evaluate`; answers without a score have none."""
    return [point for record in records if (point := _point(record)) is not None]


def _point(record: Record) -> Point | None:
    said, values = record["said"], record["values"]
    task = record.get("task") or record.get("kind")
    if task not in ("ground", "when", "intent", "next") or said.get("score") is None:
        return None
    answer = Answer(
        Question(task, record.get("phrase", "") or ("?" if task in ("ground", "when") else "")),
        said["text"],
        boxes=tuple(Box(*corners) for corners in said.get("boxes", [])),
        intervals=tuple(Interval(*ends) for ends in said.get("intervals", [])),
        absent=said["absent"],
        status=said["status"],
    )
    kind = kind_of(answer)
    if kind is None:
        return None
    if kind == "none":
        right = record["truth"] is None
    elif kind == "when":
        right = values.get("interval_miou", 0.0) >= 0.5
    elif kind in ("intent", "next"):
        right = values.get(f"{kind}_acc", 0.0) == 1.0
    else:
        right = max(values.get(f"{name}_miou", 0.0) for name in ("hand", "object", "box")) >= 0.5
    return Point(kind, float(said["score"]), bool(right))


def fit_calibration(points: Sequence[Point], *, threshold: float, fitted_on: str) -> Calibration:
    """A curve for each kind of answer of which there are enough.

    Args:
        points: of held-out answers.
        threshold: probability below which an answer is "not sure".
        fitted_on: in words, for the profile.
    """
    curves = []
    for kind in KINDS:
        mine = [point for point in points if point.kind == kind]
        if len(mine) >= FEWEST:
            curves.append(fit_curve(kind, [p.score for p in mine], [p.right for p in mine]))
    return Calibration(tuple(curves), threshold, fitted_on)


def fit_curve(kind: str, scores: Sequence[float], right: Sequence[bool]) -> Curve:
    """Isotonic regression in steps of enough answers, straight between their means.

    Pool adjacent violators (Ayer et al. 1955): neighbouring steps are joined while the later one is right
    less often. Each step counts one right and one wrong answer more than it has, so that no probability is 0
    or 1 because of few answers.

    Args:
        kind: of the answers.
        scores: that they had, from 0 to 1.
        right: whether each was.
    """
    order = np.argsort(np.asarray(scores, float), kind="stable")
    values, hits = np.asarray(scores, float)[order], np.asarray(right, float)[order]
    count = max(1, min(_STEPS, len(values) // _LEAST))
    blocks: list[tuple[float, float, float]] = []
    """(sum of scores, right answers, answers) of each step, in order."""
    for part in _parts(values, count):
        blocks.append((float(values[part].sum()), float(hits[part].sum()), float(len(values[part]))))
        while len(blocks) > 1 and _chance(blocks[-2]) >= _chance(blocks[-1]):
            one, other = blocks.pop(), blocks.pop()
            blocks.append((one[0] + other[0], one[1] + other[1], one[2] + other[2]))
    means = tuple(round(total / n, 6) for total, _, n in blocks)
    chances = tuple(round(_chance(block), 4) for block in blocks)
    # Rounding may leave two steps at one score.
    kept = [number for number in range(len(means)) if number == 0 or means[number] > means[number - 1]]
    return Curve(kind, tuple(means[number] for number in kept), tuple(chances[number] for number in kept))


def _parts(values: NDArray[np.float64], count: int) -> list[slice]:
    """So many stretches of sorted values, of about as many each; equal values stay together."""
    edges = [0]
    for number in range(1, count):
        edge = int(np.searchsorted(values, values[number * len(values) // count], side="left"))
        if edge > edges[-1]:
            edges.append(edge)
    return [slice(start, stop) for start, stop in zip(edges, [*edges[1:], len(values)], strict=True)]


def _chance(block: tuple[float, float, float]) -> float:
    return (block[1] + 1) / (block[2] + 2)


def calibration_error(chances: Sequence[float], right: Sequence[bool]) -> float:
    """Expected calibration error in ten bins of equal width (Guo et al. 2017); NaN of nothing.

    Args:
        chances: probabilities that answers are right.
        right: whether each was.
    """
    if not len(chances):
        return float("nan")
    said, hits = np.asarray(chances, float), np.asarray(right, float)
    bins = np.minimum((said * _BINS).astype(int), _BINS - 1)
    gaps = (abs(float((said[bins == n] - hits[bins == n]).sum())) for n in range(_BINS))
    return sum(gaps) / len(said)


def coverage_curve(chances: Sequence[float], right: Sequence[bool]) -> tuple[list[float], list[float]]:
    """Share of the answers that are kept, the most probable first, and the share of those that are right."""
    order = np.argsort(-np.asarray(chances, float), kind="stable")
    hits = np.asarray(right, float)[order]
    kept = np.arange(1, len(hits) + 1)
    return (kept / max(1, len(hits))).tolist(), (np.cumsum(hits) / kept).tolist()


def measured(points: Sequence[Point], calibration: Calibration) -> dict[str, Any]:
    """How good the probabilities of a calibration are on other answers than it was fitted to.

    Returns:
        For each group with answers `box_ece`, `box_ece_raw` (of the model's own scores), `box_n`, `box_right`
        (share of right answers), `box_unsure` (share below the threshold), `box_right_sure` (share of right
        ones of the others); likewise `words`, `none` and `when`; and `kinds`, the same of each kind.
    """
    found: dict[str, Any] = {}
    for group, kinds in GROUPS.items():
        found |= _figures(f"{group}_", [point for point in points if point.kind in kinds], calibration)
    of_kinds = {kind: _figures("", [p for p in points if p.kind == kind], calibration) for kind in KINDS}
    return found | {"kinds": {kind: figures for kind, figures in of_kinds.items() if figures}}


def _figures(prefix: str, points: Sequence[Point], calibration: Calibration) -> dict[str, Any]:
    told = [(curve.at(p.score), p) for p in points if (curve := calibration.curve(p.kind)) is not None]
    if not told:
        return {}
    chances, right = [chance for chance, _ in told], [point.right for _, point in told]
    sure = [point.right for chance, point in told if chance >= calibration.threshold]
    values = {
        "ece": calibration_error(chances, right),
        "ece_raw": calibration_error([point.score for _, point in told], right),
        "right": mean(right),
        "unsure": 1 - len(sure) / len(told),
        "right_sure": mean(sure),
    }
    shown = {f"{prefix}{name}": None if np.isnan(v) else round(v, 4) for name, v in values.items()}
    return {**shown, f"{prefix}n": len(told)}
