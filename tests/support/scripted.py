"""Sources, engines and screens of a run that are driven by events instead of time."""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from egolive.streaming import (
    Frame,
    Report,
    Result,
    Scheduler,
    Showing,
    Source,
    TaskRule,
    Window,
    Work,
)
from egolive.streaming import run as run_tasks

PICTURE = np.zeros((2, 2, 3), np.uint8)
PATIENCE = 60.0
"""Seconds after which a test that waits for another thread gives up; never reached when the code works."""


def our_threads() -> list[str]:
    """Names of the project's threads that are still there."""
    for thread in threading.enumerate():
        # Who ends a run does not wait for it, since a sensor may be slow. It ends by itself.
        if thread.name == "egolive-load":
            thread.join(PATIENCE)
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("egolive-")]


class Scripted(Source):
    """A source with the given times, which may do something before each frame."""

    def __init__(
        self, times: Sequence[float], *, live: bool, before: Callable[[int], None] = lambda _: None
    ) -> None:
        self.live = live
        self.name = "scripted"
        self.fps: float | None = 10.0
        self.size: tuple[int, int] | None = (2, 2)
        self.broken = 0
        self.closed = False
        self._times = times
        self._before = before

    def __iter__(self) -> Iterator[Frame]:
        for index, time in enumerate(self._times):
            if self.closed:
                return
            self._before(index)
            yield Frame(PICTURE, time, index)

    def close(self) -> None:
        self.closed = True


LOOK = {"look": TaskRule(), "think": TaskRule("window")}
"""One task for pictures and one for windows, of the same rank."""


def run(
    source: Source,
    think: Callable[[Window | None, Frame], Iterator[str] | Sequence[str]],
    show: Callable[[Showing[str, str]], None],
    *,
    rules: Mapping[str, TaskRule] = LOOK,
    **options: Any,
) -> Report:
    """Run two tasks as one function of the newest window, where it is due, and the newest picture."""

    def work(work: Work[str]) -> Iterator[Result[str, str]]:
        found = think(work.window, work.picture)
        try:
            for value in found:
                yield Result("look", value, work.picture.time)
        finally:
            if isinstance(found, Generator):
                found.close()

    return run_tasks(source, Scheduler(rules), work, show, **options)


class Screen:
    """Remembers what was shown, and does something after each frame."""

    def __init__(self, after: Callable[[Frame], object] = lambda _: None) -> None:
        self.frames: list[Frame] = []
        self.found: list[tuple[int, str]] = []
        self._after = after

    def __call__(self, showing: Showing[str, str]) -> None:
        frame = showing.frame
        self.frames.append(frame)
        self.found.extend((frame.index, result.value) for result in showing.new)
        self._after(frame)


def tenths(count: int) -> list[float]:
    return [i / 10 for i in range(count)]


def name(window: Window | None, picture: Frame) -> Iterator[str]:
    yield f"{picture.index}:{len(window) if window else 0}"


def await_event(event: threading.Event) -> None:
    assert event.wait(PATIENCE), "the other thread never came to it"
