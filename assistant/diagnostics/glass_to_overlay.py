"""Measures glass-to-overlay latency: the time from a picture's capture to its display with the overlay.

A virtual camera codes the millisecond of capture into the pixels of every picture. A sink behind the overlay
reads it and compares it with the clock, so capture, queues, tracking and drawing are all included. Exposure
and transfer of a real camera come on top.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from egolive.assistant.live.assistant import Assistant, live_questions
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import Shown
from egolive.assistant.load_local import load_engine
from egolive.assistant.schema.engine import Engine
from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.frames import Frame, Image
from egolive.streaming.metrics import Metrics, Stage
from egolive.streaming.sources.source import Source

__all__ = [
    "CodedCamera",
    "Latency",
    "measure_latency",
    "nothing_measured",
    "read_code",
    "run_latency",
    "write_code",
]

_BITS = 32
_CELL = 16
"""Pixels along the side of one bit: wide enough to outlive JPEG and scaling."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The result of a latency measurement."""

    seconds: float
    pictures: int
    """Pictures that the camera took."""
    shown: int
    unread: int
    """Shown pictures whose code could not be read."""
    glass_to_overlay: Stage | None
    """Seconds from a picture's being taken to its being drawn with the overlay."""
    answer_age: Stage | None
    """Seconds from a picture's being taken to its answer's being shown."""
    drops: Mapping[str, int]
    stages: Mapping[str, Stage] = field(default_factory=dict)
    """Seconds that each stage between them took, by its name in the metrics."""
    answers: int = 0
    """Answers that came in time."""

    def in_ms(self) -> dict[str, object]:
        """Plain values for JSON; latencies in milliseconds, ages in seconds."""
        overlay = self.glass_to_overlay
        return {
            "seconds": round(self.seconds, 2),
            "pictures": self.pictures,
            "shown": self.shown,
            "unread": self.unread,
            "answers": self.answers,
            "glass_to_overlay_ms": None if overlay is None else _figures(overlay, 1e3),
            "answer_age_s": None if self.answer_age is None else _figures(self.answer_age),
            "stages": {name: _figures(stage, 1e3) for name, stage in self.stages.items()},
            "drops": dict(self.drops),
        }


def _figures(stage: Stage, unit: float = 1.0) -> dict[str, float]:
    figures = {name: round(getattr(stage, name) * unit, 3) for name in ("p50", "p95", "p99", "max")}
    return {"n": stage.count} | figures


