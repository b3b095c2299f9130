"""Scores boxes of hands and held things against labelled pictures, and what is shown over a video.

Pure functions. A found hand is matched with at most one true hand of its picture, the best overlap first,
whatever side it is said to be; whether the side is right is a figure of its own. Intervals are found by
drawing pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from egolive.streaming.frames import Box
from egolive.train.evaluate.measures import bootstrap, mean

__all__ = ["Label", "Labelled", "Shown", "difference_of", "figures_of", "video_figures"]

HIT = 0.3
"""IoU from which a box counts as found; labels by eye are ±10 pixels."""
GOOD = 0.5
FRESH = 0.3
"""Seconds: a box carried for so long still lies on its hand."""
_HELD = "object in the "


@dataclass(frozen=True, slots=True)
class Label:
    """A true box."""

    box: Box
    """In pixels of the picture."""
    hand: bool
    """A hand, else a thing that is held."""
    sides: tuple[str, ...]
    """left, right or both: whose hand it is, or whose holds it."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture whose hands and held things are known, with what a source found in it."""

    size: tuple[int, int]
    """Width and height in pixels."""
    labels: tuple[Label, ...]
    """Empty for a picture without hands."""
    found: tuple[Box, ...]
    """Labels are "left hand", "right hand" and "object in the left hand" or right."""

    def others(self, picture: Labelled) -> Labelled:
        """This picture with what was found in another one, stretched to its size."""
        across, down = (mine / theirs for mine, theirs in zip(self.size, picture.size, strict=True))
        moved = (
            replace(box, x1=box.x1 * across, x2=box.x2 * across, y1=box.y1 * down, y2=box.y2 * down)
            for box in picture.found
        )
        return replace(self, found=tuple(moved))


@dataclass(frozen=True, slots=True)
class Shown:
    """The hand boxes that are shown with one picture of a video, with their ages in seconds."""

    time: float
    hands: tuple[tuple[Box, float], ...]


@dataclass(slots=True)
class _Values:
    """Values of many pictures, each with the number of its picture."""

    hands: list[tuple[int, float]]
    """IoU of each true hand with the box that was matched with it."""
    boxes: list[tuple[int, bool]]
    """Whether each found hand hits one."""
    sides: list[tuple[int, bool]]
    """Whether the side of each hit hand is right."""
    objects: list[tuple[int, float]]
    """IoU of each held thing with the best box that was found for its hand."""


def figures_of(pictures: Sequence[Labelled]) -> dict[str, Any]:
    """All figures of one source.

    Returns:
        `hand_iou30` and `hand_iou50` (shares of the true hands that are hit), `hand_side_iou30` (hit by a box
        of the right side), `hand_miou`, `hand_precision` (share of hand boxes that hit, pictures with hands),
        `side_acc` (of the hands that are hit), `object_iou30`, `object_iou50`, each with `_ci` and `_n`;
        `false_hand_boxes`, hand boxes in pictures without hands, null where there are none, and
        `hand_free_n`; `n`, labelled pictures; `shuffled`, the same of boxes that were found in the other
        pictures.
    """
    labelled = [picture for picture in pictures if picture.labels]
    free = [picture for picture in pictures if not picture.labels]
    values = _values_of(enumerate(labelled))
    found = _means(values)
    found["false_hand_boxes"] = sum(len(_hands(picture)) for picture in free) if free else None
    found["hand_free_n"] = len(free)
    found["n"] = len(pictures)
    # Every other picture's boxes, not one drawing of them.
    crossed = [
        (number, picture.others(other))
        for number, picture in enumerate(labelled)
        for other in labelled
        if other is not picture
    ]
    control = _means(_values_of(crossed))
    kept = ("hand_iou30", "hand_iou50", "hand_miou", "hand_precision", "object_iou30", "object_iou50")
    found["shuffled"] = {name: control[name] for name in kept}
    return found


def difference_of(one: Sequence[Labelled], other: Sequence[Labelled]) -> dict[str, Any]:
    """How many more hands one source finds than another in the same pictures, hand by hand.

    Returns:
        `hand_iou30` and `hand_iou50`, differences of the shares, each with `_ci`.
    """
    found: dict[str, Any] = {}
    pairs = [
        _values_of(enumerate(picture for picture in looked if picture.labels)) for looked in (one, other)
    ]
    for name, limit in (("hand_iou30", HIT), ("hand_iou50", GOOD)):
        hits = [
            (number, float(mine >= limit) - float(theirs >= limit))
            for (number, mine), (_, theirs) in zip(pairs[0].hands, pairs[1].hands, strict=True)
        ]
        column = [value for _, value in hits]
        edges = bootstrap(column, groups=[number for number, _ in hits])
        found[name] = _rounded(mean(column))
        found[f"{name}_ci"] = [_rounded(edge) for edge in edges]
    return found


