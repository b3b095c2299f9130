"""The appearance of an episode: work surface, background, clutter, light, skin, sleeves, camera.

Everything is drawn once per episode; frames only warp and blend it.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from egolive.train.simulator.drawing.hand_drawing import HandLook
from egolive.train.simulator.objects.paint import Colour
from egolive.train.simulator.planning.plan import Plan, episode_rng

__all__ = ["BACKDROP", "Scene", "build_scene", "noise_field"]

Array = NDArray[Any]
BACKDROP = (760, 500)
"""World units that the backdrop covers, centred on the middle of the table."""
_SKINS: tuple[Colour, ...] = (
    (186, 208, 240), (165, 192, 232), (140, 172, 220), (120, 155, 208), (98, 134, 190),
    (76, 110, 168), (60, 90, 142), (46, 70, 112), (38, 55, 88),
)  # fmt: skip


@dataclass(slots=True)
class Scene:
    """What stays the same in all frames of an episode; colours BGR."""

    backdrop: Array
    hand: HandLook
    light: tuple[float, float]
    dark: float
    tint: Array
    """Light and vignette, (height, width, 3) uint8, 128 is unchanged."""
    grain: Array
    """Surface noise about 0, (900, 900) float32."""
    noise: Array
    """Sensor noise, int16, larger than the picture."""
    blur: float


def noise_field(
    rng: np.random.Generator, rows: int, columns: int, octaves: tuple[tuple[float, float, float], ...]
) -> Array:
    """Return smooth noise about 0: a sum of (cells down, cells across, strength)."""
    total = np.zeros((rows, columns), np.float32)
    for down, across, strength in octaves:
        cells = rng.standard_normal((max(2, int(down)), max(2, int(across)))).astype(np.float32)
        total += np.float32(strength) * cv2.resize(cells, (columns, rows), interpolation=cv2.INTER_CUBIC)
    return total


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    pixel = (
        cv2.cvtColor(np.array([[[hue % 360, saturation, value]]], np.float32), cv2.COLOR_HSV2BGR)[0, 0] * 255
    )
    return (float(pixel[0]), float(pixel[1]), float(pixel[2]))


def _surface(rng: np.random.Generator, split: str, rows: int, columns: int) -> Array:
    """Draw the work surface: wood, marble, steel, painted board or cloth."""
    kind = str(rng.choice(["wood", "wood", "marble", "steel", "board", "cloth", "speckle"]))
    test = split == "test"
    fine = noise_field(rng, rows, columns, ((rows / 3, columns / 3, 0.03), (40, 60, 0.04), (5, 8, 0.08)))
    if kind == "wood":
        hue, value = (
            (rng.uniform(8, 32), rng.uniform(0.28, 0.85))
            if not test
            else (rng.uniform(2, 38), rng.uniform(0.25, 0.7))
        )
        base = np.array(_hsv(hue, rng.uniform(0.3, 0.62), value), np.float32)
        grain = noise_field(rng, rows, columns, ((rows / 2, 5, 0.06), (60, 6, 0.08), (14, 3, 0.06)))
        if rng.random() < 0.5:
            grain = np.ascontiguousarray(grain[:, ::-1])
        planks = int(rng.integers(3, 9))
        height = rows // planks
        lift = np.repeat(rng.uniform(-0.07, 0.07, planks + 1), height)[:rows].astype(np.float32)
        grain[: len(lift)] += lift[:, None]
        grain[height::height] -= 0.22
        picture = base * (1 + grain + 0.5 * fine)[..., None]
    elif kind == "marble":
        base = np.array(
            _hsv(
                rng.uniform(20, 60) if not test else rng.uniform(0, 360),
                rng.uniform(0.02, 0.12),
                rng.uniform(0.2, 0.95),
            ),
            np.float32,
        )
        veins = np.abs(noise_field(rng, rows, columns, ((5, 7, 1.0), (14, 20, 0.5), (40, 60, 0.2))))
        picture = base * (1 + fine)[..., None] - 60 * np.exp(-((veins / 0.09) ** 2))[..., None] * rng.uniform(
            0.3, 1.0
        )
    elif kind == "steel":
        base = np.array(_hsv(210, rng.uniform(0, 0.08), rng.uniform(0.4, 0.75)), np.float32)
        brushed = noise_field(rng, rows, columns, ((rows, 6, 0.035), (6, 9, 0.12)))
        picture = base * (1 + brushed)[..., None]
    elif kind == "cloth":
        hue = rng.uniform(0, 360)
        base = np.array(_hsv(hue, rng.uniform(0.1, 0.55), rng.uniform(0.35, 0.95)), np.float32)
        other = np.array(
            _hsv(hue + rng.uniform(-40, 40), rng.uniform(0.05, 0.5), rng.uniform(0.3, 0.95)), np.float32
        )
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
        step = rng.uniform(0.05, 0.16)
        if test:
            on = (np.sin(step * (x + y)) > 0.2) | (np.sin(step * (x - y)) > 0.6)
            weave = on.astype(np.float32) * 0.7
        else:
            weave = 0.35 * (np.sin(step * x) > 0.3) + 0.35 * (np.sin(step * y) > 0.3)
        weave = weave * rng.uniform(0.3, 1.0)
        thread = 0.04 * np.sin(x * 2.1) * np.sin(y * 2.1)
        picture = (base * (1 - weave[..., None]) + other * weave[..., None]) * (1 + fine + thread)[..., None]
    else:
        hue = rng.uniform(100, 260) if not test else rng.uniform(0, 100)
        low = kind == "board"
        base = np.array(_hsv(hue, rng.uniform(0.05, 0.6), rng.uniform(0.22, 0.9)), np.float32)
        picture = base * (1 + (fine if low else 1.6 * fine))[..., None]
        if not low:
            specks = rng.standard_normal((rows, columns)).astype(np.float32)
            picture += 14 * cv2.GaussianBlur(specks, (0, 0), 0.8)[..., None]
    return np.clip(picture, 4, 250)


def _room(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Draw what is behind the table: blurred planes, shelves and boxes."""
    base = np.array(_hsv(rng.uniform(0, 360), rng.uniform(0.02, 0.4), rng.uniform(0.12, 0.8)), np.float32)
    room = np.ones((rows, columns, 3), np.float32) * base
    for _ in range(int(rng.integers(8, 26))):
        x, y = int(rng.uniform(-60, columns)), int(rng.uniform(-40, rows))
        w, h = int(rng.uniform(20, 170)), int(rng.uniform(15, 110))
        colour = _hsv(rng.uniform(0, 360), rng.uniform(0.05, 0.75), rng.uniform(0.08, 0.9))
        cv2.rectangle(room, (x, y), (x + w, y + h), colour, -1)
        cv2.line(room, (x, y), (x + w, y), tuple(min(255.0, c + 40) for c in colour), 2)
        cv2.rectangle(room, (x + w, y), (x + w + 5, y + h), tuple(0.5 * c for c in colour), -1)
        if rng.random() < 0.3:
            cv2.circle(room, (x, y), int(rng.uniform(8, 30)), tuple(255 - 0.6 * c for c in colour), -1)
    blurred: Array = cv2.GaussianBlur(room, (0, 0), rng.uniform(1.2, 4.0))
    return blurred


