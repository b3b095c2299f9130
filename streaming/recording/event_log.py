"""The events of a recording as its log keeps them, one line of JSON each, and the log read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from egolive.streaming.errors import DataError
from egolive.streaming.pipeline.results import Status
from egolive.streaming.pipeline.run_report import End, Report
from egolive.streaming.plain_values import count, of_kind, seconds

__all__ = ["Log", "Outcome", "RecordedShow", "RecordedWork", "read_log"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one task of some work, in the order in which outcomes came."""

    task: int
    """Its place among the work's tasks."""
    status: Status
    note: Mapping[str, Any]
    """What the recorder's caller noted about the value."""


@dataclass(frozen=True, slots=True)
class RecordedWork:
    """One time of thinking."""

    picture: int
    """Index of the newest frame when it began."""
    time: float
    """Stream time at which it began, seconds."""
    slices: int
    """Slices of the window that it was given; 0 where it was given none."""
    tasks: tuple[Any, ...]
    """Its tasks, as the recorder's caller named them."""
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class RecordedShow:
    """One frame that was shown."""

    frame: int
    now: float
    """Stream time of this moment, seconds."""
    new: int
    """Results that had come in since the frame before."""


@dataclass(slots=True)
class Log:
    """The events of a recording, each kind in its order."""

    frames: list[tuple[int, float, bool]] = field(default_factory=list)
    works: list[RecordedWork] = field(default_factory=list)
    shows: list[RecordedShow] = field(default_factory=list)
    end: Report | None = None


def read_log(path: Path, lines: Sequence[str]) -> Log:
    """Read the lines of a log; a last line that a kill cut off is left out.

    Raises:
        DataError: A line says what no run says.
    """
    log = Log()
    for number, line in enumerate(lines, start=1):
        try:
            event = of_kind(json.loads(line), dict)
            if "frame" in event:
                frame = (count(event["frame"]), seconds(event["t"]), of_kind(event["gap"], bool))
                if log.frames and (frame[0] <= log.frames[-1][0] or frame[1] < log.frames[-1][1]):
                    raise ValueError("frames stand out of order")
                log.frames.append(frame)
            elif "work" in event:
                log.works.append(_work(event))
            elif "shown" in event:
                shown = RecordedShow(count(event["shown"]), seconds(event["now"]), count(event["new"]))
                log.shows.append(shown)
            elif "end" in event:
                log.end = _end(event["end"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and log.end is None:
                # Cut off by a kill.
                break
            raise DataError(f"{path}, line {number}: damaged; record again") from error
    return log


def _work(event: Mapping[str, Any]) -> RecordedWork:
    tasks = tuple(of_kind(event["tasks"], list))
    outcomes = [Outcome(*outcome) for outcome in of_kind(event["outcomes"], list)]
    for outcome in outcomes:
        of_kind(outcome.note, dict)
        if count(outcome.task) >= len(tasks) or outcome.status not in get_args(Status):
            raise ValueError("an outcome of no task")
    slices = count(event["slices"])
    return RecordedWork(count(event["work"]), seconds(event["t"]), slices, tasks, tuple(outcomes))


def _end(values: Mapping[str, Any]) -> Report:
    report = Report(**values)
    count(report.captured)
    seconds(report.seconds)
    for counts in (report.drops, report.requests):
        for number in of_kind(counts, dict).values():
            count(number)
    if report.ended not in get_args(End):
        raise ValueError(f"ended by {report.ended!r}")
    return report
