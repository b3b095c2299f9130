"""Live runs under load for `egolive bench governor`: a clip in real time, a slowed engine, busy processes."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

from egolive.assistant.live.assistant import LIVE_QUESTIONS, Assistant
from egolive.assistant.live.governing import governed
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import Shown
from egolive.assistant.schema.engine import FULL_REUSE, Delta, Engine, EngineSession, Request, Reuse, Vision
from egolive.streaming.clock import MonotonicClock
from egolive.streaming.frames import Frame
from egolive.streaming.sources.source import Source

__all__ = ["EVERY", "KeptClip", "SlowedEngine", "busy_loops", "play"]

EVERY = 2
"""Slices from one intent to the next, as in `egolive run` on a live source."""


class KeptClip(Source):
    """A clip in memory, over and over in real time; each lap begins behind a gap. Nothing is decoded.

    Args:
        frames: Of the clip, with their times.
    """

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.live = True
        self.name = "clip in memory"
        self.fps: float | None = (len(frames) - 1) / (frames[-1].time - frames[0].time)
        self.size: tuple[int, int] | None = (frames[0].width, frames[0].height)
        self.broken = 0
        self._frames = frames
        self._stop = threading.Event()
        self._clock = MonotonicClock()

    def __iter__(self) -> Iterator[Frame]:
        """Frames at their times; what is late comes at once."""
        lap = self._frames[-1].time - self._frames[0].time + 1 / (self.fps or 1.0)
        started = self._clock.now()
        for index in itertools.count():
            round_, place = divmod(index, len(self._frames))
            frame = self._frames[place]
            time_of = frame.time - self._frames[0].time + round_ * lap
            if self._clock.wait(self._stop, started + time_of - self._clock.now()):
                return
            yield replace(
                frame, time=time_of, index=index, gap=place == 0 and index > 0, captured=started + time_of
            )

    def close(self) -> None:
        """Stop at the next frame."""
        self._stop.set()


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Processes that do nothing but keep a core busy each."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()


class SlowedEngine:
    """An engine that takes a multiple of its own time: it sleeps after each token.

    Its own time is that of the processor, of one thread: what else runs on the machine is not multiplied.

    Args:
        engine: The engine itself; stays the caller's to close.
        factor: Of its own time, at this moment.
    """

    def __init__(self, engine: Engine, factor: Callable[[], float]) -> None:
        self.info, self.profile, self.tokenizer = engine.info, engine.profile, engine.tokenizer
        self.calls = 0
        """Times that something was asked."""
        self._engine, self.factor = engine, factor

    def session(self, reuse: Reuse = FULL_REUSE) -> EngineSession:
        """A session of the engine, slowed."""
        return _SlowedSession(self, self._engine.session(reuse))

    def close(self) -> None:
        """The engine is the caller's."""


class _SlowedSession:
    def __init__(self, engine: SlowedEngine, session: EngineSession) -> None:
        self._engine, self._session = engine, session

    def see(self, vision: Vision) -> None:
        self._session.see(vision)

    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        self._engine.calls += 1
        return self._slowed(self._session.ask(requests))

    def _slowed(self, deltas: Iterator[Delta]) -> Generator[Delta]:
        try:
            while True:
                started = time.thread_time()
                delta = next(deltas, None)
                time.sleep((self._engine.factor() - 1) * (time.thread_time() - started))
                if delta is None:
                    return
                yield delta
        finally:
            if isinstance(deltas, Generator):
                deltas.close()

    def usage(self, request: int | None = None) -> dict[str, int]:
        return self._session.usage(request)

    def forget(self) -> None:
        self._session.forget()

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> _SlowedSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Watcher:
    """A sink that counts what was shown in time, and what was shown although it was out of date."""

    def __init__(self, deadlines: Mapping[object, float]) -> None:
        self.in_time = self.expired = self.stale = 0
        self.times: list[tuple[float, float]] = []
        """When an answer was shown, and how old it was."""
        self.choices: list[dict[str, Any]] = []
        self._deadlines = deadlines

    def emit(self, shown: Shown) -> None:
        self.in_time += len(shown.new)
        self.times += [(shown.now, shown.now - answer.time) for answer in shown.new]
        self.expired += sum(answer.status == "expired" for answer in shown.late)
        for answer in shown.answers:
            unmoved = shown.still_since is not None and answer.time >= shown.still_since
            late = shown.now - answer.time > self._deadlines.get(answer.question, math.inf)
            self.stale += late and not unmoved

    def note(self, event: Mapping[str, object]) -> None:
        if event.get("type") == "governor":
            self.choices.append(dict(event))

    def close(self) -> None: ...


def play(
    engine: SlowedEngine,
    source: Source,
    *,
    seconds: float,
    govern: bool,
    every: int = EVERY,
    slices: int | None = None,
) -> dict[str, Any]:
    """One live run with the questions of `egolive run`.

    Args:
        engine: What answers.
        source: A live one; closed at the end.
        seconds: Length of the run.
        govern: Whether a governor chooses; else the settings are fixed.
        every: Slices from one intent to the next.
        slices: Slices of a full window; the model's own without it.

    Returns:
        answers: shown in time; expired; held: the share of both that was in time; stale: times that an answer
        was shown as current behind its deadline; calls of the engine; choices of the governor.
    """
    profile = engine.profile
    length = slices or profile.window_slices
    calls = engine.calls
    with ExitStack() as stack:
        assistant = stack.enter_context(closing(Assistant(engine, questions=LIVE_QUESTIONS, every=every)))
        watcher = _Watcher({task: rule.deadline for task, rule in assistant.scheduler.rules.items()})
        governor = None
        if govern:
            governor = stack.enter_context(governed(assistant, fps=profile.fps, slices=length, every=every))
        report = run_stream(
            source,
            assistant,
            [watcher],
            fps=profile.fps,
            slices=length,
            seconds=seconds,
            governor=governor,
        )
    if report.ended == "interrupt":
        # A run takes Ctrl-C as its end; it is meant for all of them.
        raise KeyboardInterrupt
    complete = watcher.in_time + watcher.expired
    return {
        "governed": govern,
        "every": every,
        "slices": length,
        "answers": watcher.in_time,
        "expired": watcher.expired,
        "held": round(watcher.in_time / complete, 4) if complete else None,
        "stale": watcher.stale,
        "calls": engine.calls - calls,
        "ages": [(round(at, 2), round(age, 2)) for at, age in watcher.times] if govern else [],
        "choices": watcher.choices,
    }
