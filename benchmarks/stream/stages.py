"""What the stages of an answer take: encode, prefill, first token, decode; memory.

Four answers are measured, each alone: about a short window and about a whole one with nothing kept, a second
question about the same window, and the first question again when the window has moved on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.engine_session import Session
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.schema.engine import Request, Vision
from egolive.benchmarks.stream.baseline_runner import Hop

__all__ = [
    "CASES",
    "EngineStages",
    "Stages",
    "StagesOf",
    "hops_needed",
    "measure_cases",
    "medians",
    "memory_of",
]

CASES = ("one slice", "window", "second question", "window moved")
"""Nothing kept for the first two; for the others everything that the side keeps by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Of one answer, in milliseconds; None is not told."""

    pictures: int
    """That were encoded: slices of a window."""
    encode_ms: float | None
    """A picture's; None where none was encoded."""
    prompt_tokens: int
    reused_tokens: int
    """Of the prompt, which were not read again."""
    prefill_ms: float | None
    """Of what was read, without encoding."""
    first_token_ms: float
    """From the question on, encoding included."""
    decode_ms: float | None
    """A token's."""
    tokens: int


class StagesOf(Protocol):
    """One side."""

    def stages(self, request: Request, *, anew: bool) -> Stages:
        """One answer; `anew` with nothing kept from before."""
        ...

    def pass_by(self, request: Request) -> None:
        """A window that the stream passes on its way to the next one that is measured."""
        ...


class EngineStages:
    """Our engine, in one session."""

    def __init__(self, engine: LocalEngine[VisionTower, Decoder]) -> None:
        self._engine = engine
        self._session: Session | None = None

    def stages(self, request: Request, *, anew: bool) -> Stages:
        """One answer; what is read ahead behind its last token is no part of it."""
        if anew or self._session is None:
            self.close()
            self._session = self._engine.session()
        # In the same order as in the session: encoding is measured apart, for the session tells only the sum.
        encode = self._encode_seconds(request)
        begun, first, last, count = time.perf_counter(), 0.0, 0.0, 0
        for _ in self._session.ask([request]):
            last = time.perf_counter() - begun
            first = first or last
            count += 1
        usage = self._session.usage()
        slices = usage["slices_encoded"]
        return Stages(
            pictures=slices,
            encode_ms=encode * 1e3 if slices else None,
            prompt_tokens=usage["prompt_tokens"],
            reused_tokens=usage["prompt_tokens_reused"],
            prefill_ms=(first - slices * encode) * 1e3,
            first_token_ms=first * 1e3,
            decode_ms=(last - first) / (count - 1) * 1e3 if count > 1 else None,
            tokens=count,
        )

    def pass_by(self, request: Request) -> None:
        """See the window, as live, where it is asked about at each hop."""
        assert self._session is not None
        for _ in self._session.ask([request]):
            pass

    def close(self) -> None:
        """Free the session."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _encode_seconds(self, request: Request) -> float:
        tower, _ = self._engine.backend()
        vision = next(part for part in request.prompt.parts if isinstance(part, Vision))
        patches = self._engine.preprocessor.patches(vision.frames[:2], vision.height, vision.width)
        times = []
        for _ in range(2):
            begun = time.perf_counter()
            tower.encode(*patches)
            times.append(time.perf_counter() - begun)
        return min(times)


def measure_cases(side: StagesOf, hops: Sequence[Hop], slices: int, number: int) -> dict[str, Stages]:
    """One round of all cases of one side, by the names of `CASES`.

    Each round has windows of its own: a side that keeps old prompts does not find those of earlier rounds.

    Args:
        side: What answers.
        hops: Of the stream, `hops_needed` of them.
        slices: Of a window.
        number: Of the round, from 0 on.
    """
    place = (number + 1) * slices - 1
    first, second, *_ = hops[place].sets["window"]
    found = {"one slice": side.stages(hops[0].sets["window"][0], anew=True)}
    found["window"] = side.stages(first, anew=True)
    found["second question"] = side.stages(second, anew=False)
    # A window that has moved on shares no slice's place in the prompt with the one before.
    for hop in hops[place + 1 : place + slices]:
        side.pass_by(hop.sets["window"][0])
    found["window moved"] = side.stages(hops[place + slices].sets["window"][0], anew=False)
    return found


def hops_needed(slices: int, rounds: int) -> int:
    """Hops that so many rounds of `measure_cases` see."""
    return (rounds + 1) * slices


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
