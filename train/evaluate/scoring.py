"""What the answers to examples are worth: values of one answer, and the figures of many. Pure functions.

An answer that cannot be read is worth 0 in every measure. Of several boxes or intervals the first counts.
The paper's "Loc-Acc" is nowhere defined, and no IoU threshold above 0.44 fits its numbers: accuracies at
three thresholds and the share of boxes whose centre lies in the true box stand here under their own names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from egolive.assistant.schema.answers import Answer
from egolive.assistant.schema.coordinates import Size
from egolive.streaming.frames import Box, Interval
from egolive.train.data.choices import letter_of, said_yes
from egolive.train.data.questions import HANDS
from egolive.train.evaluate.examples import Example
from egolive.train.evaluate.figures import Figures, add_figure, rounded
from egolive.train.evaluate.measures import (
    balanced_accuracy,
    constant_box_overlaps,
    constant_interval_overlaps,
    majority_share,
    mean,
    same_text,
)
from egolive.train.evaluate.result_files import Record

__all__ = ["figures_of", "record_of"]

BOX_THRESHOLDS = (0.25, 0.3, 0.5)
INTERVAL_THRESHOLDS = (0.05, 0.3, 0.5, 0.7)


def record_of(example: Example, answer: Answer, *, size: Size) -> Record:
    """The line of a file of results for one answer.

    Args:
        example: what was asked.
        answer: what was said.
        size: width and height that the true box is in.
    """
    row, question = example.row, example.row.question
    said: dict[str, object] = {"text": answer.text, "status": answer.status, "absent": answer.absent}
    said["score"] = answer.score
    record: Record = {"id": example.id, "kind": example.kind}
    if example.kind == "ground":
        box = answer.boxes[0] if answer.boxes else None
        said["boxes"] = [list(one) for one in answer.boxes]
        truth: object = list(row.box) if row.box else None
        record |= {"phrase": question.phrase if question else "", "size": list(size)}
        values = _box_values(record["phrase"], row.box, box)
    elif example.kind == "when":
        said["intervals"] = [[one.start, one.end] for one in answer.intervals]
        truth = [row.interval.start, row.interval.end] if row.interval else None
        record["phrase"] = question.phrase if question else ""
        values = _interval_values(row.interval, answer.intervals[0] if answer.intervals else None)
    elif example.kind == "words":
        truth = row.text
        task = question.task if question else "ask"
        record["task"] = task
        values = {f"{task}_acc": float(same_text(answer.text, row.text))}
    else:
        truth = example.letter
        letter = (
            letter_of(answer.text, example.options) if example.kind == "choice" else said_yes(answer.text)
        )
        said["letter"] = letter
        record["options"] = len(example.options)
        values = {f"{example.kind}_acc": float(letter == example.letter)}
    return record | {"truth": truth, "said": said, "values": values}


def figures_of(records: Sequence[Record]) -> Figures:
    """All figures of a file of results: means with their intervals, chance levels, and what is no mean."""
    figures: Figures = {"n": len(records)}
    columns: dict[str, list[float]] = {}
    for record in records:
        for name, value in record["values"].items():
            columns.setdefault(name, []).append(value)
    chances = _chances(records)
    for name, column in columns.items():
        add_figure(figures, name, column, chances.get(name))
    _absence(figures, "box", [record for record in records if record["kind"] == "ground"], "boxes")
    _absence(figures, "interval", [record for record in records if record["kind"] == "when"], "intervals")
    choices = [record for record in records if record["kind"] in ("choice", "exists")]
    if choices:
        figures["unread"] = rounded(mean([not record["said"]["letter"] for record in choices]))
        figures["unread_n"] = len(choices)
    _existence(figures, [record for record in records if record["kind"] == "exists"])
    return figures


def _box_values(phrase: str, truth: Box | None, said: Box | None) -> dict[str, float]:
    """Measures of a box, under the name of all boxes and of hands or other things."""
    if truth is None:
        return {}
    iou = said.iou(truth) if said else 0.0
    centre = ((said.x1 + said.x2) / 2, (said.y1 + said.y2) / 2) if said else (float("nan"),) * 2
    inside = truth.x1 <= centre[0] <= truth.x2 and truth.y1 <= centre[1] <= truth.y2
    values = {}
    for group in ("box", "hand" if phrase.removeprefix("the ") in HANDS else "object"):
        values[f"{group}_miou"] = iou
        for threshold in BOX_THRESHOLDS:
            values[_accuracy(group, threshold)] = float(iou >= threshold)
        values[f"{group}_centre_in_box"] = float(inside)
    return values


def _interval_values(truth: Interval | None, said: Interval | None) -> dict[str, float]:
    if truth is None:
        return {}
    iou = said.iou(truth) if said else 0.0
    values = {"interval_miou": iou}
    for threshold in INTERVAL_THRESHOLDS:
        values[_recall(threshold)] = float(iou >= threshold)
    return values


def _accuracy(group: str, threshold: float) -> str:
    return f"{group}_acc_iou{threshold * 100:.0f}"


def _recall(threshold: float) -> str:
    return f"interval_r1_iou{threshold * 100:02.0f}"


def _chances(records: Sequence[Record]) -> dict[str, float]:
    """What an answer scores that does not look: constant boxes and intervals, the commonest answer."""
    boxes = [_share(record) for record in records if record["kind"] == "ground" and record["truth"]]
    hands = [box for box in boxes if box.label.removeprefix("the ") in HANDS]
    others = [box for box in boxes if box.label.removeprefix("the ") not in HANDS]
    intervals = [
        Interval(*record["truth"]) for record in records if record["kind"] == "when" and record["truth"]
    ]
    chances = {
        "choice_acc": mean([1 / record["options"] for record in records if record["kind"] == "choice"]),
        "exists_acc": majority_share([record["truth"] for record in records if record["kind"] == "exists"]),
    }
    for name, constant in (("box", boxes), ("hand", hands), ("object", others)):
        overlaps = constant_box_overlaps(constant)
        chances[f"{name}_miou"] = mean(overlaps)
        for threshold in BOX_THRESHOLDS:
            chances[_accuracy(name, threshold)] = mean([iou >= threshold for iou in overlaps])
    overlaps = constant_interval_overlaps(intervals)
    chances["interval_miou"] = mean(overlaps)
    for threshold in INTERVAL_THRESHOLDS:
        chances[_recall(threshold)] = mean([iou >= threshold for iou in overlaps])
    for task in ("intent", "next"):
        chances[f"{task}_acc"] = majority_share(
            [record["truth"] for record in records if record.get("task") == task]
        )
    return chances


def _share(record: Mapping[str, Any]) -> Box:
    """A true box as shares of its picture, so that boxes of pictures of all sizes compare."""
    width, height = record["size"]
    x1, y1, x2, y2 = record["truth"]
    return Box(x1 / width, y1 / height, x2 / width, y2 / height, label=record["phrase"])


def _absence(figures: Figures, name: str, records: Sequence[Record], found: str) -> None:
    """Whether what is absent is said to be, and what is there not denied; only where some of it is absent."""
    absent = [record["truth"] is None for record in records]
    if not any(absent):
        return
    said = [
        record["said"]["absent"] if record["truth"] is None else not record["said"][found]
        for record in records
    ]
    figures[f"{name}_absent_acc"] = rounded(balanced_accuracy(absent, said))
    figures[f"{name}_absent_acc_chance"] = 0.5
    figures[f"{name}_absent_acc_n"] = len(records)


def _existence(figures: Figures, records: Sequence[Record]) -> None:
    """POPE's other figures: how good a yes is, and how often it comes; unread answers are no yes."""
    if not records:
        return
    yes = [record["said"]["letter"] == "yes" for record in records]
    there = [record["truth"] == "yes" for record in records]
    hits = sum(y and t for y, t in zip(yes, there, strict=True))
    precision = hits / sum(yes) if any(yes) else float("nan")
    recall = hits / sum(there) if any(there) else float("nan")
    figures["exists_precision"] = rounded(precision)
    figures["exists_recall"] = rounded(recall)
    figures["exists_f1"] = rounded(
        2 * hits / (sum(yes) + sum(there)) if any(yes) or any(there) else precision
    )
    figures["exists_yes"] = rounded(mean(yes))
