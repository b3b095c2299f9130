"""Public functions of the simulator: plan an episode, render a frame, relate steps to goals."""

from egolive.streaming.frames import Image
from egolive.train.simulator.drawing.drawing import Drawing
from egolive.train.simulator.drawing.truth import HANDS, Box, Episode, FrameTruth, episode_of
from egolive.train.simulator.planning.goals import (
    GOALS,
    OBJECT_KINDS,
    VERBS,
    goal_steps,
    goals_consistent_with,
    next_steps_possible,
)
from egolive.train.simulator.planning.plan import Plan, Step
from egolive.train.simulator.planning.script import plan_episode

__all__ = [
    "GOALS", "HANDS", "OBJECT_KINDS", "VERBS", "Box", "Episode", "FrameTruth", "Plan", "Step", "episode_of",
    "goal_steps", "goals_consistent_with", "next_steps_possible", "plan_episode", "render_frame",
]  # fmt: skip


def render_frame(
    plan: Plan, time: float, size: tuple[int, int] = (448, 252), *, head_time: float | None = None
) -> tuple[Image, FrameTruth]:
    """Draw one frame of an episode: a pure function of plan, time and size.

    Args:
        plan: From `plan_episode`.
        time: Seconds from the episode's start.
        size: Width and height of the picture.
        head_time: Look from where the head is at this time instead, as a camera on a stand would.

    Returns:
        RGB pixels (height, width, 3) uint8, and the truth about them.
    """
    drawing = Drawing(plan, time, size, head_time=head_time)
    drawing.compose()
    return drawing.finish(), drawing.truth()
