"""The figures of `egolive bench peers`: who is how many times slower, as values, as a table, as a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from egolive.benchmarks.output import save_figure
from egolive.benchmarks.stream.peer_worker import SETS

__all__ = ["plot", "table_of", "verdict_of"]

_MEASURED = (
    "window\nms",
    "live\nms",
    "live\nCPU ms",
    "first\ntoken ms",
    "tok/s",
    "memory\nMB",
    "says the\nsame",
)
_RATIOS = ("window", "live", "live\nCPU", "first\ntoken", "tok/s", "memory")


def verdict_of(sides: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Every side against ours: the fastest that says what the checkpoint says, and the one on the same files.

    Returns:
        ours (a name); ratios by name, to it; same_backend: ratios by name, to our engine on the same files;
        best: by kind the fastest peer that says the same; ahead_of_all: by set, whether no peer is as fast.
    """
    here = [side for side in sides if "skipped" not in side]
    exact = [side for side in here if not any(side[kind]["audit"].get("error") for kind in SETS)]
    engines = [side for side in exact if side["kind"] == "egolive"]
    if not engines:
        return {"ours": None, "ratios": {}, "same_backend": {}, "best": {}, "ahead_of_all": {}}
    ours = min(engines, key=_live_ms)
    own = {side["model"]: side for side in here if side["kind"] == "egolive"}
    theirs = [side for side in here if side["kind"] != "egolive"]
    ratios = {side["name"]: _ratios(side, ours) for side in here}
    same = {
        side["name"]: _ratios(side, own[side["model"]])
        for side in theirs
        if side["kind"] != "server" and side["model"] in own
    }
    best: dict[str, str] = {}
    for side in sorted((side for side in exact if side["kind"] != "egolive"), key=_live_ms):
        best.setdefault(side["kind"], side["name"])
    ahead = {kind: all(ratios[side["name"]][kind]["answer_set"] > 1 for side in theirs) for kind in SETS}
    return {
        "ours": ours["name"],
        "ratios": ratios,
        "same_backend": same,
        "best": best,
        "ahead_of_all": ahead,
    }


def _live_ms(side: dict[str, Any]) -> float:
    found: float = side["live"]["answer_set_ms"]
    return found


def _ratios(side: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Above 1 is in our favour: they take longer, say fewer tokens a second, hold more memory."""
    found: dict[str, Any] = {}
    for kind in SETS:
        they, we = side[kind], ours[kind]
        found[kind] = {
            "answer_set": round(they["answer_set_ms"] / we["answer_set_ms"], 2),
            "first_token": round(they["first_token_ms"] / we["first_token_ms"], 2),
            "tok_s": round(we["tok_s"] / they["tok_s"], 2) if they["tok_s"] else None,
        }
        if they["answer_set_cpu_ms"] and we["answer_set_cpu_ms"]:
            found[kind]["answer_set_cpu"] = round(they["answer_set_cpu_ms"] / we["answer_set_cpu_ms"], 2)
    memory = side["peak_mb"] and ours["peak_mb"] and round(side["peak_mb"] / ours["peak_mb"], 2)
    return found | {"memory": memory}


def table_of(figures: dict[str, Any]) -> RenderableType:
    """All sides for people: what was measured, then how many times ours, above 1 in our favour."""
    measured = _titled("Four questions a hop", *_MEASURED)
    ratios = _titled(f"Times of {figures['ours']}", *_RATIOS)
    for side in figures["sides"]:
        if "skipped" in side:
            measured.add_row(side["name"], "skipped")
            continue
        window, live = side["window"], side["live"]
        values = [window["answer_set_ms"], live["answer_set_ms"], live["answer_set_cpu_ms"]]
        values += [live["first_token_ms"], live["tok_s"], side["peak_mb"]]
        same = Counter(live["audit"]) + Counter(window["audit"])
        told = f"{same['same']} of {sum(same.values())}" if same else ""
        measured.add_row(side["name"], *[_shown(value, 0) for value in values], told)
        if ratio := figures["ratios"].get(side["name"]):
            window, live = ratio["window"], ratio["live"]
            values = [window["answer_set"], live["answer_set"], live.get("answer_set_cpu")]
            values += [live["first_token"], live["tok_s"], ratio["memory"]]
            ratios.add_row(side["name"], *[_shown(value, 2) for value in values])
    return Group(measured, ratios)


def _titled(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def plot(figures: dict[str, Any], path: Path) -> None:
    """Draw time of an answer set, first token and memory of each side into one PNG."""
    from matplotlib.figure import Figure

    sides = [side for side in figures["sides"] if "skipped" not in side]
    figure = Figure(figsize=(11, 0.9 + 0.36 * len(sides)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    colours = {"egolive": "tab:blue", "transformers": "tab:orange", "onnx": "tab:green"}
    shown = [colours.get(side["kind"], "tab:purple") for side in sides]
    for axes, title, values in (
        (panels[0], "four live questions, ms", [side["live"]["answer_set_ms"] for side in sides]),
        (panels[1], "first token, ms", [side["live"]["first_token_ms"] for side in sides]),
        (panels[2], "peak memory, MB", [side["peak_mb"] or 0 for side in sides]),
    ):
        bars = axes.barh(range(len(sides)), values, color=shown)
        axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=2)
        axes.margins(x=0.15)
        axes.set(title=title)
        axes.grid(alpha=0.3, axis="x")
    panels[0].set_yticks(range(len(sides)), [side["name"] for side in sides], fontsize=8)
    panels[0].invert_yaxis()
    save_figure(figure, path)
