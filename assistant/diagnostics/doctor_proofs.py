"""What `egolive doctor` does when it is asked to prove something; tables and facts stay in `doctor`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from egolive.assistant.diagnostics.coordinate_probe import probe_coords, store_unit
from egolive.assistant.diagnostics.glass_to_overlay import measure_latency
from egolive.assistant.diagnostics.proof import prove
from egolive.assistant.load_local import load_engine

__all__ = ["run_latency", "run_probe", "run_proof"]

Tell = Callable[[str], object]


def run_probe(model: str, tell: Tell, *, store: bool) -> tuple[dict[str, Any], int]:
    """Fit a model's coordinate unit, tell it, and store it where that is wanted."""
    with closing(load_engine(model)) as engine:
        found = probe_coords(engine)
        before = engine.profile.unit
    fits = ", ".join(f"{unit} {iou:.2f}" for unit, iou in found.iou.items())
    tell(f"{found.answered} of {found.shown} squares answered; mean IoU by unit: {fits}")
    report: dict[str, Any] = {"model": model, "before": before, "stored": None} | asdict(found)
    if found.unit is None:
        tell(f"no unit fits: this model does not find plain squares; its profile keeps {before}")
        return report, 1
    if store and found.unit != before:
        path = store_unit(model, found.unit)
        report["stored"] = str(path)
        tell(f"the unit is {found.unit}, stored in {path} in place of {before}")
    else:
        tell(f"the unit is {found.unit}; the profile says {before}")
    return report, 0


def run_latency(model: str, seconds: float, tell: Tell) -> tuple[dict[str, Any], int]:
    """Measure glass to overlay with the virtual camera."""
    with closing(load_engine(model)) as engine:
        tell(f"a virtual camera of 1280x720 at 30 pictures a second for {seconds:g} s, answered by {model}")
        found = measure_latency(engine, seconds=seconds)
    if found.glass_to_overlay is not None:
        overlay = found.glass_to_overlay
        tell(
            f"glass to overlay {overlay.p50 * 1e3:.0f} ms (median), 95 % within {overlay.p95 * 1e3:.0f} ms, "
            f"99 % within {overlay.p99 * 1e3:.0f} ms; a real camera's exposure and transfer come on top"
        )
    if found.answer_age is not None:
        tell(f"answers {found.answer_age.p50:.2f} s old when shown, 95 % within {found.answer_age.p95:.2f} s")
    drops = ", ".join(f"{count} {reason}" for reason, count in found.drops.items()) or "none"
    tell(f"{found.shown} of {found.pictures} pictures shown, dropped: {drops}")
    return {"model": model, "camera": "virtual"} | found.in_ms(), 0


def run_proof(
    model: str, out: Path, engines: Sequence[str], clips: Sequence[str], seconds: float, tell: Tell
) -> tuple[dict[str, Any], int]:
    """Prove a model, and tell what failed."""
    report = prove(model, out, engines=engines, clips=clips, seconds=seconds, tell=tell)
    for proof in report["proofs"]:
        for failed in proof["failed"]:
            tell(f"{proof['model']}: {failed['part']} failed: {failed['error']}")
        if proof.get("coordinates", {}).get("unit", "") is None:
            tell(f"{proof['model']}: finds no plain squares; the unit of its boxes is the profile's")
        tell(f"{proof['model']}: {'holds' if proof['ok'] else 'does not hold'}")
    return report, int(not report["ok"])
