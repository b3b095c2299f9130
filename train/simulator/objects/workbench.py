"""Drawing functions for objects of workbench and desk; conventions as in `kitchen.py`."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egolive.train.simulator.objects.appearance import Look
from egolive.train.simulator.objects.paint import Colour, Painter, mixed

__all__ = ["WORKBENCH"]

Array = NDArray[Any]
_STEEL: Colour = (196.0, 192.0, 186.0)
_DARK: Colour = (34.0, 32.0, 30.0)
_WHITE: Colour = (240.0, 244.0, 246.0)
_INK: Colour = (120.0, 50.0, 30.0)


def _box(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    front = p.round_box(-42, -14, 42, 33, 2)
    if "open" in look.tags:
        p.fill(p.blob([(-42, -14), (-48, -30), (-34, -34), (-30, -26)]), mixed(colour, _WHITE, 0.2))
        p.fill(p.blob([(42, -14), (48, -30), (34, -34), (30, -26)]), mixed(colour, _WHITE, 0.1))
        p.fill(p.blob([(-42, -14), (-32, -28), (32, -28), (42, -14)]), mixed(colour, _DARK, 0.7), edge=0.3)
        p.fill(p.blob([(-32, -28), (32, -28), (30, -38), (-30, -38)]), mixed(colour, _WHITE, 0.15))
    else:
        p.fill(p.blob([(-42, -14), (-33, -30), (33, -30), (42, -14)]), mixed(colour, _WHITE, 0.22), grain=0.1)
        p.fill(p.line([(-37, -22), (37, -22)], 1.0), mixed(colour, _DARK, 0.5), edge=0)
    p.fill(front, colour, grain=0.12, edge=0.15)
    p.fill(p.round_box(-26, -4, -2, 12, 1), mixed(accent, _WHITE, 0.4), edge=0.1)
    p.fill(p.line([(-22, 2), (-7, 2)], 1.4), _DARK, edge=0)
    p.fill(p.line([(-22, 7), (-12, 7)], 1.4), _DARK, edge=0)
    if "wrap" in look.tags and "open" not in look.tags:
        reach = 14 * look.level if look.level else 42
        p.fill(p.blob([(-reach, -25), (reach, -25), (reach, -19), (-reach, -19)]), (70, 190, 225), alpha=0.9)
        p.fill(p.round_box(6, -14, 13, 10, 0.5), (70, 190, 225), alpha=0.9)
    return front


def _notebook(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    if "open" not in look.tags:
        p.fill(p.round_box(-27, -27, 29, 32, 3), _WHITE, grain=0.02)
        p.fill(p.round_box(-29, -30, 27, 29, 3), colour, grain=0.08, gloss=0.1)
        p.fill(p.round_box(-29, -30, -21, 29, 2), mixed(colour, _DARK, 0.45))
        p.fill(p.round_box(-11, -20, 17, -8, 1), mixed(_WHITE, accent, 0.2), edge=0.1)
    else:
        p.fill(p.round_box(-41, -29, 41, 32, 3), colour)
        for x0, x1 in ((-39.0, -0.5), (0.5, 39.0)):
            p.fill(p.round_box(x0, -30, x1, 29, 2), (225, 238, 242), grain=0.03, edge=0.16)
            for y in range(-22, 26, 7):
                p.fill(p.line([(x0 + 5, y), (x1 - 4, y)], 0.7), (215, 195, 170), edge=0)
        if "write" in look.tags:
            _scrawl(p, -34, -24, 30, 2 * max(1, look.level), 7)
        p.fill(p.line([(0, -30), (0, 29)], 1.2), (130, 135, 140), edge=0)
    return None


def _scrawl(p: Painter, x0: float, y0: float, wide: float, rows: int, step: float) -> None:
    for row in range(rows):
        length = wide * (0.95 if row % 3 else 0.75)
        xs = np.linspace(x0, x0 + length, 40)
        points = [(float(x), y0 + row * step + 1.8 * math.sin(2.1 * k + 1.3 * row)) for k, x in enumerate(xs)]
        p.fill(p.line(points, 1.0), _INK, edge=0)


def _pen(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.blob([(-0.4, -33), (0.4, -33), (3, -24), (-3, -24)]), _STEEL, "tube", gloss=0.4)
    p.fill(p.round_box(-3.4, -25, 3.4, 33, 2.5), colour, "tube", gloss=0.45)
    p.fill(p.round_box(-3.7, 6, 3.7, 9, 0.5), _STEEL, "tube", gloss=0.3)
    p.fill(p.line([(3.2, 10), (3.2, 26)], 1.4), _STEEL, edge=0)
    return None


def _scissors(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.blob([(-2.5, 8), (3, 6), (9, -38), (4, -30)]), _STEEL, gloss=0.3)
    p.fill(p.blob([(2.5, 8), (-3, 6), (-9, -38), (-4, -30)]), mixed(_STEEL, _WHITE, 0.3), gloss=0.4)
    for side in (-1, 1):
        p.fill(p.line([(1.5 * side, 4), (8 * side, 16)], 5), colour, gloss=0.2)
        p.fill(p.ring(10 * side, 26, 6.6, 11, 4.2), colour, gloss=0.25)
    p.fill(p.oval(0, 5, 2.2, 2.2), _DARK, gloss=0.4, edge=0)
    return None


def _tape(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.oval(0, 4, 22, 18), mixed(colour, _DARK, 0.35), "tube", gloss=0.2)
    p.fill(p.oval(0, -2, 22, 18), colour, gloss=0.35)
    for r in (20, 17.5, 15):
        p.fill(p.ring(0, -2, r, r * 0.82, 0.6), mixed(colour, _DARK, 0.35), edge=0)
    p.fill(p.oval(0, -2, 12.5, 10), (205, 215, 220))
    p.fill(p.oval(0, -1, 10.5, 8), (52, 58, 66), edge=0.4)
    return None


def _screwdriver(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(
        p.blob([(-1.8, 8), (-1.8, -36), (-3, -40), (-1.2, -44), (1.2, -44), (3, -40), (1.8, -36), (1.8, 8)]),
        _STEEL,
        "tube",
        gloss=0.5,
    )
    p.fill(
        p.blob([(-4, 4), (4, 4), (6.5, 14), (7, 38), (4, 44), (-4, 44), (-7, 38), (-6.5, 14)]),
        colour,
        "tube",
        gloss=0.4,
    )
    for x in (-3.4, 0.2, 3.6):
        p.fill(p.line([(x, 14), (x, 39)], 1.1), _DARK, alpha=0.75, edge=0)
    return None


def _car(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.blob([(-20, -2), (-12, -20), (12, -20), (23, -2)]), mixed(colour, _DARK, 0.15), gloss=0.2)
    p.fill(p.blob([(-15, -3), (-10, -16), (-1, -16), (-1, -3)]), (215, 195, 160), gloss=0.4)
    p.fill(p.blob([(2, -3), (2, -16), (10, -16), (17, -3)]), (205, 185, 150), gloss=0.4)
    p.fill(p.round_box(-38, -4, 38, 14, 6), colour, gloss=0.4)
    if style:
        p.fill(p.round_box(-36, 4, 36, 7, 1), accent, edge=0)
    p.fill(p.oval(35, 2, 3, 3.5), (150, 235, 250), edge=0.1)
    wheels = (-22, 22) if "tap" in look.tags or "turn" in look.tags else (-22, 25)
    for x in wheels:
        p.fill(p.oval(x, 14, 9, 9), (38, 38, 38), "dome", gloss=0.2)
        p.fill(p.oval(x, 14, 4.2, 4.2), _STEEL, gloss=0.3)
    _mended(p, look, -2, -11, 6, 5)
    if "dirty" in look.tags:
        _stains(p, look, 30, 12)
    return None


def _mended(p: Painter, look: Look, x: float, y: float, dx: float, dy: float) -> None:
    if "turn" in look.tags:
        p.fill(p.oval(x + dx, y + dy + 10, 3, 3), _STEEL, gloss=0.4)
        p.fill(p.line([(x + dx - 2, y + dy + 9), (x + dx + 2, y + dy + 11)], 1), _DARK, edge=0)
    if "glue" in look.tags:
        p.fill(p.oval(x - dx, y, 5.5, 3), (225, 245, 248), gloss=0.6)
        p.fill(p.oval(x - dx + 5, y + 2, 3, 2), (225, 245, 248), gloss=0.6)


def _stains(p: Painter, look: Look, wide: float, high: float) -> None:
    for k in range(14 - 4 * look.level):
        x, y = wide * math.sin(2.4 * k), high * math.cos(3.9 * k)
        p.fill(p.oval(x, y, 4.5, 2.6, 50 * k), (42, 66, 96), alpha=0.75, edge=0)


def _radio(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.line([(28, -26), (40, -42)], 1.6), _STEEL, edge=0)
    p.fill(p.round_box(-42, -22, 42, 30, 6), mixed(colour, _DARK, 0.4))
    p.fill(p.round_box(-42, -27, 42, 25, 6), colour, gloss=0.2, grain=0.06)
    p.fill(p.oval(-19, 0, 18, 18), mixed(colour, _DARK, 0.6))
    for r in (15, 11, 7, 3):
        p.fill(p.ring(-19, 0, r, r, 1.1), _STEEL, alpha=0.8, edge=0)
    lit = "on" in look.tags
    p.fill(p.round_box(5, -20, 37, -6, 2), (120, 250, 190) if lit else (70, 78, 66), edge=0.2, gloss=0.2)
    if lit:
        p.fill(p.line([(10, -13), (32, -13)], 1.6), (30, 80, 40), edge=0)
        p.fill(p.oval(24, 16, 3, 3), (60, 60, 250), edge=0)
    p.fill(p.oval(12, 6, 6.5, 6.5), _STEEL, "dome", gloss=0.4)
    p.fill(p.oval(30, 6, 6.5, 6.5), _STEEL, "dome", gloss=0.4)
    _mended(p, look, 0, -14, 9, 22)
    if "dirty" in look.tags:
        _stains(p, look, 34, 20)
    return None


def _glue(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.blob([(-2.5, -22), (-1, -35), (1, -35), (2.5, -22)]), (40, 150, 245), "tube", gloss=0.2)
    p.fill(p.round_box(-8, -24, 8, -13, 2), (40, 140, 240), "tube", gloss=0.2)
    p.fill(p.round_box(-13, -15, 13, 33, 6), colour, "tube", gloss=0.25)
    p.fill(p.round_box(-13, 0, 13, 20, 1), (45, 130, 235), "tube", edge=0)
    p.fill(p.line([(-6, 10), (6, 10)], 3), _WHITE, edge=0)
    return None


def _lamp(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    lit = "on" in look.tags
    p.fill(p.line([(0, 36), (9, 8), (-2, -18)], 3.4), _STEEL, gloss=0.2)
    p.fill(p.oval(0, 40, 20, 8), mixed(colour, _DARK, 0.4))
    p.fill(p.oval(0, 37, 20, 8), colour, gloss=0.3)
    p.fill(p.oval(0, 37, 4, 2.6), (60, 60, 235) if lit else _DARK, edge=0)
    if lit:
        for r, a in ((26, 0.12), (21, 0.2), (16, 0.3)):
            p.fill(p.oval(-4, -8, r, 0.62 * r), (150, 235, 255), alpha=a, edge=0, grain=0)
    p.fill(p.blob([(-10, -44), (6, -44), (20, -16), (-26, -16)]), colour, "tube", gloss=0.4)
    p.fill(p.oval(-3, -16, 23, 7), (205, 250, 255) if lit else mixed(colour, _DARK, 0.65), edge=0.1)
    return None


def _hammer(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.blob([(-3, -26), (3, -26), (5, 44), (-5, 44)]), colour, "tube", gloss=0.15, grain=0.2)
    p.fill(p.round_box(-6, 18, 6, 45, 4), _DARK, "tube", gloss=0.1)
    p.fill(
        p.blob([(-22, -43), (-9, -41), (8, -42), (23, -33), (22, -29), (7, -30), (-9, -29), (-22, -27)]),
        (128, 124, 120),
        gloss=0.4,
    )
    p.fill(p.round_box(-23, -44, -15, -26, 1.5), (150, 146, 142), gloss=0.3)
    return None


def _card(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    if "cut" in look.tags:
        p.fill(
            p.blob([(-31, -23), (20, -23), (31, -8), (27, 14), (31, 23), (-31, 23)]),
            colour,
            grain=0.03,
            edge=0.12,
        )
    else:
        p.fill(p.round_box(-31, -23, 31, 23, 1), colour, grain=0.03, edge=0.12)
    heart = [(0.55 * 16 * math.sin(a) ** 3 - 17, -0.55 * (13 * math.cos(a) - 5 * math.cos(2 * a)) - 6)
             for a in np.linspace(0, 2 * math.pi, 40)]  # fmt: skip
    p.fill(p.blob(heart), mixed(accent, (60, 40, 220), 0.6), edge=0.1)
    if "write" in look.tags:
        _scrawl(p, -4, -14, 28, 2 * max(1, look.level), 5.5)
    if "glue" in look.tags:
        p.fill(p.line([(-24, 14), (-8, 17), (8, 13), (22, 16)], 3.6), (215, 240, 246), gloss=0.6)
    if "wrap" in look.tags:
        p.fill(p.round_box(-31, -21, -31 + 20 * max(1, look.level), -14, 0.5), (70, 190, 225), alpha=0.85)
    return None


def _tea_bag(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.line([(0, -4), (3, -12), (1, -18)], 0.9), _WHITE, edge=0)
    p.fill(p.round_box(-5, -21, 8, -12, 1), (70, 190, 235), edge=0.1)
    p.fill(p.blob([(-11, 0), (-6, -6), (6, -6), (11, 0), (11, 19), (-11, 19)]), colour, grain=0.15, edge=0.2)
    p.fill(p.round_box(-7.5, 6, 7.5, 16, 4), (42, 72, 112), alpha=0.85, grain=0.3, edge=0)
    return None


WORKBENCH: dict[str, Callable[[Painter, Look, Colour, Colour, int], Array | None]] = {
    "box": _box, "card": _card, "glue": _glue, "hammer": _hammer, "lamp": _lamp, "notebook": _notebook,
    "pen": _pen, "radio": _radio, "scissors": _scissors, "screwdriver": _screwdriver, "tape": _tape,
    "tea bag": _tea_bag, "toy car": _car,
}  # fmt: skip
