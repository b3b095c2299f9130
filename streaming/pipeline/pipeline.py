"""The three threads of a run: capture | think | show. Generic over tasks and what thinking yields.

A live source is never made to wait: pictures are shown as they come, the scheduler says what to think about
next, and what comes too late is never shown as current. A recording loses nothing: every frame is shown,
every sampled frame is thought about, and what is shown with a frame depends on the recording alone.
"""

from __future__ import annotations

import logging
import operator
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.frames import Frame, Interval, Window
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.choice import Choice
from egolive.streaming.pipeline.governor import Governing
from egolive.streaming.pipeline.latest_results import LatestResults, Showing
from egolive.streaming.pipeline.mailbox import Mailbox
from egolive.streaming.pipeline.results import Result, Results
from egolive.streaming.pipeline.run_report import Report
from egolive.streaming.pipeline.scheduler import Scheduler, Work
from egolive.streaming.pipeline.watchdog import Watchdog
from egolive.streaming.pipeline.windowing import Windower
from egolive.streaming.sources.source import Source

__all__ = ["Report", "Showing", "run"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_log = logging.getLogger(__name__)

_AHEAD = 16
"""Frames that a recording is read ahead of the show: at 30 frames a second, until the next sampled one."""
_POLL = 0.1
"""Seconds in which the calling thread notices a stop."""
_TIMEOUT = 300.0
"""Seconds: a large model reads its first window on a slow processor for minutes."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What there is to think about in a recording: a sampled frame, and the newest window if there is one."""

    picture: Frame
    window: Window | None


@dataclass(frozen=True, slots=True)
class _Shot:
    """A frame to be shown, once so many thinking steps are done."""

    frame: Frame
    steps: int


def run(
    source: Source,
    scheduler: Scheduler[K],
    think: Callable[[Work[K]], Iterable[Result[K, T]]],
    show: Callable[[Showing[K, T]], None],
    *,
    fps_sampled: float = 2.0,
    slices: int = 8,
    seconds: float | None = None,
    stop: threading.Event | None = None,
    on_gap: Callable[[Interval], None] | None = None,
    on_choice: Callable[[float, Choice], None] | None = None,
    governor: Governing[K, T] | None = None,
    same: Callable[[T, T], bool] = operator.eq,
    metrics: Metrics | None = None,
    clock: Clock | None = None,
    timeout: float | None = None,
) -> Report:
    """Play a source to its end, thinking beside it; closes the source and the scheduler.

    Args:
        source: what is seen. Read and closed on a thread of its own.
        scheduler: a new one, with the recurring tasks; more may be asked of it from any thread meanwhile.
        think: called on a thread of its own with the work that comes next; what it yields is shown as it
            comes. It looks at `work.stopped` between tokens, and yields what it leaves undone as preempted:
            that is tried again. Live, it is called as soon as something is due; for a recording, once for
            each sampled frame with all that is due. A generator is closed early when the run ends.
        show: called on the calling thread with each frame and what is known by then. A result never comes
            with a frame older than the picture that was there when its work began; for a recording it comes
            with exactly that one.
        fps_sampled: frames a second that go into windows.
        slices: slices of a full window.
        seconds: end at this time of the stream.
        stop: ends the run when set.
        on_gap: told of each gap, on the calling thread, before the frame that follows it is shown.
        on_choice: told of each choice of the governor and the stream time from which on it holds, on the
            calling thread, before the frame of that time is shown.
        governor: chooses how recurring tasks of a live source are asked; a recording, in which nothing is
            ever late, is not governed.
        same: whether two results of a task say the same, which is counted.
        metrics: takes how long things take: "capture" (a frame out of the source), and, live, "behind" (from
            the capture of a frame to its having been read and decoded), "wait" (from
            the capture of the newest frame to the start of the work), "glass_to_overlay" (from the capture of
            a frame to its having been shown) and "answer_age" (of a new result, when it is shown as current).
        clock: what rates and live time are measured with; the machine's own without it.
        timeout: seconds of the machine after which thinking that neither yields nor looks at `work.stopped`
            counts as hung; 300 without it.

    Returns:
        Counts and rates; Ctrl-C counts as an end, and is named there. A second one, while the threads come to
        their end, leaves behind what does not.

    Raises:
        EngineError: thinking hangs; its thread is left behind.
        BaseException: whatever the source, `think` or `show` raised; the threads have ended by then.
    """
    clock = clock or MonotonicClock()
    watchdog = Watchdog(timeout or _TIMEOUT)
    metrics = metrics or Metrics(clock)
    if not source.live:
        governor = None
    playing = _Run(source, scheduler, think, fps_sampled, slices, seconds, metrics, clock, watchdog, governor)
    latest: LatestResults[K, T] = LatestResults(scheduler.rules, timely=source.live, same=same)
    return playing.play(latest, show, stop or threading.Event(), on_gap, on_choice)


class _Run(Generic[K, T]):
    """What the three threads of one run share."""

    def __init__(
        self,
        source: Source,
        scheduler: Scheduler[K],
        think: Callable[[Work[K]], Iterable[Result[K, T]]],
        fps_sampled: float,
        slices: int,
        seconds: float | None,
        metrics: Metrics,
        clock: Clock,
        watchdog: Watchdog,
        governor: Governing[K, T] | None,
    ) -> None:
        self._source = source
        self._live = source.live
        self._scheduler = scheduler
        self._think = think
        self._seconds = seconds
        self._metrics = metrics
        self._clock = clock
        self._windower = Windower(fps_sampled, slices, source.fps)
        self._window_asked: Window | None = None
        self._steps_made = 0
        self._captured = (0.0, 0.0)
        self._shots: Mailbox[_Shot] = Mailbox(live=self._live, capacity=1 if self._live else _AHEAD)
        self._steps: Mailbox[_Step] = Mailbox(live=False, capacity=_AHEAD)
        self._gaps: deque[Interval] = deque()
        self._governor = governor
        self._choices: deque[tuple[float, Choice]] = deque()
        self._results: Results[Result[K, T]] = Results()
        self._ending = threading.Event()
        self._think_error: BaseException | None = None
        self._report = Report()
        self._watchdog = watchdog

    def play(
        self,
        latest: LatestResults[K, T],
        show: Callable[[Showing[K, T]], None],
        stop: threading.Event,
        on_gap: Callable[[Interval], None] | None,
        on_choice: Callable[[float, Choice], None] | None,
    ) -> Report:
        """Run the three threads, the calling one included, until the end."""
        report = self._report
        threads = [
            # Daemons, so that a second Ctrl-C leaves at once even where a device hangs.
            threading.Thread(target=self._capture_loop, name="egolive-capture", daemon=True),
            threading.Thread(target=self._think_loop, name="egolive-think", daemon=True),
        ]
        started = self._clock.now()
        for thread in threads:
            thread.start()
        try:
            self._show_loop(latest, show, stop, on_gap, on_choice)
        except KeyboardInterrupt:
            report.ended = "interrupt"
        finally:
            report.seconds = self._clock.now() - started
            self._end()
            try:
                self._source.close()
            finally:
                self._join(*threads)
        if self._think_error is not None:
            raise self._think_error
        self._count(latest)
        _log.info("run ended by %s: %d frames, %d shown", report.ended, report.captured, report.shown)
        return report

    def _join(self, capture: threading.Thread, think: threading.Thread) -> None:
        """Wait for both to end, but not for thinking that hangs, nor beyond a Ctrl-C."""
        try:
            capture.join()
            while think.is_alive() and not self._watchdog.hangs():
                think.join(_POLL)
        except KeyboardInterrupt:
            self._report.ended = "interrupt"

    def _capture_loop(self) -> None:
        try:
            before = self._clock.now()
            for frame in self._source:
                if self._ending.is_set():
                    break
                if self._seconds is not None and frame.time >= self._seconds:
                    self._report.ended = "seconds"
                    break
                self._metrics.add("capture", self._clock.now() - before)
                self._capture(frame)
                before = self._clock.now()
            self._source.close()
        except BaseException as error:
            # The frames before it are shown first, then the calling thread raises it.
            self._shots.fail(error)
        self._shots.finish()
        self._steps.finish()

    def _capture(self, frame: Frame) -> None:
        now = self._clock.now()
        captured = now if frame.captured is None else frame.captured
        self._captured = (frame.time, captured)
        if self._live:
            self._metrics.add("behind", now - captured)
        choice = self._governor.see(frame) if self._governor is not None else None
        if choice is not None:
            self._windower.resize(choice.slices)
            self._scheduler.govern(choice)
            self._choices.append((frame.time, choice))
        sampled = self._windower.push(frame)
        frame = sampled.frame
        if sampled.gap is not None:
            self._gaps.append(sampled.gap)
        if self._live:
            self._scheduler.see(frame, sampled.window, frame.time)
        elif sampled.sampled:
            self._steps.put(_Step(frame, sampled.window))
            self._steps_made += 1
        self._shots.put(_Shot(frame, self._steps_made))
        self._report.captured += 1
        self._report.stream_seconds = frame.time

    def _now(self) -> float:
        """Stream time by the clock: of the newest frame, and what has passed since it was taken."""
        time, captured = self._captured
        return time + self._clock.now() - captured

    def _think_loop(self) -> None:
        try:
            while self._live and self._scheduler.wait():
                self._work(self._scheduler.take(self._now()))
            for step in self._steps:
                self._scheduler.see(step.picture, step.window, step.picture.time)
                self._work(self._scheduler.take(step.picture.time, everything=True))
                self._results.step_done()
        except BaseException as error:
            self._think_error = error
            self._end()

    def _work(self, work: Work[K] | None) -> None:
        """Think; leave what was found for the show, and what was not to be tried again."""
        if work is None or self._ending.is_set():
            return
        if work.window is not None and work.window is not self._window_asked:
            self._window_asked = work.window
            self._report.windows += 1
        if self._live:
            self._metrics.add("wait", work.time - work.picture.time)
        preempted: set[K] = set()
        broken: set[K] = set()
        done: list[tuple[Result[K, T], float]] = []
        started = self._clock.now()
        self._watchdog.begin()
        found = self._think(replace(work, stopped=self._watchdog.watched(work.stopped)))
        try:
            for result in found:
                self._watchdog.sign()
                if self._ending.is_set():
                    return
                if result.status == "preempted":
                    preempted.add(result.task)
                elif result.status == "broken":
                    broken.add(result.task)
                done.append((result, self._clock.now() - started))
                self._results.post(work.picture.index, result)
        finally:
            if isinstance(found, Generator):
                found.close()
            self._watchdog.end()
        if self._governor is not None:
            self._governor.worked(work, done)
        self._scheduler.done(work, preempted, broken=broken, now=self._now() if self._live else None)
        self._report.steps += 1

    def _show_loop(
        self,
        latest: LatestResults[K, T],
        show: Callable[[Showing[K, T]], None],
        stop: threading.Event,
        on_gap: Callable[[Interval], None] | None,
        on_choice: Callable[[float, Choice], None] | None,
    ) -> None:
        report = self._report
        while not self._ending.is_set():
            if stop.is_set():
                report.ended = "stop"
                return
            self._watchdog.check()
            try:
                shot = self._shots.get(timeout=_POLL)
            except TimeoutError:
                continue
            if shot is None:
                return
            while not self._results.wait(shot.steps, _POLL):
                if stop.is_set():
                    report.ended = "stop"
                    return
                self._watchdog.check()
            if self._ending.is_set():
                return
            frame = shot.frame
            while self._gaps and self._gaps[0].end <= frame.time:
                gap = self._gaps.popleft()
                latest.gap(gap.end)
                if on_gap is not None:
                    on_gap(gap)
            while self._choices and self._choices[0][0] <= frame.time:
                since, choice = self._choices.popleft()
                latest.hold(choice.still_since)
                if on_choice is not None:
                    on_choice(since, choice)
            now = self._now() if self._live else frame.time
            showing = latest.show(frame, now, self._results.take(frame.index))
            show(showing)
            report.shown += 1
            in_time = [result for result in showing.new if result.status == "ok"]
            report.results += len(in_time)
            if self._live:
                self._metrics.add("glass_to_overlay", self._now() - frame.time)
                for result in in_time:
                    self._metrics.add("answer_age", now - result.time)

    def _end(self) -> None:
        """Wake every thread and let none start anything new."""
        self._ending.set()
        self._shots.close()
        self._steps.close()
        self._scheduler.close()
        self._results.close()

    def _count(self, latest: LatestResults[K, T]) -> None:
        report = self._report
        report.gaps = self._windower.gaps
        report.requests = self._scheduler.counts | latest.counts
        drops = {
            "show_busy": self._shots.drops.get("busy", 0),
            "think_busy": self._scheduler.windows_missed,
            "late": self._source.dropped,
            "broken": self._source.broken,
        }
        report.drops = {reason: count for reason, count in drops.items() if count}
