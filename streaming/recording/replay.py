"""Replay of a recording: the same frames, windows, drops and times, whatever answers and however fast.

It runs on one thread. What threads and clocks decided is in the recording: which picture and window each
piece of work saw, when it ended, and with which frame its results were shown. Only the work is done anew.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import DataError
from egolive.streaming.frames import Interval
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.choice import Choice
from egolive.streaming.pipeline.latest_results import LatestResults, Showing
from egolive.streaming.pipeline.results import Result
from egolive.streaming.pipeline.run_report import Report
from egolive.streaming.pipeline.scheduler import TaskRule, Work
from egolive.streaming.pipeline.windowing import Sampled, Windower
from egolive.streaming.recording.recording import RecordedWork, Recording

__all__ = ["replay"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def replay(
    recording: Recording,
    rules: Mapping[K, TaskRule],
    task: Callable[[object], K],
    think: Callable[[Work[K], RecordedWork], Sequence[Result[K, T]]],
    show: Callable[[Showing[K, T]], None],
    *,
    clock: VirtualClock,
    metrics: Metrics,
    on_gap: Callable[[Interval], None] | None = None,
    on_choice: Callable[[float, Choice], None] | None = None,
    on_lost: Callable[[int], None] | None = None,
    same: Callable[[T, T], bool] = operator.eq,
) -> Report:
    """Run a recording again on the calling thread.

    Args:
        recording: What is run again.
        rules: Those of the recurring tasks, as in the run.
        task: From what stands for a task in the recording to the task.
        think: Given the work and what became of it then; returns one result for each of the outcomes, in
            their order and with their statuses.
        show: Called with each frame that was shown, and the results that came with it.
        clock: Set to each moment of the run before something happens in it.
        metrics: Takes "wait", "glass_to_overlay" and "answer_age" as they were in a live run.
        on_gap: Told of each gap before the frame that follows it is shown.
        on_choice: Told of what the governor chose then, as in the run.
        on_lost: Told how many outcomes of a work are left out because pictures of its window were removed.
        same: Whether two results of a task say the same, which is counted.

    Returns:
        What was counted again (frames, windows, results, gaps, statuses). Drops, the length of the run by the
        clock, why it ended, and what became of requests that were never taken, are the recording's own.

    Raises:
        DataError: A picture is missing or damaged, or the windows come out otherwise than in the run.
        BaseException: Whatever `think` or `show` raised.
    """
    recorded = recording.report or Report(ended="interrupt")
    report = Report(seconds=recorded.seconds, drops=dict(recorded.drops), ended=recorded.ended)
    latest: LatestResults[K, T] = LatestResults(rules, timely=recording.live, same=same)
    windower = Windower(recording.fps, recording.slices, recording.source_fps)
    if recording.start is not None and recording.start.windows is not None:
        windower.resume(recording.start.windows)
    skipped = recording.skipped
    works, shows, choices = deque(recording.works), deque(recording.shows), deque(recording.choices)
    chosen: deque[tuple[float, Choice]] = deque()
    if recording.start is not None and recording.start.choice is not None:
        # What held when the first segment that is kept began.
        chosen.append((recording.start.choice.time, recording.start.choice.choice))
    # None stands for a result about pictures that were removed.
    results: deque[Result[K, T] | None] = deque()
    gaps: deque[Interval] = deque()
    window_asked = None
    for frame in recording.frames():
        if recording.seconds is not None and frame.time >= recording.seconds:
            break
        while choices and choices[0].frame == frame.index:
            told = choices.popleft()
            windower.resize(told.choice.slices)
            chosen.append((told.time, told.choice))
        sampled = windower.push(frame)
        report.captured += 1
        report.stream_seconds = frame.time
        if sampled.gap is not None:
            gaps.append(sampled.gap)
        while works and works[0].picture == frame.index:
            then = works.popleft()
            work = _work(then, sampled, [task(name) for name in then.tasks], recording)
            if work.window is not None and work.window is not window_asked:
                window_asked = work.window
                report.windows += 1
            _move(clock, then.time)
            if recording.live:
                metrics.add("wait", then.time - frame.time)
            if any(one.index < recording.first for one in (work.window.frames if work.window else ())):
                results.extend(None for _ in then.outcomes)
                if on_lost is not None:
                    on_lost(len(then.outcomes))
                continue
            results.extend(think(work, then))
            report.steps += 1
        while shows and shows[0].frame == frame.index:
            shown = shows.popleft()
            _move(clock, shown.now)
            while gaps and gaps[0].end <= frame.time:
                gap = gaps.popleft()
                latest.gap(gap.end)
                if on_gap is not None:
                    on_gap(gap)
            while chosen and chosen[0][0] <= frame.time:
                since, choice = chosen.popleft()
                latest.hold(choice.still_since)
                if on_choice is not None:
                    on_choice(since, choice)
            before = min(shown.new, skipped)
            skipped -= before
            taken = [results.popleft() for _ in range(min(shown.new - before, len(results)))]
            found = [result for result in taken if result is not None]
            showing = latest.show(sampled.frame, shown.now, found)
            show(showing)
            report.shown += 1
            in_time = [result for result in showing.new if result.status == "ok"]
            report.results += len(in_time)
            if recording.live:
                metrics.add("glass_to_overlay", shown.now - frame.time)
                for result in in_time:
                    metrics.add("answer_age", shown.now - result.time)
    report.gaps = windower.gaps
    report.requests = dict(recorded.requests) | dict(latest.counts)
    return report


def _work(then: RecordedWork, sampled: Sampled, tasks: Sequence[K], recording: Recording) -> Work[K]:
    """The work as it was, from the windows as they come out now."""
    window = sampled.window if then.slices else None
    if (len(window) if window else 0) != then.slices:
        raise DataError(
            f"{recording.folder}: at {then.time:.2f} s the window has {len(window) if window else 0} slices, "
            f"in the run it had {then.slices}; another egolive recorded it"
        )
    return Work(tuple(tasks), sampled.frame, window, then.time, then.size)


def _move(clock: VirtualClock, time: float) -> None:
    """Advance to a time; those of different threads are not in order."""
    clock.advance(max(0.0, time - clock.now()))
