"""What the stages of an answer take where nothing is kept: encode, prefill, first token, decode; memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.schema.engine import Request, Vision

__all__ = ["Stages", "engine_stages", "medians", "memory_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Of one answer, in milliseconds; None is not told."""

    pictures: int
    """That were encoded: slices of a window."""
    encode_ms: float | None
    """A picture's."""
    prompt_tokens: int
    prefill_ms: float | None
    """Of the whole prompt, without encoding."""
    first_token_ms: float
    """From the question on, encoding included."""
    decode_ms: float | None
    """A token's."""
    tokens: int


def engine_stages(engine: LocalEngine[VisionTower, Decoder], request: Request) -> Stages:
    """One answer of our engine by a new session."""
    tower, _ = engine.backend()
    vision = next(part for part in request.prompt.parts if isinstance(part, Vision))
    height, width = vision.height, vision.width
    encoded = []
    session = engine.session()
    try:
        # In the same order as in the session: it is measured apart, for the session tells only the sum.
        pairs = [vision.frames[at : at + 2] for at in range(0, len(vision.frames), 2)]
        patches = engine.preprocessor.patches(pairs[0], height, width)
        for _ in range(2):
            begun = time.perf_counter()
            tower.encode(*patches)
            encoded.append(time.perf_counter() - begun)
        begun, first, last, count = time.perf_counter(), 0.0, 0.0, 0
        for _ in session.ask([request]):
            # What is read ahead behind the last token is no part of the answer.
            last = time.perf_counter() - begun
            first = first or last
            count += 1
        usage = session.usage()
    finally:
        session.close()
    slices = usage.get("slices_encoded", 0)
    encode = min(encoded)
    return Stages(
        pictures=slices,
        encode_ms=encode * 1e3,
        prompt_tokens=usage["prompt_tokens"],
        prefill_ms=(first - slices * encode) * 1e3,
        first_token_ms=first * 1e3,
        decode_ms=(last - first) / (count - 1) * 1e3 if count > 1 else None,
        tokens=count,
    )


def medians(found: Sequence[Stages]) -> dict[str, Any]:
    """Each figure's median over the rounds in which it is told; None where it never is."""
    told: dict[str, Any] = {"rounds": len(found)}
    for field in fields(Stages):
        values = [value for one in found if (value := asdict(one)[field.name]) is not None]
        told[field.name] = round(median(values), 2) if values else None
    return told


def memory_of(pid: int | None = None) -> dict[str, float] | None:
    """What a process holds now, MB: anonymous pages and pages of files, which are given back when needed.

    None where the system does not tell it (not Linux), or the process has ended.
    """
    try:
        lines = Path(f"/proc/{pid or 'self'}/status").read_text().splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    if not {"RssAnon", "RssFile"} <= set(values):
        return None
    anonymous, mapped = (int(values[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
    return {"anonymous_mb": round(anonymous / 1e6, 1), "mapped_mb": round(mapped / 1e6, 1)}
