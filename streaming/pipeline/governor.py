"""The governor of a live run: chooses how recurring tasks are asked so that their answers come in time.

It learns from each piece of work what reading and writing cost, predicts the age that answers would have
under other settings, and takes the richest setting whose answers stay well within their deadlines. It asks
less where the machine is hot, on battery or busy, and nothing where nothing moves. It knows no models, reads
no clock and starts no thread: frames, work and stream times are handed in.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Generic, Literal, Protocol, TypeVar

from egolive.streaming.frames import Frame
from egolive.streaming.pipeline.choice import Choice, LoadReading
from egolive.streaming.pipeline.cost_estimates import CostEstimates, Spent, Timed
from egolive.streaming.pipeline.duty_cycle import DutyCycle
from egolive.streaming.pipeline.motion_gate import MotionGate
from egolive.streaming.pipeline.results import Result
from egolive.streaming.pipeline.scheduler import TaskRule, Work

__all__ = ["Governing", "Governor", "Knob"]

K = TypeVar("K")
T = TypeVar("T")

Knob = Literal["every", "slices", "size"]
"""A setting that a user may hold."""

_USED = 0.9
"""Share of a deadline up to which a setting is kept."""
_USED_RICHER = 0.8
"""Share of a deadline up to which a richer setting is taken: less, so that it is not left again at once."""
_WINDOW_SHARE = 0.2
"""Share of the time that tasks about the window may take, as long as their deadlines allow it."""
_RICHER_SHARE = 0.7
"""Of that share, what a richer setting may take."""
_RENEWED = 0.8
"""Share of a deadline after which a task about the window is asked again at the latest."""
_LEAST_SLICES = 2
"""Of a full window: one slice shows what is there, but hardly what is being done."""
_MOST_ROUND = 64
"""Slices between two requests at most."""
_DWELL = 3.0
"""Seconds from one change to the next richer setting."""
_WORKS = 2
"""Pieces of work under one setting before a richer one is taken."""
_SHOWING = 0.1
"""Seconds between an answer's being complete and its being shown."""
_SIZES = (1.0, 0.5, 0.25)
"""Shares of the usual pixels."""
_HEARTBEAT = (20.0, 120.0)
"""Least and most seconds from one question to the next while nothing moves."""
_HEARTBEAT_COSTS = 25.0
"""A heartbeat comes after so many times what it costs."""
_SENSED = 1.0
"""Seconds between two looks at the load."""


class Governing(Protocol[K, T]):
    """What a run asks of its governor; a recorder stands in between."""

    @property
    def on_contact(self) -> bool:
        """Whether tasks wait for contacts of hands."""
        ...

    def touched(self, time: float, reason: str) -> None:
        """Take a contact of a hand, on the showing thread.

        Args:
            time: Stream time of the picture from which on it is seen.
            reason: What has happened, in words.
        """
        ...

    def see(self, frame: Frame) -> Choice | None:
        """Take the next frame of the source, on the capturing thread; returns a choice that is new."""
        ...

    def worked(self, work: Work[K], results: Sequence[tuple[Result[K, T], float]]) -> None:
        """Take work that is done, on the thinking thread.

        Args:
            work: As it was taken.
            results: What was found, each with the seconds from the start of the work until it was.
        """
        ...


