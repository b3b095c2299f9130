"""Opens a lost live source again, until it is back; stream time runs on meanwhile."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from egolive.streaming.clock import Clock
from egolive.streaming.errors import SourceError, SourceLost
from egolive.streaming.frames import Frame
from egolive.streaming.sources.source import Source
from egolive.streaming.sources.wrappers import SourceWrapper

__all__ = ["Reconnecting"]

_log = logging.getLogger(__name__)

_FIRST_DELAY = 0.1
"""Seconds before the first try; doubled after each that fails."""
_LONGEST_DELAY = 1.0
"""Seconds between two tries at most, and for which a source must hold to begin with the first delay again."""
_STEP = 1e-3
"""Seconds by which stream time goes on at least, where the source's clock was ahead of ours."""


class Reconnecting(SourceWrapper):
    """A live source that comes back: what was lost is opened again, its next frame marked as behind a gap.

    Frames of the first connection keep their times. Those of a later one are placed by the clock: as long
    after the first frame of all as they were really taken.

    Args:
        source: The first connection.
        reopen: Opens the next one.
        clock: What time is read from.
        reconnect_timeout: Seconds without it after which it is lost for good; never without it.
    """

    def __init__(
        self,
        source: Source,
        reopen: Callable[[], Source],
        *,
        clock: Clock,
        reconnect_timeout: float = math.inf,
    ) -> None:
        super().__init__(source)
        self._reopen = reopen
        self._clock = clock
        self._reconnect_timeout = reconnect_timeout
        self._stop = threading.Event()
        # `close` may come while the reading thread exchanges one connection for the next.
        self._exchanging = threading.Lock()
        self._origin: float | None = None
        self._last: Frame | None = None
        self._back = False
        self._time_shift = 0.0
        self._index_shift = 0
        self._delay = _FIRST_DELAY
        self.reconnects = 0
        """Times that it came back."""

    def __iter__(self) -> Iterator[Frame]:
        """Frames until it is closed.

        Raises:
            SourceLost: It did not come back in time.
        """
        while True:
            connected = self._clock.now()
            lost = SourceLost(f"{self.name}: the stream ended; check the camera and its network")
            try:
                for frame in self._source:
                    yield self._placed(frame)
            except SourceLost as error:
                lost = error
            if self._stop.is_set():
                return
            if self._clock.now() - connected >= _LONGEST_DELAY:
                self._delay = _FIRST_DELAY
            if not self._reconnect(lost):
                return

    def close(self) -> None:
        """Stop waiting and trying, and close the connection; waits for a try that is under way."""
        self._stop.set()
        with self._exchanging:
            self._source.close()

    def _placed(self, frame: Frame) -> Frame:
        """The frame on the time line of the whole stream."""
        captured = self._clock.now() if frame.captured is None else frame.captured
        if self._last is None or self._origin is None:
            self._origin = captured - frame.time
        elif self._back:
            elapsed = captured - self._origin
            self._time_shift = max(elapsed, self._last.time + _STEP) - frame.time
            self._index_shift = self._last.index + 1 - frame.index
        self._last = replace(
            frame,
            time=frame.time + self._time_shift,
            index=frame.index + self._index_shift,
            gap=frame.gap or self._back,
        )
        self._back = False
        return self._last

    def _reconnect(self, lost: SourceLost) -> bool:
        """Try until it is back; False when it is closed first.

        Raises:
            SourceLost: It did not come back in time.
        """
        _log.warning("%s; trying again until it is back", lost)
        since = self._clock.now()
        self._source.close()
        while not self._clock.wait(self._stop, self._delay):
            self._delay = min(2 * self._delay, _LONGEST_DELAY)
            try:
                source = self._reopen()
            except SourceError:
                if self._clock.now() - since >= self._reconnect_timeout:
                    raise lost from None
                continue
            with self._exchanging:
                self._exchange(source)
                if self._stop.is_set():
                    source.close()
                    return False
            self.size = source.size
            self._back = self._last is not None
            self.reconnects += 1
            return True
        return False
