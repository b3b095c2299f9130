"""The three threads of a run: capture | think | show. Generic over what thinking yields.

A live source is never made to wait: pictures are shown as they come and thinking takes the newest. A
recording loses nothing: every frame is shown, every sampled frame is thought about, and what is shown with a
frame depends on the recording alone.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.frames import Frame, Interval, Window
from egolive.streaming.mailbox import Mailbox
from egolive.streaming.report import Report
from egolive.streaming.results import Results
from egolive.streaming.sampling import Sampler
from egolive.streaming.source import Source
from egolive.streaming.windows import Slicer, Windows

__all__ = ["Report", "run"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_AHEAD = 16
"""Frames that a recording is read ahead of the show: at 30 frames a second, until the next sampled one."""
_POLL = 0.1
"""Seconds in which the calling thread notices a stop."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What there is to think about: the newest picture, and the newest window where there is one."""

    picture: Frame
    window: Window | None


@dataclass(frozen=True, slots=True)
class _Shot:
    """A frame to be shown, once so many thinking steps are done."""

    frame: Frame
    steps: int


def run(
    source: Source,
    think: Callable[[Window | None, Frame], Iterable[T]],
    show: Callable[[Frame, Sequence[T]], None],
    *,
    fps_sampled: float = 2.0,
    slices: int = 8,
    seconds: float | None = None,
    stop: threading.Event | None = None,
    on_gap: Callable[[Interval], None] | None = None,
    clock: Clock | None = None,
) -> Report:
    """Play a source to its end, thinking beside it; closes the source.

    Args:
        source: what is seen. Read and closed on a thread of its own.
        think: called on a thread of its own with the newest window and the newest picture; what it yields is
            shown as it comes. The window is None where it is the same as in the call before, or there is none
            yet. Live, it is called as soon as it is done and a newer picture has come; for a recording, once
            for each sampled frame. A generator is closed early when the run ends.
        show: called on the calling thread with each frame and what was found since the frame before. A result
            never comes with a frame older than the picture it was found in; for a recording it comes with
            exactly that one.
        fps_sampled: frames a second that go into windows.
        slices: slices of a full window.
        seconds: end at this time of the stream.
        stop: ends the run when set.
        on_gap: told of each gap, on the calling thread, before the frame that follows it is shown.
        clock: what rates are measured with; the machine's own without it.

    Returns:
        Counts and rates; Ctrl-C counts as an end, and is named there.

    Raises:
        BaseException: whatever the source, `think` or `show` raised; the threads have ended by then.
    """
    return _Run(source, think, fps_sampled, slices, seconds).play(
        show, stop or threading.Event(), on_gap, clock or MonotonicClock()
    )


class _Run(Generic[T]):
    """What the three threads of one run share."""

    def __init__(
        self,
        source: Source,
        think: Callable[[Window | None, Frame], Iterable[T]],
        fps_sampled: float,
        slices: int,
        seconds: float | None,
    ) -> None:
        self._source = source
        self._live = source.live
        self._think = think
        self._seconds = seconds
        self._sampler = Sampler(fps_sampled, source.fps)
        self._slicer = Slicer()
        self._windows = Windows(slices)
        self._window: Window | None = None
        self._windows_made = 0
        self._steps_made = 0
        capacity = 1 if self._live else _AHEAD
        self._shots: Mailbox[_Shot] = Mailbox(live=self._live, capacity=capacity)
        self._steps: Mailbox[_Step] = Mailbox(live=self._live, capacity=capacity)
        self._gaps: deque[Interval] = deque()
        self._results: Results[T] = Results()
        self._ending = threading.Event()
        self._think_error: BaseException | None = None
        self._report = Report()

    def play(
        self,
        show: Callable[[Frame, Sequence[T]], None],
        stop: threading.Event,
        on_gap: Callable[[Interval], None] | None,
        clock: Clock,
    ) -> Report:
        """Run the three threads, the calling one included, until the end."""
        report = self._report
        threads = [
            # Daemons, so that a second Ctrl-C leaves at once even where a device hangs.
            threading.Thread(target=self._capture_loop, name="egolive-capture", daemon=True),
            threading.Thread(target=self._think_loop, name="egolive-think", daemon=True),
        ]
        started = clock.now()
        for thread in threads:
            thread.start()
        try:
            self._show_loop(show, stop, on_gap)
        except KeyboardInterrupt:
            report.ended = "interrupt"
        finally:
            report.seconds = clock.now() - started
            self._end()
            try:
                self._source.close()
            finally:
                for thread in threads:
                    thread.join()
        if self._think_error is not None:
            raise self._think_error
        self._count_drops()
        _log.info("run ended by %s: %d frames, %d shown", report.ended, report.captured, report.shown)
        return report

    def _capture_loop(self) -> None:
        try:
            for frame in self._source:
                if self._ending.is_set():
                    break
                if self._seconds is not None and frame.time >= self._seconds:
                    self._report.ended = "seconds"
                    break
                self._capture(frame)
            self._source.close()
        except BaseException as error:
            # The frames before it are shown first, then the calling thread raises it.
            self._shots.fail(error)
        self._shots.finish()
        self._steps.finish()

    def _capture(self, frame: Frame) -> None:
        sampled, gap = self._sampler.push(frame)
        if gap is not None:
            self._gaps.append(gap)
            self._window = None
        if sampled is not None:
            frame = sampled
            made = self._slicer.push(sampled)
            if made is not None:
                self._window = self._windows.push(made)
                self._windows_made += 1
        if self._live or sampled is not None:
            self._steps.put(_Step(frame, self._window))
            self._steps_made += 1
        self._shots.put(_Shot(frame, 0 if self._live else self._steps_made))
        self._report.captured += 1
        self._report.stream_seconds = frame.time

    def _think_loop(self) -> None:
        before: Window | None = None
        try:
            for step in self._steps:
                window = step.window if step.window is not before else None
                before = step.window
                found = self._think(window, step.picture)
                try:
                    for result in found:
                        if self._ending.is_set():
                            return
                        self._results.post(step.picture.index, result)
                finally:
                    if isinstance(found, Generator):
                        found.close()
                self._report.steps += 1
                self._report.windows += window is not None
                self._results.step_done()
        except BaseException as error:
            self._think_error = error
            self._end()

    def _show_loop(
        self,
        show: Callable[[Frame, Sequence[T]], None],
        stop: threading.Event,
        on_gap: Callable[[Interval], None] | None,
    ) -> None:
        report = self._report
        while not self._ending.is_set():
            if stop.is_set():
                report.ended = "stop"
                return
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
            if self._ending.is_set():
                return
            while self._gaps and self._gaps[0].end <= shot.frame.time:
                gap = self._gaps.popleft()
                if on_gap is not None:
                    on_gap(gap)
            found = self._results.take(shot.frame.index)
            show(shot.frame, found)
            report.shown += 1
            report.results += len(found)

    def _end(self) -> None:
        """Wake every thread and let none start anything new."""
        self._ending.set()
        self._shots.close()
        self._steps.close()
        self._results.close()

    def _count_drops(self) -> None:
        report = self._report
        report.gaps = self._sampler.gaps
        passed_over = self._windows_made - report.windows if self._live else 0
        counts = {
            "show_busy": self._shots.drops.get("busy", 0),
            "think_busy": passed_over,
            "broken": self._source.broken,
        }
        report.drops = {reason: count for reason, count in counts.items() if count}
