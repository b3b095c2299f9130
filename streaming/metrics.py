"""Times of stages, counters, and the memory of the process.

Stages and counters are named by their callers.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from egolive.streaming.clock import Clock, MonotonicClock

__all__ = [
    "Metrics",
    "Stage",
    "known",
    "peak_rss_bytes",
    "reset_peak_rss",
    "rss_bytes",
    "slope_per_hour",
]

_GROWN = 2**22
"""Bytes by which the peak may lie above what is held right after it was set back."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Seconds that one stage took: percentiles of its last times, the most of all times."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float


class Metrics:
    """Times and counts of one run, from any thread, in bounded memory.

    Args:
        clock: What `measure` measures with; the machine's own without it.
        recent: Times of each stage that percentiles are taken of.
    """

    def __init__(self, clock: Clock | None = None, *, recent: int = 1024) -> None:
        self._clock = clock or MonotonicClock()
        self._recent = recent
        self._lock = threading.Lock()
        self._times: dict[str, deque[float]] = {}
        self._number: Counter[str] = Counter()
        self._most: dict[str, float] = {}
        self._counts: Counter[str] = Counter()

    def add(self, stage: str, seconds: float) -> None:
        """Note that a stage took so long."""
        with self._lock:
            self._times.setdefault(stage, deque(maxlen=self._recent)).append(seconds)
            self._number[stage] += 1
            self._most[stage] = max(seconds, self._most.get(stage, seconds))

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Note how long what happens inside takes, also where it fails."""
        start = self._clock.now()
        try:
            yield
        finally:
            self.add(stage, self._clock.now() - start)

    def count(self, amounts: Mapping[str, int]) -> None:
        """Add to the counts of these names."""
        with self._lock:
            self._counts.update(amounts)

    @property
    def counts(self) -> dict[str, int]:
        """Sums of what was counted."""
        with self._lock:
            return dict(self._counts)

    def share(self, part: str, whole: str) -> float | None:
        """One count over another; None while there is no whole, and where nobody has counted the part."""
        with self._lock:
            counted = part in self._counts and self._counts[whole]
            return self._counts[part] / self._counts[whole] if counted else None

    def stage(self, name: str) -> Stage | None:
        """Figures of one stage; None where it never happened."""
        with self._lock:
            times = list(self._times.get(name, ()))
            number, most = self._number[name], self._most.get(name, 0.0)
        if not times:
            return None
        p50, p95, p99 = np.percentile(times, (50, 95, 99)).tolist()
        return Stage(number, p50, p95, p99, most)

    def newest(self, name: str, count: int = 15) -> float | None:
        """Median of the last times of a stage in seconds: how it is now; None where it never happened."""
        with self._lock:
            times = list(self._times.get(name, ()))[-count:]
        return float(np.median(times)) if times else None

    def stages(self) -> dict[str, Stage]:
        """Figures of every stage, in the order in which they first happened."""
        with self._lock:
            names = list(self._times)
        found = ((name, self.stage(name)) for name in names)
        return {name: stage for name, stage in found if stage is not None}


def rss_bytes() -> int:
    """Memory that this process holds now, in bytes (resident set size)."""
    return int(psutil.Process().memory_info().rss)


def peak_rss_bytes() -> int:
    """Most memory that this process has held, in bytes, since it began or since `reset_peak_rss`."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":
        # getrusage would count the process that started this one too.
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def reset_peak_rss() -> bool:
    """Let `peak_rss_bytes` count from now on; False where the system cannot, and the old peak stays."""
    try:
        # Linux: 5 sets the peak of the resident set back to what it is now; see proc(5).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        # Some containers take the number and do nothing. What is held grows by a little meanwhile.
        return peak_rss_bytes() <= rss_bytes() + _GROWN
    except (OSError, KeyError, ValueError):
        return False


def known(value: Any) -> Any:
    """A figure, or a list or mapping of figures, with None for what is no number (NaN) or has no bound.

    JSON has neither: a reader would refuse the whole line, or take it for a number.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: known(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [known(part) for part in value]
    return value


def slope_per_hour(samples: Sequence[tuple[float, float]]) -> float:
    """How much a quantity grows an hour: the slope of the least-squares line.

    Args:
        samples: Pairs of seconds and the quantity, at two different times at least.

    Raises:
        ValueError: There are too few samples to tell.
    """
    if len({seconds for seconds, _ in samples}) < 2:
        raise ValueError(f"a slope needs samples at two times, got {len(samples)} samples")
    seconds, values = np.asarray(samples, dtype=np.float64).T
    centred = seconds - seconds.mean()
    return float(centred @ (values - values.mean()) / (centred @ centred)) * 3600
