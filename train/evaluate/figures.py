"""Measures by name with confidence intervals, chance levels and numbers of questions, and their tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Column, Table

from egolive.train.evaluate.measures import bootstrap, mean

__all__ = ["Figures", "add_figure", "counted", "markdown", "rounded", "ruled", "shown", "table"]

Figures = dict[str, float | list[float | None] | int | None]
"""Measures by name; None where nothing was asked.

`name_ci`, `name_chance` and `name_n` go with a measure, and `name_groups` where its interval is found by
drawing groups, as episodes: how many there are.
"""

COLUMNS = ("measure", "value", "95 % interval", "chance", "questions")

FEW = 10
"""Of fewer groups, or questions where there are no groups, an interval is too narrow to be believed."""
FEW_MARK = "*"
FEW_REMARK = f"{FEW_MARK} fewer than {FEW} episodes or questions: the interval says little"


def add_figure(
    figures: Figures,
    name: str,
    values: Sequence[float] | Sequence[bool],
    chance: float | None = None,
    *,
    groups: Sequence[int] | None = None,
) -> None:
    """Add the mean of values, its interval (see `bootstrap`), how many they are, and what chance scores."""
    figures[name] = rounded(mean(values))
    figures[f"{name}_ci"] = [rounded(edge) for edge in bootstrap(values, groups=groups)]
    if chance is not None:
        figures[f"{name}_chance"] = rounded(chance)
    figures[f"{name}_n"] = len(values)
    if groups is not None:
        figures[f"{name}_groups"] = len(set(groups))


def rounded(value: float) -> float | None:
    """Four decimals, or None for NaN, which JSON does not have."""
    return None if math.isnan(value) else round(value, 4)


def table(figures: Figures, title: str = "Held-out simulated episodes") -> Table:
    """The figures for people."""
    return ruled(COLUMNS, list(_rows(figures)), title)


def ruled(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    """A table whose first column has names, which are never cut, and whose last one is by `counted`."""
    first, *others = columns
    drawn = Table(
        Column(first, overflow="fold"), *(Column(name, no_wrap=True) for name in others), title=escape(title)
    )
    for row in rows:
        drawn.add_row(*row)
    if _any_few(rows):
        drawn.caption = FEW_REMARK
    return drawn


def markdown(figures: Figures) -> str:
    """The figures for a card."""
    rows = list(_rows(figures))
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    # As it stands, the mark would begin a list.
    return f"{text}\n\n\\{FEW_REMARK}" if _any_few(rows) else text


def shown(value: object) -> str:
    """Three decimals; nothing where nothing was measured."""
    return f"{value:.3f}" if isinstance(value, int | float) else ""


def counted(questions: int, groups: int) -> str:
    """How many questions, marked where an interval of so many groups says little."""
    return f"{questions} {FEW_MARK}" if groups < FEW else str(questions)


def _any_few(rows: Sequence[Sequence[str]]) -> bool:
    return any(row[-1].endswith(FEW_MARK) for row in rows)


def _rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    """One row a measure, as text."""
    names = [n for n in figures if not n.endswith(("_ci", "_chance", "_n", "_groups")) and n != "n"]
    for name in names:
        edges = figures.get(f"{name}_ci")
        interval = " to ".join(shown(edge) for edge in edges) if isinstance(edges, list) else ""
        count = figures.get(f"{name}_n", "")
        groups = figures.get(f"{name}_groups", count)
        if isinstance(count, int) and isinstance(groups, int) and count and edges is not None:
            count = counted(count, groups)
        yield name, shown(figures[name]), interval, shown(figures.get(f"{name}_chance")), str(count)
