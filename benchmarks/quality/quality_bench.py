"""`egolive bench quality`: scores of engines on the same held-out episodes, beside those of chance.

A thin command over `egolive.train.evaluate.evaluate`, which measures one model. `egolive quantize --compare`
compares two engines question by question.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from egolive.assistant.cli.options import open_model
from egolive.assistant.live.assistant import Assistant
from egolive.benchmarks.bench_output import print_figures
from egolive.train.evaluate.episode_scores import report, scores_of
from egolive.train.evaluate.evaluate import ask_episode, training_bags
from egolive.train.evaluate.figures import shown
from egolive.train.evaluate.result_files import Record

__all__ = ["run_quality"]


def run_quality(
    model: tuple[str, ...],
    *,
    episodes: int,
    slices: int,
    seed: int,
    device: str,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Measure, print and write; the arguments are those of `egolive.benchmarks.commands.quality`."""
    found: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        # What the baseline learns from takes as long as some dozens of episodes, and is the same for all.
        bags = training_bags(seed, slices)
        for name in model or ("nano",):
            task = progress.add_task(name, total=episodes)
            lines: list[Record] = []
            with (
                closing(open_model(name, device=device, threads=threads)) as engine,
                Assistant(engine) as assistant,
            ):
                for index in range(episodes):
                    lines += ask_episode(assistant, index, "test", seed, slices)
                    progress.advance(task)
                info = engine.info
            about = {"name": info.name, "precision": info.precision, "backend": info.backend}
            found.append(about | report(scores_of(lines), bags))
    print_figures({"episodes": episodes, "seed": seed, "engines": found}, _table(found), json_file)


def _table(found: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="How well engines answer, with 95 % intervals", title_justify="left")
    table.add_column("")
    for entry in found:
        table.add_column(f"{entry['name']}\n{entry['precision']} ({entry['backend']})", justify="right")
    table.add_column("chance", justify="right")
    for name in (key.removesuffix("_ci") for key in found[0] if key.endswith("_ci")):
        cells = [_cell(entry[name], entry[f"{name}_ci"]) for entry in found]
        table.add_row(name, *cells, shown(found[0].get(f"{name}_chance")))
    return table


def _cell(value: float | None, edges: Sequence[float | None]) -> str:
    return f"{shown(value)} ({shown(edges[0])} to {shown(edges[1])})"
