"""How a run ends: a failure of any part, a stop, its time, and what is told of it."""

import threading
from collections.abc import Iterator

import pytest
from scripted import Screen, Scripted, await_event, name, run, tenths

from egolive.streaming import (
    Frame,
    Report,
    VirtualClock,
    Window,
    open_source,
)
from egolive.streaming.errors import EngineError, SinkError, SourceError, SourceLost


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("live", [True, False], ids=["live", "recorded"])
def test_a_source_that_fails_is_raised_after_its_last_frame(live: bool) -> None:
    def before(index: int) -> None:
        if index == 12:
            raise SourceLost("camera 0: no picture for 5 s")

    source, screen = Scripted(tenths(30), live=live, before=before), Screen()
    with pytest.raises(SourceLost, match="camera 0"):
        run(source, name, screen)
    assert screen.frames[-1].index == 11
    if not live:
        assert len(screen.frames) == 12


@pytest.mark.parametrize("live", [True, False], ids=["live", "recorded"])
def test_an_engine_that_fails_ends_the_run(live: bool) -> None:
    failed = threading.Event()

    def before(index: int) -> None:
        if index == 29 and live:
            await_event(failed)

    def think(window: Window | None, picture: Frame) -> Iterator[str]:
        yield "first"
        failed.set()
        raise EngineError("out of memory")

    source = Scripted(tenths(10_000), live=live, before=before)
    with pytest.raises(EngineError, match="out of memory"):
        run(source, think, Screen())
    assert source.closed


@pytest.mark.parametrize("live", [True, False], ids=["live", "recorded"])
def test_a_screen_that_fails_ends_the_run(live: bool) -> None:
    def fail(frame: Frame) -> None:
        raise SinkError("disk full")

    source = Scripted(tenths(10_000), live=live)
    with pytest.raises(SinkError, match="disk full"):
        run(source, name, Screen(after=fail))
    assert source.closed


@pytest.mark.parametrize("live", [True, False], ids=["live", "recorded"])
def test_a_stop_ends_the_run_and_the_answer_under_way(live: bool) -> None:
    stop = threading.Event()
    sequence = threading.Event()
    answer_closed = threading.Event()
    answers: list[Iterator[str]] = []

    def answer() -> Iterator[str]:
        try:
            sequence.set()
            while True:
                stop.wait(0.001)
                yield "word"
        finally:
            answer_closed.set()

    def think(window: Window | None, picture: Frame) -> Iterator[str]:
        # Held, so that it is not closed merely by being forgotten.
        answers.append(answer())
        return answers[-1]

    def before(index: int) -> None:
        if index == 8:
            await_event(sequence)
            stop.set()

    source = Scripted(tenths(10_000), live=live, before=before)
    report = run(source, think, Screen(), stop=stop)
    assert report.ended == "stop"
    assert answer_closed.is_set()
    assert source.closed


def test_an_interrupt_ends_the_run_as_cleanly() -> None:
    def interrupt(frame: Frame) -> None:
        if frame.index == 7:
            raise KeyboardInterrupt

    source, screen = Scripted(tenths(10_000), live=False), Screen(after=interrupt)
    report = run(source, name, screen)
    assert report.ended == "interrupt"
    assert screen.frames[-1].index == 7
    assert source.closed


def test_the_run_ends_when_its_time_is_up() -> None:
    screen = Screen()
    report = run(Scripted(tenths(100), live=False), name, screen, seconds=2.0)
    assert report.ended == "seconds"
    assert [f.index for f in screen.frames] == list(range(20))


def test_rates_are_a_second_of_the_clock() -> None:
    clock = VirtualClock()
    source = open_source("test:64x48@20", clock=clock)
    report = run(source, name, Screen(), seconds=5.0, clock=clock)
    assert report.captured == 100
    assert report.seconds == pytest.approx(5.0)
    assert report.source_rate == pytest.approx(20.0)
    assert Report().shown_rate == 0


def test_what_could_not_be_decoded_is_among_the_drops() -> None:
    source = Scripted(tenths(5), live=False)
    source.broken = 3
    assert run(source, name, Screen()).drops == {"broken": 3}


def test_a_source_that_cannot_be_closed_is_told() -> None:
    class Stuck(Scripted):
        def close(self) -> None:
            raise SourceError("camera 0: cannot be released")

    with pytest.raises(SourceError, match="released"):
        run(Stuck(tenths(3), live=False), name, Screen())
