"""Sources that pass on the frames of another: at their own speed, over and over, or with gaps on request.

`reconnect.py` has one more, which opens a lost source again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.frames import Frame
from egolive.streaming.sources.source import Source

__all__ = ["Interruptible", "Looped", "Paced", "SourceWrapper"]


class SourceWrapper(Source):
    """Base of the wrappers: has the name, rate and size of the source inside, and its frames as they are.

    Args:
        source: What is passed on.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._broken_before = 0
        self._dropped_before = 0
        self.live = source.live
        self.name = source.name
        self.fps = source.fps
        self.size = source.size

    @property
    def broken(self) -> int:  # type: ignore[override]  # counted by the source inside
        """Pieces that were skipped so far, also of sources that were exchanged."""
        return self._broken_before + self._source.broken

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._source)

    @property
    def dropped(self) -> int:  # type: ignore[override]  # counted by the source inside
        """Pictures that were left out so far, also by sources that were exchanged."""
        return self._dropped_before + self._source.dropped

    def catch_up(self) -> None:
        """Let the source inside leave out what comes next."""
        self._source.catch_up()

    def close(self) -> None:
        """Close the source inside."""
        self._source.close()

    def _exchange(self, source: Source) -> None:
        """Go on with another source."""
        self._broken_before += self._source.broken
        self._dropped_before += self._source.dropped
        self._source = source


_LATE = 0.1
"""Seconds by which a frame may come too late and still be handed out, as a camera's does."""
_SHOW_EVERY = 0.25
"""Seconds of the recording after which a late frame is handed out all the same."""
_FAR_BEHIND = 0.5
"""Seconds behind at which decoding jumps to the next key frame."""


class Paced(SourceWrapper):
    """Hands out each frame when its time has come, as a camera would; so it is live.

    What is decoded too late is left out and counted, as a camera's pictures are lost to a busy machine: time
    is never stretched.

    Args:
        source: What is played.
        clock: Whose seconds count.
    """

    def __init__(self, source: Source, clock: Clock) -> None:
        super().__init__(source)
        self.live = True
        self._clock = clock
        self._stop = threading.Event()
        self._late = 0

    @property
    def dropped(self) -> int:  # type: ignore[override]
        """Frames that were left out because their time was over."""
        return self._late + super().dropped

    def __iter__(self) -> Iterator[Frame]:
        """Frames at the speed at which they were taken; time starts with the first."""
        start: float | None = None
        shown = float("-inf")
        for frame in self._source:
            if start is None:
                start = self._clock.now() - frame.time
            behind = self._clock.now() - (start + frame.time)
            if self._clock.wait(self._stop, -behind):
                return
            if behind > _FAR_BEHIND:
                self._source.catch_up()
            if behind > _LATE and frame.time - shown < _SHOW_EVERY:
                self._late += 1
                continue
            shown = frame.time
            yield replace(frame, captured=start + frame.time)

    def close(self) -> None:
        """Stop waiting, and close what is played."""
        self._stop.set()
        super().close()


class Looped(SourceWrapper):
    """A recording without end: it starts again when it is over, and time goes on.

    Args:
        reopen: Opens the recording from its start.
    """

    def __init__(self, reopen: Callable[[], Source]) -> None:
        super().__init__(reopen())
        self._reopen = reopen
        self._closed = False

    def __iter__(self) -> Iterator[Frame]:
        """Frames of every lap; the first of each further lap is marked as standing behind a gap."""
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
            self._source.close()
            self._exchange(self._reopen())

    def close(self) -> None:
        """Stop at the next frame and close the recording."""
        self._closed = True
        super().close()


class Interruptible(SourceWrapper):
    """Passes frames on, and marks the next one as standing behind a gap when it is told to.

    A gap empties windows, latest results and trackers, so that nothing keeps the frames before it.

    Args:
        source: What is passed on.
        clock: That of the source; the machine's own without it.
    """

    def __init__(self, source: Source, clock: Clock | None = None) -> None:
        super().__init__(source)
        self._clock = clock or MonotonicClock()
        self._cut: float | None = None
        self._unread = 0
        self._newest: tuple[float, float | None] = (0.0, None)
        self.origin: float | None = None
        """Seconds of the clock at which stream time was 0; None before the first frame."""

    @property
    def now(self) -> float:
        """Stream time in seconds: of this moment for a live source, of the newest frame for a recording."""
        time, captured = self._newest
        return time if captured is None else time + self._clock.now() - captured

    @property
    def dropped(self) -> int:  # type: ignore[override]
        """Pictures that were left out, those from before a cut included."""
        return self._unread + super().dropped

    def cut(self) -> None:
        """Let the next frame stand behind a gap; what was taken before now comes no more. From any thread."""
        self._cut = self._clock.now()

    def __iter__(self) -> Iterator[Frame]:
        """The frames of the source."""
        for frame in self._source:
            captured = frame.captured
            if (cut := self._cut) is not None:
                if captured is not None and captured < cut:
                    # It waited unread while it was told to forget.
                    self._unread += 1
                    continue
                self._cut = None
                frame = replace(frame, gap=True)
            if self.origin is None:
                self.origin = (self._clock.now() if captured is None else captured) - frame.time
            self._newest = (frame.time, captured)
            yield frame
            # The caller is done with it; a generator that waits would hold on to it.
            del frame
