"""`egolive bench tracking`: accuracy of boxes on the picture that is shown, from answers that are late.

    egolive bench tracking --episodes 20

An artificial engine answers the truth about the frame it saw, always late; then it asks the newest one. What
is shown with each frame meanwhile is compared with the truth about that frame: tracked boxes, boxes that
stay where they were (hold), boxes that go on as between the last two answers (constant velocity).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal, Protocol

import cv2
import numpy as np
from cyclopts import Parameter
from rich.console import Console
from rich.progress import track
from rich.table import Table

from egolive.assistant.live.box_tracking import BoxTracker
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.system import machine
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Box, Frame
from egolive.streaming.metrics import known
from egolive.train.evaluate.measures import bootstrap, mean
from egolive.train.simulator.episode import HANDS, FrameTruth, plan_episode, render_frame

__all__ = ["Side", "Sight", "compare", "measure", "tracking"]

Split = Literal["train", "test"]
_SIZES = ((448, 252), (1280, 720))
"""Width and height of the pictures on which the cost is measured."""
_COST_FPS = 30
"""Frames a second at which it is measured, with answers a second late."""
_VANISHED = 0.5
"""Seconds for which a target is away before it counts as lost, and within which its box should be gone."""


class Side(Protocol):
    """One way to show answers that are late."""

    def carry(self, frame: Frame, answers: Sequence[Answer]) -> Sequence[Answer]:
        """Take the frame that is shown and the newest answers; return them as they are shown with it."""
        ...


class Hold:
    """Shows each box where it was found."""

    def carry(self, frame: Frame, answers: Sequence[Answer]) -> Sequence[Answer]:
        """Change nothing."""
        return answers


class ConstantVelocity:
    """Lets the middle of each box go on as fast as between the last two answers."""

    def __init__(self) -> None:
        self._before: dict[Question, Answer] = {}
        self._newest: dict[Question, Answer] = {}

    def carry(self, frame: Frame, answers: Sequence[Answer]) -> Sequence[Answer]:
        """Move boxes on from their last two places; those of which only one is known stay."""
        newest = {answer.question: answer for answer in answers}
        if newest != self._newest:
            self._before, self._newest = self._newest, newest
        return [self._moved(answer, frame.time) for answer in answers]

    def _moved(self, answer: Answer, now: float) -> Answer:
        before = self._before.get(answer.question)
        if before is None or not before.boxes or not answer.boxes:
            return answer
        box, old = answer.boxes[0], before.boxes[0]
        share = (now - answer.time) / (answer.time - before.time)
        across = share * (box.x1 + box.x2 - old.x1 - old.x2) / 2
        down = share * (box.y1 + box.y2 - old.y1 - old.y2) / 2
        moved = replace(box, x1=box.x1 + across, x2=box.x2 + across, y1=box.y1 + down, y2=box.y2 + down)
        return replace(answer, boxes=(moved,))


@dataclass(frozen=True, slots=True)
class Sight:
    """What one side shows of one answered target on one frame."""

    phrase: str
    asked: int
    """Index of the frame that was answered."""
    time: float
    """Of the frame that is shown, seconds."""
    there: bool
    """The target can still be seen, and is still held if that was asked for."""
    shown: bool
    overlap: float
    """IoU with the truth about this frame; 0 where nothing is shown or the target is away."""


def compare(
    frames: Sequence[Frame], truths: Sequence[FrameTruth], sides: dict[str, Side], *, delay: float
) -> dict[str, list[Sight]]:
    """Play frames past the artificial engine.

    Args:
        frames: Of one episode, in order.
        truths: One for each.
        sides: What is compared, by name.
        delay: Seconds from the capture of the frame that the engine sees to its answers.

    Returns:
        For each side, what it shows of each answered target on each frame; the same targets for all.
    """
    sights: dict[str, list[Sight]] = {name: [] for name in sides}
    asked, answered = 0, -1
    answers: list[Answer] = []
    for number, frame in enumerate(frames):
        if frame.time >= frames[asked].time + delay - 1e-6:
            answers = list(_answers(truths[asked], frames[asked].time))
            asked, answered = number, asked
        truth = _targets(truths[number])
        for name, side in sides.items():
            for answer, shown in zip(answers, side.carry(frame, answers), strict=True):
                phrase = answer.question.phrase
                target, _ = _targets(truths[answered])[phrase]
                there = phrase in truth and truth[phrase][0] == target
                overlap = truth[phrase][1].iou(shown.boxes[0]) if there and shown.boxes else 0.0
                sights[name].append(Sight(phrase, answered, frame.time, there, bool(shown.boxes), overlap))
    return sights


def measure(
    *, episodes: int, split: Split = "test", seed: int = 0, fps: float = 15.0, delay: float = 1.0
) -> dict[str, object]:
    """All figures, under the names that other programs read.

    Args:
        episodes: Of the simulator, from the first one on.
        split: "train" or "test".
        seed: Of the simulator.
        fps: Frames a second that are shown.
        delay: Seconds from the capture of a frame to its answers.
    """
    # One core, as much as there may be beside an engine.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        found = [
            _episode(index, split, seed, fps, delay)
            for index in track(range(episodes), "episodes", console=Console(stderr=True), transient=True)
        ]
        cost = {f"{size[0]}x{size[1]}": _cost(size, split, seed) for size in _SIZES}
    finally:
        cv2.setNumThreads(threads)
    figures: dict[str, object] = {"episodes": episodes, "split": split, "fps": fps, "delay_s": delay}
    for name in found[0]:
        figures[name] = _figures([sights[name] for sights in found])
    best = max(_overlap(found, name) for name in ("hold", "constant_velocity"))
    figures["gain"] = round(_overlap(found, "carried") - best, 4)
    return figures | {"cost_ms": cost}


def tracking(
    *,
    episodes: int = 20,
    split: Split = "test",
    seed: int = 0,
    fps: float = 15.0,
    delay: float = 1.0,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Measure how well late boxes are carried to now; prints a table, then one JSON line.

    Args:
        episodes: How many simulated episodes.
        split: Which ones: those held out (test) or those for training and tuning (train).
        seed: Of the simulator.
        fps: Frames a second that are shown.
        delay: Seconds from the capture of a frame to its answers.
        json_file: Also write the JSON object here.
    """
    if episodes < 1 or not 0 < fps <= 120 or not 0 < delay < 10:
        raise ConfigError("at least one episode, an fps from 1 to 120 and a delay below 10 s are needed")
    if json_file is not None and not json_file.parent.is_dir():
        raise ConfigError(f"cannot write {json_file}: there is no folder {json_file.parent}")
    figures = measure(episodes=episodes, split=split, seed=seed, fps=fps, delay=delay)
    Console(stderr=True).print(_table(figures))
    line = json.dumps(known(figures | machine.gather())) + "\n"
    if json_file is not None:
        json_file.write_text(line, encoding="utf-8")
    sys.stdout.write(line)


