"""`egolive bench latency`: time from a camera's picture to its overlay, and the age of answers, by stage.

    egolive bench latency nano engines/onnx-int4 --size 1280x720 --size 640x360

Pictures of a virtual camera carry their own time and are read again behind the overlay
(`egolive.assistant.diagnostics.glass_to_overlay`). A real camera's exposure and transfer, and a screen's,
come on top.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from egolive.assistant.cli.options import open_model
from egolive.assistant.diagnostics.glass_to_overlay import measure_latency
from egolive.benchmarks.bench_output import print_figures, save_figure
from egolive.streaming.errors import UsageError

__all__ = ["run_latency"]

_PICTURE = ("track", "draw")
"""Stages on the way of every picture to the overlay."""
_ANSWER = ("wait", "first_token", "decode", "parse")
"""Stages on the way of a picture to its answer."""


def run_latency(
    model: tuple[str, ...],
    *,
    size: tuple[str, ...],
    fps: tuple[float, ...],
    seconds: float,
    device: str,
    threads: int | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Measure, print and write; the arguments are those of `egolive.benchmarks.commands.latency`."""
    sizes = [_size(text) for text in size]
    settings: list[dict[str, Any]] = []
    for name in model or ("nano",):
        with closing(open_model(name, device=device, threads=threads)) as engine:
            for width, height in sizes:
                for rate in fps:
                    found = measure_latency(engine, seconds=seconds, fps=rate, size=(width, height))
                    said = {"model": engine.info.name, "backend": engine.info.backend}
                    said |= {"precision": engine.info.precision, "device": engine.info.device}
                    settings.append(said | {"size": f"{width}x{height}", "fps": rate} | found.in_ms())
                    Console(stderr=True).print(_title(settings[-1]), highlight=False)
    # The first setting stands for all where a program looks for one figure.
    figures = dict(settings[0]) | {"threads": threads, "settings": settings}
    if plot_file is not None:
        _plot(settings, plot_file)
    print_figures(figures, _table(settings), json_file)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if width < 256 or height < 32:
        raise UsageError(f"a size is WIDTHxHEIGHT, 256x32 at least, got {text!r}")
    return width, height


def _title(setting: dict[str, Any]) -> str:
    return "{model} {precision} ({backend}), {size} at {fps:g}".format(**setting)


def _table(settings: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Glass to overlay, and the age of answers", title_justify="left")
    table.add_column("")
    for name in ("p50", "p95", "p99", "max", "n"):
        table.add_column(name, justify="right")
    for setting in settings:
        dropped = ", ".join(f"{count} {reason}" for reason, count in setting["drops"].items()) or "none"
        table.add_row(_title(setting), *[""] * 5)
        stages = setting["stages"]
        rows = {
            "glass to overlay (ms)": setting["glass_to_overlay_ms"],
            **{f"  {name} (ms)": stages.get(name) for name in _PICTURE},
            "age of answers (s)": setting["answer_age_s"],
            **{f"  {name} (ms)": stages.get(name) for name in _ANSWER},
        }
        for label, row in rows.items():
            if row is not None:
                figures = [f"{row[name]:.2f}" for name in ("p50", "p95", "p99", "max")]
                table.add_row(label.replace("_", " "), *figures, str(row["n"]))
        shown = f"{setting['shown']} of {setting['pictures']} pictures shown, {setting['answers']} answers"
        table.add_row(f"{shown}; dropped: {dropped}", *[""] * 5, end_section=True)
    return table


def _plot(settings: Sequence[dict[str, Any]], path: Path) -> None:
    """Medians and 95 % of each stage, one colour a setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    height = 0.8 / len(settings)
    for place, setting in enumerate(settings):
        sides = {
            left: {
                "glass to overlay": setting["glass_to_overlay_ms"],
                **{name: setting["stages"].get(name) for name in _PICTURE},
            },
            right: {
                "age of answers": _in_ms(setting["answer_age_s"]),
                **{name: setting["stages"].get(name) for name in _ANSWER},
            },
        }
        for axes, bars in sides.items():
            rows = [row + (place - (len(settings) - 1) / 2) * height for row in range(len(bars))]
            p50, p95 = ([bar[name] if bar else 0.0 for bar in bars.values()] for name in ("p50", "p95"))
            beyond = [high - low for low, high in zip(p50, p95, strict=True)]
            axes.barh(rows, p50, height, xerr=[[0.0] * len(rows), beyond], label=_title(setting), capsize=2)
            axes.set_yticks(range(len(bars)), [name.replace("_", " ") for name in bars])
    for axes, title in ((left, "the picture"), (right, "the answers")):
        axes.invert_yaxis()
        axes.set(title=f"{title}: median, and up to 95 %", xlabel="ms")
        axes.grid(alpha=0.3, axis="x")
    right.legend(fontsize=8)
    save_figure(figure, path)


def _in_ms(stage: dict[str, float] | None) -> dict[str, float] | None:
    return stage and {name: value * 1e3 for name, value in stage.items()}
