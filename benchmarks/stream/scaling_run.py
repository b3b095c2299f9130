"""The curves of `egolive bench scaling`: what an answer set costs as one thing grows and all else stays.

A cost is the mean of the hops of a stream that goes on: each brings a slice, and all questions are answered.
It is compared with the same engine without any reuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import cycle, islice
from statistics import fmean
from typing import Any

import numpy as np

from egolive.assistant.live.assistant import LIVE_QUESTIONS
from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import FULL_REUSE, NO_REUSE, Reuse
from egolive.benchmarks.stream.baseline_runner import FPS, Hop, hops_of
from egolive.benchmarks.stream.baselines import Cost, EngineBaseline
from egolive.streaming.frames import Image

__all__ = ["BASELINES", "Point", "Scales", "shape_of"]

BASELINES = {"ours": FULL_REUSE, "without reuse": NO_REUSE}
_MAX_TOKENS = 24
_WORDS = 256
"""Tokens left for what stands round the pictures of a window, and the answer."""
_SELDOM = 4
"""Without reuse a cost is steady: one hop is measured of so many."""
_FLAT = 1.1
"""A fitted curve that ends within a tenth of where it begins is flat."""
_ERRORS = 2.0
"""Standard errors on either side of a 95 % interval."""
_THINGS = (
    "mug",
    "kettle",
    "knife",
    "board",
    "plate",
    "spoon",
    "bottle",
    "pan",
    "bowl",
    "jar",
    "lid",
    "towel",
)

Engine = LocalEngine[VisionTower, Decoder]


@dataclass(frozen=True, slots=True)
class Point:
    """What answer sets cost at one place of a curve."""

    x: float
    costs: tuple[Cost, ...]
    """Of each hop."""

    @property
    def wall_ms(self) -> float:
        """Mean milliseconds that passed."""
        return round(1e3 * fmean(cost.wall for cost in self.costs), 3)

    @property
    def cpu_ms(self) -> float:
        """Mean milliseconds of the processor, all threads together."""
        return round(1e3 * fmean(cost.cpu for cost in self.costs), 3)


class Scales:
    """Measures the curves on one engine.

    Args:
        engine: Takes pictures of any size, where the resolution is varied.
        images: Sampled frames of a stream, played again and again.
        slices: N of the windows, where it is not varied.
        hops: Of which a cost is the mean, at most N.
        progress: Called after each point.
    """

    def __init__(
        self,
        engine: Engine,
        images: Sequence[Image],
        *,
        slices: int,
        hops: int = 8,
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        self._engine = engine
        self._images = images
        self._slices = slices
        self._hops = hops
        self._progress = progress

    def windows(self, lengths: Sequence[int], reuse: Reuse) -> list[Point]:
        """By slices of a window, the mean of those that it has while it grows from N to 2N - 1."""
        return [
            self._point(mean_length(length), reuse, LIVE_QUESTIONS, slices=length, kind="window")
            for length in lengths
        ]

    def resolutions(self, sizes: Sequence[tuple[int, int]], reuse: Reuse) -> list[Point]:
        """By visual tokens of a picture, of those sizes of which the model can hold a window."""
        profile, points = self._engine.profile, []
        room = (self._engine.context - _WORDS) / (2 * self._slices - 1)
        try:
            for height, width in sizes:
                if height * width / 28**2 > room:
                    continue
                self._engine.profile = replace(profile, picture=(height, width))
                points.append(self._point(height * width / 28**2, reuse, LIVE_QUESTIONS))
        finally:
            self._engine.profile = profile
        return points

    def questions(self, counts: Sequence[int], reuse: Reuse) -> list[Point]:
        """By the number of questions: the intent of the window, then things to find in the newest picture."""
        asked = [Question("intent"), *(Question("ground", thing) for thing in _THINGS)]
        return [self._point(count, reuse, asked[:count]) for count in counts]

    def hours(self, marks: Sequence[float]) -> list[Point]:
        """By hours of stream; between the marks the engine sees everything and is asked nothing.

        Args:
            marks: Hours at which a whole cycle of 2N hops is answered, rising.
        """
        points: list[Point] = []
        cycle_of = 2 * self._slices
        with closing(EngineBaseline(self._engine)) as ours:
            costs: list[Cost] = []
            for place, hop in enumerate(self._hops_of(self._slices, LIVE_QUESTIONS)):
                begins = round(marks[len(points)] * 3600 * FPS / 2)
                # The first cycle is that in which everything is new.
                if place < begins + cycle_of:
                    ours.keep_up("live", hop.window, (), ())
                    continue
                costs.append(ours.answer("live", hop.sets["live"]).cost)
                if len(costs) == cycle_of:
                    points.append(Point(marks[len(points)], tuple(costs)))
                    costs = []
                    self._progress()
                    if len(points) == len(marks):
                        break
        return points

    def _point(
        self,
        x: float,
        reuse: Reuse,
        questions: Sequence[Question],
        *,
        slices: int | None = None,
        kind: str = "live",
    ) -> Point:
        slices = slices or self._slices
        measured = set(_spread(slices, self._hops if reuse == FULL_REUSE else max(2, self._hops // _SELDOM)))
        costs: list[Cost] = []
        with closing(EngineBaseline(self._engine, reuse)) as baseline:
            for place, hop in enumerate(islice(self._hops_of(slices, questions), 2 * slices - 1)):
                if place - (slices - 1) in measured:
                    costs.append(baseline.answer(kind, hop.sets[kind]).cost)
                elif reuse == FULL_REUSE and place >= slices - 2:
                    # Hops that are not measured leave the session as those do that are.
                    baseline.answer(kind, hop.sets[kind])
                else:
                    baseline.keep_up(kind, hop.window, (), ())
        self._progress()
        return Point(x, tuple(costs))

    def _hops_of(self, slices: int, questions: Sequence[Question]) -> Iterator[Hop]:
        """A stream that does not end."""
        images = cycle(self._images)
        return hops_of(self._engine, images, slices=slices, max_tokens=_MAX_TOKENS, questions=questions)


def shape_of(points: Sequence[Point], *, processor: bool) -> dict[str, Any]:
    """How a curve grows: y = a x^b is fitted to the hops of all points where all x are above 0, else a line.

    Args:
        points: Two at least, x rising.
        processor: Judge by seconds of the processor, else by those that passed.

    Returns:
        growth (of the fit, from the first point to the last) and growth_ci, its 95 % interval; exponent (None
        for a line); verdict: "flat" where the growth is within a tenth, "not flat" where it is not and the
        interval leaves out 1, else "not told from noise".
    """
    pairs = [(point.x, cost.cpu if processor else cost.wall) for point in points for cost in point.costs]
    x, y = np.array(pairs).T
    power = bool(x[0] > 0)
    if power:
        x, y = np.log(x), np.log(y)
    middle = x - x.mean()
    slope = float(middle @ y / (middle @ middle))
    left_over = y - y.mean() - slope * middle
    edge = _ERRORS * float(np.sqrt(left_over @ left_over / (len(x) - 2) / (middle @ middle)))
    first = float(y.mean() + slope * middle[0])
    length = float(x[-1] - x[0])

    def grown(slope: float) -> float:
        return round(float(np.exp(slope * length)) if power else 1 + slope * length / first, 3)

    growth, low, high = (grown(value) for value in (slope, slope - edge, slope + edge))
    verdict = "not told from noise" if low <= 1 <= high else "not flat"
    if 1 / _FLAT <= growth <= _FLAT:
        verdict = "flat"
    exponent = round(slope, 3) if power else None
    return {"growth": growth, "growth_ci": [low, high], "exponent": exponent, "verdict": verdict}


def mean_length(slices: int) -> float:
    """Mean slices of windows that grow from N to 2N - 1."""
    return fmean(range(slices, 2 * slices))


def _spread(count: int, most: int) -> list[int]:
    """At most so many places among `count`, evenly, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})
