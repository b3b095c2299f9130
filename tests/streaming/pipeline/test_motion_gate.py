"""Motion of hands and cameras against noise, changing exposure and slow drift."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from egolive.streaming.frames import Frame, Image
from egolive.streaming.pipeline.motion_gate import MotionGate

RNG = np.random.default_rng(0)
WIDTH, HEIGHT = 192, 108
Pixels = NDArray[np.float32]
SCENE: Pixels = (
    cv2.GaussianBlur(RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.float32), (0, 0), 6) * 4 - 380
)


def shares(picture: Callable[[int], Image], *, frames: int = 40, fps: float = 5.0) -> float:
    """Share of the frames after four seconds at which nothing had moved."""
    gate = MotionGate()
    found = [gate.push(Frame(picture(index), index / fps, index)) for index in range(frames)]
    return float(np.mean([since is not None for since in found[20:]]))


def noisy(scene: Pixels, sigma: float, exposure: float = 1.0) -> Image:
    return np.asarray(np.clip(scene * exposure + RNG.normal(0, sigma, scene.shape), 0, 255), np.uint8)


def with_hand(left: int) -> Pixels:
    scene = SCENE.copy()
    scene[60:90, left : left + 24] = (200, 150, 120)
    return scene


@pytest.mark.parametrize("sigma", [0.0, 5.0, 15.0])
@pytest.mark.parametrize("flicker", [0.0, 0.15])
def test_noise_and_exposure_are_no_motion(sigma: float, flicker: float) -> None:
    assert shares(lambda index: noisy(SCENE, sigma, 1 - flicker * (1 + np.sin(1.7 * index)) / 2)) == 1


@pytest.mark.parametrize("sigma", [0.0, 10.0])
def test_a_hand_that_moves_is_motion_in_noise_too(sigma: float) -> None:
    assert shares(lambda index: noisy(with_hand(20 + 2 * index), sigma)) == 0


def test_a_camera_that_pans_over_texture_is_motion() -> None:
    texture = np.clip(np.tile(SCENE, (1, 2, 1)), 0, 255).astype(np.uint8)
    assert shares(lambda index: texture[:, 3 * index : 3 * index + WIDTH]) == 0


def test_slow_drift_adds_up() -> None:
    # A pixel in three seconds: nothing from one picture to the next.
    share = shares(lambda index: noisy(with_hand(20 + index // 15), 3.0), frames=200)
    assert 0 < share < 0.97


def test_it_says_since_when_and_begins_anew_with_motion_and_behind_gaps() -> None:
    gate = MotionGate()

    def push(time: float, left: int, *, gap: bool = False) -> float | None:
        return gate.push(Frame(noisy(with_hand(left), 0.0), time, round(time * 10), gap))

    assert [push(time, 20) for time in (0.0, 0.5, 1.0, 1.5)] == [None, None, 0.0, 0.0]
    assert [push(time, 80) for time in (2.0, 2.5, 3.0, 3.5)] == [None, None, 2.0, 2.0]
    assert [push(4.0, 80, gap=True), push(4.5, 80), push(5.0, 80)] == [None, None, 4.0]
