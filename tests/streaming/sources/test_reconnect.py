"""Live sources that stall, drop and return, by a clock that tests move by hand."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from egolive.streaming import (
    Frame,
    Image,
    Interval,
    Reconnecting,
    Result,
    Scheduler,
    Showing,
    Source,
    TaskRule,
    VirtualClock,
    Work,
    open_source,
    run,
)
from egolive.streaming.errors import SourceError, SourceLost
from egolive.streaming.sources.wrappers import Paced

PATIENCE = 60.0
"""Seconds after which a test that waits for another thread gives up; never reached when the code works."""


class Connection(Source):
    """Ten pictures a second by the clock, then silence: the source is lost after `stall` seconds of it."""

    def __init__(
        self,
        clock: VirtualClock,
        pictures: int,
        *,
        stall: float = 0.0,
        before: Callable[[], object] = lambda: None,
        image: Callable[[], Image] = lambda: np.zeros((2, 2, 3), np.uint8),
        ends: bool = False,
    ) -> None:
        self.live = True
        self.name = "camera 0"
        self.fps: float | None = 10.0
        self.size: tuple[int, int] | None = (2, 2)
        self.broken = 1
        self.closed = 0
        self._clock, self._pictures, self._stall = clock, pictures, stall
        self._before, self._image, self._ends = before, image, ends

    def __iter__(self) -> Iterator[Frame]:
        start: float | None = None
        for index in range(self._pictures):
            if self.closed:
                return
            self._before()
            now = self._clock.now()
            start = now if start is None else start
            yield Frame(self._image(), now - start, index)
            self._clock.advance(0.1)
        self._clock.advance(self._stall)
        if not self._ends:
            raise SourceLost("camera 0: no picture; check its cable")

    def close(self) -> None:
        self.closed += 1


class Device:
    """What is opened: each time the next connection, or the next failure."""

    def __init__(self, *outcomes: Source | Exception) -> None:
        self.outcomes = list(outcomes)
        self.tries = 0

    def __call__(self) -> Source:
        self.tries += 1
        outcome = self.outcomes.pop(0) if self.outcomes else SourceError("camera 0: not there")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Listening(VirtualClock):
    """A clock that remembers how long it was waited on."""

    def __init__(self) -> None:
        super().__init__(100.0)
        self.waits: list[float] = []

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        return super().wait(event, seconds)


GONE = SourceError("camera 0: not there")


def read_until_lost(source: Source) -> list[Frame]:
    frames: list[Frame] = []
    with pytest.raises(SourceLost):
        frames.extend(iter_into(source, frames))
    return frames


def iter_into(source: Source, frames: list[Frame]) -> Sequence[Frame]:
    for frame in source:
        frames.append(frame)
    return ()


def test_what_comes_back_goes_on_in_time_and_is_marked_as_a_gap() -> None:
    clock = Listening()
    device = Device(GONE, GONE, Connection(clock, 5))
    source = Reconnecting(Connection(clock, 10, stall=5.0), device, clock=clock, reconnect_timeout=30)
    frames = read_until_lost(source)
    assert [frame.index for frame in frames] == list(range(15))
    # A second of pictures, five of silence, and three tries: after 0.1, 0.2 and 0.4 s.
    assert [frame.time for frame in frames] == pytest.approx(
        [i / 10 for i in range(10)] + [6.7 + i / 10 for i in range(5)]
    )
    assert [frame.index for frame in frames if frame.gap] == [10]
    assert source.reconnects == 1
    assert source.broken == 2


def test_tries_come_less_and_less_often_but_once_a_second_at_least() -> None:
    clock = Listening()
    source = Reconnecting(Connection(clock, 3), Device(*[GONE] * 8), clock=clock, reconnect_timeout=6.4)
    read_until_lost(source)
    assert clock.waits[:7] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])


def test_a_source_that_keeps_breaking_is_not_opened_ten_times_a_second() -> None:
    clock = Listening()
    flapping = [Connection(clock, 1) for _ in range(6)]
    source = Reconnecting(Connection(clock, 30), Device(*flapping), clock=clock, reconnect_timeout=1)
    read_until_lost(source)
    assert clock.waits[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_it_is_given_up_in_time_with_the_reason_for_which_it_was_lost() -> None:
    clock = Listening()
    source = Reconnecting(Connection(clock, 3), Device(), clock=clock, reconnect_timeout=10)
    with pytest.raises(SourceLost, match="check its cable"):
        list(source)
    assert 10 <= clock.now() - 100.3 <= 11


def test_a_live_stream_that_ends_is_opened_again() -> None:
    clock = Listening()
    device = Device(Connection(clock, 4))
    source = Reconnecting(Connection(clock, 4, ends=True), device, clock=clock, reconnect_timeout=1)
    assert len(read_until_lost(source)) == 8


def test_what_is_lost_is_closed_before_it_is_opened_again() -> None:
    clock = Listening()
    first = Connection(clock, 3)

    def reopen() -> Source:
        assert first.closed
        raise GONE

    read_until_lost(Reconnecting(first, reopen, clock=clock, reconnect_timeout=1))


def test_closing_ends_the_wait_and_what_is_opened_meanwhile() -> None:
    clock = Listening()
    second = Connection(clock, 3)

    def reopen() -> Source:
        source.close()
        return second

    source = Reconnecting(Connection(clock, 3), reopen, clock=clock)
    assert len(list(source)) == 3
    assert second.closed


def test_a_bug_is_not_taken_for_a_loss() -> None:
    clock = Listening()
    source = Reconnecting(Connection(clock, 3), Device(KeyError("bug")), clock=clock)
    with pytest.raises(KeyError):
        list(source)


def test_a_source_whose_clock_ran_ahead_never_goes_back() -> None:
    clock = Listening()

    class Hasty(Connection):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield Frame(frame.image, 3 * frame.time, frame.index)

    source = Reconnecting(Hasty(clock, 10), Device(Connection(clock, 2)), clock=clock, reconnect_timeout=1)
    times = [frame.time for frame in read_until_lost(source)]
    assert times == sorted(set(times))


def test_a_recording_or_a_source_that_is_not_there_is_not_opened_again() -> None:
    with pytest.raises(SourceError, match=r"camera 57"):
        open_source(57, reconnect_timeout=60)
    with open_source("test:64x48@10", reconnect_timeout=60) as source:
        assert isinstance(source, Paced)


def test_the_machine_asleep_is_a_gap() -> None:
    clock = VirtualClock()
    asleep = iter([False] * 15 + [True] + [False] * 100)
    nap = Connection(clock, 30, before=lambda: clock.advance(3600) if next(asleep) else None, ends=True)
    gaps: list[Interval] = []

    def think(work: Work[str]) -> list[Result[str, str]]:
        assert work.window is None or work.window.interval.duration < 3600
        return []

    class Once(Source):
        """The connection without its end as a loss."""

        live, name, fps, size, broken = True, "camera 0", 10.0, (2, 2), 0

        def __iter__(self) -> Iterator[Frame]:
            return iter(nap)

        def close(self) -> None:
            nap.close()

    run(
        Once(),
        Scheduler({"think": TaskRule("window")}),
        think,
        lambda _: None,
        on_gap=gaps.append,
        clock=clock,
    )
    assert len(gaps) == 1
    assert gaps[0].duration > 3600


def test_after_a_loss_the_first_fresh_answer_comes_soon_and_sees_nothing_of_before() -> None:
    clock = VirtualClock()
    shown, thought = threading.Semaphore(0), threading.Semaphore(0)
    alive: list[weakref.ref[Image]] = []
    most_alive = 0
    back_at: list[float] = []
    first = True

    def before() -> None:
        """The next picture comes when the one before is thought about and shown."""
        nonlocal first, most_alive, alive
        if not first:
            assert thought.acquire(timeout=PATIENCE)
            assert shown.acquire(timeout=PATIENCE)
        first = False
        alive = [image for image in alive if image() is not None]
        most_alive = max(most_alive, len(alive))

    def image() -> Image:
        made = np.zeros((2, 2, 3), np.uint8)
        alive.append(weakref.ref(made))
        return made

    def connect(pictures: int, stall: float) -> Source:
        return Connection(clock, pictures, stall=stall, before=before, image=image)

    class Unplugged:
        """Comes back at once, after a few tries, after many tries, and then never."""

        tries = iter([True, *[False] * 5, True, *[False] * 30, True])

        def __call__(self) -> Source:
            if not next(self.tries, False):
                raise GONE
            back_at.append(clock.now())
            return connect(400, stall=5.0)

    rules = {
        "boxes": TaskRule("picture", priority=1, deadline=5.0),
        "intent": TaskRule("window", priority=1, deadline=15.0),
    }
    scheduler = Scheduler(rules)
    gaps: list[Interval] = []
    windows: list[tuple[Interval, int]] = []
    found: list[tuple[float, Result[str, int]]] = []

    def think(work: Work[str]) -> Iterator[Result[str, int]]:
        if work.window is not None:
            windows.append((work.window.interval, len(work.window)))
        for task in work.tasks:
            seen = work.window.newest if task == "intent" and work.window is not None else work.picture
            yield Result(task, seen.index, seen.time)
        thought.release()

    def show(showing: Showing[str, int]) -> None:
        found.extend((showing.now, result) for result in showing.new)
        for result in showing.current:
            assert not gaps or result.time >= gaps[-1].end
            assert showing.now - result.time <= rules[result.task].deadline
        shown.release()

    source = Reconnecting(connect(400, stall=5.0), Unplugged(), clock=clock, reconnect_timeout=60)
    before_threads = set(threading.enumerate())
    with pytest.raises(SourceLost):
        run(source, scheduler, think, show, slices=4, on_gap=gaps.append, clock=clock)
    assert set(threading.enumerate()) <= before_threads
    assert (source.reconnects, len(gaps)) == (3, 3)
    for task in rules:
        for back in back_at:
            # The clock starts with the stream: its times are stream time.
            fresh = next(now for now, result in found if result.task == task and result.time >= back)
            assert fresh - back <= 3.0
    for seen, _ in windows:
        assert not any(seen.start < gap.end and seen.end > gap.start for gap in gaps)
    # The window grows anew behind each gap.
    for gap in gaps:
        assert next(length for seen, length in windows if seen.start >= gap.end) == 1
    # Frames of one window of up to 2 x 4 slices, and those that are under way.
    assert most_alive <= 2 * 8 + 8