def _clutter(rng: np.random.Generator, picture: Array, top: float) -> None:
    """Draw unlabelled clutter on the table: papers, crumbs, coasters, cables."""
    columns, rows = picture.shape[1], picture.shape[0]
    for _ in range(int(rng.integers(2, 9))):
        x, y = rng.uniform(0, columns), rng.uniform(top + 15, rows)
        colour = _hsv(rng.uniform(0, 360), rng.uniform(0, 0.5), rng.uniform(0.2, 0.95))
        what = rng.random()
        mask = np.zeros((rows, columns), np.uint8)
        if what < 0.4:
            corners = cv2.boxPoints(
                ((x, y), (rng.uniform(20, 90), rng.uniform(15, 60)), rng.uniform(-40, 40))
            )
            cv2.fillPoly(mask, [corners.astype(np.int32)], 255, cv2.LINE_AA)
        elif what < 0.55:
            cv2.ellipse(
                mask,
                (int(x), int(y)),
                (int(rng.uniform(12, 28)), int(rng.uniform(8, 18))),
                0,
                0,
                360,
                255,
                -1,
                cv2.LINE_AA,
            )
        elif what < 0.7:
            t = np.linspace(0, 1, 30)
            line = np.stack(
                [x + 220 * t, y + 30 * np.sin(6 * t + rng.uniform(0, 6)) + rng.uniform(-60, 60) * t], 1
            )
            cv2.polylines(mask, [line.astype(np.int32)], False, 255, 3, cv2.LINE_AA)
        else:
            for _ in range(int(rng.integers(5, 40))):
                at = (int(x + 22 * rng.standard_normal()), int(y + 14 * rng.standard_normal()))
                cv2.circle(mask, at, int(rng.integers(1, 3)), 255, -1, cv2.LINE_AA)
        pad = 12
        left, high, wide, tall = cv2.boundingRect(mask)
        part = (slice(max(0, high - pad), high + tall + pad), slice(max(0, left - pad), left + wide + pad))
        cover, table = mask[part], picture[part]
        cast = np.roll(cv2.GaussianBlur(cover, (0, 0), 3), (3, 3), (0, 1)).astype(np.float32)
        table *= (1 - cast * np.float32(0.4 / 255))[..., None]
        share = cover.astype(np.float32)[..., None] / 255
        table += share * (np.array(colour, np.float32) * np.float32(rng.uniform(0.85, 1)) - table)