def _episode(index: int, split: Split, seed: int, fps: float, delay: float) -> dict[str, list[Sight]]:
    plan = plan_episode(index, seed=seed, split=split)
    pairs = [render_frame(plan, number / fps) for number in range(int(plan.duration * fps))]
    frames = [Frame(image, number / fps, number) for number, (image, _) in enumerate(pairs)]
    sides: dict[str, Side] = {
        "carried": BoxTracker(),
        "hold": Hold(),
        "constant_velocity": ConstantVelocity(),
    }
    return compare(frames, [truth for _, truth in pairs], sides, delay=delay)


def _targets(truth: FrameTruth) -> dict[str, tuple[str, Box]]:
    """What the box questions of the live set ask for and can be seen: by phrase, its name and its box."""
    found = {}
    for hand in HANDS:
        held = truth.held.get(hand)
        for phrase, name in ((hand, hand), (f"object in the {hand}", held)):
            if name is not None and name in truth.boxes:
                found[phrase] = (name, Box(*truth.boxes[name], label=phrase))
    return found


def _answers(truth: FrameTruth, at: float, factor: float = 1.0) -> Iterator[Answer]:
    """What an engine that is always right says of a frame that is `factor` times as large."""
    for phrase, (_, box) in _targets(truth).items():
        x1, y1, x2, y2 = (factor * value for value in box)
        yield Answer(Question("ground", phrase), "", boxes=(Box(x1, y1, x2, y2, phrase),), time=at)


def _overlap(found: Sequence[dict[str, list[Sight]]], name: str) -> float:
    return mean([sight.overlap for sights in found for sight in sights[name] if sight.there])


