"""How a run is ended from outside: Ctrl-C, a termination, and what does not end by itself after them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stop", "stopped_by_signal"]

_GRACE = 1.5
"""Seconds that a run has to come to its end by itself."""
_AGAIN = 1.0
"""Seconds until what still blocks after that is interrupted once more."""


class Stop(threading.Event):
    """Set by a signal, which decides the exit code."""

    exit_code = 0


@contextmanager
def stopped_by_signal() -> Iterator[Stop]:
    """An event that Ctrl-C and a termination set.

    A second one, or a run that has not ended a little later (a sink blocks, an engine hangs), raises
    KeyboardInterrupt with the exit code on the main thread.
    """
    stop = Stop()
    before: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}
    alarm = getattr(signal, "SIGALRM", None)

    def on_signal(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt(stop.exit_code)
        stop.exit_code = 128 + number
        stop.set()
        if alarm is not None:
            signal.setitimer(signal.ITIMER_REAL, _GRACE, _AGAIN)

    def on_alarm(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt(stop.exit_code)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        if alarm is not None:
            before[alarm] = signal.signal(alarm, on_alarm)
    try:
        yield stop
    finally:
        if before and alarm is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