class Governor(Generic[K, T]):
    """Chooses how the recurring tasks of a live run are asked. May be used from two threads.

    Args:
        rules: The recurring tasks.
        slices: Slices of a full window, at most.
        every: New slices from one request of tasks about the window to the next, at least.
        slice_seconds: Length of a slice.
        held: Settings that the user has decided.
        spent: What an answer took; without it, half of the time until it was found counts as reading.
        sense: Tells the load of the machine; must not wait.
        names: What people call tasks about the picture and about the window.
        on_contact: Ask when a hand has done something, and rarely otherwise.
    """

    def __init__(
        self,
        rules: Mapping[K, TaskRule],
        *,
        slices: int,
        every: int,
        slice_seconds: float,
        held: Collection[Knob] = (),
        spent: Callable[[T], Spent | None] = lambda _: None,
        sense: Callable[[], LoadReading] = LoadReading,
        names: tuple[str, str] = ("pictures", "windows"),
        on_contact: bool = False,
    ) -> None:
        self.on_contact = on_contact
        self._touched: tuple[float, str] = (0.0, "")
        self._rules = dict(rules)
        self._slices, self._every, self._slice_seconds = slices, every, slice_seconds
        self._held = frozenset(held)
        self._spent, self._sense, self._names = spent, sense, names
        self._lock = threading.Lock()
        self._costs = CostEstimates()
        self._gate = MotionGate()
        self._pictures = sum(rule.sees == "picture" for rule in rules.values())
        self._windows = len(rules) - self._pictures
        self._deadline = {
            kind: min((r.deadline for r in rules.values() if r.sees == kind), default=math.inf)
            for kind in ("picture", "window")
        }
        self._waited = 0.0
        self._newest_asked = (-1, -1)
        self._asked_at: float | None = None
        self._still_since: float | None = None
        self._duty = DutyCycle()
        self._sensed_at = float("-inf")
        self._decided_at = float("-inf")
        self._changed_at = float("-inf")
        self._works = 0
        self._known = (False, False)
        # Nothing is known yet: with one task at a time the first answers come in time if any can.
        self._choice = Choice(
            every=every,
            slices=slices,
            pictures=1,
            windows=max(1, self._windows),
            apart=bool(self._pictures and self._windows),
            contact_since=0.0 if on_contact else None,
            reason="costs are not known yet",
        )
        self._told = False

    @property
    def choice(self) -> Choice:
        """What holds now."""
        return self._choice

    def see(self, frame: Frame) -> Choice | None:
        """Take the next frame of the source; returns a choice that is new."""
        still_since = self._gate.push(frame)
        with self._lock:
            if frame.gap:
                self._newest_asked, self._asked_at = (-1, -1), None
            now = frame.time
            if not 0 <= now - self._sensed_at < _SENSED:
                self._sensed_at = now
                self._duty.push(self._sense(), now)
            news = still_since != self._still_since or (
                self.on_contact and self._touched[0] != self._choice.contact_since
            )
            if not news and 0 <= now - self._decided_at < 0.2 and self._told:
                return None
            self._still_since, self._decided_at = still_since, now
            chosen = self._merged(self._wanted(), now)
            if chosen == self._choice and self._told:
                return None
            if _settings(chosen) != _settings(self._choice):
                self._changed_at, self._works = now, 0
            self._choice, self._told = chosen, True
            return chosen

    def touched(self, time: float, reason: str) -> None:
        """Take a contact of a hand: what is asked again and again is asked about a picture from then on."""
        with self._lock:
            self._touched = (time, reason)

    def worked(self, work: Work[K], results: Sequence[tuple[Result[K, T], float]]) -> None:
        """Learn from work that is done."""
        with self._lock:
            window = work.window
            newest = (window.slices[-1].segment, window.slices[-1].index) if window else self._newest_asked
            before = self._newest_asked
            fresh = len(window) if window else 0
            if window and newest[0] == before[0]:
                fresh = min(fresh, newest[1] - before[1])
            timed: dict[str, Timed | None] = {}
            for kind in ("picture", "window"):
                spent = [
                    self._spent(result.value) or Spent(at / 2, at)
                    for result, at in results
                    if result.status in ("ok", "expired")
                    and result.task in self._rules
                    and self._rules[result.task].sees == kind
                ]
                timed[kind] = self._timed(kind, spent, work.size, fresh, len(window) if window else 0)
            if timed["window"] is not None:
                self._newest_asked = newest
                self._asked_at = window.newest.time if window else None
            # What the wearer asks has other costs; together with it, the costs of others cannot be told.
            alone = all(task in self._rules for task in work.tasks)
            if not alone or any(result.status not in ("ok", "expired") for result, _ in results):
                return
            self._costs.learn(timed["picture"], timed["window"])
            self._waited += 0.4 * (max(0.0, work.time - work.picture.time) - self._waited)
            self._works += 1

    def _timed(self, kind: str, spent: Sequence[Spent], size: float, fresh: int, length: int) -> Timed | None:
        if not spent:
            return None
        units = 1.0
        if kind == "window":
            shares = [one.read_share for one in spent if one.read_share is not None]
            if shares:
                # The first of several reads for all of them.
                self._costs.learn_reuse(max(shares), fresh, length)
            units = self._costs.units(fresh, length)
        longest = Spent(min(one.first for one in spent), max(one.total for one in spent))
        return Timed(len(spent), size, units, longest)

    def _wanted(self) -> Choice:
        """The richest setting whose answers are expected in time, and why it is no richer."""
        duty, reasons = self._duty.share()
        size, pictures = self._wanted_of_pictures(reasons)
        every, slices = self._wanted_rounds(size, duty, reasons)
        size, slices, windows = self._wanted_of_windows(size, every, slices, reasons)
        apart = self._wanted_apart(size, pictures, slices, windows, every, reasons)
        since, contact = self._touched
        if contact:
            reasons.insert(0, contact)
        if self._still_since is not None:
            reasons.insert(0, "nothing moves")
        return replace(
            self._choice,
            every=every,
            slices=slices,
            size=size,
            pictures=pictures,
            windows=windows,
            apart=apart,
            duty=duty,
            still_since=self._still_since,
            heartbeat=self._heartbeat(),
            contact_since=since if self.on_contact else None,
            reason="; ".join(reasons) or "the deadlines hold with room to spare",
        )

    def _merged(self, wanted: Choice, now: float) -> Choice:
        """What is poorer is taken at once, what is richer only after a while."""
        known = (
            self._costs.expected("picture", 1, 1.0) is not None or not self._pictures,
            self._costs.expected("window", 1, 1.0) is not None or not self._windows,
        )
        first_known, self._known = known != self._known, known
        if first_known or (now - self._changed_at >= _DWELL and self._works >= _WORKS):
            return wanted
        held = self._choice
        return replace(
            wanted,
            every=max(wanted.every, held.every),
            slices=min(wanted.slices, held.slices),
            size=min(wanted.size, held.size),
            pictures=min(wanted.pictures, held.pictures),
            windows=min(wanted.windows, held.windows),
            apart=wanted.apart or held.apart,
            reason=wanted.reason,
        )

    def _budget(self, kind: Literal["picture", "window"]) -> float:
        """Seconds that work may take for its answers to be in time."""
        return max(0.01, self._deadline[kind] - self._waited - _SHOWING)

    def _wanted_of_pictures(self, reasons: list[str]) -> tuple[float, int]:
        """Size of pictures, and tasks about a picture at once."""
        held, count = self._choice, self._pictures
        options = [
            (size, tasks)
            for size in self._sizes()
            for tasks in dict.fromkeys((count, math.ceil(count / 2), 1))
            if tasks
        ]
        if not options:
            return 1.0, 1
        cost = self._costs.most("picture", count, 1.0)
        if cost is None:
            reasons.append("costs are not known yet")
            return self._sizes()[0], 1
        chosen, fits = _richest(
            options,
            (held.size, held.pictures),
            lambda option: self._costs.most("picture", option[1], option[0]) or 0.0,
            self._budget("picture"),
        )
        if not fits:
            reasons.append(f"no setting holds the deadline of {self._names[0]}")
        elif chosen != options[0]:
            reasons.append(f"all {self._names[0]} at once would take {cost:.1f} s")
        return chosen

    def _wanted_rounds(self, size: float, duty: float, reasons: list[str]) -> tuple[int, int]:
        """New slices from one request of tasks about the window to the next, and slices of a full window.

        Windows become shorter where asking less often does not help: each ask reads the slices since the one
        before, but none that has left the window.
        """
        held = self._choice
        if not self._windows:
            return self._every, self._slices
        rounds = self._rounds()
        options = [(every, self._slices) for every in rounds]
        options += [(rounds[-1], length) for length in self._lengths()[1:]]

        def share(option: tuple[int, int]) -> float | None:
            cost = self._window_cost(size, option[1], self._windows, option[0])
            return None if cost is None else cost / (option[0] * self._slice_seconds)

        chosen, taken = options[-1], share(options[-1])
        place = options.index((held.every, held.slices)) if (held.every, held.slices) in options else 0
        for number, option in enumerate(options):
            limit = _WINDOW_SHARE * duty * (_RICHER_SHARE if number < place else 1.0)
            part = share(option)
            if part is None or part <= limit:
                chosen, taken = option, part
                break
        if chosen != options[0]:
            reasons.append(f"{self._names[1]} take {(taken or 0.0) * chosen[0] * self._slice_seconds:.1f} s")
        return chosen

    def _rounds(self) -> list[int]:
        """New slices that may lie between two requests, fewest first; the last keeps within deadlines."""
        base = self._every
        if "every" in self._held:
            return [base]
        cap = min(_RENEWED * self._deadline["window"] / self._slice_seconds, _MOST_ROUND)
        steps = (base * step // 2 for step in (2, 3, 4, 6, 8, 12, 16, 24, 32))
        return list(dict.fromkeys(every for every in steps if every <= max(cap, base)))

    def _lengths(self) -> list[int]:
        """Slices that a full window may have, most first."""
        full = self._slices
        shorter = () if "slices" in self._held else (-(-full // 2), -(-full // 4))
        return list(dict.fromkeys((full, *(length for length in shorter if length >= _LEAST_SLICES))))

    def _wanted_of_windows(
        self, size: float, every: int, full: int, reasons: list[str]
    ) -> tuple[float, int, int]:
        """Size of pictures, length of a window of `full` slices at most, and tasks about it at once."""
        held = self._choice
        lengths = [length for length in self._lengths() if length <= full]
        options = [
            (pixels, length, tasks)
            for pixels in self._sizes()
            if pixels <= size
            for length, tasks in [*((n, self._windows) for n in lengths), (min(lengths), 1)]
        ]
        if not self._windows:
            return size, self._slices, 1
        if self._costs.expected("window", 1, 1.0) is None:
            return size, held.slices, self._windows
        chosen, fits = _richest(
            options,
            (held.size, held.slices, held.windows),
            lambda option: self._window_cost(*option, every, most=True) or 0.0,
            self._budget("window"),
        )
        if not fits:
            reasons.append(f"no setting holds the deadline of {self._names[1]}")
        elif chosen != options[0]:
            cost = self._window_cost(size, full, self._windows, every, most=True) or 0.0
            reasons.append(f"{self._names[1]} of a full window would take {cost:.1f} s")
        return chosen

    def _wanted_apart(
        self, size: float, pictures: int, slices: int, windows: int, every: int, reasons: list[str]
    ) -> bool:
        """Whether tasks about the window are kept from making those about the picture late."""
        if not (self._pictures and self._windows):
            return False
        picture = self._costs.most("picture", pictures, size)
        if self._asked_at is not None:
            # Slow work lets more slices come in than were to lie between two requests.
            waited = math.ceil((self._decided_at - self._asked_at) / self._slice_seconds)
            every = max(every, waited)
        window = self._window_cost(size, slices, windows, every, most=True)
        if picture is None or window is None:
            return True
        used = _USED_RICHER if self._choice.apart else _USED
        if picture + window <= used * self._budget("picture"):
            return False
        first, second = self._names
        reasons.append(f"{first} and {second} together would take {picture + window:.1f} s")
        return True

    def _window_cost(
        self, size: float, slices: int, tasks: int, every: int, *, most: bool = False
    ) -> float | None:
        length = 1.5 * slices
        units = self._costs.units(min(every, length), length)
        predict = self._costs.most if most else self._costs.expected
        return predict("window", tasks, size, units)

    def _heartbeat(self) -> float:
        """Seconds from one question to the next while nothing moves; chosen when that begins."""
        held = self._choice
        if self._still_since is None or held.still_since is not None:
            return held.heartbeat
        cost = (self._costs.expected("picture", self._pictures, held.size) or 0.0) + (
            self._window_cost(held.size, held.slices, self._windows, held.every) or 0.0
        )
        least, most = _HEARTBEAT
        return float(round(min(max(_HEARTBEAT_COSTS * cost, least), most)))

    def _sizes(self) -> Sequence[float]:
        return _SIZES[:1] if "size" in self._held else _SIZES


_Option = TypeVar("_Option")


def _richest(
    options: Sequence[_Option], held: _Option, cost: Callable[[_Option], float], budget: float
) -> tuple[_Option, bool]:
    """The first option, from the richest on, that costs little enough; else the last one, and False."""
    place = options.index(held) if held in options else len(options)
    for number, option in enumerate(options):
        used = _USED if number >= place else _USED_RICHER
        if cost(option) <= used * budget:
            return option, True
    return options[-1], False


def _settings(choice: Choice) -> tuple[object, ...]:
    """What changes the costs of work."""
    return choice.every, choice.slices, choice.size, choice.pictures, choice.windows, choice.apart