def _ramp(colour: Colour, deep: Colour, shine: float) -> Array:
    """Return a 256-step ramp: deep shade, the colour at about 0.7, a soft highlight at the end."""
    t = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    base, low = np.array(colour, np.float32), np.array(deep, np.float32)
    ramp = np.where(
        t < 0.7,
        low + (base - low) * (t / 0.7) ** 0.85,
        base + (255 - base) * shine * (np.maximum(t - 0.7, 0) / 0.3) ** 1.5,
    )
    return np.clip(ramp, 0, 255).astype(np.uint8).reshape(256, 1, 3)


def _hand_look(rng: np.random.Generator, split: str, light: tuple[float, float]) -> HandLook:
    spot = rng.uniform(0, len(_SKINS) - 1.001)
    low, share = _SKINS[int(spot)], spot % 1
    high = _SKINS[int(spot) + 1]
    warm = rng.uniform(0.93, 1.07) if split == "train" else rng.uniform(0.9, 1.1)
    skin = tuple((a + share * (b - a)) * f for a, b, f in zip(low, high, (2 - warm, 1.0, warm), strict=True))
    deep = (0.12 * skin[0], 0.14 * skin[1], 0.26 * skin[2])
    cloth = _hsv(rng.uniform(0, 360), rng.uniform(0, 0.75), rng.uniform(0.08, 0.95))
    nail = tuple(int(min(255, 0.72 * c + extra)) for c, extra in zip(skin, (58, 56, 74), strict=True))
    grain = 1 + noise_field(rng, 512, 512, ((170, 170, 0.022), (60, 60, 0.02), (14, 14, 0.045)))
    length = math.hypot(*light)
    x, y = 0.62 * light[0] / length, 0.62 * light[1] / length
    return HandLook(
        _ramp((skin[0], skin[1], skin[2]), deep, 0.45),
        _ramp(cloth, (0.2 * cloth[0], 0.2 * cloth[1], 0.2 * cloth[2]), 0.3),
        (nail[0], nail[1], nail[2]),
        float(rng.uniform(0.92, 1.16)),
        float(rng.uniform(0.9, 1.1)),
        float(rng.choice([2.0, 0.06, 0.2, 0.4])) + float(rng.uniform(0, 0.12)),
        grain,
        (x, y, 0.785),
        bool(rng.random() < 0.2),
    )


