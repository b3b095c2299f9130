"""Checks during a soak: order and age of what is shown; memory, objects, threads and open files."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import psutil

from egolive.assistant.live.sinks import Shown
from egolive.assistant.schema.answers import Question
from egolive.streaming.metrics import rss_bytes, slope_per_hour
from egolive.streaming.pipeline.scheduler import TaskRule

__all__ = ["Judge", "Probe", "Sample", "trends"]

_EDGE = 1e-6
"""Seconds by which sums of times may miss."""
_SHORTEST = 600.0
"""Seconds of stream over which a slope an hour rises above the noise."""


class Judge:
    """A sink that counts what must never be shown, and how soon fresh answers come after a disturbance.

    Args:
        rules: Of the recurring questions.
    """

    def __init__(self, rules: Mapping[Question, TaskRule]) -> None:
        self.pictures = 0
        self.answers = 0
        self.late = 0
        """Answers that came too late or had to make way, and were rightly not shown."""
        self.gaps = 0
        self.out_of_order = 0
        """Answers about something older than the one before, or newer than now; pictures that go back."""
        self.expired_shown = 0
        """Answers that were shown as current behind their deadline, or behind a gap."""
        self.recoveries: list[float] = []
        """Seconds from the end of each disturbance to the first fresh answer that was shown."""
        self._rules = rules
        self._newest: dict[Question, float] = {}
        self._frame = float("-inf")
        self._gap_end = float("-inf")
        self._disturbed: float | None = None

    def expect(self, moment: float) -> None:
        """What was wrong is right again from this moment of the stream on; see how long it takes."""
        self._disturbed = moment

    def emit(self, shown: Shown) -> None:
        """Judge one picture and what is shown with it."""
        self.pictures += 1
        self.late += len(shown.late)
        self.out_of_order += shown.frame.time <= self._frame
        self._frame = shown.frame.time
        for answer in shown.new:
            self.answers += 1
            before = self._newest.get(answer.question, float("-inf"))
            self.out_of_order += answer.time < before or answer.time > shown.now + _EDGE
            self._newest[answer.question] = answer.time
            if self._disturbed is not None and answer.time >= self._disturbed - _EDGE:
                self.recoveries.append(shown.now - self._disturbed)
                self._disturbed = None
        for answer in shown.answers:
            rule = self._rules.get(answer.question)
            overdue = rule is not None and shown.now - answer.time > rule.deadline + _EDGE
            self.expired_shown += overdue or answer.time < self._gap_end

    def note(self, event: Mapping[str, object]) -> None:
        """Remember where the last gap ended."""
        if event.get("type") == "gap":
            self.gaps += 1
            self._gap_end = self._frame = float(str(event["end"])) - 1e-3

    def close(self) -> None:
        """Nothing to finish."""

    @property
    def figures(self) -> dict[str, Any]:
        """All counts, and recoveries in seconds."""
        times = self.recoveries
        return {
            "pictures": self.pictures,
            "answers": self.answers,
            "late": self.late,
            "gaps": self.gaps,
            "out_of_order": self.out_of_order,
            "expired_shown": self.expired_shown,
            "recoveries": len(times),
            "recovery_s_mean": round(fmean(times), 3) if times else None,
            "recovery_s_max": round(max(times), 3) if times else None,
        }


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process held at one moment."""

    time: float
    """Seconds of the stream."""
    rss: int
    """Bytes."""
    objects: int
    """That Python's collector knows of, after a collection."""
    threads: int
    handles: int
    """Open files, pipes and sockets; on Windows, handles of any kind."""


class Probe:
    """A sink that takes a sample now and then.

    Args:
        every: Seconds of stream from one sample to the next.
    """

    def __init__(self, every: float) -> None:
        self.samples: list[Sample] = []
        self._every = every
        self._next = 0.0

    def emit(self, shown: Shown) -> None:
        """Take a sample where one is due."""
        if shown.frame.time >= self._next:
            self._next = shown.frame.time + self._every
            self.samples.append(sample(shown.frame.time))

    def note(self, event: Mapping[str, object]) -> None:
        """Only time counts."""

    def close(self) -> None:
        """Nothing to finish."""


def sample(time: float) -> Sample:
    """What this process holds now."""
    gc.collect()
    process = psutil.Process()
    handles = process.num_handles() if sys.platform == "win32" else process.num_fds()
    return Sample(time, rss_bytes(), len(gc.get_objects()), process.num_threads(), handles)


def trends(samples: Sequence[Sample], warm_up: float) -> dict[str, Any]:
    """Slopes an hour of stream by regression, and threads and handles, all without the warm-up.

    The error of the memory's slope is half of its 95 % interval, as if samples were independent.

    Args:
        samples: Behind the warm-up three of them or more, over ten minutes at least; else slopes are None.
        warm_up: Seconds of stream at the beginning that are left out.
    """
    kept = [one for one in samples if one.time >= warm_up]
    figures: dict[str, Any] = {"samples": len(kept), "warm_up_s": round(warm_up)}
    enough = len(kept) >= 3 and kept[-1].time - kept[0].time >= _SHORTEST
    rss = [(one.time, one.rss / 1e6) for one in kept]
    objects = [(one.time, float(one.objects)) for one in kept]
    figures["rss_slope_mb_h"] = round(slope_per_hour(rss), 3) if enough else None
    figures["rss_slope_error_mb_h"] = round(_uncertainty(rss), 3) if enough and len(kept) > 4 else None
    figures["objects_slope_h"] = round(slope_per_hour(objects), 1) if enough else None
    figures["rss_mb"] = {"first": round(rss[0][1], 1), "last": round(rss[-1][1], 1)} if kept else None
    for name in ("threads", "handles"):
        values = [getattr(one, name) for one in kept]
        figures[name] = {"first": values[0], "last": values[-1], "most": max(values)} if values else None
    return figures


def _uncertainty(points: Sequence[tuple[float, float]]) -> float:
    """Half of the 95 % interval of a slope an hour, by ordinary least squares."""
    times, values = np.array(points).T
    _, covariance = np.polyfit(times / 3600.0, values, 1, cov=True)
    return float(1.96 * np.sqrt(covariance[0, 0]))
