"""`egolive evaluate`: how good a model is on held-out simulated episodes, asked through the real engine and parser.

    egolive evaluate --data sim:test --model nano --episodes 200

Each figure stands beside its chance level and its 95 % interval. Windows that do not decide an answer (a goal that two
scripts still share, a next step that may go either way) are not asked about.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from egolive.assistant import machine
from egolive.assistant.answers import Answer, Question
from egolive.assistant.loading import load_engine
from egolive.assistant.session import Assistant
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Box, Frame, Interval, Slice, Window
from egolive.train.metrics import (
    bag_of_objects_accuracy,
    balanced_accuracy,
    best_constant_box,
    best_constant_interval,
    bootstrap,
    majority_share,
    mean,
    same_text,
)
from egolive.train.questions import HANDS, window_questions
from egolive.train.simulator.episode import FrameTruth, Plan, plan_episode, render_frame

__all__ = ["Scores", "evaluate", "report"]

FPS = 2.0
"""Sampled frames a second, as live."""
PICTURES = 3
"""Pictures asked about in each episode."""
WINDOWS = 3
"""Windows asked about in each episode."""

Figures = dict[str, float | list[float] | int]


@dataclass(slots=True)
class Scores:
    """What was asked and answered, by kind of question."""

    hands: list[tuple[Box | None, Answer]] = field(default_factory=list)
    objects: list[tuple[Box | None, Answer]] = field(default_factory=list)
    intents: list[tuple[str, str]] = field(default_factory=list)
    """(truth, said) pairs; likewise below."""
    bags: list[tuple[frozenset[str], str]] = field(default_factory=list)
    """Things visible in the windows asked about their intent, and the goal."""
    nexts: list[tuple[str, str]] = field(default_factory=list)
    whens: list[tuple[Interval, Answer, Interval]] = field(default_factory=list)
    """(truth, answer, window)."""


def evaluate(
    *,
    data: str = "sim:test",
    model: str = "nano",
    episodes: int = 200,
    slices: int = 8,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    json_file: Path | None = None,
    samples: Path | None = None,
) -> None:
    """Measure a model on held-out episodes; prints a table, then one JSON line.

    Args:
        data: "sim:test" or "sim:train", episodes of the simulator.
        model: "nano", a checkpoint folder, or a hub id.
        episodes: how many.
        slices: slices in a window.
        seed: of the simulator.
        device: auto, cpu or cuda.
        dtype: auto, float32 or bfloat16.
        threads: CPU threads.
        json_file: also write the JSON object here.
        samples: also write each question and answer here, one JSON line each.
    """
    split = data.removeprefix("sim:")
    if not data.startswith("sim:") or split not in ("train", "test"):
        raise ConfigError(f"data {data!r} is not known: use sim:test or sim:train")
    if episodes < 1 or slices < 1:
        raise ConfigError("at least one episode and one slice are needed")
    engine = load_engine(model, device=device, dtype=dtype, threads=threads)
    scores = Scores()
    lines: list[dict[str, object]] = []
    with Assistant(engine) as assistant, Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("episodes", total=episodes)
        for index in range(episodes):
            lines += ask_episode(assistant, index, split, seed, slices, scores)
            progress.advance(task)
    engine.close()
    figures = report(scores, training_bags(seed, slices))
    found = {"data": data, "model": model, "episodes": episodes, **figures, **machine.gather()}
    Console(stderr=True).print(table(figures))
    if samples:
        samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if json_file:
        json_file.write_text(json.dumps(found) + "\n")
    sys.stdout.write(json.dumps(found) + "\n")


def ask_episode(
    assistant: Assistant, index: int, split: str, seed: int, slices: int, scores: Scores
) -> list[dict[str, object]]:
    """Ask about some pictures and windows of one episode; adds to `scores`, returns a record a question."""
    plan = plan_episode(index, seed=seed, split=split)
    rng = random.Random(f"evaluate {split} {seed} {index}")
    lines: list[dict[str, object]] = []
    for time in (rng.uniform(0, plan.episode.duration - 0.1) for _ in range(PICTURES)):
        image, truth = render_frame(plan, time)
        for phrase, box in grounding_truth(truth):
            question = Question("ground", phrase)
            (answer,) = assistant.answer([question], window=None, picture=Frame(image, time, 0))
            (scores.hands if phrase in HANDS else scores.objects).append((box, answer))
            lines.append(record(index, time, question, list(box) if box else None, answer))
    last = max(0.0, plan.episode.duration - slices * 2 / FPS)
    for start in (rng.uniform(0, last) for _ in range(WINDOWS)):
        window, bag = render_window(plan, start, slices)
        span = window.interval
        asked = window_questions(plan.episode, span.start, span.end, rng)
        questions = [one.question for one in asked]
        answers = assistant.answer(questions, window=window, picture=window.newest) if questions else ()
        for one, answer in zip(asked, answers, strict=True):
            if one.question.task == "intent":
                scores.intents.append((one.text, answer.text))
                scores.bags.append((bag, one.text))
            elif one.question.task == "next":
                scores.nexts.append((one.text, answer.text))
            elif one.interval is not None:
                scores.whens.append((one.interval, answer, span))
            said = [one.interval.start, one.interval.end] if one.interval else one.text
            lines.append(record(index, span.end, one.question, said, answer))
    return lines


def grounding_truth(truth: FrameTruth) -> list[tuple[str, Box | None]]:
    """The four box questions of the live set, with their true boxes."""
    pairs: list[tuple[str, Box | None]] = []
    for hand in HANDS:
        held = truth.held.get(hand)
        rects = truth.boxes.get(hand), truth.boxes.get(held) if held else None
        for phrase, rect in zip((hand, f"object in the {hand}"), rects, strict=True):
            pairs.append((phrase, Box(*rect, label=phrase) if rect else None))
    return pairs


def render_window(plan: Plan, start: float, slices: int) -> tuple[Window, frozenset[str]]:
    """A window of the episode and the kinds of things that are visible anywhere in it."""
    frames, seen = [], set()
    for number in range(2 * slices):
        time = min(start + number / FPS, plan.episode.duration - 0.01)
        image, truth = render_frame(plan, time)
        frames.append(Frame(image, start + number / FPS, number))
        seen |= set(truth.boxes) - set(HANDS)
    pairs = zip(frames[::2], frames[1::2], strict=True)
    return Window(tuple(Slice(a, b, i) for i, (a, b) in enumerate(pairs))), frozenset(seen)


def training_bags(seed: int, slices: int, episodes: int = 150) -> list[tuple[frozenset[str], str]]:
    """What the bag-of-objects baseline learns from: objects laid out in training episodes, with their goal."""
    plans = [plan_episode(index, seed=seed, split="train") for index in range(episodes)]
    bags = []
    for plan in plans:
        rng = random.Random(f"bag {plan.episode.index}")
        start = rng.uniform(0, max(0.0, plan.episode.duration - slices * 2 / FPS))
        seen: set[str] = set()
        for number in range(0, 2 * slices, 4):
            _, truth = render_frame(plan, min(start + number / FPS, plan.episode.duration - 0.01))
            seen |= set(truth.boxes) - set(HANDS)
        bags.append((frozenset(seen), plan.episode.goal))
    return bags


def record(episode: int, time: float, question: Question, truth: object, answer: Answer) -> dict[str, object]:
    """One question, its truth and what was said, as plain values."""
    said: dict[str, object] = {"text": answer.text, "absent": answer.absent, "status": answer.status}
    said["boxes"] = [list(box) for box in answer.boxes]
    said["intervals"] = [[i.start, i.end] for i in answer.intervals]
    asked = {"task": question.task, "phrase": question.phrase}
    return {"episode": episode, "time": round(time, 3), **asked, "truth": truth, "said": said}


def report(scores: Scores, train_bags: Sequence[tuple[frozenset[str], str]]) -> Figures:
    """All figures, under the names that other programs read."""
    figures: Figures = {}

    def add(name: str, values: Sequence[float] | Sequence[bool], chance: float) -> None:
        figures[name] = round(mean(values), 4)
        figures[f"{name}_ci"] = [round(edge, 4) for edge in bootstrap(values)]
        figures[f"{name}_chance"] = round(chance, 4)
        figures[f"{name}_n"] = len(values)

    for name, pairs in (("hand", scores.hands), ("object", scores.objects)):
        there = [(box, answer) for box, answer in pairs if box is not None]
        overlaps = [max((box.iou(b) for b in answer.boxes[:1]), default=0.0) for box, answer in there]
        add(f"{name}_miou", overlaps, best_constant_box([box for box, _ in there]))
        absent = [box is None for box, _ in pairs]
        said = [not answer.boxes for _, answer in pairs]
        figures[f"{name}_absent_acc"] = round(balanced_accuracy(absent, said), 4)
        figures[f"{name}_absent_acc_chance"] = 0.5
        figures[f"{name}_absent_acc_n"] = len(pairs)
    add(
        "intent_acc",
        [same_text(s, t) for t, s in scores.intents],
        majority_share([t for t, _ in scores.intents]),
    )
    figures["intent_acc_bag_of_objects"] = round(bag_of_objects_accuracy(train_bags, scores.bags), 4)
    add("next_acc", [same_text(s, t) for t, s in scores.nexts], majority_share([t for t, _ in scores.nexts]))
    overlaps = [max((truth.iou(i) for i in a.intervals[:1]), default=0.0) for truth, a, _ in scores.whens]
    chance = best_constant_interval([truth.shift(-window.start) for truth, _, window in scores.whens])
    add("interval_miou", overlaps, chance)
    add("interval_r1_iou50", [value >= 0.5 for value in overlaps], float("nan"))
    figures.pop("interval_r1_iou50_chance")
    figures["n"] = sum(map(len, (scores.hands, scores.objects, scores.intents, scores.nexts, scores.whens)))
    return figures


def table(figures: Figures) -> Table:
    """The figures for people."""
    drawn = Table(
        "measure", "value", "95 % interval", "chance", "questions", title="Held-out simulated episodes"
    )
    names = [n for n in figures if not n.endswith(("_ci", "_chance", "_n")) and n != "n"]
    for name in names:
        interval = figures.get(f"{name}_ci")
        shown = f"{interval[0]:.3f} to {interval[1]:.3f}" if isinstance(interval, list) else ""
        chance = figures.get(f"{name}_chance")
        drawn.add_row(
            name,
            f"{figures[name]:.3f}",
            shown,
            f"{chance:.3f}" if chance is not None else "",
            str(figures.get(f"{name}_n", "")),
        )
    return drawn
