"""What asks a hand detector beside a run: a thread of its own for live sources, in step for recordings.

Live, pictures never wait: the detector gets the newest one whenever it is free, at most so often, and rests
so that it takes at most a share of the time. Of a recording it gets pictures in equal steps of stream time,
and a picture waits for it, so that what is shown depends on the recording alone.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence

from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.errors import EgoliveError
from egolive.streaming.frames import Frame
from egolive.streaming.hands import HandDetector, Look
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.mailbox import Mailbox

__all__ = ["LiveHands", "SteppedHands"]

_log = logging.getLogger(__name__)

_RATE = 10.0
"""Looks a second, at most: a box that was carried for 0.1 s still fits."""
_DUTY = 0.67
"""Share of its thread's time in which a detector works."""
_PATIENCE = 5.0
"""Seconds for which the end of a run waits for a look that has begun."""
_ROUNDED = 1e-6
"""Seconds."""
_FAULT = "the hand detector met a fault of its own, which the log tells"


class LiveHands:
    """Implements `HandWatch` for a live source, on a thread of its own."""

    def __init__(
        self,
        detector: HandDetector,
        *,
        rate: float = _RATE,
        duty: float = _DUTY,
        metrics: Metrics | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Start the thread; it ends with `close`, or when the detector fails.

        Args:
            detector: Used, and closed at the end, by the thread.
            rate: Looks a second, at most.
            duty: Share of the time in which the detector works, at most.
            metrics: Takes how long looks take ("hands").
            clock: What the rate is measured with.
        """
        self._detector = detector
        self._step = 1 / rate
        self._rest = 1 / duty - 1
        self._clock = clock or MonotonicClock()
        self._metrics = metrics
        self._pictures: Mailbox[Frame] = Mailbox(live=True)
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._found: deque[Look] = deque()
        self._error = ""
        self._since = float("-inf")
        self._anew = False
        self._thread = threading.Thread(target=self._loop, name="egolive-hands", daemon=True)
        self._thread.start()

    def see(self, frame: Frame) -> Sequence[Look]:
        """Leave a picture for the thread, and take what it has found; never waits."""
        if not self._ending.is_set():
            self._pictures.put(frame)
        with self._lock:
            found = list(self._found)
            self._found.clear()
            return [look for look in found if look.time >= self._since]

    def take_error(self) -> str:
        """Why it has stopped looking, told once."""
        with self._lock:
            error, self._error = self._error, ""
            return error

    def forget(self, since: float) -> None:
        """Tell nothing of pictures before a time."""
        with self._lock:
            self._since = since
            self._anew = True

    def close(self) -> None:
        """End the thread, and wait for a look that has begun."""
        self._ending.set()
        self._pictures.close()
        self._thread.join(_PATIENCE)

    def _loop(self) -> None:
        try:
            for frame in self._pictures:
                with self._lock:
                    passed = frame.time < self._since
                    anew, self._anew = self._anew and not passed, self._anew and passed
                if passed:
                    continue
                if anew:
                    self._detector.forget()
                begun = self._clock.now()
                look = _look(self._detector, frame)
                took = self._clock.now() - begun
                if self._metrics is not None:
                    self._metrics.add("hands", took)
                with self._lock:
                    self._found.append(look)
                rest = max(self._step - took, took * self._rest)
                if self._clock.wait(self._ending, rest):
                    return
        except EgoliveError as error:
            self._fail(str(error))
        except Exception:
            _log.exception("the hand detector failed")
            self._fail(_FAULT)
        finally:
            self._ending.set()
            self._pictures.close()
            self._detector.close()

    def _fail(self, error: str) -> None:
        with self._lock:
            self._error = error


class SteppedHands:
    """Implements `HandWatch` for a recording: looks at the first picture of each step of stream time."""

    def __init__(
        self, detector: HandDetector, *, rate: float = _RATE / 2, metrics: Metrics | None = None
    ) -> None:
        """Take over a detector, which is closed at the end.

        Args:
            detector: What looks.
            rate: Looks a second of stream time.
            metrics: Takes how long looks take ("hands").
        """
        self._detector: HandDetector | None = detector
        self._step = 1 / rate
        self._metrics = metrics
        self._next = float("-inf")
        self._error = ""

    def see(self, frame: Frame) -> Sequence[Look]:
        """Look at a picture if it is due."""
        # Times are rounded, and so are the steps.
        time = frame.time + _ROUNDED
        if self._detector is None or time < self._next:
            return ()
        # In steps from zero on, so that rounding adds up to nothing.
        self._next = (time // self._step + 1) * self._step
        try:
            if self._metrics is None:
                return (_look(self._detector, frame),)
            with self._metrics.measure("hands"):
                return (_look(self._detector, frame),)
        except EgoliveError as error:
            self._error = str(error)
        except Exception:
            _log.exception("the hand detector failed")
            self._error = _FAULT
        self.close()
        return ()

    def take_error(self) -> str:
        """Why it has stopped looking, told once."""
        error, self._error = self._error, ""
        return error

    def forget(self, since: float) -> None:
        """The next picture is due, whatever its time."""
        self._next = float("-inf")
        if self._detector is not None:
            self._detector.forget()

    def close(self) -> None:
        """Free the detector."""
        if self._detector is not None:
            self._detector.close()
            self._detector = None


def _look(detector: HandDetector, frame: Frame) -> Look:
    return Look(frame.time, frame.index, tuple(detector.detect(frame.image)))
