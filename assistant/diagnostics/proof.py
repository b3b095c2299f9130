"""`egolive doctor --prove MODEL`: checks a model on this machine from loading to a live run, in one report.

A part that fails is written into the report with its error, and the others go on. Nothing is sent anywhere.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from egolive.assistant.diagnostics.coordinate_probe import probe_coords
from egolive.assistant.diagnostics.glass_to_overlay import measure_latency, nothing_measured
from egolive.assistant.generation.audit import Audit
from egolive.assistant.live.assistant import Assistant, live_questions
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import EventSink
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.media import bundled_clip
from egolive.assistant.recording.evidence import (
    EvidenceWriter,
    is_bundle,
    read_bundle,
    reproduce,
    weights_hash,
)
from egolive.assistant.schema.engine import Engine
from egolive.assistant.system import machine, nvml
from egolive.assistant.system.peak_memory import PeakMemory
from egolive.streaming.clock import MonotonicClock
from egolive.streaming.errors import EgoliveError, SinkError, one_line
from egolive.streaming.metrics import Metrics, rss_bytes
from egolive.streaming.sources.opening import open_source

__all__ = ["prove", "run_proof", "shortcomings"]

_AUDIT_SHARE = 0.2


def prove(
    model: str,
    out: Path,
    *,
    engines: Sequence[str] = (),
    clips: Sequence[str] = (),
    seconds: float = 20.0,
    tell: Callable[[str], object],
) -> dict[str, Any]:
    """Try a model, and engines made of it, from loading to a live run.

    Args:
        model: As on the command line; from the hub it is downloaded.
        out: Folder for events, evidence and the report's parts; new or empty.
        engines: Engine folders that shall be tried too.
        clips: The owner's clips, beside the bundled one.
        seconds: Seconds of each clip, and of the live run.
        tell: Takes a line for people before each part.

    Returns:
        The report. `ok` is whether everything could be done, and held. What had nothing to hold of, as a clip
        without answers, has failed.

    Raises:
        SinkError: The folder is not empty, or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise SinkError(f"{out}: is not empty; name a new folder with --out")
    except OSError as error:
        raise SinkError(f"{out}: cannot be written ({error.strerror or error})") from error
    named = [model, *engines]
    places = [str(bundled_clip()), *clips]
    proofs = []
    for number, name in enumerate(named):
        tell(f"{name}: loading")
        proofs.append(_prove_one(name, out / f"engine-{number}", places, seconds, tell))
    report: dict[str, Any] = dict(machine.gather()) | {"model": model, "proofs": proofs}
    report["ok"] = all(proof["ok"] for proof in proofs)
    return report


def _prove_one(
    name: str, out: Path, clips: Sequence[str], seconds: float, tell: Callable[[str], object]
) -> dict[str, Any]:
    proof: dict[str, Any] = {"model": name, "ok": False, "failed": []}
    # What earlier engines have left is theirs.
    gc.collect()
    peak = PeakMemory()

    def part(title: str, work: Callable[[], Any]) -> Any:
        tell(f"{name}: {title}")
        try:
            with _Power() as power:
                proof[title] = work()
            if isinstance(proof[title], dict) and power.watts is not None:
                proof[title]["watts"] = power.watts
        except (EgoliveError, RuntimeError, OSError) as error:
            # A device that runs out of memory raises RuntimeError; it belongs into the report.
            proof["failed"].append({"part": title, "error": one_line(error)})
        return proof.get(title)

    started = time.monotonic()
    try:
        engine = load_engine(name)
    except EgoliveError as error:
        proof["failed"].append({"part": "load", "error": str(error)})
        return proof
    with closing(engine):
        proof["load_s"] = round(time.monotonic() - started, 2)
        proof["engine"] = asdict(engine.info)
        part("sha256", lambda: weights_hash(name))
        part("coordinates", lambda: asdict(probe_coords(engine)))
        for number, clip in enumerate(clips):
            folder = out / f"clip-{number}"
            part(f"clip {number}", partial(_clip, engine, name, clip, seconds, folder))
        part("evidence", lambda: _evidence(engine, out))
        part("live", lambda: measure_latency(engine, seconds=seconds).in_ms())
        part("memory", lambda: _memory(engine, peak))
    proof["failed"] += [{"part": title, "error": error} for title, error in shortcomings(proof)]
    proof["ok"] = not proof["failed"]
    return proof


