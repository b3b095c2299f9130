"""How well the motion gate tells a still scene from one in which a hand takes or leaves something."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from egolive.benchmarks.stream.governor_runs import SlowedEngine, play
from egolive.streaming.clock import MonotonicClock
from egolive.streaming.frames import Frame, Image
from egolive.streaming.pipeline.motion_gate import MotionGate
from egolive.streaming.sources.source import Source
from egolive.streaming.sources.wrappers import Paced
from egolive.train.simulator.episode import HANDS, Plan, plan_episode, render_frame

__all__ = ["StillCamera", "contact_changes", "still_picture"]

_FPS = 10.0
_SIZE = (320, 180)
_NOTICED = 1.0
"""Seconds within which a change of contact is noticed at the latest."""
_NOISE, _FLICKER = 4.0, 0.05
"""Of a picture that stands still: noise in grey levels, and change of exposure."""


class StillCamera(Source):
    """One picture again and again, with noise and changing exposure; a recording, to be played in real time.

    Args:
        picture: What it looks at.
        seconds: How long.
    """

    def __init__(self, picture: Image, seconds: float) -> None:
        self.live = False
        self.name = "still picture"
        self.fps: float | None = _FPS
        self.size: tuple[int, int] | None = (picture.shape[1], picture.shape[0])
        self.broken = 0
        self._picture, self._seconds = picture.astype(np.float32), seconds

    def __iter__(self) -> Iterator[Frame]:
        """Frames at 10 a second."""
        rng = np.random.default_rng(0)
        for index in range(round(self._seconds * _FPS)):
            exposure = 1 + _FLICKER * np.sin(1.7 * index)
            noisy = self._picture * exposure + rng.normal(0, _NOISE, self._picture.shape)
            yield Frame(np.clip(noisy, 0, 255).astype(np.uint8), index / _FPS, index)

    def close(self) -> None:
        """Nothing to close."""


def still_picture(engine: SlowedEngine, picture: Image, seconds: float) -> dict[str, Any]:
    """Calls of the engine about a picture that stands still, with the governor and without.

    Args:
        engine: What answers.
        picture: What the camera looks at.
        seconds: How long.
    """
    calls = {
        govern: play(
            engine,
            Paced(StillCamera(picture, seconds), MonotonicClock()),
            seconds=seconds,
            govern=govern,
        )["calls"]
        for govern in (True, False)
    }
    return {
        "seconds": seconds,
        "calls": calls[True],
        "calls_fixed": calls[False],
        "share": round(calls[True] / max(1, calls[False]), 4),
    }


def contact_changes(episodes: int, *, seed: int = 0, head_still: bool = False) -> dict[str, Any]:
    """Changes of contact between hands and objects that the gate would keep from being asked about.

    Args:
        episodes: Of the simulator's test split, at 10 frames a second.
        seed: Of the simulator.
        head_still: Whether the camera stands still, so that only hands and objects move.

    Returns:
        changes; missed: those after which the gate stayed closed for a second; closed: share of the frames at
        which it was closed.
    """
    changes = missed = frames = closed = 0
    for index in range(episodes):
        plan = plan_episode(index, seed=seed, split="test")
        times, held, since = _watched(plan, head_still)
        frames += len(times)
        closed += sum(one is not None for one in since)
        for place in range(1, len(times)):
            for hand in HANDS:
                if held[place][hand] != held[place - 1][hand]:
                    changes += 1
                    missed += not _noticed(times, since, place)
    return {
        "episodes": episodes,
        "head_still": head_still,
        "changes": changes,
        "missed": missed,
        "missed_share": round(missed / max(1, changes), 4),
        "closed": round(closed / max(1, frames), 4),
    }


def _watched(
    plan: Plan, head_still: bool
) -> tuple[list[float], list[dict[str, str | None]], list[float | None]]:
    """Of each frame its time, what the hands hold, and since when the gate saw nothing move."""
    gate = MotionGate()
    times: list[float] = []
    held: list[dict[str, str | None]] = []
    since: list[float | None] = []
    for index in range(round(plan.duration * _FPS)):
        time = index / _FPS
        image, truth = render_frame(plan, time, _SIZE, head_time=0.0 if head_still else None)
        times.append(time)
        held.append(truth.held)
        since.append(gate.push(Frame(image, time, index)))
    return times, held, since


def _noticed(times: list[float], since: list[float | None], place: int) -> bool:
    """Whether the gate is open, or has been since, at some time in the second from a change on."""
    return any(
        still is None or still >= times[place]
        for time, still in zip(times[place:], since[place:], strict=True)
        if time <= times[place] + _NOTICED
    )
