"""Scheduler: which tasks are due, in which order, and when running work is preempted.

Starts no threads and knows no models. Time is stream time, handed in with each call; every method may be
called from any thread. What may be shown of the outcome is decided in `latest_results`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Literal, TypeVar

from egolive.streaming.frames import Frame, Window
from egolive.streaming.pipeline.choice import Choice

__all__ = ["Scheduler", "TaskRule", "Work"]

K = TypeVar("K", bound=Hashable)

_KEPT, _MOST_KEPT = 0.6, 20.0
"""Share of its deadline, and seconds at most, for which an answer is kept where tasks wait for a contact."""
_OUTLIVES = 0.3
"""Share of its deadline for which an answer about the window is kept whatever hands do."""
_MOST_ASKED = 8
"""Questions of the wearer that may wait at once; a further one takes the place of the oldest."""


@dataclass(frozen=True, slots=True)
class TaskRule:
    """How one task is treated."""

    sees: Literal["picture", "window"] = "picture"
    """What it is asked of: the newest picture, or the newest window."""
    priority: int = 1
    """Lower goes first and preempts running work of a higher number; equal ones are worked on together."""
    every: int = 1
    """New pictures, or new slices for a window, from one request to the next."""
    deadline: float = float("inf")
    """Seconds after the capture of what was seen until which an answer counts as current."""
    max_wait: float = float("inf")
    """Seconds of waiting after which it goes along with the foremost of the recurring tasks, so that quick
    pictures cannot keep it waiting for ever."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"a task recurs after one input or more, got {self.every}")
        if not self.deadline > 0:
            raise ValueError(f"a deadline is above 0 s, got {self.deadline}")


@dataclass(frozen=True, slots=True)
class Work(Generic[K]):
    """Tasks that are worked on together, and what they are asked of."""

    tasks: tuple[K, ...]
    picture: Frame
    """The newest picture."""
    window: Window | None = None
    """The newest window; None where no task is asked of it."""
    time: float = 0.0
    """Stream time at which the work starts."""
    size: float = 1.0
    """Share of the usual number of pixels at which pictures are to be seen."""
    stopped: Callable[[], bool] = field(default=lambda: False, compare=False)
    """True once the work is preempted: to be asked between two tokens."""


