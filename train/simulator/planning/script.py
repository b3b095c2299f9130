"""The timeline of one episode: times of its steps, and the paths of objects and hands.

`plan.py` says what a plan holds, `motion.py` evaluates it at any time.
"""

from collections.abc import Sequence

import numpy as np

from egolive.train.simulator.objects.appearance import first_look, look_after
from egolive.train.simulator.objects.kinds import KINDS
from egolive.train.simulator.planning.goals import GOALS, HELD_OUT, GoalRule, StepRule, goal_rule
from egolive.train.simulator.planning.placement import place_things
from egolive.train.simulator.planning.plan import (
    MAIN,
    OTHER,
    Effect,
    HandUse,
    Plan,
    Pose,
    Segment,
    Step,
    Track,
    episode_rng,
)

__all__ = ["plan_episode"]

# How likely the other hand steadies the target (or the thing itself, where nothing else is acted on).
_STEADY = {
    "add": 0.6, "close": 0.4, "cut": 0.9, "glue": 0.75, "open": 0.95, "pour": 0.7, "put": 0.12, "shake": 0.3,
    "spread": 0.8, "stir": 0.85, "switch on": 0.2, "tap": 0.85, "turn": 0.9, "wipe": 0.6, "wrap": 0.85,
    "write": 0.75,
}  # fmt: skip
_WIGGLE = {
    "stir": "circle", "cut": "saw", "spread": "sweep", "write": "scribble", "turn": "twist", "tap": "knock",
    "glue": "drift", "wipe": "rub", "wrap": "sweep", "shake": "shake", "pour": "still", "drink": "still",
}  # fmt: skip
_TILT = {"kettle": -38.0, "bottle": -106.0, "carton": -98.0, "box": -82.0}


