"""Renders one frame: objects from back to front, then light and camera effects, then the labels."""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from egolive.streaming.frames import Image
from egolive.train.simulator.drawing.canvas import Canvas
from egolive.train.simulator.drawing.hand_drawing import HandPatch, draw_hand
from egolive.train.simulator.drawing.scene import BACKDROP
from egolive.train.simulator.drawing.skeleton import ARM, FRONT, PALM
from egolive.train.simulator.drawing.stage import sprite_of, stage_of
from egolive.train.simulator.drawing.truth import HANDS, FrameTruth
from egolive.train.simulator.objects.appearance import fluid_colour
from egolive.train.simulator.objects.kinds import KINDS
from egolive.train.simulator.objects.sprites import Sprite
from egolive.train.simulator.planning.motion import (
    camera_at,
    hand_at,
    is_hidden,
    look_at,
    object_at,
    shown_inside,
    use_at,
)
from egolive.train.simulator.planning.plan import MAIN, OTHER, HandUse, Plan, Pose

__all__ = ["Drawing"]

Array = NDArray[Any]
_FLIPPED = {MAIN: OTHER, OTHER: MAIN}
# Least share of the picture that a visible object covers.
_LEAST = 0.0012


class Drawing:
    """One frame being drawn."""

    def __init__(
        self, plan: Plan, time: float, size: tuple[int, int], *, head_time: float | None = None
    ) -> None:
        self.plan, self.time, self.size = plan, time, size
        self.stage = stage_of(plan, size)
        self.scale = max(size[0] / 448, size[1] / 252)
        self.side = -1.0 if plan.mirror else 1.0
        self.camera = camera_at(plan, time if head_time is None else head_time)
        zoom = self.scale * self.camera.zoom
        roll = math.radians(-self.side * self.camera.roll)
        c, s = zoom * math.cos(roll), zoom * math.sin(roll)
        cx, cy = self.side * self.camera.x, self.camera.y
        self.matrix = np.array(
            [[c, -s, size[0] / 2 - c * cx + s * cy], [s, c, size[1] / 2 - s * cx - c * cy]], np.float64
        )
        self.zoom = zoom
        self.canvas = Canvas(self._backdrop())
        self.poses = {kind: object_at(track, time) for kind, track in plan.tracks.items()}
        self.looks = {kind: look_at(track, time) for kind, track in plan.tracks.items()}
        self.numbers = {name: k for k, name in enumerate((*HANDS, *plan.tracks), start=1)}
        self.patches: dict[str, HandPatch | None] = {}

    def _backdrop(self) -> Array:
        image = self.stage.scene.backdrop
        fine = image.shape[1] / BACKDROP[0]
        place = np.array([[1 / fine, 0, -BACKDROP[0] / 2], [0, 1 / fine, -BACKDROP[1] / 2], [0, 0, 1]])
        warped: Array = cv2.warpAffine(
            image, self.matrix @ place, self.size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        return warped

    def _placed(self, sprite: Sprite, pose: Pose, size: float) -> Array:
        angle = math.radians(self.side * pose.angle)
        grow = size / sprite.scale
        c, s = grow * math.cos(angle), grow * math.sin(angle)
        rows, columns = sprite.bare.shape[:2]
        x, y = self.side * pose.x, pose.y
        flip = self.side
        local = np.array([[c * flip, -s, 0.0], [s * flip, c, 0.0], [0, 0, 1]])
        local[0, 2] = x - local[0, 0] * columns / 2 - local[0, 1] * rows / 2
        local[1, 2] = y - local[1, 0] * columns / 2 - local[1, 1] * rows / 2
        placed: Array = self.matrix @ local
        return placed

    def thing(self, kind: str, part: str = "whole") -> None:
        """Draw an object, or only the front of its rim."""
        pose, look = self.poses[kind], self.looks[kind]
        sprite = sprite_of(self.stage, kind, look, self.scale)
        matrix = self._placed(sprite, pose, 1 + 0.08 * pose.lift)
        number = self.numbers[kind]
        if part == "front":
            if sprite.front is not None:
                self.canvas.sprite(sprite.front, matrix, number)
            return
        lifted = pose.lift > 0.15 or part == "nested"
        area = abs(float(np.linalg.det(matrix[:, :2])))
        self.canvas.full[number] = int(sprite.area * area)
        self.canvas.sprite(sprite.bare if lifted else sprite.grounded, matrix, number)

    def hand(self, hand: str, front: bool) -> None:
        """Draw a hand of the right-handed layout with its shadow, or only what is before a held object."""
        if not front:
            look = self.stage.scene.hand
            pose = hand_at(self.plan, hand, self.time)
            self.patches[hand] = draw_hand(pose, look, self.matrix, self.size, self.plan.mirror)
        patch = self.patches[hand]
        if patch is None:
            return
        number = self.numbers[_FLIPPED[hand] if self.plan.mirror else hand]
        alpha = patch.alpha
        if front:
            alpha = np.where(patch.part == FRONT, alpha, 0).astype(np.uint8)
        else:
            self._hand_shadow(patch)
            self.canvas.full[number] = patch.area
        colour = cv2.multiply(patch.colour, cv2.cvtColor(alpha, cv2.COLOR_GRAY2BGR), scale=1 / 255)
        self.canvas.blend(patch.x, patch.y, colour, alpha, 0)
        rows, columns = alpha.shape
        top = self.canvas.top[patch.y : patch.y + rows, patch.x : patch.x + columns]
        solid = alpha > 127
        top[solid & (patch.part == ARM)] = 0
        top[solid & ((patch.part == PALM) | (patch.part == FRONT))] = number

    def _hand_shadow(self, patch: HandPatch) -> None:
        scene = self.stage.scene
        shift = 9 * self.zoom
        x = patch.x - round(scene.light[0] * shift)
        y = patch.y - round(scene.light[1] * shift)
        left, top = max(0, x), max(0, y)
        rows, columns = patch.alpha.shape
        right, bottom = min(self.size[0], x + columns), min(self.size[1], y + rows)
        if left >= right or top >= bottom:
            return
        small = cv2.resize(patch.alpha, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        soft = cv2.resize(cv2.GaussianBlur(small, (0, 0), 2.2 * self.zoom), (columns, rows))
        soft = soft[top - y : bottom - y, left - x : right - x]
        keep = cv2.cvtColor(255 - (soft * np.float32(0.9 * scene.dark)).astype(np.uint8), cv2.COLOR_GRAY2BGR)
        part = self.canvas.picture[top:bottom, left:right]
        cv2.multiply(part, keep, dst=part, scale=1 / 255)

    def effects(self) -> None:
        """Draw a stream or grains falling from one object into another."""
        for effect in self.plan.effects:
            if not effect.start <= self.time < effect.end:
                continue
            source, target = self.poses[effect.source], self.poses[effect.target]
            tip, mouth = KINDS[effect.source].tip, KINDS[effect.target].mouth
            c, s = math.cos(math.radians(source.angle)), math.sin(math.radians(source.angle))
            x0, y0 = source.x + c * tip[0] - s * tip[1], source.y + s * tip[0] + c * tip[1]
            x1, y1 = target.x + mouth[0], target.y + mouth[1] + 2
            colour = (245, 245, 245) if effect.fluid == "salt" else fluid_colour(frozenset({effect.fluid}))
            grainy = effect.fluid in ("salt", "muesli")
            points = []
            for k in range(13):
                t = k / 12
                x, y = x0 + (x1 - x0) * t**0.6, y0 + (y1 - y0) * t
                px, py = self.matrix @ (self.side * x, y, 1.0)
                points.append((px, py))
            if grainy:
                rng = np.random.default_rng(round(self.time * 1000))
                radius = (1.0 if effect.fluid == "salt" else 2.6) * self.zoom
                for px, py in points:
                    dx, dy = 3.0 * self.zoom * rng.standard_normal(2)
                    at = (round((px + dx) * 16), round((py + dy) * 16))
                    cv2.circle(self.canvas.picture, at, round(radius * 16), colour, -1, cv2.LINE_AA, 4)
            else:
                line = np.round(np.array(points) * 16).astype(np.int32)
                dark = tuple(0.75 * v for v in colour)
                cv2.polylines(
                    self.canvas.picture, [line], False, dark, max(2, round(5.4 * self.zoom)), cv2.LINE_AA, 4
                )
                cv2.polylines(
                    self.canvas.picture, [line], False, colour, max(1, round(3.4 * self.zoom)), cv2.LINE_AA, 4
                )

    def compose(self) -> None:
        """Draw everything, from the back to the front."""
        plan, time = self.plan, self.time
        uses = {hand: use_at(plan, hand, time) for hand in (OTHER, MAIN)}
        busy = {use.kind for use in uses.values() if use is not None}
        nested: dict[str, list[str]] = {}
        for kind in plan.tracks:
            inside = shown_inside(plan, kind, time)
            if inside is not None and kind not in busy and not is_hidden(plan, kind, time):
                nested.setdefault(inside, []).append(kind)
        inner = {kind for kinds in nested.values() for kind in kinds}
        for kind in sorted(plan.tracks, key=lambda k: self.poses[k].y + KINDS[k].height / 2):
            if kind not in busy and kind not in inner and not is_hidden(plan, kind, time):
                self.thing(kind)
                self._nested(kind, nested)
        for hand in self._order(uses):
            self._hand_and_thing(hand, uses, nested)

    def _order(self, uses: dict[str, HandUse | None]) -> list[str]:
        acting = [hand for hand, use in uses.items() if use is not None and use.acting]
        return [hand for hand in uses if hand not in acting] + acting

    def _nested(self, kind: str, nested: dict[str, list[str]]) -> None:
        for child in nested.get(kind, []):
            self.thing(child, "nested")
            if self.plan.tracks[child].parent is not None and self.plan.tracks[child].parent[2]:  # type: ignore[index]
                self.thing(kind, "front")

    def _hand_and_thing(
        self, hand: str, uses: dict[str, HandUse | None], nested: dict[str, list[str]]
    ) -> None:
        use = uses[hand]
        self.hand(hand, front=False)
        if use is None:
            return
        other = uses[OTHER if hand == MAIN else MAIN]
        shared = other is not None and other.kind == use.kind
        if not (shared and use.acting):  # what both hands touch is drawn with the steadying one
            hidden = is_hidden(self.plan, use.kind, self.time)
            if not hidden:
                self.thing(use.kind)
                self._nested(use.kind, nested)
        if use.acting:
            self.effects()
            if self._dips(use):
                target = self._target(use)
                if target:
                    self.thing(target, "front")
                    if other is not None and other.kind == target:
                        self.hand(OTHER if hand == MAIN else MAIN, front=True)
        self.hand(hand, front=True)

    def _step(self) -> int:
        for number, step in enumerate(self.plan.steps):
            if step.start <= self.time < step.end:
                return number
        return -1

    def _dips(self, use: HandUse) -> bool:
        number = self._step()
        if number < 0:
            return False
        step = self.plan.steps[number]
        return step.verb in ("stir", "add") or (step.verb == "put" and " in the " in step.text)

    def _target(self, use: HandUse) -> str:
        """Return the vessel that the acting object is dipped into right now, or an empty string."""
        step = self.plan.steps[self._step()]
        pose = self.poses[use.kind]
        for kind in (step.target, "jar" if step.verb == "add" else ""):
            if not kind:
                continue
            at, shape = self.poses[kind], KINDS[kind]
            tip = KINDS[use.kind].tip
            c, s = math.cos(math.radians(pose.angle)), math.sin(math.radians(pose.angle))
            x, y = pose.x + c * tip[0] - s * tip[1], pose.y + s * tip[0] + c * tip[1]
            if abs(x - at.x) < 0.5 * shape.width and at.y - 0.5 * shape.height < y and pose.y < at.y:
                return kind
        return ""

    def finish(self) -> Image:
        """Return the picture after light, blur and sensor noise; RGB."""
        scene, picture = self.stage.scene, self.canvas.picture
        speed = math.hypot(*self.camera.speed) * self.zoom
        length = int(min(15.0, speed * 0.016))
        if length >= 2:
            kernel = np.zeros((length * 2 + 1, length * 2 + 1), np.float32)
            dx, dy = (self.side * self.camera.speed[0], self.camera.speed[1])
            reach = 0.5 * length / (math.hypot(dx, dy) + 1e-6)
            a = (round((length - dx * reach) * 16), round((length - dy * reach) * 16))
            b = (round((length + dx * reach) * 16), round((length + dy * reach) * 16))
            cv2.line(kernel, a, b, 1.0, 1, cv2.LINE_AA, 4)
            picture = cv2.filter2D(picture, -1, kernel / kernel.sum())
        if scene.blur:
            picture = cv2.GaussianBlur(picture, (3, 3), scene.blur * self.scale)
        picture = cv2.multiply(picture, scene.tint, scale=1 / 128)
        rng = np.random.default_rng([*self.plan.key[::2], round(self.time * 1000)])
        x, y = (int(v) for v in rng.integers(0, 64, 2))
        noise = scene.noise[y : y + self.size[1], x : x + self.size[0]]
        picture = cv2.add(picture, noise, dtype=cv2.CV_8U)
        final: Image = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        return final

    def truth(self) -> FrameTruth:
        """Return the labels of the frame."""
        least = _LEAST * self.size[0] * self.size[1]
        boxes = {}
        for name, number in self.numbers.items():
            box = self.canvas.box(number, least)
            if box is not None:
                boxes[name] = box
        held: dict[str, str | None] = {}
        for hand in HANDS:
            use = use_at(self.plan, _FLIPPED[hand] if self.plan.mirror else hand, self.time)
            held[hand] = use.kind if use is not None and hand in boxes and use.kind in boxes else None
        states = {kind: look.state for kind, look in self.looks.items()}
        return FrameTruth(round(self.time, 4), boxes, held, states, self._step())
