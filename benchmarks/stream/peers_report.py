"""The figures of `egolive bench peers`: ratios to our engine, as JSON values, as a table, as a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from egolive.benchmarks.bench_output import save_figure, table
from egolive.benchmarks.stream.baseline_runner import SETS
from egolive.benchmarks.stream.stages import CASES

__all__ = ["plot", "stage_ratios", "table_of", "verdict_of"]

_MEASURED = (
    "window\nms",
    "live\nms",
    "live\nCPU ms",
    "first\ntoken ms",
    "tok/s",
    "memory\nMB",
    "says the\nsame",
)
_STAGES = {
    "pictures": "pictures\nencoded",
    "encode_ms": "encode a\npicture ms",
    "prompt_tokens": "prompt\ntokens",
    "reused_tokens": "of them\nreused",
    "prefill_ms": "prefill\nms",
    "first_token_ms": "first\ntoken ms",
    "decode_ms": "decode\nms a token",
}
_COMPARED = ("encode_ms", "prefill_ms", "first_token_ms", "decode_ms")
_RATIOS = ("window", "live", "live\nCPU", "first\ntoken", "tok/s", "memory")


def verdict_of(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Every baseline against ours: the fastest with the checkpoint's own answers, and on the same files.

    Returns:
        ours (a name); ratios by name, to it; same_backend: ratios by name, to our engine on the same files;
        best: by kind the fastest peer that says the same; ahead_of_all: by set, whether no peer is as fast,
        None without peers.
    """
    # Without a cycle of hops there is nothing to compare here.
    here = [entry for entry in entries if "skipped" not in entry and all(kind in entry for kind in SETS)]
    exact = [entry for entry in here if not any(entry[kind]["audit"].get("error") for kind in SETS)]
    engines = [entry for entry in exact if entry["kind"] == "egolive"]
    if not engines:
        return {"ours": None, "ratios": {}, "same_backend": {}, "best": {}, "ahead_of_all": {}}
    ours = min(engines, key=_live_ms)
    own = {entry["model"]: entry for entry in here if entry["kind"] == "egolive"}
    theirs = [entry for entry in here if entry["kind"] != "egolive"]
    ratios = {entry["name"]: _ratios(entry, ours) for entry in here}
    same = {
        entry["name"]: _ratios(entry, own[entry["model"]])
        for entry in theirs
        if entry["kind"] not in ("server", "llama") and entry["model"] in own
    }
    best: dict[str, str] = {}
    for entry in sorted((entry for entry in exact if entry["kind"] != "egolive"), key=_live_ms):
        best.setdefault(entry["kind"], entry["name"])
    # Where nobody else answered, nobody was beaten.
    ahead = {
        kind: all(ratios[entry["name"]][kind]["answer_set"] > 1 for entry in theirs) if theirs else None
        for kind in SETS
    }
    return {
        "ours": ours["name"],
        "ratios": ratios,
        "same_backend": same,
        "best": best,
        "ahead_of_all": ahead,
    }


