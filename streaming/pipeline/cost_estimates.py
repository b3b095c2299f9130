"""Running estimates of what work costs, from which the cost of other settings is predicted.

Work on tasks about one picture costs reading the picture, once, and writing each answer; work on tasks about
the window costs reading the slices that are new in it, and writing. Pixels scale the reading.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["CostEstimates", "Spent", "Timed"]

Kind = Literal["picture", "window"]

_WEIGHT = 0.4
"""Of the newest cost in the running mean: after five, 92 % of a change is followed."""
_SPREAD_WEIGHT = 0.25
_SPREADS = 2.0
"""Mean relative errors above the mean that count as the most that work will cost."""
_FIRST_SPREAD = 0.2
"""Relative error of a cost that was seen once."""
_JUMP = 3.0
"""Factor from what was expected from which on costs have changed, and the old ones say nothing any more."""
_LENGTH_UNITS = 0.1
"""Cost of a slice of the window that was read before, as a share of a new one: attention over it."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one answer took, in seconds from the start of its work."""

    first: float
    """Until its first token: the reading."""
    total: float
    """Until it was complete."""
    read_share: float | None = None
    """Share of its prompt that was read anew; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Work of one kind: its settings, and what it took."""

    tasks: int
    size: float
    units: float
    """Slices that were read anew; 1 for a picture."""
    spent: Spent
    """The longest of its answers, with the earliest first token."""


class _Mean:
    """A running mean, unknown before the first value."""

    def __init__(self) -> None:
        self.value: float | None = None

    def add(self, value: float, *, anew: bool = False) -> None:
        anew |= self.value is None
        self.value = value if anew or self.value is None else self.value + _WEIGHT * (value - self.value)

    def scale(self, ratio: float, *, anew: bool) -> None:
        if self.value is not None:
            self.add(self.value * ratio, anew=anew)


class _KindCosts:
    """Estimates for one kind of task: seconds of reading a unit at full size, and of writing one answer.

    Answers that are written together cost less than each by itself; the square root of their number stands
    between one pass over the weights for all and one for each. It only matters until it is measured.
    """

    def __init__(self) -> None:
        self.reading, self.writing = _Mean(), _Mean()
        self.spread = _FIRST_SPREAD

    def predict(self, tasks: int, size: float, units: float) -> float | None:
        """Expected seconds; None while nothing was seen."""
        if self.reading.value is None or self.writing.value is None:
            return None
        return self.reading.value * size * units + self.writing.value * math.sqrt(tasks)

    def predict_of(self, timed: Timed) -> float | None:
        return self.predict(timed.tasks, timed.size, timed.units)

    def learn(self, timed: Timed) -> None:
        anew = self._changed(self.predict_of(timed), timed.spent.total)
        first = min(timed.spent.first, timed.spent.total)
        self.reading.add(first / (timed.size * max(timed.units, 0.1)), anew=anew)
        self.writing.add((timed.spent.total - first) / math.sqrt(timed.tasks), anew=anew)

    def learn_ratio(self, ratio: float) -> None:
        """Learn from work of both kinds, whose parts cannot be told apart."""
        anew = self._changed(1.0, ratio)
        self.reading.scale(ratio, anew=anew)
        self.writing.scale(ratio, anew=anew)

    def _changed(self, expected: float | None, took: float) -> bool:
        """Take how far an expectation was off; returns whether costs have changed altogether."""
        if not expected:
            return expected is not None
        ratio = took / expected
        if not 1 / _JUMP < ratio < _JUMP:
            self.spread = _FIRST_SPREAD
            return True
        self.spread += _SPREAD_WEIGHT * (abs(ratio - 1) - self.spread)
        return False


class CostEstimates:
    """What work on pictures and windows costs by now, from what it cost so far."""

    def __init__(self) -> None:
        self._kinds: dict[Kind, _KindCosts] = {"picture": _KindCosts(), "window": _KindCosts()}
        self._whole_read = 0.0

    def learn(self, picture: Timed | None, window: Timed | None) -> None:
        """Take what one piece of work took; of both kinds where it was about both."""
        if picture is not None and window is not None:
            of_picture, of_window = self._kinds["picture"], self._kinds["window"]
            expected = [of_picture.predict_of(picture), of_window.predict_of(window)]
            if expected[0] is not None and expected[1] is not None and expected[0] + expected[1] > 0:
                took = max(picture.spent.total, window.spent.total)
                ratio = took / (expected[0] + expected[1])
                of_picture.learn_ratio(ratio)
                of_window.learn_ratio(ratio)
                return
        if picture is not None:
            self._kinds["picture"].learn(picture)
        if window is not None:
            self._kinds["window"].learn(window)

    def learn_reuse(self, read_share: float, fresh: int, length: int) -> None:
        """Take how much of a window's prompt was read anew, of which so many slices were new."""
        if fresh < length:
            self._whole_read += _WEIGHT * ((read_share > (fresh / length + 1) / 2) - self._whole_read)

    def units(self, fresh: float, length: float) -> float:
        """Slices that count as read, of a window of `length` slices of which `fresh` are new."""
        # An engine that keeps nothing, such as many servers, reads the whole window each time.
        return length if self._whole_read > 0.5 else fresh + _LENGTH_UNITS * (length - fresh)

    def expected(self, kind: Kind, tasks: int, size: float, units: float = 1.0) -> float | None:
        """Seconds from the start of work to its last answer, as they are expected; None while unknown."""
        return self._kinds[kind].predict(tasks, size, units)

    def most(self, kind: Kind, tasks: int, size: float, units: float = 1.0) -> float | None:
        """The same, with a margin for how much it varies."""
        expected = self.expected(kind, tasks, size, units)
        return None if expected is None else expected * (1 + _SPREADS * self._kinds[kind].spread)
