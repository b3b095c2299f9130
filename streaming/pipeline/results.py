"""Results of tasks, and the queue that hands them from the thinking thread to the showing thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

__all__ = ["Result", "Results", "Status"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

Status = Literal["ok", "expired", "preempted", "broken"]


@dataclass(frozen=True, slots=True)
class Result(Generic[K, T]):
    """What was found for one task."""

    task: K
    value: T
    time: float
    """Capture time of the newest frame that was seen, seconds of the stream."""
    status: Status = "ok"
    """expired: too late to be shown as current. preempted: it was stopped before it was complete. broken:
    what worked on it failed before it was complete; it is not tried again before it is due."""


class Results(Generic[T]):
    """A queue of results with the index of the frame that they are about, oldest first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._found: deque[tuple[int, T]] = deque()
        self._steps_done = 0
        self._closed = False

    def post(self, index: int, result: T) -> None:
        """Leave a result that was found in frame `index`; indices never go back."""
        with self._changed:
            self._found.append((index, result))

    def step_done(self) -> None:
        """Thinking about one picture has come to its end."""
        with self._changed:
            self._steps_done += 1
            self._changed.notify_all()

    def wait(self, steps: int, timeout: float) -> bool:
        """Wait until so many steps are done, or it is closed; False when `timeout` seconds passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or self._steps_done >= steps, timeout)

    def take(self, index: int) -> list[T]:
        """Take what was found in frames up to `index`."""
        taken = []
        with self._changed:
            while self._found and self._found[0][0] <= index:
                taken.append(self._found.popleft()[1])
        return taken

    def close(self) -> None:
        """Wake whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
