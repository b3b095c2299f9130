"""The three threads of a run, with sources and engines that are driven by events instead of time."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from scripted import PATIENCE, Screen, Scripted, await_event, name, run, tenths

from egolive.streaming import (
    Frame,
    Interval,
    Metrics,
    Result,
    Scheduler,
    Showing,
    TaskRule,
    VirtualClock,
    Window,
    Work,
)
from egolive.streaming import run as run_tasks
from egolive.streaming.metrics import rss_bytes, slope_per_hour


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_a_recording_is_shown_and_thought_about_whole() -> None:
    source, screen = Scripted(tenths(100), live=False), Screen()
    report = run(source, name, screen, fps_sampled=2.0, slices=3)
    assert [f.index for f in screen.frames] == list(range(100))
    # Twice a second, each with the very frame that it was found in; every second sample ends a window, which
    # grows to five slices and hands over to one of three.
    grown = iter([1, 2, 3, 4, 5, 3, 4, 5, 3, 4])
    lengths = [next(grown) if sample % 2 else 0 for sample in range(20)]
    assert screen.found == [(5 * sample, f"{5 * sample}:{length}") for sample, length in enumerate(lengths)]
    assert (report.captured, report.shown, report.steps, report.windows) == (100, 100, 20, 10)
    assert (report.results, report.gaps, report.drops, report.ended) == (20, 0, {}, "source")
    assert report.stream_seconds == pytest.approx(9.9)
    assert source.closed


def test_a_frame_of_a_recording_waits_for_what_is_thought_about_it() -> None:
    read_ahead = threading.Event()
    screen = Screen()

    def before(index: int) -> None:
        if index == 10:
            read_ahead.set()

    def think(window: Window | None, picture: Frame) -> Iterator[str]:
        if picture.index == 0:
            await_event(read_ahead)
            assert screen.frames == []
        yield from name(window, picture)

    run(Scripted(tenths(30), live=False, before=before), think, screen)
    assert screen.found[0] == (0, "0:0")
    assert len(screen.frames) == 30


def test_a_recording_is_the_same_however_the_threads_run() -> None:
    def once(slow: Callable[[], object]) -> tuple[list[int], list[tuple[int, str]]]:
        screen = Screen(after=lambda _: slow())
        run(Scripted(tenths(60), live=False), name, screen)
        return [f.index for f in screen.frames], screen.found

    spin = threading.Event()
    assert once(lambda: None) == once(lambda: spin.wait(0.001))


def test_a_live_picture_goes_on_while_the_engine_thinks() -> None:
    shown = threading.Semaphore(0)
    asked_first = threading.Event()
    twenty_shown = threading.Event()
    asked_again = threading.Event()
    asked: list[tuple[int, float | None]] = []

    def before(index: int) -> None:
        # A camera whose next frame comes when the one before is on the screen.
        if index > 0:
            assert shown.acquire(timeout=PATIENCE)
        if index == 1:
            await_event(asked_first)
        if index == 24:
            await_event(asked_again)

    def after(frame: Frame) -> None:
        if frame.index == 20:
            twenty_shown.set()
        shown.release()

    def think(window: Window | None, picture: Frame) -> Iterator[str]:
        asked.append((picture.index, window.newest.time if window else None))
        (asked_first if len(asked) == 1 else asked_again).set()
        await_event(twenty_shown)
        yield from name(window, picture)

    screen = Screen(after)
    report = run(Scripted(tenths(40), live=True, before=before), think, screen)
    assert [f.index for f in screen.frames] == list(range(40))
    assert asked[0] == (0, None)
    # The next question is about the newest picture and window, what lies between is never asked.
    picture, window_end = asked[1]
    assert picture >= 20
    assert window_end == 1.5
    assert report.drops["think_busy"] >= 1
    assert all(int(result.split(":")[0]) <= index for index, result in screen.found)


def test_a_window_is_handed_to_the_engine_once() -> None:
    shown = threading.Semaphore(0)
    thought = threading.Semaphore(0)
    windows: list[Interval] = []

    def before(index: int) -> None:
        if index > 0:
            assert thought.acquire(timeout=PATIENCE)
            assert shown.acquire(timeout=PATIENCE)

    def think(window: Window | None, picture: Frame) -> Iterator[str]:
        if window is not None:
            windows.append(window.interval)
        yield "seen"
        thought.release()

    screen = Screen(after=lambda _: shown.release())
    report = run(Scripted(tenths(31), live=True, before=before), think, screen, slices=1)
    assert windows == [Interval(0.0, 0.5), Interval(1.0, 1.5), Interval(2.0, 2.5)]
    assert report.windows == 3
    # Every picture was asked about; the answer to the last may come when the show is over.
    assert 30 <= report.steps <= 31


def test_a_live_source_never_waits_for_a_slow_screen() -> None:
    all_read = threading.Event()

    def before(index: int) -> None:
        if index == 29:
            all_read.set()

    screen = Screen(after=lambda _: await_event(all_read))
    report = run(Scripted(tenths(30), live=True, before=before), name, screen)
    assert [f.index for f in screen.frames] == sorted({f.index for f in screen.frames})
    assert screen.frames[-1].index == 29
    assert report.captured == 30
    assert report.shown + report.drops["show_busy"] == 30
    assert report.drops["show_busy"] >= 20


def test_a_gap_is_told_before_the_frame_behind_it_and_no_window_spans_it() -> None:
    order: list[object] = []
    windows: list[Window] = []

    def think(window: Window | None, picture: Frame) -> Sequence[str]:
        if window is not None:
            windows.append(window)
        return []

    times = [*tenths(16), *(5 + time for time in tenths(16))]
    report = run(
        Scripted(times, live=False),
        think,
        lambda showing: order.append(showing.frame.index),
        on_gap=order.append,
    )
    assert order == [*range(16), Interval(1.5, 5.0), *range(16, 32)]
    assert report.gaps == 1
    assert [w.interval for w in windows] == [
        Interval(0, 0.5),
        Interval(0, 1.5),
        Interval(5, 5.5),
        Interval(5, 6.5),
    ]


def test_a_window_from_before_a_gap_is_not_asked_with_a_picture_from_behind_it() -> None:
    asked_first = threading.Event()
    behind_the_gap = threading.Event()
    asked_again = threading.Event()
    asked: list[tuple[int, Window | None]] = []

    def before(index: int) -> None:
        if index == 1:
            await_event(asked_first)
        if index == 18:
            behind_the_gap.set()
            await_event(asked_again)

    def think(window: Window | None, picture: Frame) -> Iterator[str]:
        asked.append((picture.index, window))
        (asked_first if len(asked) == 1 else asked_again).set()
        await_event(behind_the_gap)
        yield from name(window, picture)

    times = [*tenths(16), *(5 + time for time in tenths(4))]
    run(Scripted(times, live=True, before=before), think, Screen())
    picture, window = asked[1]
    assert picture >= 16
    assert window is None


def test_a_question_of_the_wearer_stops_what_is_running_and_is_answered_first() -> None:
    asked, answered = threading.Event(), threading.Event()
    shown = threading.Semaphore(0)
    log: list[tuple[str, ...]] = []
    scheduler = Scheduler({"boxes": TaskRule("picture", priority=1)})

    def before(index: int) -> None:
        if index > 0:
            assert shown.acquire(timeout=PATIENCE)
        if index == 3:
            scheduler.ask("where is my cup?", TaskRule("picture", priority=0))
            asked.set()
        if index == 6:
            await_event(answered)

    def think(work: Work[str]) -> Iterator[Result[str, str]]:
        log.append(work.tasks)
        if len(log) == 1:
            await_event(asked)
            assert work.stopped()
            yield Result("boxes", "", work.picture.time, "preempted")
            return
        for task in work.tasks:
            yield Result(task, "found", work.picture.time)
        if len(log) >= 3:
            answered.set()

    statuses: list[tuple[str, str]] = []

    def show(showing: Showing[str, str]) -> None:
        statuses.extend((result.task, result.status) for result in showing.new)
        assert all(result.status == "ok" for result in showing.current)
        shown.release()

    report = run_tasks(Scripted(tenths(10), live=True, before=before), scheduler, think, show)
    assert log[:3] == [("boxes",), ("where is my cup?",), ("boxes",)]
    assert statuses[:2] == [("boxes", "preempted"), ("where is my cup?", "ok")]
    assert report.requests["preempted"] == 1


def test_an_answer_past_its_deadline_is_told_and_never_current() -> None:
    clock = VirtualClock()
    shown, thought = threading.Semaphore(0), threading.Semaphore(0)
    told: list[str] = []

    class Camera(Scripted):
        """Its times are the clock's."""

        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                clock.advance(0.1)
                yield Frame(frame.image, clock.now(), frame.index)

    def before(index: int) -> None:
        if index > 0:
            assert thought.acquire(timeout=PATIENCE)

    def think(work: Work[str]) -> Iterator[Result[str, str]]:
        # The picture is on the screen before its answer comes, which takes every other one three seconds.
        assert shown.acquire(timeout=PATIENCE)
        clock.advance(3.0 if work.picture.index % 2 else 0.0)
        yield Result("boxes", "found", work.picture.time)
        thought.release()

    def show(showing: Showing[str, str]) -> None:
        told.extend(result.status for result in showing.new)
        for result in showing.current:
            assert showing.now - result.time <= 2.0
        shown.release()

    scheduler = Scheduler({"boxes": TaskRule(deadline=2.0)})
    metrics = Metrics(clock)
    report = run_tasks(
        Camera(tenths(20), live=True, before=before), scheduler, think, show, metrics=metrics, clock=clock
    )
    # Each is told with the picture after it.
    assert told == ["ok", "expired"] * 9 + ["ok"]
    assert report.requests["expired"] == 9
    assert report.results == 10
    age = metrics.stage("answer_age")
    assert age is not None
    assert age.max <= 2.0