def shortcomings(proof: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Parts that were done and prove nothing, or the contrary: their names, and what is wrong in a line."""
    longer = "give a longer clip, or more --seconds"
    for title, found in proof.items():
        if not title.startswith("clip ") or not isinstance(found, Mapping):
            continue
        audit = found["audit"]
        if not found["answers"]:
            yield title, f"no question was answered, so nothing is proved; {longer}"
        if audit["errors"]:
            yield title, f"{audit['errors']} of {audit['checked']} answers differ from those without reuse"
        elif audit["checked"] <= audit["ties"]:
            yield title, f"no answer could be compared with the one without reuse; {longer}"
    if isinstance(evidence := proof.get("evidence"), Mapping):
        if not evidence["bundles"]:
            yield "evidence", f"no answer was kept, so none could be given again; {longer}"
        elif evidence["same"] < evidence["bundles"]:
            differ = evidence["bundles"] - evidence["same"]
            yield (
                "evidence",
                f"{differ} of {evidence['bundles']} answers are others when they are given again",
            )
    if isinstance(live := proof.get("live"), Mapping) and (error := nothing_measured(live)):
        yield "live", error


def _clip(engine: Engine, model: str, clip: str, seconds: float, out: Path) -> dict[str, Any]:
    """Answer a clip, some answers twice, some kept as evidence."""
    metrics, clock = Metrics(), MonotonicClock()
    audit = Audit(engine, _AUDIT_SHARE)
    observer = EvidenceWriter(
        out / "evidence", model=model, info=engine.info, sha256=weights_hash(model), profile=engine.profile
    )
    questions = live_questions(("intent", "next", "ground"))
    source = open_source(clip)
    with Assistant(engine, questions=questions, metrics=metrics, audit=audit, observer=observer) as assistant:
        report = run_stream(
            source,
            assistant,
            [EventSink(out / "events.jsonl")],
            fps=engine.profile.fps,
            slices=engine.profile.window_slices,
            seconds=min(seconds, 10.0),
            metrics=metrics,
            clock=clock,
            audit=audit.counts,
        )
    stages = {stage: asdict(figures) for stage, figures in metrics.stages().items()}
    return {
        "clip": Path(clip).name,
        "answers": report.results,
        "answers_per_s": round(report.results / report.seconds, 3) if report.seconds else 0.0,
        "audit": asdict(audit.counts),
        "stages": stages,
        "counts": metrics.counts,
    }


def _evidence(engine: Engine, out: Path) -> dict[str, Any]:
    """Give a few answers again from their bundles alone."""
    bundles = sorted(path.parent for path in out.rglob("bundle.json") if is_bundle(path.parent))[:12]
    same = 0
    for folder in bundles:
        bundle = read_bundle(folder)
        same += reproduce(bundle, engine) == bundle.answer
    return {"bundles": len(bundles), "same": same}


def _memory(engine: Engine, peak: PeakMemory) -> dict[str, Any]:
    """Megabytes; None is unknown."""
    found: dict[str, Any] = {
        "weights_mb": round(engine.info.weight_bytes / 1e6, 1),
        "process_mb": round(rss_bytes() / 1e6, 1),
        "process_peak_mb": peak.process_mb(),
    }
    if engine.info.device.startswith("cuda"):
        found["device_peak_mb"] = peak.device_mb(engine.info.device, engine.info.backend)
    return found


class _Power:
    """Reads the first GPU's power twice a second while something runs, where the driver tells it."""

    def __init__(self) -> None:
        self.watts: float | None = None
        """Mean of what was read; None where nothing was."""
        self._over = threading.Event()
        self._read: list[float] = []
        self._thread = threading.Thread(target=self._loop, name="egolive-power", daemon=True)

    def __enter__(self) -> _Power:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._read:
            self.watts = round(sum(self._read) / len(self._read), 1)

    def _loop(self) -> None:
        while not self._over.wait(0.5):
            watts = nvml.power_watts()
            if watts is None:
                return
            self._read.append(watts)


def run_proof(
    model: str,
    out: Path,
    engines: Sequence[str],
    clips: Sequence[str],
    seconds: float,
    tell: Callable[[str], object],
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
