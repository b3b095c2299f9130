"""A plan at one moment: pose of each object, of each hand and of the head camera.

Everything here is a function of the plan and the time alone, so that any frame can be drawn without its
predecessors.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from egolive.train.simulator.objects.appearance import Look
from egolive.train.simulator.objects.kinds import KINDS
from egolive.train.simulator.planning.plan import MAIN, HandUse, Plan, Pose, Track, episode_rng

__all__ = ["GRIPS", "Camera", "Grip", "HandPose", "camera_at", "hand_at", "look_at", "object_at", "use_at"]

# An elbow sits below the picture; it follows the hand a little.
_ELBOW = (138.0, 262.0)


class Grip(NamedTuple):
    """A hand shape in degrees: roll lifts the thumb side to the camera, flexes bend the fingers' joints."""

    roll: float
    yaw: float
    pointer: float
    others: float
    bend: float
    thumb_out: float
    thumb_down: float
    curl: float


GRIPS: dict[str, Grip] = {
    "rest": Grip(14, 0, 16, 22, 18, 42, 14, 0),
    "wrap": Grip(56, -16, 34, 40, 42, 30, 36, 8),
    "fist": Grip(24, 10, 52, 60, 72, 22, 30, 20),
    "pinch": Grip(34, 4, 42, 58, 44, 22, 44, 12),
    "top": Grip(10, -40, 30, 32, 46, 52, 30, 0),
    "flat": Grip(4, 0, 8, 8, 8, 46, 8, 0),
    "edge": Grip(10, 0, 14, 14, 12, 44, 12, 0),
    "press": Grip(16, 0, 10, 62, 26, 26, 34, 14),
}


@dataclass(frozen=True, slots=True)
class HandPose:
    """A hand of a right-handed layout: where its grip centre is (world units), its shape, what it holds."""

    right: bool
    x: float
    y: float
    yaw: float
    grip: Grip
    centre: str
    blend: tuple[str, str, float]
    elbow: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Camera:
    """The head: shift in world units, roll in degrees, zoom, and speed in world units a second."""

    x: float
    y: float
    roll: float
    zoom: float
    speed: tuple[float, float]


def _smooth(share: float) -> float:
    share = min(1.0, max(0.0, share))
    return share * share * (3 - 2 * share)


def _wiggle(name: str, time: float, length: float) -> tuple[float, float, float]:
    """Return the shift and turn (degrees) of an acting object, `time` into `length` seconds of acting."""
    ease = min(1.0, 4 * time / length, 4 * max(0.0, length - time) / length)
    turn = 2 * math.pi * time
    match name:
        case "circle":
            return (
                9 * ease * math.cos(1.6 * turn),
                3.5 * ease * math.sin(1.6 * turn),
                5 * math.sin(1.6 * turn),
            )
        case "saw":
            stroke = 11 * ease * math.sin(2.0 * turn)
            return -0.75 * stroke, 0.66 * stroke, 0.0
        case "sweep":
            return 20 * ease * math.sin(0.9 * turn), 4 * ease * math.sin(1.8 * turn), 6 * math.sin(0.9 * turn)
        case "scribble":
            along = 26 * (time / length) - 13
            return along + 2 * math.sin(4 * turn), 2.5 * math.cos(3.1 * turn), 3 * math.sin(3.1 * turn)
        case "twist":
            return 0.0, 1.2 * math.sin(2 * turn), 9 * ease * math.sin(1.5 * turn)
        case "knock":
            beat = abs(math.sin(1.3 * math.pi * time))
            return 12 * ease * beat, -18 * ease * beat, 26 * ease * beat
        case "drift":
            return 22 * ease * math.sin(0.6 * turn), 5 * math.sin(0.9 * turn), 0.0
        case "rub":
            return 20 * ease * math.cos(1.1 * turn), 9 * ease * math.sin(1.1 * turn), 8 * math.sin(1.1 * turn)
        case "shake":
            return 0.0, -7 * ease * math.sin(3.2 * turn), 4 * math.sin(3.2 * turn)
        case "dip":
            return 2 * math.sin(turn), 6 * ease * math.sin(math.pi * time / length), 8 * ease
        case "poke":
            return 0.0, 5 * ease * math.sin(math.pi * time / length), 0.0
        case "fold":
            return -18 * math.sin(math.pi * time / length), -8 * math.sin(math.pi * time / length), 0.0
    return 0.8 * math.sin(1.1 * turn), 0.8 * math.cos(0.7 * turn), 1.2 * math.sin(0.8 * turn)


