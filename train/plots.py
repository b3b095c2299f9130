"""Plots of training logs: losses on the left, what the checks found on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

__all__ = ["plot_history"]


def plot_history(history: Sequence[dict[str, float]], path: Path, title: str) -> None:
    """Draw one PNG from a Trainer's log."""
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