def _values_of(pictures: Any) -> _Values:
    values = _Values([], [], [], [])
    for number, picture in pictures:
        hands, boxes = [label for label in picture.labels if label.hand], _hands(picture)
        pairs = _matched([label.box for label in hands], boxes)
        for place, label in enumerate(hands):
            at = pairs.get(place)
            iou = label.box.iou(boxes[at]) if at is not None else 0.0
            values.hands.append((number, iou))
            if at is not None and iou >= HIT:
                values.sides.append((number, _side(boxes[at]) in label.sides))
        hits = {at for place, at in pairs.items() if hands[place].box.iou(boxes[at]) >= HIT}
        values.boxes += [(number, at in hits) for at in range(len(boxes))]
        for label in picture.labels:
            if not label.hand:
                mine = [box for box in picture.found if _holds(box, label.sides)]
                values.objects.append((number, max((label.box.iou(box) for box in mine), default=0.0)))
    return values


def _matched(truths: Sequence[Box], boxes: Sequence[Box]) -> dict[int, int]:
    """Places of true boxes with those of the found boxes that go with them, the best overlap first."""
    overlaps = [
        (truth.iou(box), place, at) for place, truth in enumerate(truths) for at, box in enumerate(boxes)
    ]
    pairs: dict[int, int] = {}
    for iou, place, at in sorted(overlaps, key=lambda one: -one[0]):
        if iou > 0 and place not in pairs and at not in pairs.values():
            pairs[place] = at
    return pairs


def _means(values: _Values) -> dict[str, Any]:
    right_side = [(number, float(hit)) for number, hit in values.sides]
    sided = sum(hit for _, hit in right_side)
    found: dict[str, Any] = {}
    for name, numbered in (
        ("hand_iou30", [(number, float(iou >= HIT)) for number, iou in values.hands]),
        ("hand_iou50", [(number, float(iou >= GOOD)) for number, iou in values.hands]),
        ("hand_miou", values.hands),
        ("hand_precision", [(number, float(hit)) for number, hit in values.boxes]),
        ("side_acc", right_side),
        ("object_iou30", [(number, float(iou >= HIT)) for number, iou in values.objects]),
        ("object_iou50", [(number, float(iou >= GOOD)) for number, iou in values.objects]),
    ):
        column = [value for _, value in numbered]
        edges = bootstrap(column, groups=[number for number, _ in numbered])
        found[name] = _rounded(mean(column))
        found[f"{name}_ci"] = [_rounded(edge) for edge in edges]
        found[f"{name}_n"] = len(column)
    found["hand_side_iou30"] = _rounded(sided / len(values.hands)) if values.hands else None
    return found


def video_figures(shown: Sequence[Shown]) -> dict[str, Any]:
    """What was shown over one video.

    Returns:
        `pictures`; `hand_share`, the share of them with a hand box, and `fresh_share`, with one younger than
        0.3 s; `age_p95` of the hand boxes, seconds; `flicker`: of the hand boxes of a picture, the share that
        is gone in the next one, or has moved to an IoU below 0.3; `pictures_per_s`.
    """
    ages = [age for moment in shown for _, age in moment.hands]
    gone = []
    for before, after in pairwise(shown):
        next_boxes = {box.label: box for box, _ in after.hands}
        for box, _ in before.hands:
            other = next_boxes.get(box.label)
            gone.append(other is None or box.iou(other) < HIT)
    length = shown[-1].time - shown[0].time if len(shown) > 1 else 0.0
    return {
        "pictures": len(shown),
        "hand_share": _rounded(mean([bool(moment.hands) for moment in shown])),
        "fresh_share": _rounded(mean([any(age < FRESH for _, age in moment.hands) for moment in shown])),
        "age_p95": _rounded(float(np.percentile(ages, 95))) if ages else None,
        "flicker": _rounded(mean(gone)),
        "pictures_per_s": _rounded((len(shown) - 1) / length) if length > 0 else None,
    }


def _hands(picture: Labelled) -> list[Box]:
    return [box for box in picture.found if not box.label.startswith(_HELD)]


def _side(box: Box) -> str:
    return box.label.removeprefix(_HELD).removesuffix(" hand")


def _holds(box: Box, sides: Sequence[str]) -> bool:
    return box.label.startswith(_HELD) and _side(box) in sides


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)
