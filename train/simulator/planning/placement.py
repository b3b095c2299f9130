"""Initial positions of objects: targets in the middle, tools around them, without overlap."""

from collections.abc import Sequence

import numpy as np

from egolive.train.simulator.objects.kinds import KINDS

__all__ = ["place_things"]

Place = tuple[float, float, float]


def place_things(
    rng: np.random.Generator, centre: Sequence[str], around: Sequence[str], others: Sequence[str]
) -> dict[str, Place]:
    """Return x, y in world units and the angle in degrees for each kind.

    Args:
        rng: Source of chance.
        centre: Kinds that something is done to: they go near the middle, within reach of both hands.
        around: Kinds that are picked up: they go to the sides and the back.
        others: Kinds that only lie there.
    """
    places: dict[str, Place] = {}
    for kind in centre:
        places[kind] = _best(rng, kind, places, (-105.0, 85.0), (-22.0, 52.0))
    for kind in around:
        left = rng.random() < 0.22
        places[kind] = _best(rng, kind, places, (-185.0, -80.0) if left else (20.0, 185.0), (-62.0, 72.0))
    for kind in others:
        places[kind] = _best(rng, kind, places, (-195.0, 195.0), (-72.0, 80.0))
    return places


def _best(
    rng: np.random.Generator,
    kind: str,
    taken: dict[str, Place],
    xs: tuple[float, float],
    ys: tuple[float, float],
) -> Place:
    """Try 30 places and keep the one with the most room."""
    best, most = (0.0, 0.0), -1e9
    for x, y in zip(rng.uniform(*xs, 30), rng.uniform(*ys, 30), strict=True):
        room = 30.0
        for name, (ox, oy, _) in taken.items():
            wide = 0.5 * (KINDS[kind].width + KINDS[name].width) + (14 if KINDS[kind].lies else 0)
            high = 0.5 * (KINDS[kind].height + KINDS[name].height)
            room = min(room, max(abs(x - ox) - wide, abs(y - oy) - 0.75 * high))
        if room > most:
            best, most = (float(x), float(y)), room
    angle = float(rng.uniform(-55, 55)) if KINDS[kind].lies else float(rng.uniform(-5, 5))
    return (*best, angle)
