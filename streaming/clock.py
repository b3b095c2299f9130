"""Clocks: the machine's own, and a virtual one for tests and replays.

Code that waits or measures takes a clock; frames carry their own times.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["Clock", "MonotonicClock", "VirtualClock"]


# Linux stops its CLOCK_MONOTONIC in sleep, macOS does not, and Windows knows neither.
_RUNS_IN_SLEEP: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


class Clock(Protocol):
    """A clock that never goes back."""

    def now(self) -> float:
        """Seconds since some fixed moment."""
        ...

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until `event` is set or `seconds` have passed; True when it is set."""
        ...


class MonotonicClock:
    """The machine's own clock; it runs on while the machine sleeps, so that a sleep is a gap in a stream."""

    def now(self) -> float:
        """Seconds since the machine started."""
        return time.monotonic() if _RUNS_IN_SLEEP is None else time.clock_gettime(_RUNS_IN_SLEEP)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Sleep until `event` is set or `seconds` have passed; True when it is set."""
        return event.wait(max(0.0, seconds))


class VirtualClock:
    """A clock that stands still until it is waited on; waiting takes no time and moves it on."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._lock = threading.Lock()

    def now(self) -> float:
        """`start`, and the seconds that were waited since."""
        with self._lock:
            return self._now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Move on by `seconds` at once, unless `event` is set."""
        if not event.is_set():
            self.advance(max(0.0, seconds))
        return event.is_set()

    def advance(self, seconds: float) -> None:
        """Move the clock forward.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"a clock never goes back, got {seconds} s")
        with self._lock:
            self._now += seconds
