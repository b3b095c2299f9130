"""Watchdog for work that hangs: a device or a driver that hangs raises no error."""

from __future__ import annotations

import time
from collections.abc import Callable

from egolive.streaming.errors import EngineError

__all__ = ["Watchdog"]

_LONGEST_STEP = 1.0
"""Seconds that two checks add at most: a machine that slept between them did no work meanwhile."""


class Watchdog:
    """Adds up the silence of work that is under way, in seconds of the machine, whatever a run's clock says.

    One thread works and gives signs of life; another checks, several times a second.

    Args:
        timeout: Seconds of silence after which the work counts as hung.
    """

    def __init__(self, timeout: float) -> None:
        if not timeout > 0:
            raise ValueError(f"a timeout is above 0 s, got {timeout}")
        self.timeout = timeout
        self._working = False
        self._signs = 0
        self._signs_seen = 0
        self._silence = 0.0
        self._looked = time.monotonic()

    def begin(self) -> None:
        """Work begins."""
        self._signs += 1
        self._working = True

    def sign(self) -> None:
        """The work goes on."""
        self._signs += 1

    def end(self) -> None:
        """The work is done."""
        self._working = False

    def hangs(self) -> bool:
        """Whether the work has been silent for too long; to be called several times a second."""
        now = time.monotonic()
        step, self._looked = min(now - self._looked, _LONGEST_STEP), now
        if not self._working or self._signs != self._signs_seen:
            self._signs_seen, self._silence = self._signs, 0.0
        else:
            self._silence += step
        return self._silence > self.timeout

    def check(self) -> None:
        """Raise where `hangs`.

        Raises:
            EngineError: The work has been silent for too long.
        """
        if self.hangs():
            raise EngineError(
                f"the engine gave no sign of life for {self.timeout:g} s and counts as hung; see "
                "`egolive doctor`, and --engine-timeout if it is only slow"
            )

    def watched(self, stopped: Callable[[], bool]) -> Callable[[], bool]:
        """The question whether to stop, which is a sign of life too: it is asked between tokens."""

        def asked() -> bool:
            self.sign()
            return stopped()

        return asked