def object_at(track: Track, time: float) -> Pose:
    """Return where an object is, in the right-handed layout."""
    pose = track.rest
    for segment in track.segments:
        if time < segment.start:
            break
        if time >= segment.end:
            pose = segment.finish
            continue
        length = segment.end - segment.start
        share = _smooth((time - segment.start) / length)
        at = [a + share * (b - a) for a, b in zip(segment.begin, segment.finish, strict=True)]
        if not segment.wiggle:  # carried through the air: a shallow arc
            at[1] -= 10 * math.sin(math.pi * share)
            return Pose(*at)
        dx, dy, turn = _wiggle(segment.wiggle, time - segment.start, length)
        return Pose(at[0] + dx, at[1] + dy, at[2] + turn, at[3])
    return pose


def look_at(track: Track, time: float) -> Look:
    """Return the appearance of an object."""
    look = track.looks[0][1]
    for start, later in track.looks:
        if time >= start:
            look = later
    return look


def use_at(plan: Plan, hand: str, time: float) -> HandUse | None:
    """Return what the hand of the right-handed layout touches."""
    return next((use for use in plan.uses[hand] if use.start <= time < use.end), None)


def _free(hand: str, x: float, y: float, grip: str) -> HandPose:
    right = hand == MAIN
    elbow = ((_ELBOW[0] if right else -_ELBOW[0]) + 0.35 * x, _ELBOW[1] + 0.25 * y)
    lean = math.degrees(math.atan2(x - elbow[0], elbow[1] - y))
    return HandPose(right, x, y, 0.75 * lean, GRIPS[grip], grip, (grip, grip, 0.0), elbow)


def _attached(plan: Plan, hand: str, use: HandUse, time: float) -> HandPose:
    pose = object_at(plan.tracks[use.kind], time)
    c, s = math.cos(math.radians(pose.angle)), math.sin(math.radians(pose.angle))
    size = 1 + 0.08 * pose.lift
    x = pose.x + size * (c * use.at[0] - s * use.at[1])
    y = pose.y + size * (s * use.at[0] + c * use.at[1])
    turn = 0.0
    if use.wiggle == "twist":
        turn = 26 * math.sin(2 * math.pi * 1.2 * (time - use.start))
    elif use.wiggle:
        dx, dy, _ = _wiggle(use.wiggle, time - use.start, use.end - use.start)
        x, y = x + dx, y + dy
    free = _free(hand, x, y, use.grip)
    if use.grip == "wrap":
        turn += max(-38.0, min(38.0, 0.45 * pose.angle))
    side = 1.0 if free.right else -1.0
    yaw = free.yaw + side * GRIPS[use.grip].yaw + turn
    return HandPose(free.right, x, y, yaw, free.grip, free.centre, free.blend, free.elbow)


def _mix(a: HandPose, b: HandPose, share: float) -> HandPose:
    share = _smooth(share)

    def blend(p: float, q: float) -> float:
        return p + share * (q - p)

    grip = Grip(*(blend(p, q) for p, q in zip(a.grip, b.grip, strict=True)))
    elbow = (blend(a.elbow[0], b.elbow[0]), blend(a.elbow[1], b.elbow[1]))
    names = (a.centre, b.centre, share)
    return HandPose(a.right, blend(a.x, b.x), blend(a.y, b.y), blend(a.yaw, b.yaw), grip, "", names, elbow)


