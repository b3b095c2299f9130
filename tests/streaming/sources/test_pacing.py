"""Recordings played in real time on a machine too slow for them, and how late live frames are told."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripted import Scripted

from egolive.streaming import Frame, Metrics, Result, Scheduler, Showing, TaskRule, VirtualClock, Work
from egolive.streaming import run as run_tasks
from egolive.streaming.sources.opening import open_source
from egolive.streaming.sources.source import Source
from egolive.streaming.sources.wrappers import Interruptible, Paced, SourceWrapper
from egolive.streaming.video_writer import VideoWriter

FPS = 30
SECONDS = 40


class Slow(SourceWrapper):
    """Takes time for each frame of the source inside, by the clock."""

    def __init__(self, source: Source, clock: VirtualClock, work: float) -> None:
        super().__init__(source)
        self._clock, self._work = clock, work

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            self._clock.advance(self._work)
            yield frame


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pacing") / "clip.mp4"
    with VideoWriter(path) as writer:
        for number in range(FPS * SECONDS):
            writer.write(np.full((32, 48, 3), number % 200, np.uint8), number / FPS)
    return path


@pytest.mark.parametrize("work", [0.01, 0.04, 0.15])
def test_a_slow_machine_drops_frames_and_never_stretches_time(clip: Path, work: float) -> None:
    clock = VirtualClock(100.0)
    with Paced(Slow(open_source(clip), clock, work), clock) as source:
        started = clock.now() + work
        shown = []
        for frame in source:
            assert frame.captured == pytest.approx(started + frame.time)
            shown.append((frame.time, clock.now() - started))
    times = np.array(shown)
    # What is handed out is never long past, and the end comes when the recording is over: within 2 %, and
    # the second between two key frames that may be skipped last.
    assert (times[:, 1] - times[:, 0]).max() <= 1.5
    assert times[-1, 1] == pytest.approx(SECONDS, abs=0.02 * SECONDS + 1)
    assert len(shown) + source.dropped == pytest.approx(FPS * SECONDS, abs=2)
    assert (source.dropped > 0) == (work * FPS > 1)
    assert len(shown) >= SECONDS / 2


def test_backlog_shows_in_ages_and_delays() -> None:
    clock = VirtualClock()

    class Late(Scripted):
        """Each picture was taken 1.5 s before it is read."""

        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                clock.advance(0.1)
                yield replace(frame, captured=clock.now() - 1.5)

    seen = threading.Event()
    source = Late([n / 10 for n in range(20)], live=True, before=lambda index: _wait(seen, index == 19))

    def think(work: Work[str]) -> Iterator[Result[str, str]]:
        clock.advance(0.25)
        yield Result("look", "hand", work.picture.time)

    answers: list[float] = []

    def show(showing: Showing[str, str]) -> None:
        answers.extend(showing.now - result.time for result in showing.new)
        if answers:
            seen.set()

    metrics = Metrics(clock)
    run_tasks(source, Scheduler({"look": TaskRule()}), think, show, metrics=metrics, clock=clock)
    behind, overlay = metrics.stage("behind"), metrics.stage("glass_to_overlay")
    assert behind is not None
    assert overlay is not None
    assert behind.p50 == pytest.approx(1.5, abs=0.3)
    assert overlay.p50 >= 1.5
    assert answers
    assert min(answers) >= 1.5 + 0.25 - 1e-6


def _wait(event: threading.Event, now: bool) -> None:
    if now:
        assert event.wait(60)


def test_what_waited_unread_is_forgotten_too() -> None:
    clock = VirtualClock(50.0)

    class Backlogged(Scripted):
        """Reads a picture each tenth of a second that was taken half a second before."""

        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield replace(frame, captured=50.0 + frame.time)
                clock.advance(0.1)

    clock.advance(0.5)
    source = Interruptible(Backlogged([n / 10 for n in range(20)], live=True), clock)
    frames = iter(source)
    next(frames)
    assert source.origin == pytest.approx(50.0)
    assert source.now == pytest.approx(0.5)
    source.cut()
    rest = list(frames)
    assert rest[0].gap
    assert rest[0].time == pytest.approx(0.5)
    assert not any(frame.gap for frame in rest[1:])
    assert source.dropped == 4
