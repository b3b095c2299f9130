"""A source that can be told to begin anew: what comes next has nothing to do with what was seen before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

from egolive.streaming.frames import Frame
from egolive.streaming.sources.source import Source

__all__ = ["Interruptible"]


class Interruptible(Source):
    """Passes frames on, and marks the next one as standing behind a gap when it is told to.

    A gap empties windows, boards and trackers, so that nothing keeps the frames before it.

    Args:
        source: What is passed on.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._cut = threading.Event()
        self.live = source.live
        self.name = source.name
        self.fps = source.fps
        self.size = source.size
        self.time = 0.0
        """Stream time of the newest frame, seconds."""

    @property
    def broken(self) -> int:  # type: ignore[override]  # counted by the source
        """Pieces that were skipped, so far."""
        return self._source.broken

    def cut(self) -> None:
        """Let the next frame stand behind a gap; may be called from any thread."""
        self._cut.set()

    def __iter__(self) -> Iterator[Frame]:
        """The frames of the source."""
        for frame in self._source:
            if self._cut.is_set():
                self._cut.clear()
                frame = replace(frame, gap=True)
            self.time = frame.time
            yield frame
            # The caller is done with it; a generator that waits would hold on to it.
            del frame

    def close(self) -> None:
        """Close the source."""
        self._source.close()