def _tint(rng: np.random.Generator, width: int, height: int, light: tuple[float, float]) -> Array:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = 2 * x / width - 1, 2 * y / height - 1
    slope = 1 + rng.uniform(0.03, 0.24) * (light[0] * u + light[1] * v)
    dim = 1 - rng.uniform(0.05, 0.34) * ((u * u + v * v) / 2) ** 1.3
    warm = rng.uniform(-0.13, 0.13)
    gain = rng.uniform(0.72, 1.14)
    balance = np.array([1 - warm, 1 + rng.uniform(-0.03, 0.03), 1 + warm], np.float32)
    tint: Array = np.clip(128 * gain * (slope * dim)[..., None] * balance, 0, 255).astype(np.uint8)
    return tint


def build_scene(plan: Plan, size: tuple[int, int]) -> Scene:
    """Draw the static parts of an episode for one picture size."""
    rng = episode_rng(*plan.key, 2)
    angle = rng.uniform(-2.7, -0.45)
    light = (math.cos(angle), math.sin(angle))
    columns, rows = BACKDROP
    picture = _surface(rng, plan.split, rows, columns)
    edge = rows / 2 - (rng.uniform(78, 130) if rng.random() < 0.72 else 400.0)
    if edge > 0:
        bend = rng.uniform(0, 0.00025) * (np.arange(columns) - columns / 2) ** 2
        line = edge + rng.uniform(-0.05, 0.05) * (np.arange(columns) - columns / 2) + bend
        y = np.arange(rows, dtype=np.float32)[:, None]
        beyond = np.clip(line[None, :] - y + 0.5, 0, 1).astype(np.float32)[..., None]
        _clutter(rng, picture, edge)
        rim = (np.abs(y - line[None, :] - 2) < 2.2).astype(np.float32)[..., None] * np.float32(
            rng.uniform(-0.5, 0.3)
        )
        picture = picture * (1 + rim)
        picture = picture * (1 - beyond) + _room(rng, rows, columns) * beyond
    else:
        _clutter(rng, picture, 0.0)
    if rng.random() < 0.4:  # the near edge of the table and the wearer's lap
        near = int(rows / 2 + rng.uniform(84, 112))
        lap = np.array(_hsv(rng.uniform(0, 360), rng.uniform(0, 0.6), rng.uniform(0.05, 0.8)), np.float32)
        folds = noise_field(rng, rows - near, columns, ((6, 22, 0.12), (20, 60, 0.05)))
        picture[near:] = lap * (0.8 + folds)[..., None]
        picture[near : near + 5] *= 0.5
        picture[near - 4 : near] *= np.float32(rng.uniform(0.75, 1.25))
    scale = max(size[0] / 448, size[1] / 252)
    fine = 1.15 * scale
    picture = cv2.resize(
        np.clip(picture, 0, 255).astype(np.uint8), None, fx=fine, fy=fine, interpolation=cv2.INTER_LINEAR
    )
    noise = rng.standard_normal((size[1] + 64, size[0] + 64, 3)).astype(np.float32) * rng.uniform(1.0, 5.0)
    grain = noise_field(rng, 900, 900, ((450, 450, 0.55), (110, 110, 0.5), (18, 18, 0.35)))
    return Scene(
        picture, _hand_look(rng, plan.split, light), light, float(rng.uniform(0.25, 0.55)),
        _tint(rng, *size, light), grain, noise.astype(np.int16), float(rng.choice([0.0, 0.0, 0.5, 0.8])),
    )  # fmt: skip
