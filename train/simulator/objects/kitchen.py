"""Drawing functions for kitchen objects.

Every function paints one kind and returns the mask of what lies in front of things put inside it, or None.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egolive.train.simulator.objects.appearance import Look, fluid_colour
from egolive.train.simulator.objects.paint import Colour, Painter, bands, mixed

__all__ = ["KITCHEN"]

Array = NDArray[Any]
_STEEL: Colour = (196.0, 192.0, 186.0)
_DARK: Colour = (34.0, 32.0, 30.0)
_WHITE: Colour = (240.0, 244.0, 246.0)
_LEAF: Colour = (52.0, 128.0, 66.0)


def _cup_body(p: Painter, x: float, top: float, bottom: float, rx: float, narrow: float, ry: float) -> Array:
    points = [(x + rx * math.cos(a), top + ry * math.sin(a)) for a in np.linspace(math.pi, 0, 16)]
    points += [
        (x + narrow * math.cos(a), bottom + 0.8 * ry * math.sin(a)) for a in np.linspace(0, math.pi, 16)
    ]
    return p.blob(points)


def _below_rim(p: Painter, body: Array, x: float, y: float, rx: float, ry: float) -> Array:
    out = body.copy()
    out[p.oval(x, y, rx, ry) > 127] = 0
    return out


def _mug(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.ring(18, 4, 9, 11, 4.5, (-90, 90)), colour, gloss=0.1)
    body = _cup_body(p, -5, -17, 19, 21, 18, 7)
    p.fill(body, colour, "tube", gloss=0.35, pattern=bands(p, style, accent, colour))
    p.fill(p.oval(-5, -17, 21, 8), mixed(colour, _WHITE, 0.45), edge=0.1)
    p.fill(p.oval(-5, -16, 18.5, 6.5), mixed(colour, (20, 20, 20), 0.45), edge=0)
    _fill_cup(p, look, -5, -13, 18, 6)
    return _below_rim(p, body, -5, -17, 20, 7.5)


def _fill_cup(p: Painter, look: Look, x: float, y: float, rx: float, ry: float) -> None:
    if look.fill:
        high = y + 2.5 - 1.8 * look.fill
        p.fill(p.oval(x, high, rx - 0.4, ry - 0.3), fluid_colour(look.content), gloss=0.25, edge=0.15)
    if "+tea bag" in look.tags:
        p.fill(p.line([(x + rx - 4, y), (x + rx + 2, y + 6), (x + rx + 1, y + 14)], 0.9), _WHITE, edge=0)
        p.fill(p.round_box(x + rx - 3, y + 13, x + rx + 5, y + 22, 1), (70, 190, 235), edge=0.1)


def _glass(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    body = _cup_body(p, 0, -23, 24, 18, 14, 5.5)
    p.fill(body, mixed(colour, _WHITE, 0.5), "tube", alpha=0.42, gloss=0.5, grain=0)
    if look.fill:
        top = 18 - 13 * look.fill
        wide = 14 + 4 * (24 - top) / 47
        p.fill(
            _cup_body(p, 0, top, 23, wide - 1, 13, 5),
            fluid_colour(look.content),
            "tube",
            alpha=0.85,
            gloss=0.3,
        )
        p.fill(p.oval(0, top, wide - 1, 4.6), mixed(fluid_colour(look.content), _WHITE, 0.3), alpha=0.9)
    p.fill(p.ring(0, -23, 18, 5.5, 1.6), _WHITE, alpha=0.85, edge=0)
    p.fill(p.ring(0, 24, 14, 4.5, 2, (0, 180)), (225, 225, 225), alpha=0.8, edge=0)
    p.fill(p.line([(-14.5, -16), (-11, 20)], 1.2), (160, 165, 165), alpha=0.6, edge=0)
    p.fill(p.line([(14.5, -16), (11, 20)], 1.2), (120, 125, 125), alpha=0.7, edge=0)
    if "+tea bag" in look.tags:
        _fill_cup(p, Look("", look.tags), 2, -18, 14, 5)
    front = _below_rim(p, body, 0, -23, 17, 5.2)
    return (front * 0.75).astype(np.uint8)


def _bowl(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    points = [(39 * math.cos(a), -12 + 12 * math.sin(a)) for a in np.linspace(math.pi, 0, 16)]
    points += [(34, 6), (24, 18), (15, 23), (-15, 23), (-24, 18), (-34, 6)]
    body = p.blob(points)
    p.fill(body, colour, "tube", gloss=0.25, pattern=bands(p, style, accent, colour))
    p.fill(p.oval(0, -12, 39, 13), mixed(colour, _WHITE, 0.5), edge=0.1)
    p.fill(p.oval(0, -11.5, 36, 11.2), mixed(colour, (50, 50, 50), 0.35), edge=0.2)
    _dish_content(p, look, 0, -9, 32, 8.5)
    return _below_rim(p, body, 0, -12, 38, 12)


def _dish_content(p: Painter, look: Look, x: float, y: float, rx: float, ry: float) -> None:
    if look.fill:
        share = 0.7 + 0.1 * look.fill
        p.fill(
            p.oval(x, y - look.fill * 0.6, rx * share, ry * share),
            fluid_colour(look.content),
            gloss=0.15,
            edge=0.2,
        )
    spots = [
        (math.cos(2.4 * k) * (0.25 + 0.045 * k), math.sin(2.4 * k) * (0.25 + 0.045 * k)) for k in range(14)
    ]
    if "muesli" in look.content:
        for u, v in spots:
            p.fill(p.oval(x + u * rx, y + v * ry, 3.4, 2.2, 40 * u), (70, 130, 190), edge=0.3)
    if "dirty" in look.tags:
        for u, v in spots[: 14 - 4 * look.level]:
            p.fill(p.oval(x + u * rx, y + v * ry, 4.5, 2.4, 90 * v), (40, 62, 96), alpha=0.8, edge=0.1)
    if "shake" in look.tags:
        for u, v in spots:
            p.fill(p.oval(x + v * rx * 0.9, y + u * ry * 0.8, 0.8, 0.7), _WHITE, edge=0)


def _plate(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.oval(0, 2, 44, 25), mixed(colour, _DARK, 0.3))
    p.fill(p.oval(0, 0, 44, 25), colour, gloss=0.2, edge=0.12)
    if style:
        p.fill(p.ring(0, 0, 40, 22, 1.8), accent, edge=0)
    p.fill(p.oval(0, 0, 32, 17), mixed(colour, _DARK, 0.12), edge=0.25)
    p.fill(p.oval(0, 1, 30, 15.5), mixed(colour, _WHITE, 0.25), gloss=0.1, edge=0)
    _dish_content(p, look, 0, 0, 27, 13)
    return None


def _kettle(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.ring(24, -2, 14, 22, 6, (-80, 80)), _DARK, gloss=0.15)
    p.fill(
        p.blob([(-18, 2), (-38, -19), (-31, -21), (-16, -10)]), mixed(colour, _DARK, 0.15), "tube", gloss=0.2
    )
    body = p.blob([(-22, 33), (-25, 20), (-17, -22), (17, -22), (25, 20), (22, 33), (10, 36), (-10, 36)])
    p.fill(body, colour, "tube", gloss=0.5)
    p.fill(p.oval(0, -22, 17, 6), mixed(colour, _WHITE, 0.25), gloss=0.2)
    p.fill(p.oval(0, -27, 5, 4), _DARK, "dome", gloss=0.3)
    p.fill(p.round_box(-24, 29, 24, 36, 3), _DARK, "tube")
    return None


def _bottle(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    points = [
        (-14, 42),
        (-15, 36),
        (-15, -8),
        (-6, -24),
        (-6, -40),
        (6, -40),
        (6, -24),
        (15, -8),
        (15, 36),
        (14, 42),
    ]
    p.fill(p.blob(points), colour, "tube", alpha=0.92, gloss=0.55)
    p.fill(p.round_box(-15, 2, 15, 26, 1), mixed(accent, _WHITE, 0.55), "tube", edge=0)
    p.fill(p.round_box(-9, 9, 9, 13, 1), accent, edge=0)
    if "open" in look.tags:
        p.fill(p.oval(0, -40, 6, 2.4), (20, 22, 20), edge=0)
        p.fill(p.ring(0, -40, 6, 2.4, 1.0), _WHITE, alpha=0.7, edge=0)
    else:
        p.fill(p.round_box(-7.5, -45, 7.5, -34, 2), accent, "tube", gloss=0.2)
    return None


def _carton(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.blob([(9, -22), (19, -26), (19, 36), (9, 40)]), mixed(colour, _DARK, 0.45))
    p.fill(p.blob([(-19, -22), (9, -22), (9, 40), (-19, 40)]), _WHITE, grain=0.02)
    p.fill(p.blob([(-19, -4), (9, -12), (9, 40), (-19, 40)]), colour)
    p.fill(p.oval(-5, 14, 9, 8), _WHITE, alpha=0.95)
    p.fill(p.blob([(-19, -22), (-12, -34), (13, -37), (19, -26), (9, -22)]), mixed(_WHITE, _DARK, 0.12))
    p.fill(p.round_box(-13, -40, 13, -33, 1), mixed(colour, _WHITE, 0.2))
    p.fill(p.oval(-9, -29, 4.5, 4), colour, "dome", gloss=0.2)
    return None


def _jar(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    body = p.round_box(-21, -19, 21, 28, 7)
    p.fill(body, mixed(_WHITE, (200, 200, 190), 0.5), "tube", alpha=0.6, gloss=0.4)
    p.fill(p.round_box(-19, -9, 19, 26, 6), colour, "tube", gloss=0.25)
    p.fill(p.round_box(-19, 0, 19, 17, 2), _WHITE, "tube", edge=0)
    p.fill(p.oval(0, 8, 7, 5), accent, edge=0.1)
    if "open" in look.tags:
        p.fill(p.oval(0, -21, 17, 6), (205, 210, 208), edge=0.2)
        p.fill(p.oval(0, -20.5, 14.5, 4.6), mixed(colour, _DARK, 0.5), edge=0.2)
    else:
        p.fill(p.round_box(-18, -29, 18, -16, 3), accent, "tube", gloss=0.35)
        p.fill(p.oval(0, -27.5, 17, 4.5), mixed(accent, _WHITE, 0.25), gloss=0.2)
    return _below_rim(p, body, 0, -21, 16, 5.5)


def _spoon(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.blob([(-1.6, -16), (1.6, -16), (3.0, 36), (0, 38), (-3.0, 36)]), colour, "tube", gloss=0.35)
    p.fill(p.oval(0, -26, 7.5, 12), colour, "dome", gloss=0.5)
    p.fill(p.oval(0.6, -25.5, 5.2, 9), mixed(colour, _DARK, 0.35), gloss=0.25, edge=0.2)
    return None


def _knife(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.blob([(-5, 12), (-6, -20), (-3, -40), (1, -46), (4, -38), (4, 12)]), _STEEL, gloss=0.35)
    p.fill(p.blob([(-5, 12), (-6, -20), (-3, -40), (-2, -38), (-3, -18), (-3, 12)]), _WHITE, edge=0)
    p.fill(p.round_box(-5, 10, 5, 46, 4), colour, "tube", gloss=0.25)
    for y in (18, 29, 39):
        p.fill(p.oval(0, y, 1.5, 1.5), _STEEL, edge=0)
    return None


def _bread(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    crust = mixed(colour, (30, 70, 120), 0.6)
    pieces = ((-17.0, 16.0), (17.0, 16.0)) if "cut" in look.tags else ((0.0, 33.0),)
    for x, wide in pieces:
        p.fill(p.round_box(x - wide, -18, x + wide, 25, 9), mixed(crust, _DARK, 0.25), "flat", grain=0.2)
        p.fill(p.round_box(x - wide, -24, x + wide, 19, 11), crust, grain=0.2)
        p.fill(p.round_box(x - wide + 3, -21, x + wide - 3, 16, 9), colour, grain=0.28, edge=0.08)
        if "spread" in look.tags:
            reach = (wide - 6) * (0.4 + 0.2 * max(look.level, 1 if "cut" not in look.tags else 3))
            jam = p.round_box(x - reach, -16, x + reach, 12, 7)
            p.fill(jam, (42, 28, 168), gloss=0.22, grain=0.25, edge=0.3)
    _dish_content(p, Look("", look.tags & {"shake"}), 0, 0, 24, 14)
    return None


def _fruit(p: Painter, look: Look, colour: Colour, stem: bool) -> None:
    if "cut" in look.tags:
        for x, turn in ((-10.0, -16.0), (10.0, 14.0)):
            p.fill(p.oval(x, 2, 13, 15, turn), colour, "dome", gloss=0.25)
            flesh = mixed(colour, (190, 230, 245), 0.85) if stem else mixed(colour, (90, 110, 250), 0.45)
            p.fill(p.oval(x + 1, 0, 10.5, 12.5, turn), flesh, edge=0.15)
            for k in (-1, 0, 1):
                p.fill(
                    p.oval(x + 3.5 * k, 1 + abs(k), 1.4, 2.2),
                    (30, 60, 90) if stem else (110, 200, 240),
                    edge=0,
                )
        return
    p.fill(p.oval(0, 0, 17.5, 16.5), colour, "dome", gloss=0.55)
    if stem:
        p.fill(p.oval(0, -12, 6, 2.6), mixed(colour, _DARK, 0.45), edge=0)
        p.fill(p.line([(0, -12), (2, -19)], 2), (30, 50, 78), edge=0)
    else:
        for k in range(5):
            a = 2 * math.pi * k / 5 - 0.3
            tip = (9 * math.cos(a), -11 + 5 * math.sin(a))
            p.fill(p.blob([(-1.5, -11), tip, (1.5, -10)]), _LEAF, edge=0)


def _apple(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    _fruit(p, look, colour, True)
    return None


def _tomato(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    _fruit(p, look, colour, False)
    return None


def _shaker(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    p.fill(p.blob([(-9, -10), (9, -10), (12, 20), (-12, 20)]), colour, "tube", alpha=0.9, gloss=0.4)
    p.fill(p.blob([(-10, 2), (10, 2), (11, 19), (-11, 19)]), _WHITE, "tube", edge=0)
    p.fill(p.round_box(-10, -22, 10, -8, 6), _STEEL, "tube", gloss=0.5)
    for x in (-4, 0, 4):
        p.fill(p.oval(x, -19, 1.1, 0.8), _DARK, edge=0)
    return None


def _cloth(p: Painter, look: Look, colour: Colour, accent: Colour, style: int) -> Array | None:
    edge = [
        (34 * math.copysign(abs(math.cos(a)) ** 0.45, math.cos(a)) + 1.6 * math.sin(7 * a),
         25 * math.copysign(abs(math.sin(a)) ** 0.45, math.sin(a)) + 1.6 * math.cos(6 * a))
        for a in np.linspace(0, 2 * math.pi, 60)
    ]  # fmt: skip
    p.fill(
        p.blob(edge), colour, grain=0.16, edge=0.25, pattern=bands(p, 3 if style % 2 else 1, _WHITE, colour)
    )
    for k, x in enumerate((-16, 4, 20)):
        p.fill(
            p.line([(x, -22), (x + 6 - 4 * k, 0), (x - 2, 22)], 2.2),
            mixed(colour, _DARK, 0.4),
            alpha=0.4,
            edge=0,
        )
        p.fill(p.line([(x + 3, -22), (x + 9 - 4 * k, 0), (x + 1, 22)], 1.6), _WHITE, alpha=0.3, edge=0)
    return None


KITCHEN: dict[str, Callable[[Painter, Look, Colour, Colour, int], Array | None]] = {
    "apple": _apple, "bottle": _bottle, "bowl": _bowl, "bread": _bread, "carton": _carton, "cloth": _cloth,
    "glass": _glass, "jar": _jar, "kettle": _kettle, "knife": _knife, "mug": _mug, "plate": _plate,
    "shaker": _shaker, "spoon": _spoon, "tomato": _tomato,
}  # fmt: skip
