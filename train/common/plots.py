"""Plots of training logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

__all__ = ["plot_curves", "plot_history"]


def plot_history(history: Sequence[dict[str, float]], path: Path, title: str) -> None:
    """Draw one PNG from a Trainer's log: its losses, and of the checks the losses and the shares."""
    with matplotlib.rc_context({"font.size": 9}):
        known = sorted({name for record in history for name in record})
        checked = [name for name in known if name.startswith("eval_")]
        panels = {
            f"{title}: training loss": [name for name in known if name.startswith("loss")],
            "losses on held-out episodes": [name for name in checked if name.endswith("loss")],
            "shares on held-out episodes": [name for name in checked if not name.endswith("loss")],
        }
        panels = {heading: names for heading, names in panels.items() if names}
        figure = Figure(figsize=(5 * max(1, len(panels)), 4), layout="constrained")
        for place, (heading, names) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(1, len(panels), place)
            for name in names:
                points = [(record["step"], record[name]) for record in history if name in record]
                axes.plot(
                    *zip(*points, strict=True), label=name.removeprefix("eval_"), marker=".", markersize=3
                )
            axes.set_title(heading)
            axes.set_xlabel("optimiser step")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
            if place == 1:
                axes.set_yscale("log")
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
