"""The figures of `egolive bench stream`: as JSON values, as a table, as a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table

from egolive.benchmarks.bench_output import save_figure, table
from egolive.benchmarks.stream.baseline_runner import Measured, places_of

__all__ = ["SWITCHES", "drafted", "figures_of", "plot", "table_of"]

SWITCHES = ("slices", "prefix", "together", "draft")
"""Kinds of reuse, each a switch of `Reuse`."""

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


def figures_of(
    measured: Measured, usage: Mapping[str, Counter[str]], lengths: Sequence[int], naive_every: int
) -> dict[str, Any]:
    """What was measured, under the names that other programs read.

    Costs are means over the hops at which a baseline answered: a draft that fails now and then costs what it
    costs. Speed-ups are the cost of a naive baseline over ours, in seconds that passed; where the machine has
    other work as well, those in seconds of the processor say more.

    Args:
        measured: What was noted.
        usage: The engine's counts by name.
        lengths: Slices of the window at each hop.
        naive_every: The naive baselines answered at one hop of so many.
    """
    answered = [lengths[place] for place in places_of(len(lengths), naive_every)]
    cost = _means(measured, "wall", answered)
    cpu = _means(measured, "cpu", answered)
    audits = dict(sorted((name, dict(found)) for (_, name), found in measured.audits.items()))
    return {
        "speedup_a": _ratio(cost["a"], cost["all"]),
        "speedup_b": _ratio(cost["b"], cost["all"]),
        "speedup_c": _ratio(cost["c"], cost["live"]),
        "speedup_a_without_draft": _ratio(cost["a"], cost["without draft"]),
        "speedup_b_without_draft": _ratio(cost["b"], cost["without draft"]),
        "speedup_c_without_draft": _ratio(cost["c"], cost["live without draft"]),
        "speedup_b_slices_kept": _ratio(cost["b slices kept"], cost["all"]),
        "speedup_a_cpu": _ratio(cpu["a"], cpu["all"]),
        "speedup_b_cpu": _ratio(cpu["b"], cpu["all"]),
        "speedup_c_cpu": _ratio(cpu["c"], cpu["live"]),
        "windows": len(answered),
        "hops": len(lengths),
        "audit_errors": sum(found.get("error", 0) for found in audits.values()),
        "audit_ties": sum(found.get("tie", 0) for found in audits.values()),
        "audits": audits,
        **_counts(usage["all"]),
        "live": _counts(usage["live"]),
        "gains": {
            switch: {
                "alone": _ratio(cost["none"], cost[f"{switch} alone"]),
                "on_top": _ratio(cost[f"without {switch}"], cost["all"]),
            }
            for switch in SWITCHES
            if f"{switch} alone" in cost
        },
        "seconds_per_hop": {name: round(value, 5) for name, value in cost.items()},
        "cpu_seconds_per_hop": {name: round(value, 5) for name, value in cpu.items()},
    }


def _means(measured: Measured, kind: Literal["wall", "cpu"], lengths: Sequence[int]) -> dict[str, float]:
    costs = {name: [one.cost for one in found] for (_, name), found in measured.answers.items()}
    encoding = [getattr(one.encoding, kind) for one in measured.answers["window", "b"]]
    # All but the newest slice of each window would be there already.
    spared = fmean(cost * (1 - 1 / n) for cost, n in zip(encoding, lengths, strict=True))
    means = {name: fmean(getattr(cost, kind) for cost in found) for name, found in costs.items()}
    return means | {"b encoding": fmean(encoding), "b slices kept": means["b"] - spared}


def drafted(usage: Counter[str]) -> dict[str, float | None]:
    """How far drafts held: shares of the tokens that were proposed, and of those said; None of no tokens."""
    accepted, proposed, said = (
        usage[name] for name in ("draft_accepted", "draft_proposed", "completion_tokens")
    )
    return {
        "of_proposed": round(accepted / proposed, 4) if proposed else None,
        "of_said": round(accepted / said, 4) if said else None,
    }


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.0%}"


def table_of(figures: dict[str, Any]) -> RenderableType:
    """The figures for people."""
    drawn = table(_title(figures), "four questions a hop", "s", "CPU s", "of ours", "hops")
    cost = figures["seconds_per_hop"]
    for name, label in _LABELS.items():
        # Each is held against our answers to the same questions.
        ours = cost["live" if name == "c" or name.startswith("live") else "all"]
        hops = figures["hops" if name in ("all", "live") else "windows"]
        last = name == "without draft"
        spent = f"{cost[name]:.3f}", f"{figures['cpu_seconds_per_hop'][name]:.3f}"
        drawn.add_row(label, *spent, f"{cost[name] / ours:.2f}", str(hops), end_section=last)
    gains = Table("gain of reuse", "alone", "on top of all others", title="")
    for switch, gain in figures["gains"].items():
        gains.add_row(switch, f"{gain['alone']:.2f}", f"{gain['on_top']:.2f}")
    return Group(drawn, *([gains] if figures["gains"] else []), *_facts(figures))


def plot(measured: Measured, figures: dict[str, Any], path: Path) -> None:
    """Draw one PNG: seconds of each hop on the left, what each reuse gains on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    columns = figure.subplots(1, 2 if figures["gains"] else 1, squeeze=False)[0]
    _plot_costs(columns[0], measured, figures)
    if figures["gains"]:
        _plot_gains(columns[1], figures["gains"])
    save_figure(figure, path)


def _plot_costs(axes: Any, measured: Measured, figures: dict[str, Any]) -> None:
    names = {
        "a": "(a) generate, one by one",
        "b": "(b) generate, one batch",
        "without draft": "ours without the draft",
        "all": "ours",
    }
    for name, label in names.items():
        found = measured.answers["window", name]
        every = 1 if name == "all" else figures["naive_every"]
        places = places_of(figures["hops"], every)
        costs = [one.cost.cpu for one in found]
        axes.plot(places, costs, "o-" if every == 1 else "o--", label=label, markersize=3)
    for place in range(figures["slices"], figures["hops"], figures["slices"]):
        axes.axvline(place - 0.5, color="grey", linewidth=0.6, linestyle=":")
    axes.set(yscale="log", xlabel="hop (dotted: a window hands over)", ylabel="CPU seconds, four questions")
    axes.set_title(_title(figures))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _plot_gains(axes: Any, gains: dict[str, dict[str, float]]) -> None:
    rows = range(len(gains))
    for place, (key, label) in enumerate((("alone", "alone"), ("on_top", "on top of all others"))):
        values = [gain[key] for gain in gains.values()]
        axes.barh([row + 0.4 * place - 0.2 for row in rows], values, 0.4, label=label)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(list(rows), list(gains))
    axes.invert_yaxis()
    axes.set(xlabel="times faster", title="gain of each reuse")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, axis="x")


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
                f"drafts, live questions, {name} scene: {_percent(share['of_said'])} of the tokens said, "
                f"{_percent(share['of_proposed'])} of those proposed"
            )
    return found


def _title(figures: dict[str, Any]) -> str:
    layers = "{text_layers} text and {vision_layers} vision layers".format(**figures)
    return f"{figures['model']} ({layers}), windows of {figures['slices']} slices"


def _ratio(one: float, other: float) -> float:
    return round(one / other, 3)
