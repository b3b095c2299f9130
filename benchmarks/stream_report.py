"""The figures of `egolive bench stream`: as JSON values, as a table, as a plot."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table

from egolive.benchmarks.stream_run import SWITCHES, Measured

__all__ = ["drafted", "figures_of", "plot", "table_of"]

_LABELS = {
    "a": "(a) generate, one by one",
    "b": "(b) generate, one batch, encoded once",
    "b slices kept": "    slices encoded once for all windows",
    "all": "ours",
    "without draft": "    without the draft",
    "c": "(c) generate, boxes of the newest picture",
    "live": "ours, boxes of the newest picture",
    "live without draft": "    without the draft",
}
_NAIVE = ("a", "b", "b slices kept", "c")


def figures_of(measured: Measured) -> dict[str, Any]:
    """What was measured, under the names that other programs read.

    Costs are means over the hops at which a side answered: a draft that fails now and then costs what it
    costs. Speed-ups are the cost of a naive side over ours.
    """
    cost = _means(measured, "wall")
    cpu = _means(measured, "cpu")
    audits = {name: dict(found) for name, found in sorted(measured.audits.items())}
    return {
        "speedup_a": _ratio(cost["a"], cost["all"]),
        "speedup_b": _ratio(cost["b"], cost["all"]),
        "speedup_c": _ratio(cost["c"], cost["live"]),
        "speedup_a_without_draft": _ratio(cost["a"], cost["without draft"]),
        "speedup_b_without_draft": _ratio(cost["b"], cost["without draft"]),
        "speedup_c_without_draft": _ratio(cost["c"], cost["live without draft"]),
        "speedup_b_slices_kept": _ratio(cost["b slices kept"], cost["all"]),
        "windows": len(measured.naive),
        "hops": len(measured.lengths),
        "audit_errors": sum(found.get("error", 0) for found in audits.values()),
        "audit_ties": sum(found.get("tie", 0) for found in audits.values()),
        "audits": audits,
        **_counts(measured.usage["all"]),
        "live": _counts(measured.usage["live"]),
        "gains": {
            switch: {
                "alone": _ratio(cost["none"], cost[f"{switch} alone"]),
                "on_top": _ratio(cost[f"without {switch}"], cost["all"]),
            }
            for switch in SWITCHES
        },
        "seconds_per_hop": {name: round(value, 5) for name, value in cost.items()},
        "cpu_seconds_per_hop": {name: round(value, 5) for name, value in cpu.items()},
    }


def _means(measured: Measured, kind: Literal["wall", "cpu"]) -> dict[str, float]:
    costs = {name: [getattr(cost, kind) for cost in costs] for name, costs in measured.costs.items()}
    lengths = [measured.lengths[place] for place in measured.naive]
    # All but the newest slice of each window would be there already.
    spared = [spent * (1 - 1 / n) for spent, n in zip(costs["b encoding"], lengths, strict=True)]
    means = {name: fmean(values) for name, values in costs.items()}
    return means | {"b slices kept": means["b"] - fmean(spared)}


def drafted(usage: Counter[str]) -> dict[str, float]:
    """How far drafts held: shares of the tokens that were proposed, and of those that were said."""
    accepted = usage["draft_accepted"]
    return {
        "of_proposed": round(accepted / max(1, usage["draft_proposed"]), 4),
        "of_said": round(accepted / max(1, usage["completion_tokens"]), 4),
    }


def table_of(figures: dict[str, Any]) -> RenderableType:
    """The figures for people."""
    drawn = Table(title=_title(figures))
    for name in ("four questions a hop", "seconds", "CPU seconds", "of ours", "hops"):
        drawn.add_column(name, justify="left" if name.startswith("four") else "right", no_wrap=True)
    cost = figures["seconds_per_hop"]
    for name, label in _LABELS.items():
        # Each is held against our answers to the same questions.
        ours = cost["live" if name == "c" or name.startswith("live") else "all"]
        hops = figures["windows" if name in _NAIVE else "hops"]
        last = name == "without draft"
        spent = f"{cost[name]:.3f}", f"{figures['cpu_seconds_per_hop'][name]:.3f}"
        drawn.add_row(label, *spent, f"{cost[name] / ours:.2f}", str(hops), end_section=last)
    gains = Table("gain of reuse", "alone", "on top of all others", title="")
    for switch, gain in figures["gains"].items():
        gains.add_row(switch, f"{gain['alone']:.2f}", f"{gain['on_top']:.2f}")
    return Group(drawn, gains, *_facts(figures))


def plot(measured: Measured, figures: dict[str, Any], path: Path) -> None:
    """Draw one PNG: seconds of each hop on the left, what each reuse gains on the right."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        costs, gains = figure.subplots(1, 2, width_ratios=(3, 2))
        names = {
            "a": "(a) generate, one by one",
            "b": "(b) generate, one batch",
            "without draft": "ours without the draft",
            "all": "ours",
        }
        for name, label in names.items():
            places = list(measured.answered(name))
            style = "o-" if len(places) == len(measured.lengths) else "o--"
            costs.plot(places, [cost.wall for cost in measured.costs[name]], style, label=label, markersize=3)
        for place in range(1, len(measured.lengths)):
            if measured.lengths[place] < measured.lengths[place - 1]:
                costs.axvline(place - 0.5, color="grey", linewidth=0.6, linestyle=":")
        costs.set(yscale="log", xlabel="hop (dotted: a window hands over)", ylabel="seconds, four questions")
        costs.set_title(_title(figures))
        costs.legend(fontsize=8)
        costs.grid(alpha=0.3)
        rows = range(len(SWITCHES))
        alone = [figures["gains"][switch]["alone"] for switch in SWITCHES]
        on_top = [figures["gains"][switch]["on_top"] for switch in SWITCHES]
        gains.barh([row - 0.2 for row in rows], alone, 0.4, label="alone, over none")
        gains.barh([row + 0.2 for row in rows], on_top, 0.4, label="on top of all others")
        gains.axvline(1, color="grey", linewidth=0.8)
        gains.set_yticks(list(rows), SWITCHES)
        gains.invert_yaxis()
        gains.set(xlabel="times faster", title="gain of each reuse")
        gains.legend(fontsize=8)
        gains.grid(alpha=0.3, axis="x")
        figure.savefig(path, dpi=100)


