"""Two files of results against each other: what one model is better at, with paired intervals.

Both were asked the same questions, so it is the differences on each question that are resampled: far narrower
than the two intervals side by side. Questions about one episode of the simulator are drawn together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from egolive.streaming.errors import DataError
from egolive.train.figures import rounded, shown
from egolive.train.results import Record

__all__ = ["Comparison", "compare_records", "comparison_table", "paired_bootstrap"]

Comparison = dict[str, dict[str, float | int | list[float | None] | None]]
"""For each measure: a, b, difference (b - a), its `ci`, and n."""


def paired_bootstrap(
    first: Sequence[float],
    second: Sequence[float],
    *,
    groups: Sequence[object] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of the mean difference, second less first, by resampling the pairs.

    Args:
        first: Values of one side.
        second: Of the other, on the same questions.
        groups: What each question belongs to, as its episode: groups are then drawn, with all of their
            questions, because questions about one episode go wrong together.
        draws: How often.
        seed: Of the draws.

    Raises:
        ValueError: they are not of one length.
    """
    owners = range(len(first)) if groups is None else groups
    if not len(first) == len(second) == len(owners):
        raise ValueError(f"pairs are wanted, got {len(first)} and {len(second)} values, {len(owners)} groups")
    if not first:
        return float("nan"), float("nan")
    sums: dict[object, list[float]] = {}
    for one, other, owner in zip(first, second, owners, strict=True):
        total = sums.setdefault(owner, [0.0, 0.0])
        total[0] += other - one
        total[1] += 1
    table = np.array(list(sums.values()))
    rng = np.random.default_rng(seed)
    drawn = (table[rng.integers(0, len(table), len(table))].sum(axis=0) for _ in range(draws))
    low, high = np.percentile([total / count for total, count in drawn], [2.5, 97.5])
    return float(low), float(high)


def compare_records(first: Sequence[Record], second: Sequence[Record], *, draws: int = 10_000) -> Comparison:
    """Compare two files of results on the questions that both have.

    Raises:
        DataError: they share no question, or what they share is not the same question.
    """
    others = {record["id"]: record["values"] for record in second}
    asked = {record["id"]: _asked(record) for record in second}
    other = sum(asked.get(record["id"], _asked(record)) != _asked(record) for record in first)
    if other:
        raise DataError(
            f"{other} of the questions that bear the same name are not the same in the two files of results: "
            "evaluate both models on one file of rows"
        )
    pairs: dict[str, tuple[list[float], list[float], list[object]]] = {}
    for record in first:
        for name, value in record["values"].items():
            if name in others.get(record["id"], {}):
                mine, theirs, owners = pairs.setdefault(name, ([], [], []))
                mine.append(value)
                theirs.append(others[record["id"]][name])
                owners.append(record.get("episode", record["id"]))
    if not pairs:
        raise DataError("the two files of results have no question in common: evaluate on the same data")
    compared: Comparison = {}
    for name, (mine, theirs, owners) in pairs.items():
        a, b = float(np.mean(mine)), float(np.mean(theirs))
        edges = [rounded(edge) for edge in paired_bootstrap(mine, theirs, groups=owners, draws=draws)]
        compared[name] = {
            "a": rounded(a),
            "b": rounded(b),
            "difference": rounded(b - a),
            "ci": edges,
            "n": len(mine),
        }
    return compared


def _asked(record: Record) -> tuple[object, ...]:
    return record.get("kind"), record.get("phrase"), record.get("truth")


def comparison_table(compared: Comparison, names: tuple[str, str]) -> Table:
    """The comparison for people."""
    drawn = Table("measure", *names, "difference", "95 % interval", "questions", title="Paired comparison")
    for name, row in compared.items():
        edges = row["ci"]
        interval = " to ".join(shown(edge) for edge in edges) if isinstance(edges, list) else ""
        drawn.add_row(
            name, shown(row["a"]), shown(row["b"]), shown(row["difference"]), interval, str(row["n"])
        )
    return drawn
