"""The newest result of each task that may be shown as current: in time, in order, after the last gap."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from egolive.streaming.frames import Frame
from egolive.streaming.pipeline.results import Result
from egolive.streaming.pipeline.scheduler import TaskRule

__all__ = ["LatestResults", "Showing"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Showing(Generic[K, T]):
    """One frame at the moment in which it is shown."""

    frame: Frame
    now: float
    """Stream time of this moment: later than the frame's own for a live source, the same for a recording."""
    new: Sequence[Result[K, T]]
    """What has come in since the frame before, with its status."""
    current: Sequence[Result[K, T]]
    """What may be shown as true by now: at most one result for each recurring task, the wearer's last."""


class LatestResults(Generic[K, T]):
    """The newest result of each recurring task, and of what the wearer asked last. One thread owns it.

    `counts` tells what became of the results: ok, expired, preempted, broken. Two counts go into more detail:
    repeated, among ok (the same as the one before it); overtaken, among expired (about something older than
    what is current, or from before a gap).

    Args:
        rules: The recurring tasks; other tasks were asked once and have no deadline.
        timely: Whether deadlines count; for a recording, stream time stands still while a task is worked on.
        same: Whether two results say the same.
    """

    def __init__(
        self,
        rules: Mapping[K, TaskRule],
        *,
        timely: bool = True,
        same: Callable[[T, T], bool] = operator.eq,
    ) -> None:
        self._rules = rules
        self._timely = timely
        self._same = same
        self._newest: dict[K, Result[K, T]] = {}
        self._asked: Result[K, T] | None = None
        self._gap_end = float("-inf")
        self._still_since: float | None = None
        self.counts: Counter[str] = Counter()
        """Results by what became of them."""

    def show(self, frame: Frame, now: float, found: Iterable[Result[K, T]]) -> Showing[K, T]:
        """Take what was found, and tell what belongs on the frame that is shown at stream time `now`."""
        new = [self.post(result, now) for result in found]
        return Showing(frame, now, new, self.current(now))

    def post(self, result: Result[K, T], now: float) -> Result[K, T]:
        """Take a result at stream time `now`; returns it with its status."""
        if result.status == "ok" and result.task in self._rules:
            before = self._newest.get(result.task)
            overtaken = result.time < (before.time if before else self._gap_end)
            if overtaken or self._late(result, now):
                result = replace(result, status="expired")
                self.counts["overtaken"] += overtaken
            else:
                self._newest[result.task] = result
                self.counts["repeated"] += before is not None and self._same(before.value, result.value)
        elif result.status == "ok":
            self._asked = result
        self.counts[result.status] += 1
        return result

    def current(self, now: float) -> list[Result[K, T]]:
        """What may be shown at stream time `now`: recurring tasks in their order, then the wearer's."""
        newest = (self._newest[task] for task in self._rules if task in self._newest)
        found = [result for result in newest if not self._late(result, now)]
        return found if self._asked is None else [*found, self._asked]

    def hold(self, still_since: float | None) -> None:
        """Let what was found since then stay current whatever its age, for nothing has moved since.

        Args:
            still_since: Stream time; None where something moves, and deadlines count again.
        """
        self._still_since = still_since

    def gap(self, end: float) -> None:
        """Forget everything: what was seen before the gap says nothing about what comes after its `end`."""
        self._newest.clear()
        self._asked = None
        self._gap_end = end
        self._still_since = None

    def _late(self, result: Result[K, T], now: float) -> bool:
        if self._still_since is not None and result.time >= self._still_since:
            return False
        return self._timely and now - result.time > self._rules[result.task].deadline
