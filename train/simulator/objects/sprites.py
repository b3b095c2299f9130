"""Sprites of each kind of object in each of its states."""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from egolive.train.simulator.objects.appearance import Look
from egolive.train.simulator.objects.kinds import KINDS
from egolive.train.simulator.objects.kitchen import KITCHEN
from egolive.train.simulator.objects.paint import Colour, Painter
from egolive.train.simulator.objects.workbench import WORKBENCH

__all__ = ["Sprite", "draw_sprite", "thing_colour"]

Array = NDArray[Any]

_SHAPES = {**KITCHEN, **WORKBENCH}
# Base colours per kind as (hue 0-360, saturation, value): first those for training, then those for testing.
_COLOURS: dict[str, tuple[tuple[tuple[float, float, float], ...], tuple[tuple[float, float, float], ...]]] = {
    "apple": (((118, 0.6, 0.7), (95, 0.65, 0.75)), ((75, 0.65, 0.8),)),
    "bottle": (((140, 0.55, 0.5), (205, 0.5, 0.75)), ((165, 0.6, 0.55), (190, 0.35, 0.85))),
    "bowl": (((215, 0.45, 0.75), (32, 0.15, 0.92), (10, 0.5, 0.7)), ((160, 0.35, 0.75), (280, 0.3, 0.7))),
    "box": (((30, 0.5, 0.72), (25, 0.42, 0.6), (38, 0.35, 0.85)), ((18, 0.5, 0.5), (45, 0.45, 0.7))),
    "bread": (((35, 0.42, 0.9), (30, 0.5, 0.8)), ((26, 0.5, 0.7),)),
    "card": (((50, 0.1, 0.96), (340, 0.25, 0.95), (200, 0.2, 0.95)), ((130, 0.22, 0.92), (275, 0.2, 0.95))),
    "carton": (((215, 0.7, 0.8), (355, 0.65, 0.8)), ((275, 0.5, 0.75), (150, 0.6, 0.65))),
    "cloth": (((0, 0.55, 0.85), (215, 0.5, 0.8), (55, 0.5, 0.9)), ((165, 0.45, 0.75), (300, 0.4, 0.8))),
    "glass": (((195, 0.12, 0.9),), ((150, 0.12, 0.9),)),
    "glue": (((48, 0.08, 0.97),), ((200, 0.15, 0.92),)),
    "hammer": (((22, 0.6, 0.5), (28, 0.55, 0.65)), ((355, 0.7, 0.65), (50, 0.7, 0.75))),
    "jar": (((350, 0.75, 0.55), (20, 0.75, 0.45)), ((285, 0.55, 0.45), (35, 0.8, 0.6))),
    "kettle": (((210, 0.06, 0.75), (0, 0.7, 0.6), (0, 0.0, 0.22)), ((190, 0.5, 0.5), (45, 0.35, 0.85))),
    "knife": (((0, 0.0, 0.13), (25, 0.6, 0.4)), ((0, 0.75, 0.6),)),
    "lamp": (((355, 0.7, 0.75), (210, 0.6, 0.65), (0, 0.0, 0.2)), ((125, 0.4, 0.6), (45, 0.7, 0.85))),
    "mug": (
        ((5, 0.72, 0.78), (45, 0.12, 0.95), (215, 0.6, 0.7), (45, 0.75, 0.9)),
        ((150, 0.5, 0.6), (290, 0.4, 0.65)),
    ),
    "notebook": (((220, 0.65, 0.5), (0, 0.65, 0.6), (0, 0.0, 0.16)), ((160, 0.6, 0.42), (32, 0.65, 0.6))),
    "pen": (((225, 0.85, 0.65), (0, 0.8, 0.7)), ((280, 0.7, 0.6), (150, 0.8, 0.5))),
    "plate": (((40, 0.06, 0.96), (210, 0.22, 0.92)), ((140, 0.2, 0.88), (20, 0.3, 0.85))),
    "radio": (((5, 0.6, 0.65), (30, 0.5, 0.45), (190, 0.4, 0.6)), ((95, 0.35, 0.55), (255, 0.35, 0.55))),
    "scissors": (((15, 0.9, 0.9), (355, 0.85, 0.75)), ((130, 0.7, 0.6), (270, 0.6, 0.65))),
    "screwdriver": (((50, 0.9, 0.9), (0, 0.85, 0.8)), ((205, 0.8, 0.75), (25, 0.95, 0.95))),
    "shaker": (((210, 0.05, 0.93),), ((200, 0.25, 0.85),)),
    "spoon": (((210, 0.04, 0.78),), ((40, 0.35, 0.75),)),
    "tape": (((40, 0.5, 0.75), (35, 0.6, 0.65)), ((205, 0.5, 0.7),)),
    "tea bag": (((45, 0.2, 0.88),), ((75, 0.2, 0.85),)),
    "tomato": (((4, 0.85, 0.82), (10, 0.85, 0.85)), ((25, 0.85, 0.88),)),
    "toy car": (((0, 0.85, 0.85), (215, 0.8, 0.8), (52, 0.9, 0.92)), ((135, 0.7, 0.6), (290, 0.55, 0.7))),
}

