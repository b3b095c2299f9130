"""`egolive evaluate`: how good a model is on held-out episodes, asked through the real engine and parser.

    egolive evaluate --data sim:test --model nano --episodes 200

Each figure stands beside its chance level and its 95 % interval. Windows that do not decide an answer (a
goal that two scripts still share, a next step that may go either way) are not asked about.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from egolive.assistant import machine
from egolive.assistant.answers import Answer, Question
from egolive.assistant.loading import load_engine
from egolive.assistant.session import Assistant
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Box, Frame, Image, Interval, Slice, Window
from egolive.train.card import add_measurements
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
from egolive.train.simulator.episode import FrameTruth, Plan, episode_of, plan_episode, render_frame

__all__ = ["Scores", "evaluate", "report"]

FPS = 2.0
"""Sampled frames a second, as live."""
PICTURES = 3
"""Pictures asked about in each episode."""
WINDOWS = 3
"""Windows asked about in each episode."""

BAG_EVERY = 4
"""Every so many-th frame of a window is looked at for its bag of visible objects."""

Figures = dict[str, float | list[float | None] | int | None]
"""Measures by name; None where nothing was asked."""


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
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    samples: Path | None = None,
    card: Path | None = None,
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
        card: also put the table into the card (README.md) of this model folder.
    """
    split = data.removeprefix("sim:")
    if not data.startswith("sim:") or split not in ("train", "test"):
        raise ConfigError(f"data {data!r} is not known: use sim:test or sim:train")
    if episodes < 1 or slices < 1:
        raise ConfigError("at least one episode and one slice are needed")
    for path in (json_file, samples):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"cannot write {path}: there is no folder {path.parent}")
    scores = Scores()
    lines: list[dict[str, object]] = []
    with (
        closing(load_engine(model, device=device, dtype=dtype, threads=threads)) as engine,
        Assistant(engine) as assistant,
        Progress(console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("episodes", total=episodes)
        for index in range(episodes):
            lines += ask_episode(assistant, index, split, seed, slices, scores)
            progress.advance(task)
    figures = report(scores, training_bags(seed, slices))
    found = {"data": data, "model": model, "episodes": episodes, **figures, **machine.gather()}
    Console(stderr=True).print(table(figures))
    if samples:
        samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if json_file:
        json_file.write_text(json.dumps(found) + "\n")
    sys.stdout.write(json.dumps(found) + "\n")
    if card:
        command = f"egolive evaluate --data {data} --episodes {episodes} --seed {seed}"
        add_measurements(card, markdown(figures), command, str(machine.processor().get("name", "a CPU")))


def ask_episode(
    assistant: Assistant, index: int, split: str, seed: int, slices: int, scores: Scores
) -> list[dict[str, object]]:
    """Ask about some pictures and windows of one episode; adds to `scores`, returns a record a question."""
    plan = plan_episode(index, seed=seed, split=split)
    episode = episode_of(plan, fps=FPS)
    rng = random.Random(f"evaluate {split} {seed} {index}")
    lines: list[dict[str, object]] = []
    for time in (rng.uniform(0, plan.duration - 0.1) for _ in range(PICTURES)):
        image, truth = render_frame(plan, time)
        boxes = grounding_truth(truth)
        # All pictures carry the same number, by which the session would take one for the other.
        assistant.forget()
        answers = assistant.answer(
            [Question("ground", phrase) for phrase, _ in boxes], picture=Frame(image, time, 0)
        )
        for (phrase, box), answer in zip(boxes, answers, strict=True):
            (scores.hands if phrase in HANDS else scores.objects).append((box, answer))
            lines.append(record(index, time, answer.question, list(box) if box else None, answer))
    last = max(0.0, plan.duration - slices * 2 / FPS)
    for start in (rng.uniform(0, last) for _ in range(WINDOWS)):
        window, bag = render_window(plan, start, slices)
        span = window.interval
        asked = window_questions(episode, span.start, span.end, rng)
        assistant.forget()
        answers = assistant.answer([one.question for one in asked], window=window)
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
    """A window of the episode and its bag of visible objects."""
    rendered = [render_at(plan, start + number / FPS) for number in range(2 * slices)]
    frames = [Frame(image, start + number / FPS, number) for number, (image, _) in enumerate(rendered)]
    pairs = zip(frames[::2], frames[1::2], strict=True)
    window = Window(tuple(Slice(a, b, i) for i, (a, b) in enumerate(pairs)))
    return window, bag_of([truth for _, truth in rendered[::BAG_EVERY]])


def render_at(plan: Plan, time: float) -> tuple[Image, FrameTruth]:
    """The frame at a time, or the episode's last one where it is over by then."""
    return render_frame(plan, min(time, plan.duration - 0.01))


def bag_of(truths: Sequence[FrameTruth]) -> frozenset[str]:
    """Kinds of things that are visible in any of these frames."""
    return frozenset(name for truth in truths for name in truth.boxes) - set(HANDS)


def training_bags(seed: int, slices: int, episodes: int = 300) -> list[tuple[frozenset[str], str]]:
    """What the bag-of-objects baseline learns from: the bag of one window an episode, with the goal."""
    bags = []
    for index in range(episodes):
        plan = plan_episode(index, seed=seed, split="train")
        start = random.Random(f"bag {index}").uniform(0, max(0.0, plan.duration - slices * 2 / FPS))
        times = [start + number / FPS for number in range(0, 2 * slices, BAG_EVERY)]
        bags.append((bag_of([render_at(plan, time)[1] for time in times]), plan.goal))
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
        figures[name] = rounded(mean(values))
        figures[f"{name}_ci"] = [rounded(edge) for edge in bootstrap(values)]
        figures[f"{name}_chance"] = rounded(chance)
        figures[f"{name}_n"] = len(values)

    for name, pairs in (("hand", scores.hands), ("object", scores.objects)):
        there = [(box, answer) for box, answer in pairs if box is not None]
        overlaps = [max((box.iou(b) for b in answer.boxes[:1]), default=0.0) for box, answer in there]
        add(f"{name}_miou", overlaps, best_constant_box([box for box, _ in there]))
        absent = [box is None for box, _ in pairs]
        # An answer that cannot be read is wrong either way.
        said = [answer.absent if box is None else not answer.boxes for box, answer in pairs]
        figures[f"{name}_absent_acc"] = rounded(balanced_accuracy(absent, said))
        figures[f"{name}_absent_acc_chance"] = 0.5
        figures[f"{name}_absent_acc_n"] = len(pairs)
    add(
        "intent_acc",
        [same_text(s, t) for t, s in scores.intents],
        majority_share([t for t, _ in scores.intents]),
    )
    figures["intent_acc_bag_of_objects"] = rounded(bag_of_objects_accuracy(train_bags, scores.bags))
    add("next_acc", [same_text(s, t) for t, s in scores.nexts], majority_share([t for t, _ in scores.nexts]))
    overlaps = [max((truth.iou(i) for i in a.intervals[:1]), default=0.0) for truth, a, _ in scores.whens]
    chance = best_constant_interval([truth.shift(-window.start) for truth, _, window in scores.whens])
    add("interval_miou", overlaps, chance)
    add("interval_r1_iou50", [value >= 0.5 for value in overlaps], float("nan"))
    figures.pop("interval_r1_iou50_chance")
    kinds = (scores.hands, scores.objects, scores.intents, scores.nexts, scores.whens)
    figures["n"] = sum(len(kind) for kind in kinds)
    return figures


def rounded(value: float) -> float | None:
    """Four decimals, or None for NaN, which JSON does not have."""
    return None if math.isnan(value) else round(value, 4)


COLUMNS = ("measure", "value", "95 % interval", "chance", "questions")


def table(figures: Figures) -> Table:
    """The figures for people."""
    drawn = Table(*COLUMNS, title="Held-out simulated episodes")
    for row in rows(figures):
        drawn.add_row(*row)
    return drawn


def markdown(figures: Figures) -> str:
    """The figures for a card."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows(figures)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    """One row a measure, as text."""
    names = [n for n in figures if not n.endswith(("_ci", "_chance", "_n")) and n != "n"]
    for name in names:
        edges = figures.get(f"{name}_ci")
        interval = " to ".join(shown(edge) for edge in edges) if isinstance(edges, list) else ""
        chance, asked = shown(figures.get(f"{name}_chance")), figures.get(f"{name}_n", "")
        yield name, shown(figures[name]), interval, chance, str(asked)


def shown(value: object) -> str:
    """Three decimals; nothing where nothing was measured."""
    return f"{value:.3f}" if isinstance(value, int | float) else ""