def _figures(episodes: Sequence[Sequence[Sight]]) -> dict[str, object]:
    """One side in figures.

    `miou` is taken over all frames on which the answered target can be seen: a box that is taken away too
    early counts 0. `miou_shown` leaves those out.
    """
    there = [[sight for sight in sights if sight.there] for sights in episodes]
    flat = [sight for sights in there for sight in sights]
    away = [seconds for sights in episodes for seconds in _vanishing(sights)]
    # Frames of one episode are alike: episodes are what is drawn again.
    interval = bootstrap([mean([sight.overlap for sight in sights]) for sights in there if sights])
    return {
        "miou": _round(mean([sight.overlap for sight in flat])),
        "miou_ci": [_round(edge) for edge in interval],
        "miou_hands": _round(mean([sight.overlap for sight in flat if sight.phrase in HANDS])),
        "miou_held": _round(mean([sight.overlap for sight in flat if sight.phrase not in HANDS])),
        "miou_shown": _round(mean([sight.overlap for sight in flat if sight.shown])),
        "shown": _round(mean([sight.shown for sight in flat])),
        "n": len(flat),
        "lost_n": len(away),
        "lost_s_mean": _round(mean(away)),
        "lost_s_p90": _round(float(np.percentile(away, 90)) if away else float("nan")),
        "lost_within_half_a_second": _round(mean([seconds <= _VANISHED for seconds in away])),
    }


def _vanishing(sights: Sequence[Sight]) -> Iterator[float]:
    """Seconds for which each lost target was still shown, until its box went for good or was replaced."""
    by_answer = sorted(sights, key=lambda sight: (sight.phrase, sight.asked, sight.time))
    for _, one_answer in groupby(by_answer, key=lambda sight: (sight.phrase, sight.asked)):
        for there, run in groupby(one_answer, key=lambda sight: sight.there):
            spell = list(run)
            frame = (spell[-1].time - spell[0].time) / max(1, len(spell) - 1)
            if not there and spell[-1].time - spell[0].time + frame >= _VANISHED - 1e-6:
                last = max((sight.time for sight in spell if sight.shown), default=None)
                yield 0.0 if last is None else last - spell[0].time + frame


def _cost(size: tuple[int, int], split: Split, seed: int) -> dict[str, float | None]:
    """Processor milliseconds to carry boxes to a frame: most frames, and those with answers a second late."""
    plan = plan_episode(0, seed=seed, split=split)
    tracker = BoxTracker()
    times: dict[bool, list[float]] = {True: [], False: []}
    seen: list[list[Answer]] = []
    for number in range(5 * _COST_FPS):
        image, truth = render_frame(plan, number / _COST_FPS)
        factor = size[0] / image.shape[1]
        large = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
        seen.append(list(_answers(truth, number / _COST_FPS, factor)))
        answers = seen[(number // _COST_FPS - 1) * _COST_FPS] if number >= _COST_FPS else []
        start = time.thread_time()
        tracker.carry(Frame(large, number / _COST_FPS, number), answers)
        fresh = number % _COST_FPS == 0
        if answers:
            times[fresh].append(1e3 * (time.thread_time() - start))
    return {
        "frame": _round(float(np.median(times[False]))),
        "new_answers": _round(float(np.median(times[True]))),
    }


def _table(figures: dict[str, object]) -> Table:
    title = f"Boxes {figures['delay_s']} s late, on {figures['episodes']} episodes ({figures['split']})"
    drawn = Table(title=title)
    drawn.add_column(no_wrap=True)
    for name in ("carried", "hold", "constant velocity"):
        drawn.add_column(name, justify="right")
    sides = [figures[name] for name in ("carried", "hold", "constant_velocity")]
    for key, label in (
        ("miou", "mean IoU on the shown frame"),
        ("miou_ci", "  95 % interval"),
        ("miou_hands", "  hands"),
        ("miou_held", "  held objects"),
        ("miou_shown", "  where shown"),
        ("shown", "share shown"),
        ("n", "targets and frames"),
        ("lost_s_mean", "seconds shown after the loss"),
        ("lost_s_p90", "  90 % at most"),
        ("lost_within_half_a_second", "  share gone in 0.5 s"),
        ("lost_n", "lost targets"),
    ):
        drawn.add_row(label, *(_text(side[key]) for side in sides if isinstance(side, dict)))
    drawn.add_row("gain over the better other", _text(figures["gain"]))
    if isinstance(cost := figures["cost_ms"], dict):
        for size, spent in cost.items():
            both = f"{_text(spent['frame'])}, {_text(spent['new_answers'])} with new answers"
            drawn.add_row(f"processor ms a frame, {size}", both)
    return drawn


def _text(value: object) -> str:
    if isinstance(value, list):
        return " to ".join(_text(edge) for edge in value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _round(value: float) -> float | None:
    """Four decimals, or None for NaN, which JSON does not have."""
    return None if np.isnan(value) else round(float(value), 4)
