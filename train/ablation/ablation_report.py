"""Results of the ablation: lines for programs, tables for the documentation, one plot.

Differences are paired: of one question the mean over the seeds of one way, less that of another, resampled
over the episodes. How far other seeds would move the means is not in these intervals.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from egolive.assistant.system import machine
from egolive.train.evaluate.compare_results import paired_bootstrap
from egolive.train.evaluate.figures import shown
from egolive.train.evaluate.measures import mean
from egolive.train.evaluate.result_files import Record

__all__ = ["MEASURES", "Run", "difference", "values_of", "write_report"]

MEASURES = {
    "hand_miou": "hand mIoU",
    "object_miou": "held mIoU",
    "both_miou": "both mIoU",
    "absent_acc": "absent",
    "intent_acc": "intent",
    "next_acc": "next",
    "interval_miou": "interval mIoU",
    "interval_r1_iou50": "interval R1@0.5",
}
"""The columns, grounding before reasoning."""
GROUNDING = ("hand_miou", "object_miou", "both_miou", "absent_acc")

WAYS = {
    "base": "base: the checkpoint that the start is made from",
    "start": "start: SFT on reasoning with few boxes",
    "sft": "+ boxes by SFT, the rows of GRPO",
    "sft-longer": "+ boxes by SFT, as long as GRPO",
    "grpo": "+ boxes by GRPO",
}
PAIRS = (
    ("start", "grpo"),
    ("start", "sft"),
    ("start", "sft-longer"),
    ("sft", "grpo"),
    ("sft-longer", "grpo"),
)

DRAWS = 2000
"""Of each bootstrap."""


@dataclass(frozen=True, slots=True)
class Run:
    """One model of the ablation with its answers."""

    way: str
    """A key of `WAYS`."""
    seed: int
    rows: int
    """Rows that it was trained on since the model before it."""
    steps: int
    seconds: float
    """Of one core, for these steps."""
    records: tuple[Record, ...]


def values_of(run: Run) -> dict[str, dict[str, float]]:
    """For each measure what each question's answer is worth.

    Whether something is there is weighed so that the mean is the balanced accuracy.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
    boxes = [line for line in run.records if line["task"] == "ground"]
    absent_ones = sum(line["truth"] is None for line in boxes)
    for line in run.records:
        for name, value in line["values"].items():
            found[name][line["id"]] = value
            if name in ("hand_miou", "object_miou"):
                found["both_miou"][line["id"]] = value
    for line in boxes:
        absent = line["truth"] is None
        right = line["said"]["absent"] if absent else bool(line["said"]["boxes"])
        alike = absent_ones if absent else len(boxes) - absent_ones
        found["absent_acc"][line["id"]] = float(right) * len(boxes) / (2 * alike)
    return found


def difference(first: Sequence[Run], second: Sequence[Run], name: str) -> tuple[float, float, float, int]:
    """By how much the runs of `second` are better: the mean, its 95 % interval, and the questions."""
    mine, theirs = (_over_seeds([values_of(run)[name] for run in runs]) for runs in (first, second))
    shared = sorted(mine.keys() & theirs.keys())
    a, b = [mine[key] for key in shared], [theirs[key] for key in shared]
    episodes = {line["id"]: line["episode"] for run in first for line in run.records}
    low, high = paired_bootstrap(a, b, groups=[episodes[key] for key in shared], draws=DRAWS)
    return mean(b) - mean(a), low, high, len(shared)


def _over_seeds(values: Sequence[dict[str, float]]) -> dict[str, float]:
    shared = set.intersection(*(set(one) for one in values))
    return {key: mean([one[key] for one in values]) for key in shared}


def write_report(out: Path, runs: Sequence[Run]) -> Path:
    """Write `runs.jsonl`, `ablation.md` and `ablation.png` from the runs that there are.

    Returns:
        The file of the tables.
    """
    out.mkdir(parents=True, exist_ok=True)
    known = machine.gather()
    with (out / "runs.jsonl").open("w", encoding="utf-8") as file:
        for run in runs:
            figures = {name: round(value, 4) for name, (value, _) in means(run).items()}
            told = {"way": run.way, "seed": run.seed, "rows": run.rows, "steps": run.steps}
            line = {**told, "core_seconds": round(run.seconds, 1), "questions": len(run.records)}
            file.write(json.dumps({**line, **figures, **known}) + "\n")
    table = out / "ablation.md"
    table.write_text(markdown(runs), encoding="utf-8")
    plot(runs, out / "ablation.png")
    return table


def means(run: Run) -> dict[str, tuple[float, int]]:
    """The mean of each measure, and its number of questions."""
    return {
        name: (mean(list(values.values())), len(values)) for name, values in values_of(run).items() if values
    }


def markdown(runs: Sequence[Run]) -> str:
    """Two tables: the figures of each way, mean over its seeds with the range; and the paired differences."""
    by_way = {way: [run for run in runs if run.way == way] for way in WAYS}
    by_way = {way: some for way, some in by_way.items() if some}
    asked = means(runs[0])
    header = ["", "seeds", "rows", "core s", *MEASURES.values()]
    lines = [header, ["---"] * len(header)]
    for way, some in by_way.items():
        found = [means(run) for run in some]
        cells = [_mean_and_range([one[name][0] for one in found if name in one]) for name in MEASURES]
        seconds = f"{mean([run.seconds for run in some]):.0f}"
        rows = f"{mean([run.rows for run in some]):.0f}"
        lines.append([WAYS[way], str(len(some)), rows, seconds, *cells])
    counts = [str(asked[name][1]) if name in asked else "" for name in MEASURES]
    lines.append(["questions", "", "", "", *counts])
    tables = ["\n".join(f"| {' | '.join(line)} |" for line in lines)]
    header = ["difference (95 % interval)", *MEASURES.values()]
    lines = [header, ["---"] * len(header)]
    for first, second in PAIRS:
        if first in by_way and second in by_way:
            cells = []
            for name in MEASURES:
                middle, low, high, count = difference(by_way[first], by_way[second], name)
                cells.append(f"{middle:+.3f} ({low:+.3f} to {high:+.3f})" if count else "")
            lines.append([f"{second} - {first}", *cells])
    tables.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(tables) + "\n"


def _mean_and_range(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = shown(mean(values))
    return middle if len(values) == 1 else f"{middle} ({shown(min(values))} to {shown(max(values))})"


def plot(runs: Sequence[Run], path: Path) -> None:
    """Each way's differences from the start, with their intervals: grounding on the left, reasoning right."""
    ways = [way for way in ("sft", "sft-longer", "grpo") if any(run.way == way for run in runs)]
    start = [run for run in runs if run.way == "start"]
    panels = (GROUNDING, tuple(name for name in MEASURES if name not in GROUNDING))
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        for axes, names, title in zip(figure.subplots(1, 2), panels, ("grounding", "reasoning"), strict=True):
            for place, way in enumerate(ways):
                found = [difference(start, [r for r in runs if r.way == way], name) for name in names]
                middle = np.array([one[0] for one in found])
                edges = np.array([[one[0] - one[1], one[2] - one[0]] for one in found]).T
                at = np.arange(len(names)) + (place - 1) * 0.2
                axes.errorbar(at, middle, yerr=np.abs(edges), fmt="o", capsize=3, label=WAYS[way])
            axes.axhline(0, color="grey", linewidth=0.8)
            axes.set_xticks(range(len(names)), [MEASURES[name] for name in names])
            axes.set_title(f"{title}: difference from the start, 95 % interval")
            axes.grid(alpha=0.3, axis="y")
            if ways:
                axes.legend(fontsize=8)
        figure.savefig(path, dpi=110)
