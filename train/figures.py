"""Figures by name, with their intervals, chance levels and numbers of questions, as tables for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.table import Table

from egolive.train.metrics import bootstrap, mean

__all__ = ["Figures", "add_figure", "markdown", "rounded", "shown", "table"]

Figures = dict[str, float | list[float | None] | int | None]
"""Measures by name; None where nothing was asked. `name_ci`, `name_chance` and `name_n` go with a measure."""

COLUMNS = ("measure", "value", "95 % interval", "chance", "questions")


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


def rounded(value: float) -> float | None:
    """Four decimals, or None for NaN, which JSON does not have."""
    return None if math.isnan(value) else round(value, 4)


def table(figures: Figures, title: str = "Held-out simulated episodes") -> Table:
    """The figures for people."""
    drawn = Table(*COLUMNS, title=title)
    for row in _rows(figures):
        drawn.add_row(*row)
    return drawn


def markdown(figures: Figures) -> str:
    """The figures for a card."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *_rows(figures)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: object) -> str:
    """Three decimals; nothing where nothing was measured."""
    return f"{value:.3f}" if isinstance(value, int | float) else ""


def _rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    """One row a measure, as text."""
    names = [n for n in figures if not n.endswith(("_ci", "_chance", "_n")) and n != "n"]
    for name in names:
        edges = figures.get(f"{name}_ci")
        interval = " to ".join(shown(edge) for edge in edges) if isinstance(edges, list) else ""
        chance, asked = shown(figures.get(f"{name}_chance")), figures.get(f"{name}_n", "")
        yield name, shown(figures[name]), interval, chance, str(asked)