def test_twenty_minutes_leave_nothing_behind() -> None:
    clock = VirtualClock()
    shown, thought = threading.Semaphore(0), threading.Semaphore(0)
    scheduler = Scheduler(
        {"boxes": TaskRule(priority=1, deadline=5.0), "intent": TaskRule("window", 2, every=2, deadline=15.0)}
    )
    metrics = Metrics(clock)
    memory: list[tuple[float, float]] = []
    waiting = 0

    class Pictures(Scripted):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield Frame(np.full((90, 160, 3), frame.index % 256, np.uint8), frame.time, frame.index)

    def before(index: int) -> None:
        nonlocal waiting
        if index > 0:
            assert thought.acquire(timeout=PATIENCE)
            assert shown.acquire(timeout=PATIENCE)
        waiting = max(waiting, scheduler.waiting)
        clock.advance(0.5)
        if index % 120 == 0:
            memory.append((index / 2, (rss_bytes() or 0) / 1e6))

    def think(work: Work[str]) -> Iterator[Result[str, str]]:
        for task in work.tasks:
            yield Result(task, "found", work.picture.time)
        if "boxes" in work.tasks:
            thought.release()

    source = Pictures([index / 2 for index in range(2400)], live=True, before=before)
    report = run_tasks(source, scheduler, think, lambda _: shown.release(), metrics=metrics, clock=clock)
    # What imports and the first minutes take is no leak.
    slope = slope_per_hour(memory[5:])
    sys.stdout.write(f"memory {memory[5][1]:.1f} to {memory[-1][1]:.1f} MB, {slope:+.1f} MB an hour\n")
    assert report.stream_seconds == pytest.approx(1199.5)
    assert report.shown == 2400
    assert waiting <= 2
    # 2,400 pictures are 104 MB: none may stay.
    assert memory[-1][1] - memory[5][1] < 20
