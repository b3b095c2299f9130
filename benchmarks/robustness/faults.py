"""Fault injection: faults that a run has to survive, and the time until it has recovered.

The stream is simulated, by a virtual clock. Faults that end a run, or come from outside the process, are in
`egolive.benchmarks.robustness.faults_process`.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from rich.table import Table

from egolive.assistant.live.sinks import Shown
from egolive.benchmarks.robustness.soak_stream import SharedClock, Stream
from egolive.streaming.frames import Image

__all__ = ["MOST_SECONDS", "Fault", "faults_table", "quiet", "stream_faults", "whole_files"]

MOST_SECONDS = 3.0
"""A fault is over after so many seconds: fresh answers are shown again, or the process has ended."""
_AT, _FOR, _LENGTH = 20.0, 5.0, 40.0
"""Seconds of the stream: when the fault comes, for how long, and the end."""
_SLEEP = 600.0
"""Seconds by which a sleep makes the stream longer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and what came of it."""

    name: str
    outcome: str
    """survived, or ended: and the error message; FAILED: and why, where it was neither."""
    recovery_s: float | None
    """Seconds to the first fresh answer, or to the end of the process; of the stream or of the machine."""

    @property
    def good(self) -> bool:
        """Whether it was survived or ended well, in time."""
        in_time = self.recovery_s is not None and self.recovery_s <= MOST_SECONDS
        return in_time and not self.outcome.startswith("FAILED")


Disturb = Callable[[Stream, float, Image], Image]
"""Does something to the stream at a time; returns how the picture is to look, given the usual one."""


def stream_faults() -> Iterator[Fault]:
    """Inject each fault into a stream of its own, which must survive it."""
    for name, disturb in _PLAN.items():
        with tempfile.TemporaryDirectory() as folder, quiet():
            yield _survived(name, Stream(Path(folder), before=disturb), Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield _blocked(Path(folder))


def whole_files(folder: Path) -> list[str]:
    """What is wrong with the files of a run: nothing, where pictures and events can be read."""
    wrong = []
    video, events = folder / "overlay.mp4", folder / "events.jsonl"
    pictures = 0
    # What a full disk cut off in its middle cannot be decoded; all before it can.
    with suppress(av.FFmpegError, OSError), av.open(str(video)) as container:
        for _ in container.decode(video=0):
            pictures += 1
    if not pictures:
        wrong.append("overlay.mp4 cannot be played")
    if events.is_file():
        *lines, rest = events.read_text(encoding="utf-8").split("\n")
        try:
            for line in lines:
                json.loads(line)
        except ValueError:
            wrong.append("events.jsonl cannot be read")
        if not lines and not rest:
            wrong.append("events.jsonl is empty")
    return wrong


def faults_table(faults: Sequence[Fault]) -> Table:
    """All faults for people."""
    drawn = Table(title="Faults")
    for column in ("fault", "outcome", "over after"):
        drawn.add_column(column, overflow="fold", justify="right" if column == "over after" else "left")
    for fault in faults:
        seconds = "-" if fault.recovery_s is None else f"{fault.recovery_s:.1f} s"
        drawn.add_row(fault.name, fault.outcome, seconds)
    return drawn


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings about faults that are injected."""
    logger = logging.getLogger("egolive.streaming")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _survived(name: str, stream: Stream, folder: Path) -> Fault:
    report = stream.run(_LENGTH + (_SLEEP if "asleep" in name else 0.0))
    judge = stream.judge
    wrong = whole_files(folder)
    if report.ended != "seconds":
        wrong.append(f"ended by {report.ended}")
    if judge.out_of_order or judge.expired_shown:
        wrong.append(f"{judge.out_of_order} answers out of order, {judge.expired_shown} shown too late")
    if not judge.recoveries:
        wrong.append("no fresh answer came afterwards")
    recovery = round(max(judge.recoveries), 3) if judge.recoveries else None
    drops = ", ".join(f"{count} {reason}" for reason, count in report.drops.items())
    gaps = "no gap" if not report.gaps else f"{report.gaps} gap{'s' if report.gaps > 1 else ''}"
    outcome = f"survived ({', '.join(filter(None, [gaps, drops]))})"
    return Fault(name, f"FAILED: {'; '.join(wrong)}" if wrong else outcome, recovery)


def _camera_gone(stream: Stream, now: float, image: Image) -> Image:
    if now == _AT:
        stream.camera.gone_until = now + _FOR
        stream.judge.expect(now + _FOR)
    return image


def _during(change: Callable[[Image], Image]) -> Disturb:
    """Other pictures for some seconds; what counts is how soon the usual ones are answered again."""

    def disturb(stream: Stream, now: float, image: Image) -> Image:
        if now == _AT + _FOR:
            stream.judge.expect(now)
        return change(image) if _AT <= now < _AT + _FOR else image

    return disturb


def _other_size(image: Image) -> Image:
    return np.asarray(cv2.resize(image, (202, 358)), np.uint8)


def _black(image: Image) -> Image:
    return np.zeros_like(image)


def _frozen() -> Disturb:
    held: list[Image] = []

    def freeze(image: Image) -> Image:
        held.append(image)
        return held[0]

    return _during(freeze)


def _slept(stream: Stream, now: float, image: Image) -> Image:
    if now == _AT:
        stream.clock.advance(_SLEEP)
        stream.judge.expect(stream.clock.now())
    return image


def _clock_back(stream: Stream, now: float, image: Image) -> Image:
    if now == _AT:
        stream.camera.stamp_shift = -3600.0
        stream.judge.expect(now)
    return image


def _slow_engine(stream: Stream, now: float, image: Image) -> Image:
    stream.engine.seconds = 7.0 if _AT <= now < _AT + _FOR else 0.15
    if now == _AT + _FOR + 7.0:
        stream.judge.expect(now)
    return image


_PLAN: Mapping[str, Disturb] = {
    "camera gone for 5 s": _camera_gone,
    "frames of another size": _during(_other_size),
    "black picture": _during(_black),
    "frozen picture": _frozen(),
    "machine asleep for 10 min": _slept,
    "camera's clock set back 1 h": _clock_back,
    "engine slower than its deadline": _slow_engine,
}


class _Blocking:
    """A sink that blocks for some seconds once, as a disk or a pipe does."""

    def __init__(self) -> None:
        self.clock: SharedClock | None = None

    def emit(self, shown: Shown) -> None:
        """Block at one picture."""
        if self.clock is not None and shown.frame.time >= _AT:
            clock, self.clock = self.clock, None
            clock.hold(_FOR)

    def note(self, event: Mapping[str, object]) -> None:
        """Takes pictures only."""

    def close(self) -> None:
        """Nothing to finish."""


def _blocked(folder: Path) -> Fault:
    def expect(stream: Stream, now: float, image: Image) -> Image:
        if now == _AT + _FOR:
            stream.judge.expect(now)
        return image

    sink = _Blocking()
    stream = Stream(folder, before=expect, extra=[sink])
    sink.clock = stream.clock
    return _survived("sink that blocks for 5 s", stream, folder)


def as_rows(faults: Sequence[Fault]) -> list[dict[str, object]]:
    """For JSON."""
    return [asdict(fault) for fault in faults]
