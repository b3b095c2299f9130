"""Scores of the answers about simulated episodes, under the names that other programs read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from egolive.assistant.schema.answers import Answer, Question
from egolive.streaming.frames import Box, Interval
from egolive.train.data.questions import HANDS
from egolive.train.evaluate.figures import Figures, add_figure, rounded
from egolive.train.evaluate.measures import (
    bag_of_objects_accuracy,
    balanced_accuracy,
    best_constant_box,
    best_constant_interval,
    majority_share,
    same_text,
)
from egolive.train.evaluate.result_files import Record

__all__ = ["Scores", "record", "report", "scores_of"]


@dataclass(slots=True)
class Scores:
    """What was asked and answered, by kind of question."""

    hands: list[tuple[Box | None, Answer]] = field(default_factory=list)
    objects: list[tuple[Box | None, Answer]] = field(default_factory=list)
    intents: list[tuple[str, str]] = field(default_factory=list)
    """(truth, said) pairs; likewise below."""
    bags: list[tuple[frozenset[str], str]] = field(default_factory=list)
    """Things visible in the windows asked about their intent, and the goal."""
    nexts: list[tuple[str, str]] = field(default_factory=list)
    whens: list[tuple[Interval, Answer, Interval]] = field(default_factory=list)
    """(truth, answer, window)."""
    owners: dict[str, list[int]] = field(default_factory=dict)
    """The episode of each entry, by the name of its list; without it, each stands for itself."""


def record(
    episode: int, time: float, question: Question, truth: object, answer: Answer, **more: object
) -> Record:
    """One question, its truth and what was said, as plain values; `more` goes in as it is."""
    said: dict[str, object] = {"text": answer.text, "absent": answer.absent, "status": answer.status}
    said["boxes"] = [list(box) for box in answer.boxes]
    said["intervals"] = [[i.start, i.end] for i in answer.intervals]
    said["score"] = answer.score
    asked = {"task": question.task, "phrase": question.phrase}
    name = f"{episode} {time:.3f} {question.task} {question.phrase}".rstrip()
    found: Record = {"id": name, "episode": episode, "time": round(time, 3), **asked, "truth": truth}
    return {**found, **more, "said": said, "values": values_of(question, truth, answer)}


def scores_of(records: Sequence[Record]) -> Scores:
    """What a file of results says was asked and answered."""
    scores = Scores()
    for line in records:
        question = Question(line["task"], line["phrase"])
        told, truth = line["said"], line["truth"]
        answer = Answer(
            question,
            told["text"],
            boxes=tuple(Box(*corners) for corners in told["boxes"]),
            intervals=tuple(Interval(*ends) for ends in told["intervals"]),
            absent=told["absent"],
            status=told["status"],
        )
        if question.task == "ground":
            box = replace(Box(*truth), label=question.phrase) if truth else None
            kind = "hands" if question.phrase in HANDS else "objects"
            (scores.hands if kind == "hands" else scores.objects).append((box, answer))
        elif question.task == "intent":
            kind = "intents"
            scores.intents.append((truth, answer.text))
            scores.bags.append((frozenset(line["bag"]), truth))
        elif question.task == "next":
            kind = "nexts"
            scores.nexts.append((truth, answer.text))
        else:
            kind = "whens"
            scores.whens.append((Interval(*truth), answer, Interval(*line["window"])))
        scores.owners.setdefault(kind, []).append(line["episode"])
    return scores


def values_of(question: Question, truth: object, answer: Answer) -> dict[str, float]:
    """What an answer is worth, by measure; what is absent counts in the balanced figures alone."""
    if question.task == "ground" and isinstance(truth, list):
        iou = max((Box(*truth).iou(box) for box in answer.boxes[:1]), default=0.0)
        return {"hand_miou" if question.phrase in HANDS else "object_miou": iou}
    if question.task == "when" and isinstance(truth, list):
        iou = max((Interval(*truth).iou(said) for said in answer.intervals[:1]), default=0.0)
        return {"interval_miou": iou, "interval_r1_iou50": float(iou >= 0.5)}
    if isinstance(truth, str):
        return {f"{question.task}_acc": float(same_text(answer.text, truth))}
    return {}


def report(scores: Scores, train_bags: Sequence[tuple[frozenset[str], str]]) -> Figures:
    """All figures, under the names that other programs read; intervals by drawing episodes."""
    figures: Figures = {}
    owners = scores.owners

    def add(
        name: str, values: Sequence[float] | Sequence[bool], chance: float, groups: Sequence[int] | None
    ) -> None:
        add_figure(figures, name, values, chance, groups=groups)

    for name, pairs in (("hand", scores.hands), ("object", scores.objects)):
        there = [(box, answer) for box, answer in pairs if box is not None]
        from_there = [
            o for o, (box, _) in zip(owners.get(f"{name}s", ()), pairs, strict=False) if box is not None
        ]
        overlaps = [max((box.iou(b) for b in answer.boxes[:1]), default=0.0) for box, answer in there]
        add(f"{name}_miou", overlaps, best_constant_box([box for box, _ in there]), from_there or None)
        absent = [box is None for box, _ in pairs]
        # An answer that cannot be read is wrong either way.
        said = [answer.absent if box is None else not answer.boxes for box, answer in pairs]
        figures[f"{name}_absent_acc"] = rounded(balanced_accuracy(absent, said))
        figures[f"{name}_absent_acc_chance"] = 0.5
        figures[f"{name}_absent_acc_n"] = len(pairs)
    add(
        "intent_acc",
        [same_text(s, t) for t, s in scores.intents],
        majority_share([t for t, _ in scores.intents]),
        owners.get("intents"),
    )
    figures["intent_acc_bag_of_objects"] = rounded(bag_of_objects_accuracy(train_bags, scores.bags))
    right, commonest = (
        [same_text(s, t) for t, s in scores.nexts],
        majority_share([t for t, _ in scores.nexts]),
    )
    add("next_acc", right, commonest, owners.get("nexts"))
    overlaps = [max((truth.iou(i) for i in a.intervals[:1]), default=0.0) for truth, a, _ in scores.whens]
    chance = best_constant_interval([truth.shift(-window.start) for truth, _, window in scores.whens])
    add("interval_miou", overlaps, chance, owners.get("whens"))
    add("interval_r1_iou50", [value >= 0.5 for value in overlaps], float("nan"), owners.get("whens"))
    figures.pop("interval_r1_iou50_chance")
    kinds = (scores.hands, scores.objects, scores.intents, scores.nexts, scores.whens)
    figures["n"] = sum(len(kind) for kind in kinds)
    return figures