def write_code(image: Image, number: int) -> None:
    """Draw a number into the top left corner: two rows of black and white cells, lowest bit first."""
    for bit in range(_BITS):
        row, column = divmod(bit, _BITS // 2)
        cell = image[row * _CELL : (row + 1) * _CELL, column * _CELL : (column + 1) * _CELL]
        cell[:] = 255 if number >> bit & 1 else 0


def read_code(image: Image) -> int | None:
    """The number in the top left corner; None where a cell is neither black nor white."""
    number = 0
    for bit in range(_BITS):
        row, column = divmod(bit, _BITS // 2)
        middle = image[
            row * _CELL + 4 : (row + 1) * _CELL - 4, column * _CELL + 4 : (column + 1) * _CELL - 4
        ].mean()
        if 64 < middle < 192:
            return None
        number |= (middle >= 192) << bit
    return number


class CodedCamera(Source):
    """A virtual camera: noise that moves, each picture with the millisecond of its being taken.

    Args:
        seconds: How long it runs.
        fps: Pictures a second.
        size: Width and height in pixels, at least 256 x 32.
        clock: What it goes by.
    """

    def __init__(self, seconds: float, *, fps: float, size: tuple[int, int], clock: Clock) -> None:
        if size[0] < _CELL * _BITS // 2 or size[1] < 2 * _CELL:
            raise ValueError(f"a coded picture has at least 256x32 pixels, got {size[0]}x{size[1]}")
        self.live = True
        self.name = f"virtual camera {size[0]}x{size[1]}@{fps:g}"
        self.fps: float | None = fps
        self.size: tuple[int, int] | None = size
        self.broken = 0
        self.started = clock.now()
        self._clock, self._seconds, self._rate = clock, seconds, fps
        self._closed = False
        rng = np.random.default_rng(0)
        self._scene = rng.integers(0, 256, (size[1], 2 * size[0], 3), dtype=np.uint8)

    def __iter__(self) -> Iterator[Frame]:
        """Pictures at their times; those that are late come at once."""
        # Nobody sets it: the clock just waits.
        never = threading.Event()
        width = self.size[0] if self.size else 0
        for index in range(round(self._seconds * self._rate)):
            self._clock.wait(never, self.started + index / self._rate - self._clock.now())
            if self._closed:
                return
            left = 2 * index % width
            image = self._scene[:, left : left + width].copy()
            time = self._clock.now() - self.started
            write_code(image, round(time * 1e3))
            yield Frame(image, time, index)

    def close(self) -> None:
        """Stop at the next picture."""
        self._closed = True


class _Reader:
    """A sink that looks at the drawn picture and reads when it was taken."""

    def __init__(self, camera: CodedCamera, clock: Clock, metrics: Metrics) -> None:
        self.unread = 0
        self._camera, self._clock, self._metrics = camera, clock, metrics

    def emit(self, shown: Shown) -> None:
        drawn = shown.picture
        # The overlay's words may lie over the code, which the frame still has; it is drawn by now.
        taken = read_code(drawn)
        if taken is None or taken != read_code(shown.frame.image):
            taken = read_code(shown.frame.image)
        if taken is None:
            self.unread += 1
            return
        self._metrics.add("coded", self._clock.now() - self._camera.started - taken / 1e3)

    def note(self, event: Mapping[str, object]) -> None: ...

    def close(self) -> None: ...


def measure_latency(
    engine: Engine,
    *,
    seconds: float = 20.0,
    fps: float = 30.0,
    size: tuple[int, int] = (1280, 720),
    clock: Clock | None = None,
) -> Latency:
    """Run a virtual camera through the assistant and read the pictures behind the overlay.

    Args:
        engine: What answers meanwhile, with all the live questions.
        seconds: How long.
        fps: Pictures a second.
        size: Of the pictures.
        clock: What time is read from; the machine's own without it.

    Raises:
        EngineError: The engine failed.
    """
    clock = clock or MonotonicClock()
    # Percentiles are those of the whole run.
    metrics = Metrics(clock, recent=max(1024, round(seconds * fps)))
    camera = CodedCamera(seconds, fps=fps, size=size, clock=clock)
    reader = _Reader(camera, clock, metrics)
    questions = live_questions(("intent", "next", "ground"))
    assistant = Assistant(engine, questions=questions, every=2, metrics=metrics, clock=clock)
    with closing(assistant):
        report = run_stream(
            camera,
            assistant,
            [reader],
            fps=engine.profile.fps,
            slices=engine.profile.window_slices,
            metrics=metrics,
            clock=clock,
        )
    stages = metrics.stages()
    overlay, age = stages.pop("coded", None), stages.pop("answer_age", None)
    # The same way as the pipeline sees it, which knows nothing of the codes.
    stages.pop("glass_to_overlay", None)
    return Latency(
        seconds=report.seconds,
        pictures=report.captured,
        shown=report.shown,
        unread=reader.unread,
        glass_to_overlay=overlay,
        answer_age=age,
        drops=dict(report.drops),
        stages=stages,
        answers=report.results,
    )


def run_latency(model: str, seconds: float, tell: Callable[[str], object]) -> tuple[dict[str, Any], int]:
    """Measure glass to overlay with the virtual camera."""
    with closing(load_engine(model)) as engine:
        tell(f"a virtual camera of 1280x720 at 30 pictures a second for {seconds:g} s, answered by {model}")
        found = measure_latency(engine, seconds=seconds)
    if found.glass_to_overlay is not None:
        overlay = found.glass_to_overlay
        tell(
            f"glass to overlay {overlay.p50 * 1e3:.0f} ms (median), 95 % within {overlay.p95 * 1e3:.0f} ms, "
            f"99 % within {overlay.p99 * 1e3:.0f} ms; a real camera's exposure and transfer come on top"
        )
    if found.answer_age is not None:
        tell(f"answers {found.answer_age.p50:.2f} s old when shown, 95 % within {found.answer_age.p95:.2f} s")
    drops = ", ".join(f"{count} {reason}" for reason, count in found.drops.items()) or "none"
    tell(f"{found.shown} of {found.pictures} pictures shown, dropped: {drops}")
    figures = found.in_ms()
    lack = nothing_measured(figures)
    if lack:
        tell(lack)
    return {"model": model, "camera": "virtual"} | figures, int(bool(lack))


def nothing_measured(figures: Mapping[str, Any]) -> str:
    """Why the figures of `Latency.in_ms` say nothing, in a line; empty where they do."""
    if figures["glass_to_overlay_ms"] is None:
        return "no picture was shown whose time could be read, so nothing is measured; give more --seconds"
    if not figures["answers"]:
        return (
            "nothing was answered meanwhile, so the figures are those of an idle engine; give more --seconds"
        )
    return ""
