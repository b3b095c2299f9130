"""Training time without interruptions, kept in the records of the log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Clock", "seconds_of", "spoken"]

Log = Sequence[Mapping[str, Any]]


class Clock:
    """Counts on from the last record that a checkpoint kept."""

    def __init__(self) -> None:
        """Start counting."""
        self._last = time.monotonic()

    def stamp(self, logs: dict[str, float], history: Log) -> dict[str, float]:
        """A new record with the seconds of training up to it.

        Args:
            logs: the record.
            history: the records before it.
        """
        now = time.monotonic()
        spent, self._last = now - self._last, now
        return {**logs, "seconds": round(seconds_of(history) + spent, 2)}


def seconds_of(history: Log) -> float:
    """Seconds of training up to the last record."""
    return next((float(record["seconds"]) for record in reversed(history) if "seconds" in record), 0.0)


def spoken(seconds: float) -> str:
    """A duration for people: 4 h 38 min, 12 min, 40 s."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