def stage_ratios(entries: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Stages of each llama.cpp over those of our first engine: above 1 is in our favour.

    Returns:
        By name: the cases with encode_ms, prefill_ms, first_token_ms and decode_ms, each None where one side
        does not tell it or has none; anonymous_mb and mapped_mb.
    """
    staged = [entry for entry in entries if "stages" in entry]
    ours = next((entry for entry in staged if entry["kind"] == "egolive"), None)
    found: dict[str, dict[str, Any]] = {}
    for entry in staged if ours is not None else ():
        if entry["kind"] == "egolive":
            continue
        assert ours is not None
        cases = {
            case: {name: _times(figures[name], ours["stages"][case][name]) for name in _COMPARED}
            for case, figures in entry["stages"].items()
        }
        memory = {
            name: _times((entry["memory"] or {}).get(name), (ours["memory"] or {}).get(name))
            for name in ("anonymous_mb", "mapped_mb")
        }
        found[entry["name"]] = cases | memory
    return found


def _times(theirs: float | None, ours: float | None) -> float | None:
    return round(theirs / ours, 2) if theirs and ours else None


def _live_ms(entry: dict[str, Any]) -> float:
    found: float = entry["live"]["answer_set_ms"]
    return found


def _ratios(entry: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Above 1 is in our favour: they take longer, say fewer tokens a second, hold more memory."""
    found: dict[str, Any] = {}
    for kind in SETS:
        they, we = entry[kind], ours[kind]
        found[kind] = {
            "answer_set": round(they["answer_set_ms"] / we["answer_set_ms"], 2),
            "first_token": round(they["first_token_ms"] / we["first_token_ms"], 2),
            "tok_s": round(we["tok_s"] / they["tok_s"], 2) if they["tok_s"] else None,
        }
        if they["answer_set_cpu_ms"] and we["answer_set_cpu_ms"]:
            found[kind]["answer_set_cpu"] = round(they["answer_set_cpu_ms"] / we["answer_set_cpu_ms"], 2)
    memory = entry["peak_mb"] and ours["peak_mb"] and round(entry["peak_mb"] / ours["peak_mb"], 2)
    return found | {"memory": memory}


def table_of(figures: dict[str, Any]) -> RenderableType:
    """All baselines for people: what was measured, then how many times ours, above 1 in our favour."""
    measured = table("Four questions a hop", "", *_MEASURED)
    ratios = table(f"Times of {figures['ours']}", "", *_RATIOS)
    for entry in figures["sides"]:
        if "skipped" in entry:
            measured.add_row(entry["name"], "skipped")
            continue
        if "live" not in entry:
            continue
        window, live = entry["window"], entry["live"]
        values = [window["answer_set_ms"], live["answer_set_ms"], live["answer_set_cpu_ms"]]
        values += [live["first_token_ms"], live["tok_s"], entry["peak_mb"]]
        same = Counter(live["audit"]) + Counter(window["audit"])
        agreed = f"{same['same']} of {sum(same.values())}" if same else ""
        measured.add_row(entry["name"], *[_shown(value, 0) for value in values], agreed)
        if ratio := figures["ratios"].get(entry["name"]):
            window, live = ratio["window"], ratio["live"]
            values = [window["answer_set"], live["answer_set"], live.get("answer_set_cpu")]
            values += [live["first_token"], live["tok_s"], ratio["memory"]]
            ratios.add_row(entry["name"], *[_shown(value, 2) for value in values])
    # Where stages alone were measured, the other tables have no rows.
    tables: list[RenderableType] = [found for found in (measured, ratios) if found.row_count]
    staged = [entry for entry in figures["sides"] if "stages" in entry]
    if staged:
        tables.append(_stages_table(staged, figures["stages"]))
    return Group(*tables)


def _stages_table(entries: Sequence[dict[str, Any]], ratios: dict[str, dict[str, Any]]) -> RenderableType:
    """Single answers: medians of each side, then how many times ours; what the processes hold below."""
    found = table("Single answers", "", "", *_STAGES.values())
    for case in CASES:
        for entry in entries:
            values = [entry["stages"][case][name] for name in _STAGES]
            found.add_row(case, entry["name"], *[_shown(value, 0) for value in values])
        for name, ratio in ratios.items():
            values = [ratio[case].get(column) for column in _STAGES]
            found.add_row("", f"{name}, times ours", *[_shown(value, 2) for value in values])
    held = table("Memory held", "", "anonymous MB", "mapped MB")
    for entry in entries:
        memory = entry["memory"] or {}
        held.add_row(entry["name"], *[_shown(memory.get(name), 0) for name in ("anonymous_mb", "mapped_mb")])
    return Group(found, held)


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def plot(figures: dict[str, Any], path: Path) -> None:
    """Draw time of an answer set, first token and memory of each baseline into one PNG."""
    from matplotlib.figure import Figure

    entries = [entry for entry in figures["sides"] if "skipped" not in entry]
    figure = Figure(figsize=(11, 0.9 + 0.36 * len(entries)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    colours = {"egolive": "tab:blue", "transformers": "tab:orange", "onnx": "tab:green"}
    shown = [colours.get(entry["kind"], "tab:purple") for entry in entries]
    for axes, title, values in (
        (panels[0], "four live questions, ms", [entry["live"]["answer_set_ms"] for entry in entries]),
        (panels[1], "first token, ms", [entry["live"]["first_token_ms"] for entry in entries]),
        (panels[2], "peak memory, MB", [entry["peak_mb"] or 0 for entry in entries]),
    ):
        bars = axes.barh(range(len(entries)), values, color=shown)
        axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=2)
        axes.margins(x=0.15)
        axes.set(title=title)
        axes.grid(alpha=0.3, axis="x")
    panels[0].set_yticks(range(len(entries)), [entry["name"] for entry in entries], fontsize=8)
    panels[0].invert_yaxis()
    save_figure(figure, path)
