"""`egolive bench tracking`: answers come late, sides are held against the frame that is shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from egolive.assistant.cli import main as cli
from egolive.assistant.live.box_tracking import BoxTracker
from egolive.benchmarks.quality.tracking_accuracy import ConstantVelocity, Hold, Sight, compare
from egolive.streaming.frames import Frame
from egolive.train.simulator.drawing.truth import Box, FrameTruth

FPS = 10
SIDE = 40
STEP = 2
"""Pixels by which the hand moves to the right with each frame."""


def episode(count: int, away: range = range(0)) -> tuple[list[Frame], list[FrameTruth]]:
    """A hand, textured like nothing else, that moves evenly; on the frames `away` it is out of sight."""
    rng = np.random.default_rng(0)
    scene = rng.integers(90, 110, (120, 240, 3), dtype=np.uint8)
    hand = np.kron(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((5, 5, 1), np.uint8))
    frames, truths = [], []
    for number in range(count):
        image, x = scene.copy(), 20 + STEP * number
        boxes: dict[str, Box] = {}
        if number not in away:
            image[40 : 40 + SIDE, x : x + SIDE] = hand
            boxes["right hand"] = (x, 40, x + SIDE, 40 + SIDE)
        frames.append(Frame(image, number / FPS, number))
        truths.append(FrameTruth(number / FPS, boxes, held={}, states={}, step=-1))
    return frames, truths


def overlaps(sights: list[Sight]) -> list[float]:
    return [sight.overlap for sight in sights]


def test_what_is_shown_is_held_against_the_frame_that_is_shown() -> None:
    frames, truths = episode(40)
    sights = compare(frames, truths, {"hold": Hold()}, delay=0.5)["hold"]
    # Answers are five to nine frames old: a hand has moved on by 10 to 18 of its 40 pixels.
    assert [sight.time for sight in sights] == [frame.time for frame in frames[5:]]
    assert [sight.asked for sight in sights[:6]] == [0, 0, 0, 0, 0, 5]
    moved = [STEP * (round(sight.time * FPS) - sight.asked) for sight in sights]
    assert overlaps(sights) == pytest.approx([(SIDE - by) / (SIDE + by) for by in moved])
    assert set(moved) == {10, 12, 14, 16, 18}


def test_constant_velocity_is_right_where_velocity_is_constant_once_two_answers_are_known() -> None:
    frames, truths = episode(40)
    sights = compare(frames, truths, {"velocity": ConstantVelocity()}, delay=0.5)["velocity"]
    assert max(overlaps(sights[:5])) < 0.7
    assert overlaps(sights[5:]) == pytest.approx([1.0] * 30)


def test_carried_boxes_stay_on_what_moves() -> None:
    frames, truths = episode(40)
    sights = compare(frames, truths, {"carried": BoxTracker()}, delay=0.5)["carried"]
    assert np.mean(overlaps(sights)) > 0.85


def test_a_target_that_is_away_is_no_hit_wherever_its_box_is_left() -> None:
    frames, truths = episode(20, away=range(12, 20))
    sights = compare(frames, truths, {"hold": Hold()}, delay=0.5)["hold"]
    late = [sight for sight in sights if sight.time >= 1.2 and sight.asked < 12]
    assert late
    assert not any(sight.there for sight in late)
    assert all(sight.shown and sight.overlap == 0 for sight in late)


def test_the_command_prints_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    assert cli.call(["bench", "tracking", "--episodes", "1", "--fps", "3", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out) == figures
    assert {"carried", "hold", "constant_velocity", "gain", "cost_ms", "machine", "commit"} <= set(figures)
    assert 0 < figures["hold"]["miou"] <= 1
    best = max(figures[name]["miou"] for name in ("hold", "constant_velocity"))
    assert figures["gain"] == pytest.approx(figures["carried"]["miou"] - best, abs=2e-4)


@pytest.mark.parametrize(
    "options", [["--episodes", "0"], ["--delay", "0"], ["--json", "/nowhere/figures.json"]]
)
def test_settings_that_cannot_work_are_told_in_one_line(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["bench", "tracking", *options]) == 1
    assert capsys.readouterr().err.count("\n") == 1