def _counts(usage: Counter[str]) -> dict[str, int]:
    """What was encoded and read for no question yet counts as encoded; reused is what was not read again."""
    return {
        "slices_encoded": usage["slices_encoded"] + usage["slices_ahead"],
        "slices_used": usage["slices_used"],
        "prompt_tokens": usage["prompt_tokens"],
        "prompt_tokens_reused": usage["prompt_tokens_reused"] - usage["prompt_tokens_ahead"],
        "completion_tokens": usage["completion_tokens"],
        "draft_proposed": usage["draft_proposed"],
        "draft_accepted": usage["draft_accepted"],
    }


def _facts(figures: dict[str, Any]) -> list[str]:
    checked = sum(sum(found.values()) for found in figures["audits"].values())
    reused = figures["prompt_tokens_reused"] / figures["prompt_tokens"]
    found = [
        f"{checked} answers compared: {figures['audit_errors']} errors, {figures['audit_ties']} ties",
        f"slices encoded {figures['slices_encoded']}, used {figures['slices_used']}",
        f"{reused:.1%} of {figures['prompt_tokens']} prompt tokens reused",
        f"drafts: {figures['draft_accepted']} of {figures['completion_tokens']} tokens said, "
        f"{figures['draft_proposed']} proposed",
    ]
    for name in ("changing", "static"):
        if share := figures.get(f"draft_{name}"):
            found.append(
                f"drafts, live questions, {name} scene: {share['of_said']:.0%} of the tokens said, "
                f"{share['of_proposed']:.0%} of those proposed"
            )
    return found


def _title(figures: dict[str, Any]) -> str:
    layers = "{text_layers} text and {vision_layers} vision layers".format(**figures)
    return f"{figures['model']} ({layers}), windows of {figures['slices']} slices"


def _ratio(one: float, other: float) -> float:
    return round(one / other, 3)
