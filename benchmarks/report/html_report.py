"""The report of `egolive bench all`: one HTML file with all tables and plots, which fetches nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["Part", "headlines", "write_report"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc }
table { border-collapse: collapse } td { padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid #eee }
pre { font: 12px/1.25 ui-monospace, monospace; overflow-x: auto; background: #f7f7f7; padding: .8rem }
img { max-width: 100% } code { background: #f2f2f2; padding: 0 .2rem }
.failed { color: #a00; font-weight: bold }
"""
_SETTING = "{model} {precision}, {size} at {fps:g}"
_HEADLINES = (
    (
        "latency",
        "settings",
        f"glass to overlay, {_SETTING}",
        "{glass_to_overlay_ms[p50]:.1f} / {glass_to_overlay_ms[p95]:.1f} / {glass_to_overlay_ms[p99]:.1f} ms",
    ),
    (
        "latency",
        "settings",
        f"age of answers, {_SETTING}",
        "{answer_age_s[p50]:.2f} / {answer_age_s[p95]:.2f} / {answer_age_s[p99]:.2f} s",
    ),
    (
        "engines",
        "engines",
        "engine {name} {precision}",
        "{tok_s:.0f} tokens a second ({of_floor:.0%} of the ceiling), first token, live {ttft_live_ms:.0f} ms"
        ", {peak_mb} MB",
    ),
    (
        "peers",
        "ratios",
        "{key}, live set, times of ours",
        "answer set {live[answer_set]:.1f}, first token {live[first_token]:.1f}, memory {memory}",
    ),
    ("peers", "sides", "skipped: {name}", "{skipped}"),
    (
        "stream",
        "",
        "four questions, times of ours",
        "generate one by one {speedup_a:.1f}, one batch {speedup_b:.1f}, live set {speedup_c:.1f}",
    ),
    ("stream", "", "answers compared", "{audit_errors} errors, {audit_ties} ties"),
    ("scaling", "curves", "cost by {key}", "{ours[verdict]}, fitted growth {ours[growth]:.2f}"),
    (
        "quality",
        "engines",
        "quality, {name} {precision}",
        "hands {hand_miou:.2f}, objects {object_miou:.2f}, intent {intent_acc:.2f}, next {next_acc:.2f}",
    ),
    (
        "soak",
        "",
        "{hours} h of stream",
        "memory {rss_slope_mb_h} MB an hour, {out_of_order} out of order, {expired_shown} expired but shown",
    ),
)
"""Part, the list or object in its figures with a row each (empty: the figures themselves), label, text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One measurement."""

    name: str
    title: str
    command: str
    seconds: float
    """How long it took."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Its JSON line; empty where it failed before there was any."""
    output: str = ""
    """What it printed for people, its table in particular."""
    plot: Path | None = None
    failed: str = ""
    """Why; empty where it did not."""


def write_report(path: Path, parts: Sequence[Part], whole: Mapping[str, Any]) -> None:
    """Write the report.

    Args:
        path: Of the HTML file.
        parts: In the order in which they stand.
        whole: Machine, versions, commit and command of the run, whether it was `quick`, and its `seconds`.
    """
    processor, memory = whole["machine"]["processor"], whole["machine"]["memory"]
    gpus = ", ".join(gpu["name"] for gpu in whole["machine"]["gpus"]) or "no GPU"
    facts = {
        "machine": f"{processor['name']}, {processor['cores']} cores, {memory['total'] / 1e9:.1f} GB, {gpus}",
        "system": whole["machine"]["platform"],
        "versions": ", ".join(f"{name} {version}" for name, version in whole["versions"].items()),
        "commit": whole["commit"] or "of an installed package",
        "command": whole["command"],
        "took": f"{whole['seconds']} s" + (", short runs: rough figures" if whole["quick"] else ""),
    }
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><title>egolive, measured</title>"
        f"<style>{_STYLE}</style><h1>egolive, measured</h1>{_table(facts.items())}"
        f"<h2>In short</h2>{_table(headlines({part.name: part.figures for part in parts}))}"
        + "".join(map(_section, parts))
        + "</html>\n",
        encoding="utf-8",
    )


def headlines(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """A few figures of each part that has any, as label and text.

    Args:
        figures: The JSON line of each part, by its name; empty where there is none.
    """
    for name, place, label, text in _HEADLINES:
        found = figures.get(name) or {}
        rows = found.get(place, []) if place else [found]
        for key, row in rows.items() if isinstance(rows, Mapping) else enumerate(rows):
            known = {"key": key, **row}
            try:
                yield label.format(**known), text.format(**known)
            except (KeyError, TypeError):
                continue  # some figure of this row was not measured


def _section(part: Part) -> str:
    made = f"<h2>{escape(part.title)}</h2><p><code>{escape(part.command)}</code>, {part.seconds:.0f} s</p>"
    if part.failed:
        made += f'<p class="failed">{escape(part.name)} failed: {escape(part.failed)}</p>'
    if part.output:
        made += f"<pre>{escape(part.output)}</pre>"
    if part.plot is not None:
        picture = base64.b64encode(part.plot.read_bytes()).decode()
        made += f'<img alt="{escape(part.title)}" src="data:image/png;base64,{picture}">'
    return made


def _table(pairs: Iterable[tuple[str, str]]) -> str:
    rows = (f"<tr><td>{escape(label)}</td><td>{escape(text)}</td></tr>" for label, text in pairs)
    return f"<table>{''.join(rows)}</table>"
