"""Plots of training logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

__all__ = ["plot_curves", "plot_history"]


def plot_history(history: Sequence[dict[str, float]], path: Path, title: str) -> None:
    """Draw one PNG from a Trainer's log: losses on the left, what the checks found on the right."""
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        losses, checks = figure.subplots(1, 2)
        for axes, wanted in ((losses, "loss"), (checks, "eval_")):
            names = sorted({name for record in history for name in record if name.startswith(wanted)})
            for name in names:
                points = [(record["step"], record[name]) for record in history if name in record]
                axes.plot(
                    *zip(*points, strict=True), label=name.removeprefix("eval_"), marker=".", markersize=3
                )
            axes.set_xlabel("optimiser step")
            axes.grid(alpha=0.3)
            if names:
                axes.legend(fontsize=8)
        losses.set_title(f"{title}: training loss")
        losses.set_yscale("log")
        checks.set_title("checks on held-out episodes")
        figure.savefig(path, dpi=110)


def plot_curves(
    history: Sequence[Mapping[str, Any]], path: Path, curves: Mapping[str, Sequence[str]]
) -> None:
    """Draw one PNG with a panel for each entry of `curves`, title and names, that the log knows."""
    known = {name for record in history for name, value in record.items() if isinstance(value, int | float)}
    panels = {title: [n for n in names if n in known] for title, names in curves.items()}
    panels = {title: names for title, names in panels.items() if names}
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(12, 3.2 * -(-len(panels) // 3)), layout="constrained")
        for place, (title, names) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(-(-len(panels) // 3), 3, place)
            for name in names:
                points = [
                    (record["step"], record[name]) for record in history if record.get(name) is not None
                ]
                axes.plot(*zip(*points, strict=True), label=name, marker=".", markersize=3)
            axes.set_title(title)
            axes.set_xlabel("optimiser step")
            axes.grid(alpha=0.3)
            if len(names) > 1:
                axes.legend(fontsize=8)
        figure.savefig(path, dpi=110)