_ANY_COLOUR = 0.6
"""Share of the training objects whose colour is random instead."""
_NEAR = 60.0
"""Least distance (0 to 255 a channel) of a training object's colour from the colours kept for testing."""


@dataclass(frozen=True, slots=True)
class Sprite:
    """A drawn object: premultiplied BGRA with and without shadow, the rim's front, pixels per world unit."""

    grounded: Array
    bare: Array
    front: Array | None
    scale: float
    area: int
    """Opaque pixels."""


def thing_colour(rng: np.random.Generator, kind: str, split: str) -> Colour:
    """Draw the main colour (BGR) of an object.

    Most things in training have any colour at all, so that their shape has to tell what they are: with a few
    colours for each kind, a model can learn those in place of shapes. These are never near a colour of the
    kind in testing; a few of the fixed ones are.
    """
    if split == "train" and rng.random() < _ANY_COLOUR:
        while True:
            colour = _bgr(rng.uniform(0, 360), rng.uniform(0, 0.95), rng.uniform(0.15, 0.98))
            if all(math.dist(colour, _bgr(*other)) > _NEAR for other in _COLOURS[kind][1]):
                return colour
    options = _COLOURS[kind][0 if split == "train" else 1]
    hue, saturation, value = options[int(rng.integers(len(options)))]
    hue = (hue + rng.uniform(-9, 9)) % 360
    saturation = float(np.clip(saturation * rng.uniform(0.8, 1.15), 0, 1))
    value = float(np.clip(value * rng.uniform(0.88, 1.1), 0.08, 1))
    return _bgr(hue, saturation, value)


def _bgr(hue: float, saturation: float, value: float) -> Colour:
    """A colour in degrees, 0 to 1, 0 to 1, as 0 to 255 each."""
    pixel = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.float32), cv2.COLOR_HSV2BGR)[0, 0] * 255
    return (float(pixel[0]), float(pixel[1]), float(pixel[2]))


def draw_sprite(
    kind: str, look: Look, colour: Colour, accent: Colour, style: int, scale: float, grain: Array,
    light: tuple[float, float], dark: float,
) -> Sprite:  # fmt: skip
    """Draw one object in one state.

    Args:
        kind: What it is.
        look: Its state.
        colour: Main colour, BGR.
        accent: Second colour, BGR.
        style: 0 to 3, picks a pattern or a shape detail.
        scale: Sprite pixels per world unit.
        grain: Surface noise about 0, at least as large as twice the sprite.
        light: Direction the light comes from, in the picture plane.
        dark: Strength of the shadow.
    """
    size = KINDS[kind]
    p = Painter(size.width, size.height, scale, grain)
    front = _SHAPES[kind](p, look, colour, accent, style)
    tall = 9.0 if not size.lies and kind not in ("card", "notebook", "bread", "plate") else 2.5
    grounded, bare = p.finish(tall, light, dark)
    rim = None
    if front is not None:
        mask = cv2.resize(front, (bare.shape[1], bare.shape[0]), interpolation=cv2.INTER_AREA)
        rim = cv2.multiply(bare, cv2.merge([mask] * 4), scale=1 / 255)
    return Sprite(grounded, bare, rim, scale, int(np.count_nonzero(bare[..., 3] > 127)))
