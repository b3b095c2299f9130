"""Simulated stream of `egolive bench soak`: a virtual clock that threads wait on, a camera and an engine.

The pipeline, its threads, buffers, scheduler, results, tracker and sinks are the real ones; only time,
pictures and the model's words are simulated. The camera hands out a picture once the one before it has been
shown and the engine is at rest, or busy beyond that moment: nothing depends on how fast this machine is.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from egolive.assistant.live.assistant import LIVE_QUESTIONS, Assistant
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import EventSink, Shown, Sink, VideoSink
from egolive.assistant.schema.answers import Question
from egolive.benchmarks.robustness.scripted_engine import SIZE, ScriptedEngine, scene
from egolive.benchmarks.robustness.soak_watch import Judge
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import SourceError, SourceLost
from egolive.streaming.frames import Frame, Image
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.run_report import Report
from egolive.streaming.pipeline.scheduler import Scheduler
from egolive.streaming.sources.files.timestamps import Timeline
from egolive.streaming.sources.live.reconnect import Reconnecting
from egolive.streaming.sources.source import Source
from egolive.streaming.video_writer import VideoWriter

__all__ = ["Camera", "SharedClock", "Stream"]

_LOOK = 1e-4
"""Seconds of the machine between two looks at whether all is at rest."""
_STUCK = 120.0
"""Seconds of the machine after which a stream that does not come to rest is a fault of this benchmark."""


class SharedClock(VirtualClock):
    """A virtual clock that several threads can wait on while the camera moves it."""

    def __init__(self) -> None:
        super().__init__()
        self._moved = threading.Condition()
        self._holding: dict[int, float] = {}
        self.released = False
        """The stream is over: nobody is held any more."""

    def hold(self, seconds: float) -> None:
        """Be busy for so long: wait until somebody has moved the clock on that far."""
        until, thread = self.now() + seconds, threading.get_ident()
        with self._moved:
            self._holding[thread] = until
            self._moved.wait_for(lambda: self.released or self.now() >= until)
            del self._holding[thread]

    def busy(self, *, thread: int | None = None, but: int | None = None) -> float:
        """When the first of those that are busy will be done, infinity where none is.

        Args:
            thread: Look at this one alone.
            but: Look at all but this one.
        """
        with self._moved:
            return min(
                (
                    until
                    for holder, until in self._holding.items()
                    if holder != but and thread in (None, holder)
                ),
                default=math.inf,
            )

    def advance(self, seconds: float) -> None:
        """Move on, and wake those whose time has come."""
        super().advance(seconds)
        with self._moved:
            self._moved.notify_all()

    def release(self) -> None:
        """Hold nobody any more."""
        with self._moved:
            self.released = True
            self._moved.notify_all()


class Turnstile:
    """A sink that knows whether the newest picture has been shown."""

    def __init__(self) -> None:
        self.newest = -1
        self.thread = threading.get_ident()

    def emit(self, shown: Shown) -> None:
        """Note the picture."""
        self.newest = shown.frame.index

    def note(self, event: Mapping[str, object]) -> None:
        """Only pictures count."""

    def close(self) -> None:
        """Nothing to finish."""


class Camera(Source):
    """A live source that moves the clock from picture to picture; it goes on where it was after an outage.

    Args:
        clock: Shared with the engine and the sinks.
        fps: Pictures a second: those that the model sees are enough.
        before: Called with stream time before each picture; returns how it is to look, given the usual one.
    """

    def __init__(self, clock: SharedClock, *, fps: float, before: Callable[[float, Image], Image]) -> None:
        self.live = True
        self.name = "scripted camera"
        self.fps: float | None = fps
        self.size: tuple[int, int] | None = SIZE
        self.broken = 0
        self.stamp_shift = 0.0
        """Seconds that the camera's own clock is off; a change is a clock that was set anew."""
        self.gone_until = -math.inf
        """Stream time at which its cable is in again."""
        self.settle: Callable[[int], object] = lambda _: None
        """Called with the index of the picture before; waits until all is at rest."""
        self._clock = clock
        self._before = before
        self._step = 1 / fps
        self._index = 0
        self._next = 0.0

    def __iter__(self) -> Iterator[Frame]:
        timeline = Timeline(self._step)
        while True:
            self._wait_until(self._next)
            image = self._before(self._next, scene(self._next))
            if self._gone:
                raise SourceLost(f"{self.name}: no picture; check its cable")
            time, gap = timeline.place(self._clock.now() + self.stamp_shift)
            yield Frame(image, time, self._index, gap)
            self._index += 1
            self._next = max(self._next, self._clock.now()) + self._step

    def reopen(self) -> Camera:
        """Open it again.

        Raises:
            SourceError: Its cable is not in yet.
        """
        if self._gone:
            raise SourceError(f"{self.name}: is not there")
        return self

    def close(self) -> None:
        """At the end of the run, let everybody go."""
        if not self._gone:
            self._clock.release()

    @property
    def _gone(self) -> bool:
        return self._clock.now() < self.gone_until

    def _wait_until(self, moment: float) -> None:
        """Move the clock there, stopping wherever somebody has something to do."""
        while True:
            self.settle(self._index - 1)
            busy = self._clock.busy()
            self._clock.advance(max(0.0, min(moment, busy) - self._clock.now()))
            if busy > moment:
                return