def hand_at(plan: Plan, hand: str, time: float) -> HandPose:
    """Return the pose of a hand of the right-handed layout."""
    uses = plan.uses[hand]
    gap = 0
    for use in uses:
        if time >= use.end:
            gap += 1
        elif time >= use.start:
            return _attached(plan, hand, use, time)
    before = uses[gap - 1] if gap else None
    after = uses[gap] if gap < len(uses) else None
    home_x, home_y = plan.homes[hand][gap]
    sway = 2.5 * math.sin(1.3 * time + gap)
    home = _free(hand, home_x + sway, home_y + 0.6 * sway, "rest")
    from_pose = _attached(plan, hand, before, before.end) if before else home
    to_pose = _attached(plan, hand, after, after.start) if after else home
    from_time = before.end if before else -10.0
    to_time = after.start if after else plan.duration + 10.0
    if to_time - from_time < 1.25:
        return _mix(from_pose, to_pose, (time - from_time) / (to_time - from_time))
    if time - from_time < 0.55:
        return _mix(from_pose, home, (time - from_time) / 0.55)
    if to_time - time < 0.6:
        return _mix(home, to_pose, 1 - (to_time - time) / 0.6)
    return home


def _head(plan: Plan, time: float) -> tuple[float, float, float, float]:
    rng = episode_rng(*plan.key, 1)
    calm = rng.uniform(0.5, 1.4)
    x = y = roll = 0.0
    for rate in (0.11, 0.23, 0.52):
        x += (
            calm
            * rng.uniform(2, 8)
            * math.sin(2 * math.pi * (rate * rng.uniform(0.8, 1.2) * time + rng.random()))
        )
        y += (
            calm
            * rng.uniform(1, 5)
            * math.sin(2 * math.pi * (rate * rng.uniform(0.8, 1.2) * time + rng.random()))
        )
        roll += rng.uniform(0.2, 1.4) * math.sin(
            2 * math.pi * (rate * rng.uniform(0.8, 1.2) * time + rng.random())
        )
    y += rng.uniform(0.2, 1.1) * math.sin(2 * math.pi * rng.uniform(1.2, 2.2) * time)
    x, y = x + rng.uniform(-12, 12), y + rng.uniform(-8, 14)
    roll += rng.uniform(-4, 4)
    zoom = rng.uniform(0.92, 1.1) * (1 + 0.025 * math.sin(2 * math.pi * (0.09 * time + rng.random())))
    for _ in range(int(rng.integers(0, 3))):  # fast turns: away, a moment there, and back
        start, length = rng.uniform(0, max(1.0, plan.duration - 1.5)), rng.uniform(0.9, 1.7)
        dx, dy, turn = rng.uniform(-95, 95), rng.uniform(-30, 18), rng.uniform(-5, 5)
        out = _smooth((time - start) / 0.3) * _smooth((start + length - time) / 0.35)
        x, y, roll = x + out * dx, y + out * dy, roll + out * turn
    for hand in (MAIN,):  # the eyes follow the work a little
        pose = hand_at(plan, hand, time)
        x, y = x + 0.08 * pose.x, y + 0.05 * min(pose.y, 100.0)
    return x, y, roll, zoom


def camera_at(plan: Plan, time: float) -> Camera:
    """Return the pose of the head camera, in the right-handed layout."""
    x, y, roll, zoom = _head(plan, time)
    before = _head(plan, time - 0.02)
    return Camera(x, y, roll, float(zoom), ((x - before[0]) / 0.02, (y - before[1]) / 0.02))


def shown_inside(plan: Plan, kind: str, time: float) -> str | None:
    """Return what an object was put on or into by `time`, or None."""
    parent = plan.tracks[kind].parent
    return parent[1] if parent is not None and time >= parent[0] else None


def is_hidden(plan: Plan, kind: str, time: float) -> bool:
    """Tell whether an object has vanished inside another one."""
    parent = plan.tracks[kind].parent
    if parent is None or time < parent[0] or not parent[2]:
        return False
    return kind != "spoon" and not (kind == "tomato" and parent[1] == "bowl") and KINDS[parent[1]].deep
