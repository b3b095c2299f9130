"""What can be done to a recording while it is read: play it at its own speed, or over and over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from egolive.streaming.clock import Clock
from egolive.streaming.frames import Frame
from egolive.streaming.sources.source import Source

__all__ = ["Looped", "Paced"]


class Paced(Source):
    """Hands out each frame when its time has come, as a camera would; so it is live.

    Args:
        source: what is played.
        clock: whose seconds count.
    """

    def __init__(self, source: Source, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._stop = threading.Event()
        self.live = True
        self.name = source.name
        self.fps = source.fps
        self.size = source.size

    @property
    def broken(self) -> int:  # type: ignore[override]  # counted by the source that is played
        """Pieces that were skipped, so far."""
        return self._source.broken

    def __iter__(self) -> Iterator[Frame]:
        """Frames at the speed at which they were taken; time starts with the first."""
        start: float | None = None
        for frame in self._source:
            if start is None:
                start = self._clock.now() - frame.time
            if self._clock.wait(self._stop, start + frame.time - self._clock.now()):
                return
            yield frame

    def close(self) -> None:
        """Stop waiting, and close what is played."""
        self._stop.set()
        self._source.close()


class Looped(Source):
    """A recording without end: it starts again when it is over, and time goes on.

    Args:
        reopen: opens the recording from its start.
    """

    def __init__(self, reopen: Callable[[], Source]) -> None:
        self._reopen = reopen
        self._source = reopen()
        self._broken_before = 0
        self._closed = False
        self.live = self._source.live
        self.name = self._source.name
        self.fps = self._source.fps
        self.size = self._source.size

    @property
    def broken(self) -> int:  # type: ignore[override]  # counted by the source that is played
        """Pieces that were skipped, so far."""
        return self._broken_before + self._source.broken

    def __iter__(self) -> Iterator[Frame]:
        """Frames of every lap; the first of a lap is marked as standing behind a gap."""
        step = 1 / self.fps if self.fps else 1 / 30
        lap_start, index, time = 0.0, 0, 0.0
        while not self._closed:
            for position, frame in enumerate(self._source):
                time = lap_start + frame.time
                yield replace(frame, time=time, index=index, gap=frame.gap or (position == 0 and index > 0))
                index += 1
            if self._closed:
                return
            lap_start = time + step
            self._broken_before += self._source.broken
            self._source.close()
            self._source = self._reopen()

    def close(self) -> None:
        """Stop at the next frame and close the recording."""
        self._closed = True
        self._source.close()