def settler(clock: SharedClock, scheduler: Scheduler[Question], sink: Turnstile) -> Callable[[int], None]:
    """How the camera waits until the picture is shown and the engine is at rest, or they are busy."""

    def thinking() -> bool:
        before = scheduler.counts
        ready = scheduler.wait(0)
        after = scheduler.counts
        done = after.get("answered", 0) + after.get("preempted", 0)
        return ready or before != after or after.get("taken", 0) != done

    def at_rest(index: int) -> bool:
        now = clock.now()
        shown = sink.newest >= index or now < clock.busy(thread=sink.thread) < math.inf
        return shown and (now < clock.busy(but=sink.thread) < math.inf or not thinking())

    def settle(index: int) -> None:
        deadline = time.monotonic() + _STUCK
        while not at_rest(index):
            if clock.released:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the stream does not come to rest after picture {index}")
            time.sleep(_LOOK)

    return settle


class Stream:
    """One made-up stream through the real pipeline into real sinks, judged.

    Args:
        folder: Where overlay.mp4 and events.jsonl go.
        fps: Pictures a second.
        before: Called with the stream and its time before each picture, to let something happen; returns how
            the picture is to look, given the usual one.
        extra: Further sinks.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fps: float = 2.0,
        before: Callable[[Stream, float, Image], Image] = lambda _, __, image: image,
        extra: Sequence[Sink] = (),
    ) -> None:
        self.clock = SharedClock()
        self.metrics = Metrics(self.clock)
        self.engine = ScriptedEngine(self.clock)
        self.camera = Camera(self.clock, fps=fps, before=lambda now, image: before(self, now, image))
        self.assistant = Assistant(
            self.engine, questions=LIVE_QUESTIONS, every=2, metrics=self.metrics, clock=self.clock
        )
        self.judge = Judge(self.assistant.scheduler.rules)
        turnstile = Turnstile()
        self.camera.settle = settler(self.clock, self.assistant.scheduler, turnstile)
        video = VideoSink(VideoWriter(folder / "overlay.mp4"))
        # The turnstile last: a picture counts as shown once every other sink has it.
        self._sinks: list[Sink] = [EventSink(folder / "events.jsonl"), video, *extra, self.judge, turnstile]

    def run(self, seconds: float) -> Report:
        """Play so many seconds of stream."""
        source = Reconnecting(self.camera, self.camera.reopen, clock=self.clock)
        with self.assistant:
            return run_stream(
                source,
                self.assistant,
                self._sinks,
                fps=2.0,
                slices=8,
                seconds=seconds,
                metrics=self.metrics,
                clock=self.clock,
            )
