"""`egolive bench scaling`: cost of an answer as windows, pictures, questions or hours of stream grow.

    egolive bench scaling --hours 8 --threads 1

Whether a curve is flat is computed from a fit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from egolive.assistant.load_local import load_engine
from egolive.assistant.model.media import bundled_clip
from egolive.benchmarks.bench_output import print_figures, save_figure, table
from egolive.benchmarks.stream.baseline_runner import load_images
from egolive.benchmarks.stream.scaling_run import BASELINES, Point, Scales, shape_of

__all__ = ["run_scaling"]

_LENGTHS = (2, 4, 8, 16)
_SIZES = ((112, 168), (140, 224), (196, 308), (252, 448), (364, 644))
_COUNTS = (1, 2, 4, 8, 12)
_MARKS = 8
"""Points of the curve over hours, the start not counted."""
_AXES = {
    "windows": "slices of a window",
    "resolutions": "tokens of a picture",
    "questions": "questions",
    "hours": "hours of stream",
}


def run_scaling(
    *,
    model: str,
    hours: float,
    slices: int,
    hops: int,
    device: str,
    threads: int | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Measure, print and write; the arguments are those of `egolive.benchmarks.commands.scaling`."""
    images = load_images(bundled_clip(), 40)
    with (
        closing(load_engine(model, device=device, threads=threads)) as engine,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        fixed = engine.info.backend != "torch"
        total = 2 * (len(_LENGTHS) + len(_COUNTS) + (0 if fixed else len(_SIZES))) + _MARKS + 1
        task = progress.add_task("points", total=total)
        scales = Scales(engine, images, slices=slices, hops=hops, progress=lambda: progress.advance(task))
        found: dict[str, dict[str, list[Point]]] = defaultdict(dict)
        for name, reuse in BASELINES.items():
            found["windows"][name] = scales.windows(_LENGTHS, reuse)
            found["questions"][name] = scales.questions(_COUNTS, reuse)
            if not fixed:
                found["resolutions"][name] = scales.resolutions(_SIZES, reuse)
        found["hours"]["ours"] = scales.hours([hours * mark / _MARKS for mark in range(_MARKS + 1)])
        # A GPU works while the processor waits.
        processor = not engine.info.device.startswith("cuda")
        figures: dict[str, Any] = {"model": engine.info.name, "precision": engine.info.precision}
        figures |= {
            "device": engine.info.device,
            "threads": threads,
            "slices": slices,
            "judged_by": "cpu_ms" if processor else "wall_ms",
        }
    figures["curves"] = {
        curve: {
            name: {"points": [_means(point) for point in points]} | shape_of(points, processor=processor)
            for name, points in baselines.items()
        }
        for curve, baselines in found.items()
    }
    figures["not_flat"] = [
        curve for curve, fitted in figures["curves"].items() if fitted["ours"]["verdict"] != "flat"
    ]
    if plot_file is not None:
        _plot(figures, plot_file)
    print_figures(figures, _table(figures), json_file)


def _means(point: Point) -> dict[str, float]:
    return {"x": point.x, "wall_ms": point.wall_ms, "cpu_ms": point.cpu_ms}


def _table(figures: dict[str, Any]) -> Table:
    titles = ("", "baseline", "from", "to", "first ms", "last ms", "fitted growth", "verdict")
    drawn = table("Cost of an answer set as one thing grows", *titles)
    for curve, fitted in figures["curves"].items():
        for name, line in fitted.items():
            first, last = line["points"][0], line["points"][-1]
            ends = [f"{point['x']:g}" for point in (first, last)]
            costs = [f"{point[figures['judged_by']]:.1f}" for point in (first, last)]
            drawn.add_row(_AXES[curve], name, *ends, *costs, _growth(line), _verdict(line))
        drawn.add_section()
    return drawn


def _growth(figures: dict[str, Any]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(figures["growth"], *figures["growth_ci"])


def _verdict(figures: dict[str, Any]) -> str:
    if figures["verdict"] == "not flat" and figures["exponent"] is not None:
        return f"not flat, doubled {2 ** figures['exponent']:.2f}"
    return str(figures["verdict"])


def _plot(figures: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    curves = figures["curves"]
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels: Sequence[Any] = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (curve, fitted) in zip(panels, curves.items(), strict=True):
        for name, line in fitted.items():
            x, y = ([point[of] for point in line["points"]] for of in ("x", figures["judged_by"]))
            axes.plot(x, y, "o-", markersize=3, label=f"{name}: {line['verdict']}")
        axes.set(xlabel=_AXES[curve], ylim=(0, None))
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("ms of an answer set" + (", CPU" if figures["judged_by"] == "cpu_ms" else ""))
    save_figure(figure, path)
