"""Finds the unit in which a model writes boxes, from its answers about squares at known places.

The model has to find plain coloured squares; its numbers are read in every unit in turn, and the unit with
the highest mean IoU is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import cv2
import numpy as np

from egolive.assistant.load_local import load_engine
from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.model.engine_folder import files_folder, is_engine_folder, read_engine_card
from egolive.assistant.prompts.boxes_in_text import find_boxes
from egolive.assistant.prompts.prompts import build_prompt, make_vision
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.coordinates import Corners, Size, to_source
from egolive.assistant.schema.engine import Engine, Request
from egolive.assistant.schema.profiles import PROFILE_FILE, Profile, Unit, load_profile, save_profile
from egolive.streaming.errors import SinkError
from egolive.streaming.frames import Box, Image

__all__ = ["Probe", "probe_coords", "run_probe", "squares", "store_unit"]

_UNITS: tuple[Unit, ...] = ("norm1000", "norm1", "pixels")
_SIZE = (640, 360)
_COLOURS = {"red": (215, 30, 35), "green": (25, 160, 60), "blue": (35, 70, 220), "yellow": (240, 205, 30)}
_ENOUGH = 0.5
"""Mean IoU from which the squares count as found."""
_CLEAR = 0.2
"""By how much the best unit has to be ahead of the next one."""
_MAX_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of a probe."""

    unit: Unit | None
    """The unit that fits; None where none does, or two do."""
    iou: dict[Unit, float]
    """Mean IoU with the squares by unit, pictures without an answer counted as 0."""
    shown: int
    answered: int
    """Pictures for which it wrote a box at all."""


def squares(seed: int = 0) -> list[tuple[Image, str, Box]]:
    """Pictures with a square each, its colour, and where it is; 640x360, all over the picture."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(8):
        ground = rng.integers(90, 150, (36, 64, 3), dtype=np.uint8)
        picture: Image = cv2.resize(ground, _SIZE, interpolation=cv2.INTER_CUBIC).astype(np.uint8)
        side = int(rng.integers(80, 160))
        # Left and right, above and below in turn: a unit must fit everywhere.
        column, row = number % 4, number // 4
        x = min(column * 160 + int(rng.integers(0, 60)), _SIZE[0] - side)
        y = min(row * 180 + int(rng.integers(0, 40)), _SIZE[1] - side)
        colour = list(_COLOURS)[number % len(_COLOURS)]
        picture[y : y + side, x : x + side] = _COLOURS[colour]
        found.append((picture, colour, Box(x, y, x + side, y + side)))
    return found


def probe_coords(engine: Engine, profile: Profile | None = None, *, seed: int = 0) -> Probe:
    """Show the squares to an engine and fit the unit.

    Args:
        engine: What is probed.
        profile: In place of its own; decides the question's words and the picture's size.
        seed: Of the pictures.

    Raises:
        EngineError: The engine failed.
    """
    profile = profile or engine.profile
    shown = squares(seed)
    read: list[tuple[Corners | None, Size, Box]] = []
    with engine.session() as session:
        for picture, colour, truth in shown:
            vision = make_vision([picture], profile)
            prompt = build_prompt(profile, Question("ground", f"{colour} square"), [vision])
            # Without a grammar: it would hold the numbers to the unit that is being asked for.
            text = "".join(delta.text for delta in session.ask([Request(prompt, max_tokens=_MAX_TOKENS)]))
            boxes = find_boxes(text)
            corners = boxes[0].corners if boxes else None
            read.append((corners, (vision.width, vision.height), truth))
    iou = {unit: _mean_iou(read, unit) for unit in _UNITS}
    first, second, *_ = sorted(_UNITS, key=lambda unit: -iou[unit])
    clear = iou[first] >= _ENOUGH and iou[first] - iou[second] >= _CLEAR
    answered = sum(corners is not None for corners, _, _ in read)
    return Probe(first if clear else None, iou, len(shown), answered)


def store_unit(model: str, unit: Unit) -> Path:
    """Write the unit into the profile that stands beside a model's weights, and keep the rest of it.

    Args:
        model: As on the command line.
        unit: What `probe_coords` found.

    Returns:
        The profile's file.

    Raises:
        EngineError: There is no such model.
        SinkError: The file cannot be written.
    """
    folder = resolve_model(model)
    if is_engine_folder(folder):
        folder = files_folder(folder, read_engine_card(folder))
    path = folder / PROFILE_FILE
    try:
        # A model from the hub lies in a cache of links, whose targets are not ours to change.
        if path.is_symlink():
            profile = load_profile(folder)
            path.unlink()
        else:
            profile = load_profile(folder)
        save_profile(replace(profile, unit=unit), folder)
    except OSError as error:
        raise SinkError(
            f"cannot write {path}: {error.strerror or error}; copy the model to a folder of yours"
        ) from error
    return path


def _mean_iou(read: Sequence[tuple[Corners | None, Size, Box]], unit: Unit) -> float:
    def iou(corners: Corners | None, seen_size: Size, truth: Box) -> float:
        if corners is None:
            return 0.0
        box = to_source(corners, unit, source_size=_SIZE, seen_size=seen_size)
        return 0.0 if box is None else Box(*box).iou(truth)

    return mean(iou(*one) for one in read)


def run_probe(model: str, tell: Callable[[str], object], *, store: bool) -> tuple[dict[str, Any], int]:
    """Fit a model's coordinate unit, tell it, and store it where that is wanted."""
    with closing(load_engine(model)) as engine:
        found = probe_coords(engine)
        before = engine.profile.unit
    fits = ", ".join(f"{unit} {iou:.2f}" for unit, iou in found.iou.items())
    tell(f"{found.answered} of {found.shown} squares answered; mean IoU by unit: {fits}")
    report: dict[str, Any] = {"model": model, "before": before, "stored": None} | asdict(found)
    if found.unit is None:
        tell(f"no unit fits: this model does not find plain squares; its profile keeps {before}")
        return report, 1
    if store and found.unit != before:
        path = store_unit(model, found.unit)
        report["stored"] = str(path)
        tell(f"the unit is {found.unit}, stored in {path} in place of {before}")
    else:
        tell(f"the unit is {found.unit}; the profile says {before}")
    return report, 0
