"""Audit of reuse: a share of the answers is generated again without any cache or draft, and compared.

The second run is on the same engine with the same kernels. Where two tokens are almost equally likely,
another order of the same sums may choose the other one: that is a tie. Everything else is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from egolive.assistant.schema.engine import NO_REUSE, Engine, Request

__all__ = ["Audit", "AuditCounts", "tie_margin"]

_log = logging.getLogger(__name__)

_TIE = {"fp32": 1e-3}
"""Margin of the likeliest token below which a difference is a tie, by precision of the weights."""
_COARSE_TIE = 0.25
"""The same for all other precisions: bf16 has 8 bits."""


def tie_margin(precision: str) -> float:
    """Margin of the likeliest token below which another one in its place is a tie, not an error.

    Args:
        precision: Of the weights, as in `EngineInfo`.
    """
    return _TIE.get(precision, _COARSE_TIE)


@dataclass(slots=True)
class AuditCounts:
    """What an audit has found so far."""

    checked: int = 0
    ties: int = 0
    errors: int = 0
    skipped: int = 0
    """Sampled answers (temperature above 0), which cannot be compared."""

    @property
    def summary(self) -> str:
        """The counts in a few words; none at all does not read like none wrong."""
        if not self.checked:
            return "no answer was given again without reuse, so nothing is known"
        return f"{self.checked} answers given again without reuse: {self.errors} errors, {self.ties} ties"


class Audit:
    """Replays a fixed share of the answers with `NO_REUSE`. One thread owns it."""

    def __init__(self, engine: Engine, share: float) -> None:
        """Open no session yet: each check has an empty session of its own.

        Args:
            engine: The one that answers.
            share: Of all answers, above 0 and at most 1; of every round(1 / share) answers the first is
                checked.

        Raises:
            ValueError: A share that cannot be.
        """
        if not 0 < share <= 1:
            raise ValueError(f"an audit replays a share above 0 and at most 1 of all answers, got {share}")
        self.counts = AuditCounts()
        self._engine = engine
        self._every = round(1 / share)
        self._tie = tie_margin(engine.info.precision)
        self._asked = 0

    def check(self, request: Request, tokens: Sequence[int]) -> None:
        """Count a complete answer, and check it where it is due.

        Args:
            request: What was asked, its grammar matcher in its initial state.
            tokens: The answer, the token that ended it included.

        Raises:
            EngineError: The engine failed.
        """
        self._asked += 1
        if (self._asked - 1) % self._every:
            return
        if request.temperature > 0:
            self.counts.skipped += 1
            return
        self.counts.checked += 1
        with self._engine.session(NO_REUSE) as session:
            place = -1
            for place, delta in enumerate(session.ask([request])):
                if place < len(tokens) and delta.token == tokens[place]:
                    continue
                if delta.margin < self._tie:
                    self.counts.ties += 1
                else:
                    self._tell_error(place, delta.margin)
                return
        if place + 1 != len(tokens):
            self._tell_error(place + 1, float("inf"))

    def _tell_error(self, place: int, margin: float) -> None:
        self.counts.errors += 1
        _log.error(
            "audit: answer %d differs from the one without reuse at token %d, where the margin is %.3g",
            self._asked,
            place,
            margin,
        )
