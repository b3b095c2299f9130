"""The report of `egolive bench all`: one HTML file with everything in it, which asks nothing of any network.

What was measured stands in the parts; a few figures of each are lifted to the top, where they were measured.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
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
    told: str = ""
    """The table, and whatever else it told people."""
    plot: Path | None = None
    failed: str = ""
    """Why; empty where it did not."""

    def line(self) -> dict[str, Any]:
        """What is kept of it."""
        return self.figures | ({"failed": self.failed} if self.failed else {})


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
        "took": f"{whole['seconds']} s" + (", short runs: look at orders of size" if whole["quick"] else ""),
    }
    body = "".join(_section(part) for part in parts)
    found = _rows(headlines({part.name: part.figures for part in parts}))
    failed = "".join(
        f'<p class="failed">{escape(part.name)} failed: {escape(part.failed)}</p>'
        for part in parts
        if part.failed
    )
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><title>egolive, measured</title>"
        f"<style>{_STYLE}</style><h1>egolive, measured</h1><table>{_rows(facts.items())}</table>"
        f"<h2>In short</h2><table>{found}</table>{failed}{body}</html>\n",
        encoding="utf-8",
    )


def headlines(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """A few figures of each part that has any, for people.

    Args:
        figures: The JSON line of each part, by its name; empty where there is none.
    """
    for name, told in _HEADLINES.items():
        found = figures.get(name)
        if found:
            yield from told(found)


def _latency(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for setting in found["settings"]:
        title = "{model} {precision}, {size} at {fps:g}".format(**setting)
        if overlay := setting["glass_to_overlay_ms"]:
            yield f"glass to overlay, {title}", "{p50:.1f} / {p95:.1f} / {p99:.1f} ms".format(**overlay)
        if age := setting["answer_age_s"]:
            yield f"age of answers, {title}", "{p50:.2f} / {p95:.2f} / {p99:.2f} s".format(**age)


def _engines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for entry in found["engines"]:
        yield (
            f"engine {entry['name']} {entry['precision']}",
            "{tok_s:.0f} tokens a second ({of_floor:.0%} of the ceiling), live first token "
            "{ttft_live_ms:.0f} ms, {peak_mb} MB".format(**entry),
        )


def _peers(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for kind, name in found["best"].items():
        ratio = found["same_backend"][name] if name in found["same_backend"] else found["ratios"][name]
        yield (
            f"times of ours on the same files: {name} (the fastest of {kind})",
            f"answer set {ratio['window']['answer_set']:.1f}, live {ratio['live']['answer_set']:.1f}, "
            f"first token {ratio['live']['first_token']:.1f}, memory {ratio['memory'] or 'not told'}",
        )
    if ahead := found["ahead_of_all"]:
        said = "; ".join(f"{kind}: {'yes' if so else 'no'}" for kind, so in ahead.items())
        yield "ahead of every peer on the answer set", said
    for side in found["sides"]:
        if "skipped" in side:
            yield f"skipped: {side['name']}", side["skipped"]


def _stream(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield (
        "four questions, times of ours",
        "generate one by one {speedup_a:.1f}, one batch {speedup_b:.1f}, live set {speedup_c:.1f}".format(
            **found
        ),
    )
    yield "exact", "{audit_errors} errors, {audit_ties} ties".format(**found)


def _scaling(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for curve, sides in found["curves"].items():
        ours = sides["ours"]
        ends = f"{ours['points'][0]['x']:g} to {ours['points'][-1]['x']:g}"
        yield f"cost by {curve}, {ends}", f"{ours['verdict']}, fitted growth {ours['growth']:.2f}"


def _quality(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    names = ("hand_miou", "object_miou", "intent_acc", "next_acc", "interval_r1_iou50")
    for entry in found["engines"]:
        shown = [f"{name} {entry[name]:.2f}" for name in names if entry.get(name) is not None]
        yield f"quality, {entry['name']} {entry['precision']}", ", ".join(shown)


def _soak(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    names = ("hours", "rss_slope_mb_h", "out_of_order", "expired_shown")
    yield "soak", ", ".join(f"{name} {found[name]}" for name in names if name in found)
    if faults := found.get("faults"):
        yield "faults", f"{len(faults)} tried"


_HEADLINES = {
    "latency": _latency,
    "engines": _engines,
    "peers": _peers,
    "stream": _stream,
    "scaling": _scaling,
    "quality": _quality,
    "soak": _soak,
}


def _section(part: Part) -> str:
    made = f"<h2>{escape(part.title)}</h2><p><code>{escape(part.command)}</code>, {part.seconds:.0f} s</p>"
    if part.failed:
        made += f'<p class="failed">failed: {escape(part.failed)}</p>'
    if part.told:
        made += f"<pre>{escape(part.told)}</pre>"
    if part.plot is not None:
        picture = base64.b64encode(part.plot.read_bytes()).decode()
        made += f'<img alt="{escape(part.title)}" src="data:image/png;base64,{picture}">'
    return made


def _rows(pairs: Iterator[tuple[str, str]] | Sequence[tuple[str, str]] | Any) -> str:
    return "".join(f"<tr><td>{escape(what)}</td><td>{escape(told)}</td></tr>" for what, told in pairs)