def plan_episode(index: int, *, seed: int = 0, split: str = "train") -> Plan:
    """Plan one episode without drawing anything.

    Args:
        index: Running number of the episode, from 0.
        seed: Seed of the whole data set.
        split: "train" or "test"; the test split has other looks and, in part, held-out goal and object pairs.

    Raises:
        ValueError: `split` is neither.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")
    rng = episode_rng(seed, split, index, 0)
    rule = goal_rule(GOALS[int(rng.integers(len(GOALS)))])
    slots, held_out = _choose_slots(rng, rule, split)
    sequences = list(rule.sequences(slots))
    sequence = sequences[int(rng.integers(len(sequences)))]
    distractors = _distractors(rng, rule, sequence)
    centre = {step.target for step in sequence} | {step.object for step in sequence if not step.target}
    around = {kind for step in sequence for kind in (step.object, step.via)} - centre
    rests = place_things(rng, sorted(centre - {""}), sorted(around - {""}), distractors)
    builder = _Builder(rng, {kind: Pose(*rest) for kind, rest in rests.items()}, sequence)
    for step in sequence:
        builder.add(step)
    duration = round(builder.now + float(rng.uniform(0.6, 1.6)), 3)
    mirror = bool(rng.random() < 0.12)
    variant = {**slots, "held_out": "yes" if held_out else "no", "handed": "left" if mirror else "right"}
    homes = {hand: _homes(rng, hand, len(builder.uses[hand]) + 1) for hand in (MAIN, OTHER)}
    return Plan(
        seed, split, index, rule.name, tuple(builder.steps), duration, variant, mirror, builder.tracks,
        builder.uses, builder.effects, homes,
    )  # fmt: skip


def _choose_slots(rng: np.random.Generator, rule: GoalRule, split: str) -> tuple[dict[str, str], bool]:
    def is_held_out(slots: dict[str, str]) -> bool:
        return any((rule.name, slot, kind) in HELD_OUT for slot, kind in slots.items())

    fillings = list(rule.fillings())
    wanted = [f for f in fillings if is_held_out(f)] if split == "test" and rng.random() < 0.35 else []
    wanted = wanted or [f for f in fillings if not is_held_out(f)]
    slots = wanted[int(rng.integers(len(wanted)))]
    return slots, is_held_out(slots)


def _distractors(rng: np.random.Generator, rule: GoalRule, sequence: Sequence[StepRule]) -> list[str]:
    """Choose up to 5 objects of other goals, so that the visible objects do not determine the goal."""
    present = {kind for step in sequence for kind in (step.object, step.target, step.via) if kind}
    chosen: list[str] = []
    room = min(5, 11 - len(present))
    for likely in (0.92, 0.7):
        if rng.random() > likely:
            break
        decoys = []
        for name in GOALS:
            other = goal_rule(name)
            for slots in other.fillings() if name != rule.name else ():
                steps = next(iter(other.sequences(slots)))
                kept = [step for step in steps if not step.optional or rng.random() < 0.5]
                needed = {kind for s in kept for kind in (s.object, s.target, s.via) if kind}
                missing = sorted(needed - present - set(chosen))
                if len(missing) <= room - len(chosen):
                    decoys.append(missing)
        if decoys:
            chosen += decoys[int(rng.integers(len(decoys)))]
    if not chosen:
        others = sorted(set(KINDS) - present)
        chosen = [others[int(i)] for i in rng.permutation(len(others))[: int(rng.integers(0, 4))]]
    return chosen


def _homes(rng: np.random.Generator, hand: str, count: int) -> list[tuple[float, float]]:
    side = 1.0 if hand == MAIN else -1.0
    away = 0.62 if hand == MAIN else 0.5
    places = []
    for _ in range(count):
        if rng.random() < away:
            places.append((side * rng.uniform(100, 200), rng.uniform(205, 235)))
        else:
            places.append((side * rng.uniform(75, 160), rng.uniform(60, 105)))
    return [(float(x), float(y)) for x, y in places]


class _Builder:
    """Writes the steps one after another into tracks, uses and effects."""

    def __init__(
        self, rng: np.random.Generator, rests: dict[str, Pose], sequence: Sequence[StepRule]
    ) -> None:
        self.rng = rng
        self.now = float(rng.uniform(0.5, 1.5))
        starts = {(kind, tag) for step in sequence for kind, tag in step.start}
        used = {kind for step in sequence for kind in (step.object, step.target, step.via)}
        self.tracks: dict[str, Track] = {}
        for kind, rest in rests.items():
            tags = {tag for name, tag in starts if name == kind}
            if kind == "box" and any(s.target == "box" and s.verb == "put" for s in sequence[:2]):
                tags.add("open")
            if (
                kind == "jar"
                and ("jar", "open") not in starts
                and not any(s.verb == "open" for s in sequence)
            ):
                tags |= {"open"} if kind in used and rng.random() < 0.3 else set()
            full = kind in ("mug", "glass") and kind not in used and rng.random() < 0.3
            self.tracks[kind] = Track(rest, [(0.0, first_look(kind, frozenset(tags), full=full))])
        self.uses: dict[str, list[HandUse]] = {MAIN: [], OTHER: []}
        self.effects: list[Effect] = []
        self.steps: list[Step] = []

    def _span(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def _rest(self, kind: str) -> Pose:
        track = self.tracks[kind]
        return track.segments[-1].finish if track.segments else track.rest

    def _change(
        self, kind: str, verb: str, times: Sequence[float], fluid: str = "", with_kind: str = ""
    ) -> None:
        for part, time in enumerate(times, start=1):
            look = look_after(kind, self.tracks[kind].looks[-1][1], verb, fluid, with_kind, part / len(times))
            self.tracks[kind].looks.append((time, look))

    def add(self, rule: StepRule) -> None:
        """Append one step and the idle moment after it."""
        start = self.now
        grasp = start + self._span(0.5, 0.8)
        ready = grasp + self._span(0.3, 0.5)
        done = ready + self._span(1.3, 2.5) + (0.6 if rule.via else 0.0)
        back = done + self._span(0.45, 0.7)
        end = back + self._span(0.1, 0.2)
        moved = rule.verb not in ("open", "close", "switch on")
        hand, other = MAIN, OTHER
        rest = self._rest(rule.object)
        one_handed = rule.verb in ("put", "switch on", "close")
        if one_handed and rest.x < 10 and self.rng.random() < 0.7:
            hand, other = OTHER, MAIN
        if moved:
            self._move(rule, hand, (grasp, ready, done, back), rest)
        else:
            self._touch(rule, hand, grasp, done)
        steadied = rule.target or (rule.object if not moved else "")
        likely = _STEADY.get(rule.verb, 0.0) * (0.4 if rule.object == "notebook" else 1.0)
        if steadied and self.rng.random() < likely and not (one_handed and hand == OTHER):
            kind = KINDS[steadied]
            begin = grasp + self._span(-0.25, 0.2)
            stop = done + self._span(-0.1, 0.3)
            self.uses[other].append(HandUse(begin, stop, steadied, kind.hold, kind.hold_at, acting=False))
        self._looks(rule, ready, done)
        self.steps.append(Step(rule.text, rule.verb, rule.object, rule.target, start, end))
        self.now = end + self._span(0.2, 0.8)

    def _touch(self, rule: StepRule, hand: str, grasp: float, done: float) -> None:
        kind = KINDS[rule.object]
        if rule.verb == "switch on":
            use = HandUse(grasp, done, rule.object, "press", kind.grip_at, True, "poke")
        elif rule.object in ("jar", "bottle"):
            use = HandUse(grasp, done, rule.object, "top", (kind.mouth[0], kind.mouth[1] - 4), True, "twist")
        else:
            use = HandUse(grasp, done, rule.object, "edge", (26.0, kind.mouth[1] + 6), True, "fold")
        self.uses[hand].append(use)

    def _move(self, rule: StepRule, hand: str, times: tuple[float, float, float, float], rest: Pose) -> None:
        grasp, ready, done, back = times
        kind = KINDS[rule.object]
        side = 1.0 if hand == MAIN else -1.0
        grip_at = (side * kind.grip_at[0], kind.grip_at[1])
        self.uses[hand].append(HandUse(grasp, back, rule.object, kind.grip, grip_at, acting=True))
        path = self.tracks[rule.object].segments
        finish = rest._replace(x=rest.x + self._span(-6, 6), y=rest.y + self._span(-4, 4))
        wiggle = _WIGGLE.get(rule.verb, "still")
        if rule.verb == "put":
            finish, hidden = self._put_pose(rule)
            done = ready + 0.5 * (done - ready)
            self.tracks[rule.object].parent = (done + 0.5 * (back - done), rule.target, hidden)
            above = Pose(finish.x, finish.y - 22, 0.6 * finish.angle, 1.0)
            path.append(Segment(grasp, done, rest, above))
            path.append(Segment(done, back, above, finish))
            return
        act = self._act_pose(rule, rule.target, rest)
        if rule.via:
            dip = self._act_pose(rule, rule.via, rest)
            a, b = ready + 0.3 * (done - ready), ready + 0.6 * (done - ready)
            path += [Segment(grasp, ready, rest, dip), Segment(ready, a, dip, dip, "dip")]
            path += [Segment(a, b, dip, act), Segment(b, done, act, act, "dip")]
        else:
            path += [Segment(grasp, ready, rest, act), Segment(ready, done, act, act, wiggle)]
        path.append(Segment(done, back, act, finish))

    def _act_pose(self, rule: StepRule, target: str, rest: Pose) -> Pose:
        if rule.verb == "drink":
            return Pose(0.4 * rest.x, 82.0, -14.0, 2.6)
        tool, place = KINDS[rule.object], self._rest(target)
        spot = (place.x + KINDS[target].mouth[0], place.y + KINDS[target].mouth[1])
        angle, dx, dy = {
            "pour": (_TILT.get(rule.object, -90.0), 5.0, -26.0),
            "shake": (-148.0, 2.0, -30.0),
            "stir": (-146.0, 2.0, 9.0),
            "add": (-142.0, 2.0, 6.0),
            "cut": (-48.0, 4.0, 0.0),
            "spread": (-58.0, 6.0, 0.0),
            "write": (-38.0, 2.0, 2.0),
            "turn": (-40.0, 4.0, 0.0),
            "tap": (-34.0, 2.0, -4.0),
            "glue": (-140.0, 2.0, -4.0),
            "wipe": (8.0, 0.0, 0.0),
            "wrap": (0.0, 0.0, 0.0),
        }[rule.verb]
        angle += self._span(-7, 7)
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        x = spot[0] + dx - (c * tool.tip[0] - s * tool.tip[1])
        y = spot[1] + dy - (s * tool.tip[0] + c * tool.tip[1])
        return Pose(float(x), float(y), angle, 1.0)

    def _put_pose(self, rule: StepRule) -> tuple[Pose, bool]:
        place, kind = self._rest(rule.target), KINDS[rule.target]
        thing = KINDS[rule.object]
        into = " in the " in rule.text and kind.deep
        x, y = place.x + kind.mouth[0], place.y + kind.mouth[1]
        if into and rule.object == "spoon":
            return Pose(x + 10, y - 14, -158.0), True
        if into and rule.target == "bowl":
            return Pose(x + self._span(-8, 8), y + 2, 0.0), True
        if into:
            return Pose(x, y + 0.35 * thing.height, 0.0), True
        return Pose(x + self._span(-4, 4), y - 2, self._span(-10, 10)), False

    def _looks(self, rule: StepRule, ready: float, done: float) -> None:
        late = ready + 0.85 * (done - ready)
        thirds = [ready + share * (done - ready) for share in (0.35, 0.65, 0.95)]
        if rule.verb == "pour":
            self.effects.append(Effect(ready + 0.05, done - 0.05, rule.object, rule.target, rule.fluid))
            self._change(rule.target, "pour", thirds, rule.fluid)
        elif rule.verb == "shake":
            self.effects.append(Effect(ready, done, rule.object, rule.target, "salt"))
            self._change(rule.target, "shake", [late])
        elif rule.verb in ("open", "close", "switch on"):
            self._change(rule.object, rule.verb, [ready + 0.6 * (done - ready)])
        elif rule.verb == "drink":
            self._change(rule.object, "drink", thirds[1:])
        elif rule.verb == "put":
            self._change(rule.target, "put", [ready + 0.5 * (done - ready)], with_kind=rule.object)
        elif rule.verb in ("cut", "spread", "write", "wrap", "wipe"):
            self._change(rule.target, rule.verb, thirds)
        else:
            self._change(rule.target, rule.verb, [late])