class Scheduler(Generic[K]):
    """Keeps at most one waiting request a task; a request always sees what is newest when its work begins.

    `counts` tells what became of the requests. Once nothing is running any more:
    requested + retried = superseded + withdrawn + taken + still waiting, and taken = answered + preempted.

    Args:
        rules: The recurring tasks, in the order in which they are asked.
    """

    def __init__(self, rules: Mapping[K, TaskRule]) -> None:
        self.rules = dict(rules)
        self._changed = threading.Condition()
        self._picture: Frame | None = None
        self._window: Window | None = None
        self._now = 0.0
        self._gaps = 0
        self._forgotten = 0
        self._inputs: dict[K, int] = {}
        self._asked: dict[K, TaskRule] = {}
        self._waiting: dict[K, float] = {}
        self._running: dict[K, float] = {}
        self._gaps_at_start = 0
        self._foremost = min((rule.priority for rule in rules.values()), default=0)
        self._closed = False
        self._counts: Counter[str] = Counter()
        self._superseded: Counter[K] = Counter()
        self._choice: Choice | None = None
        self._answered: dict[K, float] = {}
        self._demanded: set[K] = set()
        self._rest_until = float("-inf")
        self._windows_last = False

    @property
    def counts(self) -> dict[str, int]:
        """Requests by what became of them.

        superseded: a newer one of the same task came before it was taken. withdrawn: a gap took away what it
        would have seen. retried: put back after it was preempted.
        """
        with self._changed:
            return dict(self._counts)

    @property
    def windows_missed(self) -> int:
        """Windows that were due to be asked of, but never were."""
        with self._changed:
            due = (self._superseded[task] for task, rule in self.rules.items() if rule.sees == "window")
            return max(due, default=0)

    @property
    def waiting(self) -> int:
        """Requests that wait now."""
        with self._changed:
            return len(self._waiting)

    def govern(self, choice: Choice) -> None:
        """Ask recurring tasks in this way from now on; what the wearer asks is not held back."""
        with self._changed:
            self._choice = choice
            self._changed.notify_all()

    def see(self, picture: Frame, window: Window | None, now: float) -> None:
        """Take the newest picture, and the newest window (the same as before where there is no newer one)."""
        with self._changed:
            self._now = now
            if picture.gap:
                self._restart()
            new_window = window is not None and window is not self._window
            self._picture, self._window = picture, window
            for task, rule in self.rules.items():
                if rule.sees == "window" and not new_window:
                    continue
                every = rule.every
                if self._choice is not None and rule.sees == "window":
                    every = self._choice.every
                self._inputs[task] = self._inputs.get(task, every - 1) + 1
                if self._inputs[task] >= every and not self._unmoved(task, now):
                    self._inputs[task] = 0
                    self._request(task)
            self._changed.notify_all()

    def forget(self) -> None:
        """Let go of what there is to see, as if nothing had been seen yet: running work stops, tasks wait."""
        with self._changed:
            self._restart()
            self._picture = None
            self._forgotten += 1

    def ask(self, task: K, rule: TaskRule) -> None:
        """Ask for something once, as the wearer does; it waits until there is what it is asked of.

        A task that recurs anyway keeps its own rule.
        """
        with self._changed:
            if task not in self.rules:
                self._asked[task] = rule
            else:
                self._demanded.add(task)
            self._request(task)
            waiting = [asked for asked in self._asked if asked in self._waiting]
            if len(waiting) > _MOST_ASKED:
                del self._asked[waiting[0]], self._waiting[waiting[0]]
                self._counts["superseded"] += 1
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is something to do; False when it was closed, or `timeout` seconds passed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._ready()), timeout)
            return not self._closed and any(self._ready())

    def take(self, now: float, *, everything: bool = False) -> Work[K] | None:
        """Take the foremost requests, to be worked on at once; None where nothing can be done.

        Args:
            now: Stream time.
            everything: Take all requests, whatever their priority.
        """
        with self._changed:
            priorities = {task: self._urgency(task, now) for task in self._ready(now)}
            if not priorities or self._picture is None:
                return None
            first = min(priorities.values())
            tasks = tuple(task for task, priority in priorities.items() if everything or priority == first)
            if self._choice is not None and not everything:
                tasks = self._few(tasks, self._choice)
            self._running = {task: self._waiting.pop(task) for task in tasks}
            self._demanded.difference_update(tasks)
            self._gaps_at_start = self._gaps
            self._counts["taken"] += len(tasks)
            window = self._window if any(self._rule(task).sees == "window" for task in tasks) else None
            return Work(
                tasks,
                self._picture,
                window,
                now,
                self._choice.size if self._choice is not None else 1.0,
                partial(self._overruled, first, self._forgotten),
            )

    def done(
        self,
        work: Work[K],
        preempted: Collection[K] = (),
        *,
        broken: Collection[K] = (),
        now: float | None = None,
    ) -> None:
        """Tell that work has come to its end; what was preempted is tried again if it is still due.

        Args:
            work: As it was taken.
            preempted: Its tasks that had to make way.
            broken: Its tasks that failed.
            now: Stream time; without it no pause follows, whatever the governor chose.
        """
        with self._changed:
            if (
                self._choice is not None
                and now is not None
                and any(task in self.rules for task in work.tasks)
            ):
                duty = self._choice.duty
                self._rest_until = now + (now - work.time) * (1 - duty) / duty
            for task in work.tasks:
                since = self._running.pop(task)
                if task not in preempted and task not in broken and task in self.rules:
                    seen = work.window.newest if self._in_window(task) and work.window else work.picture
                    self._answered[task] = seen.time
                if task not in preempted:
                    self._counts["answered"] += 1
                    if task not in self._waiting:
                        self._asked.pop(task, None)
                    continue
                self._counts["preempted"] += 1
                if task in self._waiting:
                    # A newer request stands in for it, and has waited as long.
                    self._waiting[task] = since
                elif task in self._asked or self._still_due(task):
                    self._waiting[task] = since
                    self._counts["retried"] += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Stop running work and wake whoever waits; nothing can be taken any more."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _request(self, task: K) -> None:
        self._counts["requested"] += 1
        if task in self._waiting:
            self._counts["superseded"] += 1
            self._superseded[task] += 1
        else:
            self._waiting[task] = self._now

    def _restart(self) -> None:
        """What is waiting for a window has none any more; the first input behind the gap is due at once."""
        self._gaps += 1
        self._window = None
        self._inputs.clear()
        self._answered.clear()
        for task, rule in self.rules.items():
            if rule.sees == "window" and self._waiting.pop(task, None) is not None:
                self._counts["withdrawn"] += 1

    def _still_due(self, task: K) -> bool:
        return self._rule(task).sees == "picture" or self._gaps == self._gaps_at_start

    def _rule(self, task: K) -> TaskRule:
        return self.rules[task] if task in self.rules else self._asked[task]

    def _ready(self, now: float | None = None) -> Iterable[K]:
        """Waiting tasks that have something to be asked of, in the order of the rules, the wearer's last."""
        if self._picture is None or self._closed:
            return
        now = self._now if now is None else now
        for task in (*self.rules, *self._asked):
            if task in self._waiting and (not self._in_window(task) or self._window is not None):
                if task in self.rules and task not in self._demanded and self._held_back(task, now):
                    continue
                yield task

    def _held_back(self, task: K, now: float) -> bool:
        """Whether the governor lets a recurring task wait: in a pause, or since nothing has happened."""
        return now < self._rest_until or self._unmoved(task, now)

    def _unmoved(self, task: K, now: float) -> bool:
        """Whether nothing has happened since what a recurring task was answered about, not long ago."""
        choice = self._choice
        if choice is None or task in self._demanded:
            return False
        answered = self._answered.get(task, float("-inf"))
        if choice.still_since is not None and answered >= choice.still_since:
            return now - answered < choice.heartbeat
        if choice.contact_since is None:
            return False
        if answered < choice.contact_since:
            # What is done outlives a single contact.
            kept = min(_OUTLIVES * self.rules[task].deadline, _MOST_KEPT)
            return self._in_window(task) and now - answered < kept
        # Those of a kind together: apart they would be asked one by one.
        kind = self.rules[task].sees
        oldest = min(
            self._answered.get(one, answered) for one, rule in self.rules.items() if rule.sees == kind
        )
        return now - oldest < min(_KEPT * self.rules[task].deadline, _MOST_KEPT)

    def _in_window(self, task: K) -> bool:
        return self._rule(task).sees == "window"

    def _few(self, tasks: tuple[K, ...], choice: Choice) -> tuple[K, ...]:
        """As many of the tasks as the governor chose, those first that have waited longest."""
        kinds = {
            in_window: [task for task in tasks if task in self.rules and self._in_window(task) == in_window]
            for in_window in (False, True)
        }
        if choice.apart and kinds[False] and kinds[True]:
            # In turns, so that neither keeps the other waiting for ever.
            del kinds[self._windows_last]
        kept = {task for task in tasks if task not in self.rules or task in self._demanded}
        for in_window, found in kinds.items():
            found.sort(key=self._waiting.__getitem__)
            kept.update(found[: choice.windows if in_window else choice.pictures])
            if found:
                self._windows_last = in_window
        return tuple(task for task in tasks if task in kept)

    def _urgency(self, task: K, now: float) -> int:
        rule, choice = self._rule(task), self._choice
        # A contact is one reason to ask for all, in one piece of work where that is not too long.
        together = choice is not None and choice.contact_since is not None and not choice.apart
        if (together and task in self.rules) or now - self._waiting[task] >= rule.max_wait:
            return min(rule.priority, self._foremost)
        return rule.priority

    def _overruled(self, priority: int, forgotten: int) -> bool:
        """Whether work has to stop: preempted, since what it saw was forgotten, or at the end."""
        with self._changed:
            if self._closed or forgotten != self._forgotten:
                return True
            return any(self._rule(task).priority < priority for task in self._ready())
