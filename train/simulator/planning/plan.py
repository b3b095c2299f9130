"""The plan of an episode: objects' paths and appearance, what hands do, steps; and its random generators.

A plan holds a few keyframes only and no pixels. It is laid out for a right-handed wearer; `mirror` flips the
whole picture for a left-handed one.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from egolive.train.simulator.objects.appearance import Look

__all__ = [
    "MAIN", "OTHER", "Effect", "HandUse", "Plan", "Pose", "Segment", "Step", "Track", "episode_rng",
]  # fmt: skip

MAIN, OTHER = "right hand", "left hand"
"""The hands of the right-handed layout: the one that acts and the one that steadies."""


class Pose(NamedTuple):
    """Where an object is: world units, degrees clockwise, and how far it is lifted (0 lying, 1 in hand)."""

    x: float
    y: float
    angle: float
    lift: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an episode; seconds, `end` exclusive, reach and put-back included."""

    text: str
    verb: str
    object: str
    target: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of an object's path: from `begin` to `finish` with a wiggle on top."""

    start: float
    end: float
    begin: Pose
    finish: Pose
    wiggle: str = ""


@dataclass(frozen=True, slots=True)
class HandUse:
    """A stretch in which a hand touches an object: which grip, where on the object, moving how."""

    start: float
    end: float
    kind: str
    grip: str
    at: tuple[float, float]
    acting: bool
    wiggle: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """A stream or grains that fall from one object into another."""

    start: float
    end: float
    source: str
    target: str
    fluid: str


@dataclass(slots=True)
class Track:
    """One object over the episode: initial position, movements, appearance, and where it was put."""

    rest: Pose
    looks: list[tuple[float, Look]]
    segments: list[Segment] = field(default_factory=list)
    parent: tuple[float, str, bool] | None = None
    """(from when, on what, hidden by it)."""


@dataclass(slots=True)
class Plan:
    """Everything that determines an episode's frames and labels, except the picture size."""

    seed: int
    split: str
    index: int
    goal: str
    steps: tuple[Step, ...]
    duration: float
    variant: dict[str, str]
    mirror: bool
    tracks: dict[str, Track]
    uses: dict[str, list[HandUse]]
    effects: list[Effect]
    homes: dict[str, list[tuple[float, float]]]
    """Per hand, where it waits between uses (world units), one for each gap."""

    @property
    def key(self) -> tuple[int, str, int]:
        """What the episode is drawn from."""
        return (self.seed, self.split, self.index)


def episode_rng(seed: int, split: str, index: int, purpose: int) -> np.random.Generator:
    """Return the generator for one purpose of one episode, the same in every process."""
    return np.random.default_rng([seed, {"train": 0, "test": 1}[split], index, purpose])
