"""`egolive bench engines`: load, encoding, prefill, decoding, memory and energy of engines.

    egolive bench engines nano engines/onnx-fp32 engines/onnx-int4 --threads 2

Each is measured in a process of its own, one after the other (`egolive.benchmarks.cost.engine_costs`), beside
the two rates that the same process reached with plain copies and plain matrices. `egolive bench quality` has
scores of their answers, `egolive quantize --compare` compares two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from egolive.benchmarks.bench_output import print_figures, save_figure
from egolive.benchmarks.cost.engine_costs import cost_apart

__all__ = ["run_engines"]

_ROWS = {
    "weight_mb": "weights, MB",
    "load_s": "load, s",
    "peak_mb": "peak memory of the process, MB",
    "encode_ms": "encode a slice, ms",
    "ttft_ms": "first token, all new, ms",
    "ttft_live_ms": "first token, live, ms",
    "tok_s": "decode, tokens a second",
    "floor_tok_s": "  its ceiling",
    "of_floor": "  share of the ceiling",
    "joules_token": "joules a token",
}
_CEILINGS = {
    "copy_gb_s": "copies, GB/s",
    "copy_weights_gb_s": "copies of blocks as large as the weights, GB/s",
    "matrix_gflop_s": "matrices, GFLOP/s",
}


def run_engines(
    model: tuple[str, ...],
    *,
    slices: tuple[int, ...],
    device: str,
    threads: int | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Measure, print and write; the arguments are those of `egolive.benchmarks.commands.engines`."""
    found = []
    for name in model or ("nano",):
        with Console(stderr=True).status(f"measuring {name}"):
            found.append(cost_apart(name, device=device, threads=threads, slices=sorted(set(slices))))
    if plot_file is not None:
        _plot(found, plot_file)
    print_figures({"engines": found}, _drawn(found), json_file)


def _drawn(found: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="What engines cost, and the machine's ceilings beside them", title_justify="left")
    table.add_column("")
    for entry in found:
        table.add_column(f"{entry['name']}\n{entry['precision']} ({entry['backend']})", justify="right")
    for name, label in _ROWS.items():
        table.add_row(label, *[_shown(entry[name]) for entry in found])
    table.add_section()
    for place, cost in enumerate(found[0]["prefill"]):
        costs = [entry["prefill"][place] for entry in found]
        cells = [f"{one['ms']:.1f} ({one['of_ceiling']:.0%})" for one in costs]
        table.add_row(f"prefill of {cost['tokens']} tokens, ms (of the matrices' rate)", *cells)
    table.add_section()
    for name, label in _CEILINGS.items():
        table.add_row(label, *[_shown(entry["ceilings"][name]) for entry in found])
    return table


def _label(entry: dict[str, Any]) -> str:
    return f"{entry['name']} {entry['precision']} ({entry['backend']})"


def _shown(value: float | None) -> str:
    return "not told" if value is None else f"{value:.4g}"


def _plot(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Prefill over length on the left, decoding beside its ceiling on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for entry in found:
        tokens, spent = ([cost[name] for cost in entry["prefill"]] for name in ("tokens", "ms"))
        left.plot(tokens, spent, "o-", label=_label(entry), markersize=3)
    left.set(xlim=(0, None), ylim=(0, None), xlabel="tokens", ylabel="ms", title="prefill")
    left.legend(fontsize=8)
    rows = range(len(found))
    right.barh(rows, [entry["floor_tok_s"] for entry in found], 0.8, color="lightgrey", label="ceiling")
    right.barh(rows, [entry["tok_s"] for entry in found], 0.5, label="measured")
    right.set_yticks(list(rows), [_label(entry) for entry in found])
    right.invert_yaxis()
    right.set(xscale="log", xlim=(1, None), xlabel="tokens a second", title="decoding, one answer at a time")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(figure, path)
