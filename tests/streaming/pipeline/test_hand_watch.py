"""A hand detector beside a run: it never holds pictures up, and ends with the run."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from scripted import PATIENCE, await_event, our_threads
from seen_hands import BrightHands, bright

from egolive.streaming.clock import Clock, MonotonicClock, VirtualClock
from egolive.streaming.errors import EngineError
from egolive.streaming.hands import HandWatch, Look
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.hand_watch import LiveHands, SteppedHands


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert our_threads() == []


class Paused(Clock):
    """The machine's clock, whose waits last until they are let go."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.waiting = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.waiting.release()
        while not event.is_set() and not self.go.acquire(timeout=0.01):
            pass
        return event.is_set()


def rested(clock: Paused) -> None:
    """Wait until a look is done and the thread rests."""
    assert clock.waiting.acquire(timeout=PATIENCE)


def test_the_newest_picture_is_looked_at_and_the_others_wait_for_nothing() -> None:
    looking, go = threading.Event(), threading.Event()

    def before() -> None:
        looking.set()
        await_event(go)

    clock = Paused()
    detector = BrightHands(before=before)
    watch = LiveHands(detector, clock=clock)
    assert watch.see(bright(0.0, 20)) == []
    await_event(looking)
    # Forty pictures are shown while it looks at the first one.
    assert [watch.see(bright(index / 10, 20)) for index in range(1, 41)] == [[]] * 40
    go.set()
    rested(clock)
    (first,) = watch.see(bright(4.1, 20))
    assert (first.time, first.index) == (0.0, 0)
    clock.go.release()
    rested(clock)
    # Of those that came meanwhile the newest one is next.
    (second,) = watch.see(bright(4.2, 20))
    assert second.time == 4.1
    watch.close()
    assert detector.pictures == 2
    assert detector.threads == {"egolive-hands"}
    assert detector.closed == 1


@pytest.mark.parametrize(("took", "rest"), [(0.03, 0.07), (0.3, 0.3), (0.0, 0.1)])
def test_it_looks_at_its_own_rate_and_rests_as_long_as_it_works(took: float, rest: float) -> None:
    clock = Paused()
    detector = BrightHands(before=lambda: clock.advance(took))
    metrics = Metrics(clock)
    watch = LiveHands(detector, rate=10.0, duty=0.5, clock=clock, metrics=metrics)
    watch.see(bright(0.0, None))
    rested(clock)
    assert clock.waits == [pytest.approx(rest)]
    stage = metrics.stage("hands")
    assert stage is not None
    assert stage.max == pytest.approx(took)
    watch.close()


@pytest.mark.parametrize(
    ("error", "told"),
    [(EngineError("the accelerator is gone"), "the accelerator is gone"), (ZeroDivisionError(), "a fault")],
)
def test_what_fails_is_told_once_and_pictures_go_on(error: Exception, told: str) -> None:
    for live in (True, False):
        detector = BrightHands(fails_at=1, error=error)
        watch: HandWatch = LiveHands(detector) if live else SteppedHands(detector)
        assert list(watch.see(bright(0.0, 20))) == []
        if live:
            thread = next(one for one in threading.enumerate() if one.name == "egolive-hands")
            thread.join(PATIENCE)
        assert list(watch.see(bright(0.5, 20))) == []
        assert told in watch.take_error()
        assert watch.take_error() == ""
        assert list(watch.see(bright(1.0, 20))) == []
        watch.close()
        watch.close()
        assert (detector.pictures, detector.closed) == (1, 1)


def test_the_end_comes_while_it_rests_and_before_it_has_seen_anything() -> None:
    for count in (0, 1):
        clock = Paused()
        watch = LiveHands(BrightHands(), clock=clock)
        for index in range(count):
            watch.see(bright(index / 10, None))
            rested(clock)
        watch.close()
        assert our_threads() == []


def test_after_a_gap_pictures_before_it_are_neither_looked_at_nor_told() -> None:
    clock = Paused()
    detector = BrightHands()
    watch = LiveHands(detector, clock=clock)
    watch.see(bright(0.0, 20))
    rested(clock)
    # This one waits in the mailbox when the gap comes.
    watch._pictures.put(bright(0.1, 20))
    watch.forget(5.0)
    clock.go.release()
    assert watch.see(bright(5.0, 20, index=2)) == []
    rested(clock)
    clock.go.release()
    assert [look.time for look in watch.see(bright(5.1, 20))] == [5.0]
    watch.close()
    assert detector.forgotten == 1


def times(found: Iterator[Look]) -> list[float]:
    return [round(look.time, 3) for look in found]


def test_a_recording_is_looked_at_in_steps_of_its_own_time() -> None:
    detector = BrightHands(clock=VirtualClock(), seconds=3.0)
    watch = SteppedHands(detector, rate=5.0)
    frames = [bright(index / 30, 20, index=index) for index in range(31)]
    looks = [look for frame in frames for look in watch.see(frame)]
    assert times(iter(looks)) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert all(look.hands[0].side == "left" for look in looks)
    # A picture that comes late is due once, and the steps stay where they are.
    assert [times(iter(watch.see(bright(time, None)))) for time in (2.09, 2.15, 2.21)] == [[2.09], [], [2.21]]
    watch.forget(9.0)
    assert times(iter(watch.see(bright(2.22, None)))) == [2.22]
    assert detector.forgotten == 1
    watch.close()


def test_a_look_is_told_with_the_very_picture_of_a_recording() -> None:
    watch = SteppedHands(BrightHands(), metrics=Metrics(MonotonicClock()))
    (found,) = watch.see(bright(0.0, 100))
    assert [*found.hands[0].box] == [100, 50, 130, 80]
    assert found.hand("right") is found.hands[0]
    assert found.hand("left") is None
    watch.close()
    assert watch.see(bright(1.0, 100)) == ()
