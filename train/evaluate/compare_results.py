"""Comparison of two result files, with paired confidence intervals.

Both were asked the same questions, so it is the differences on each question that are resampled: far narrower
than the two intervals side by side. Questions about one episode of the simulator are drawn together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from rich.table import Table

from egolive.streaming.errors import DataError
from egolive.train.data.questions import HANDS
from egolive.train.evaluate.figures import counted, rounded, ruled, shown
from egolive.train.evaluate.measures import bootstrap
from egolive.train.evaluate.result_files import Record

__all__ = ["Comparison", "compare_records", "comparison_table", "paired_bootstrap"]

Comparison = dict[str, dict[str, float | int | list[float | None] | None]]
"""For each measure: a, b, difference (b - a), its `ci`, n, and how many `groups` (episodes) n belongs to."""

ABSENT, THERE = "_absent_none", "_there_given"
COLUMNS = ("measure", "a", "b", "b - a", "95 % interval", "questions")
"""At 80 columns they leave 20 for a measure's name."""


def paired_bootstrap(
    first: Sequence[float],
    second: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of the mean difference, second less first, by resampling the pairs.

    Args:
        first: Values of one side.
        second: Of the other, on the same questions.
        groups: As in `bootstrap`.
        draws: How often.
        seed: Of the draws.

    Raises:
        ValueError: they are not of one length.
    """
    if len(first) != len(second) or len(first) != len(first if groups is None else groups):
        raise ValueError(f"pairs are wanted, got {len(first)} and {len(second)} values")
    differences = [b - a for a, b in zip(first, second, strict=True)]
    return bootstrap(differences, groups=groups, draws=draws, seed=seed)


def compare_records(first: Sequence[Record], second: Sequence[Record], *, draws: int = 10_000) -> Comparison:
    """Compare two files of results on the questions that both have.

    The two shares whose mean is `hand_absent_acc` in one model's figures stand here for themselves: of the
    hands that are absent, `hand_absent_none` was answered "none", and of those that are there,
    `hand_there_given` got a box, right or wrong. So with objects, and with all boxes or intervals of a file.

    Raises:
        DataError: they share no question, or what they share is not the same question.
    """
    others = {record["id"]: _values(record) for record in second}
    asked = {record["id"]: _asked(record) for record in second}
    other = sum(asked.get(record["id"], _asked(record)) != _asked(record) for record in first)
    if other:
        raise DataError(
            f"{other} of the questions that bear the same name are not the same in the two files of results: "
            "evaluate both models on one file of rows"
        )
    pairs: dict[str, tuple[list[float], list[float], list[Hashable]]] = {}
    for record in first:
        for name, value in _values(record).items():
            if name in others.get(record["id"], {}):
                mine, theirs, owners = pairs.setdefault(name, ([], [], []))
                mine.append(value)
                theirs.append(others[record["id"]][name])
                owners.append(record.get("episode", record["id"]))
    if not pairs:
        raise DataError("the two files of results have no question in common: evaluate on the same data")
    compared: Comparison = {}
    for name, (mine, theirs, owners) in sorted(pairs.items()):
        if name.endswith(THERE) and name.removesuffix(THERE) + ABSENT not in pairs:
            continue  # where nothing is absent, there is no "none" to be right or wrong about
        a, b = float(np.mean(mine)), float(np.mean(theirs))
        edges = [rounded(edge) for edge in paired_bootstrap(mine, theirs, groups=owners, draws=draws)]
        compared[name] = {
            "a": rounded(a),
            "b": rounded(b),
            "difference": rounded(b - a),
            "ci": edges,
            "n": len(mine),
            "groups": len(set(owners)),
        }
    return compared


def _values(record: Record) -> dict[str, float]:
    """The values of an answer, with what it is worth in the shares of the absent or of those that are there.

    The lines of results do not have that among their values: it is read from what was said.
    """
    values: dict[str, float] = dict(record["values"])
    kind = record.get("kind") or record.get("task")
    if kind == "when":
        name = "interval"
    elif kind != "ground":
        return values
    elif "episode" in record:
        name = "hand" if record["phrase"] in HANDS else "object"
    else:
        name = "box"
    if record["truth"] is None:
        values[name + ABSENT] = float(record["said"]["absent"])
    else:
        values[name + THERE] = float(bool(record["said"]["intervals" if kind == "when" else "boxes"]))
    return values


def _asked(record: Record) -> tuple[object, ...]:
    return record.get("kind"), record.get("phrase"), record.get("truth")


def comparison_table(compared: Comparison, names: tuple[str, str]) -> Table:
    """The comparison for people."""
    rows = []
    for name, row in compared.items():
        edges, count, groups = row["ci"], row["n"], row["groups"]
        interval = " to ".join(shown(edge) for edge in edges) if isinstance(edges, list) else ""
        told = counted(count, groups) if isinstance(count, int) and isinstance(groups, int) else ""
        rows.append((name, shown(row["a"]), shown(row["b"]), shown(row["difference"]), interval, told))
    return ruled(COLUMNS, rows, f"Paired comparison of a, {names[0]}, with b, {names[1]}")
