"""The labels of frames and episodes."""

from dataclasses import dataclass

from egolive.train.simulator.planning.plan import Plan, Step

__all__ = ["HANDS", "Box", "Episode", "FrameTruth", "episode_of"]

Box = tuple[float, float, float, float]
HANDS = ("left hand", "right hand")


@dataclass(frozen=True, slots=True)
class FrameTruth:
    """Labels of one frame. Boxes are xyxy pixels of the visible parts."""

    time: float
    boxes: dict[str, Box]
    """Visible objects only; hands are "left hand" and "right hand", without the forearm."""
    held: dict[str, str | None]
    """For each hand the visible object that it touches."""
    states: dict[str, str]
    """State of every object of the episode, visible or not."""
    step: int
    """Index of the step under way, -1 between steps."""


@dataclass(frozen=True, slots=True)
class Episode:
    """Labels of a whole episode."""

    seed: int
    split: str
    index: int
    goal: str
    width: int
    height: int
    fps: float
    steps: tuple[Step, ...]
    duration: float
    variant: dict[str, str]


def episode_of(plan: Plan, *, fps: float, size: tuple[int, int] = (448, 252)) -> Episode:
    """Return the labels of a plan, as they are stored with its video."""
    return Episode(
        plan.seed,
        plan.split,
        plan.index,
        plan.goal,
        size[0],
        size[1],
        fps,
        plan.steps,
        plan.duration,
        plan.variant,
    )
