"""`egolive evaluate`: how good a model is, asked through the real engine and parser.

Of simulated episodes here, of files of rows in `evaluate_rows`. Each figure stands beside its chance level
and its 95 % interval. Windows that do not decide an answer (a goal that two scripts still share, a next step
that may go either way) are not asked about.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress

from egolive.assistant.cli.options import (
    ASKED,
    GIVEN,
    OUTPUT,
    DeviceOption,
    DtypeOption,
    JsonFile,
    ModelOption,
    ThreadsOption,
    open_model,
)
from egolive.assistant.cli.printing import check_folders, json_line, wrote
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.load import check_model
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Engine
from egolive.assistant.system import machine
from egolive.streaming.errors import ConfigError, DataError
from egolive.streaming.frames import Box, Frame, Image, Slice, Window
from egolive.streaming.paths import existing_path
from egolive.train.common.model_card import add_measurements, check_card
from egolive.train.data.questions import HANDS, window_questions
from egolive.train.data.row_media import FrameSampling
from egolive.train.evaluate.compare_results import compare_records, comparison_table
from egolive.train.evaluate.episode_scores import record, report, scores_of
from egolive.train.evaluate.figures import Figures, markdown, table
from egolive.train.evaluate.result_files import Record, Results, engine_settings, model_stamp, read_records
from egolive.train.simulator.episode import FrameTruth, Plan, episode_of, plan_episode, render_frame
from egolive.train.simulator.write import LOOK

__all__ = ["FPS", "EpisodePart", "ask_episode", "episode_parts", "evaluate", "render_window"]

FPS = 2.0
"""Sampled frames a second, as live."""
PICTURES = 3
"""Pictures asked about in each episode."""
WINDOWS = 3
"""Windows asked about in each episode."""

BAG_EVERY = 4
"""Every so many-th frame of a window is looked at for its bag of visible objects."""


_IN, _OUT = Parameter(group=GIVEN), Parameter(group=OUTPUT)


def evaluate(
    *,
    data: Annotated[str, _IN] = "sim:test",
    model: ModelOption = "nano",
    episodes: Annotated[int, _IN] = 200,
    slices: Annotated[int, _IN] = 8,
    seed: Annotated[int, _IN] = 0,
    media: Annotated[Path | None, _IN] = None,
    limit: Annotated[int | None, _IN] = None,
    think: Annotated[bool, Parameter(negative="", group=ASKED)] = False,
    grammar: Annotated[bool, Parameter(group=ASKED)] = True,
    fps: Annotated[float, _IN] = 1.0,
    max_frames: Annotated[int, _IN] = 32,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonFile = None,
    samples: Annotated[Path | None, _OUT] = None,
    card: Annotated[Path | None, _OUT] = None,
    compare: Annotated[tuple[Path, Path] | None, Parameter(negative="", group=GIVEN)] = None,
) -> None:
    """Measure a model on held-out episodes or a file of questions; prints a table, then one JSON line.

    Args:
        data: "sim:test" or "sim:train", episodes of the simulator; or a file of rows: boxes, intervals,
            multiple choice or yes-no questions in their published forms, "name.json%10" for a part of one.
        model: nano, the bundled model; a checkpoint or engine folder; or a hub id. `--engine` says the same.
        episodes: how many, of the simulator.
        slices: slices in a window of the simulator.
        seed: of the simulator, and of what is drawn from a file.
        media: folder that the paths in a file start from; the file's own without it.
        limit: ask about so many rows of a file at most, drawn by the seed.
        think: ask for reasoning, where the model knows how; files only.
        grammar: hold boxes and intervals to their form, as live.
        fps: frames a second of the videos of a file.
        max_frames: frames of a video of a file, at most.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto, fp32 or bf16; an engine folder has its own.
        threads: CPU threads of the model.
        json_file: also write the JSON object here.
        samples: also write each question and answer here, one JSON line each; a run that was interrupted
            goes on where this ends.
        card: also put the table into the card (README.md) of this model folder, which is that of --model.
        compare: two files written by --samples; tells what the second is better at, and asks no model.
    """
    check_folders(json_file, samples, kind=ConfigError)
    if compare is not None:
        compared = compare_records(*(read_records(path) for path in compare))
        names = (str(compare[0]), str(compare[1]))
        Console(stderr=True).print(comparison_table(compared, names))
        json_line(
            {"compare": [str(path) for path in compare], "measures": compared, **machine.gather()}, json_file
        )
        return
    simulated = data in ("sim:test", "sim:train")
    if not simulated and (data.startswith("sim:") or not _is_file(data)):
        raise ConfigError(f"data {data!r} is not known: use sim:test, sim:train or a file of rows")
    if episodes < 1 or slices < 1 or (limit is not None and limit < 1):
        raise ConfigError("at least one episode, one slice and one row are needed")
    if not (0 < fps <= 1000 and max_frames >= 1):
        raise ConfigError("--fps is more than 0 and at most 1000, --max-frames 1 or more")
    if media is not None and not media.is_dir():
        raise ConfigError(f"--media {media} is no folder; check the path")
    if card is not None:
        check_card(card, model)
    check_model(model, dtype=dtype)
    # Imported here: reading files of rows needs packages that take a second.
    from egolive.train.evaluate.evaluate_rows import FileOptions, evaluate_file

    found: dict[str, object] = {"data": data, "model": model}
    with (
        closing(open_model(model, device=device, dtype=dtype, threads=threads)) as engine,
        Progress(console=Console(stderr=True)) as progress,
    ):
        if simulated:
            found["episodes"] = episodes
            split = data.removeprefix("sim:")
            asked_of = {"data": data, "look": LOOK, "slices": slices, "seed": seed, "grammar": grammar}
            asked_of |= model_stamp(model) | engine_settings(engine)
            with closing(Results(samples, asked_of, whole="episode")) as results:
                figures = ask_simulator(engine, split, episodes, slices, seed, grammar, results, progress)
        else:
            asked = FileOptions(
                data=data,
                media=media or Path(data).parent,
                limit=limit,
                think=think,
                grammar=grammar,
                frames=FrameSampling(fps=fps, max_frames=max_frames, min_frames=min(4, max_frames)),
                seed=seed,
            )
            figures, left_out = evaluate_file(engine, asked, model, samples, progress)
            found["left_out"] = left_out
    Console(stderr=True).print(table(figures, data))
    json_line({**found, **figures, **machine.gather()}, json_file)
    wrote(samples)
    if card:
        chosen: dict[str, object] = {
            "--dtype": dtype if dtype != "auto" else None,
            "--no-grammar": not grammar,
        }
        if simulated:
            chosen |= {"--episodes": episodes, "--slices": slices if slices != 8 else None}
        else:
            chosen |= {"--limit": limit, "--think": think, "--fps": fps, "--max-frames": max_frames}
        add_measurements(card, markdown(figures), _command(data, seed, chosen), _place(engine.info.device))
        wrote(card / "README.md")


def _is_file(data: str) -> bool:
    """Whether it names a file of rows, or a part of one as in name.json%30."""
    return any(
        path is not None and path.is_file()
        for path in (existing_path(data), existing_path(data.rpartition("%")[0]))
    )


def _command(data: str, seed: int, chosen: dict[str, object]) -> str:
    """What gives these figures again, options that say nothing left out."""
    words = [f"egolive evaluate --data {data} --seed {seed}"]
    for name, value in chosen.items():
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words.append(f"{name} {value}")
    return " ".join(words)


def _place(device: str) -> str:
    """The processor or GPU that a model ran on, by its name."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return str(machine.processor().get("name", "a CPU"))


def ask_simulator(
    engine: Engine,
    split: str,
    episodes: int,
    slices: int,
    seed: int,
    grammar: bool,
    results: Results,
    progress: Progress,
) -> Figures:
    """Ask about the episodes of the simulator that there are no results of."""
    done = {line["episode"] for line in results.records if line["episode"] < episodes}
    task = progress.add_task("episodes", total=episodes, completed=len(done))
    with Assistant(engine, grammar=grammar, simulated=True) as assistant:
        for index in range(episodes):
            if index not in done:
                lines = ask_episode(assistant, index, split, seed, slices)
                for number, line in enumerate(lines, start=1):
                    results.add(line, last=number == len(lines))
                progress.advance(task)
    # The file may hold more episodes than are asked for this time.
    lines = [line for line in results.records if line["episode"] < episodes]
    if not lines:
        raise DataError(
            "these episodes have no question to ask, so nothing is measured; give more --episodes"
        )
    scores = scores_of(lines)
    # Where no intent was asked about, the bag of objects has nothing to name.
    return report(scores, training_bags(seed, slices, progress) if scores.intents else [])


def ask_episode(assistant: Assistant, index: int, split: str, seed: int, slices: int) -> list[Record]:
    """Ask about some pictures and windows of one episode; returns a record a question."""
    lines: list[Record] = []
    for part in episode_parts(index, split, seed, slices):
        # All pictures carry the same number, by which the session would take one for the other.
        assistant.forget()
        questions = [question for question, _ in part.asked]
        if isinstance(part.shown, Frame):
            answers = assistant.answer(questions, picture=part.shown)
        else:
            answers = assistant.answer(questions, window=part.shown)
        lines += part.records(list(answers))
    return lines


@dataclass(frozen=True, slots=True)
class EpisodePart:
    """A picture or window of a simulated episode, with what is asked of it."""

    episode: int
    shown: Frame | Window
    asked: list[tuple[Question, object]]
    """Questions with their true answers as plain values: a box, an interval, a text, or None for "none"."""
    more: dict[str, object]
    """What else is kept with the results."""

    def records(self, answers: Sequence[Answer]) -> list[Record]:
        """One line of results for each question, from the answers in their order."""
        time = self.shown.time if isinstance(self.shown, Frame) else self.shown.interval.end
        return [
            record(self.episode, time, question, truth, answer, **self.more)
            for (question, truth), answer in zip(self.asked, answers, strict=True)
        ]


def episode_parts(index: int, split: str, seed: int, slices: int) -> Iterator[EpisodePart]:
    """What an episode is asked, the same for the same numbers."""
    plan = plan_episode(index, seed=seed, split=split)
    episode = episode_of(plan, fps=FPS)
    rng = random.Random(f"evaluate {split} {seed} {index}")
    for time in [rng.uniform(0, plan.duration - 0.1) for _ in range(PICTURES)]:
        image, truth = render_frame(plan, time)
        boxes = [
            (Question("ground", phrase), list(box) if box else None) for phrase, box in grounding_truth(truth)
        ]
        yield EpisodePart(index, Frame(image, time, 0), list(boxes), {})
    last = max(0.0, plan.duration - slices * 2 / FPS)
    for start in (rng.uniform(0, last) for _ in range(WINDOWS)):
        window, bag = render_window(plan, start, slices)
        span = window.interval
        asked = [
            (one.question, [one.interval.start, one.interval.end] if one.interval else one.text)
            for one in window_questions(episode, span.start, span.end, rng)
        ]
        seen = {"window": [span.start, span.end], "bag": sorted(bag)}
        yield EpisodePart(index, window, list(asked), seen)


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


def training_bags(
    seed: int, slices: int, progress: Progress | None = None, *, episodes: int = 300
) -> list[tuple[frozenset[str], str]]:
    """What the bag-of-objects baseline learns from: the bag of one window an episode, with the goal."""
    bags = []
    numbers: Iterable[int] = range(episodes)
    if progress is not None:
        numbers = progress.track(numbers, description="bag-of-objects baseline")
    for index in numbers:
        plan = plan_episode(index, seed=seed, split="train")
        start = random.Random(f"bag {index}").uniform(0, max(0.0, plan.duration - slices * 2 / FPS))
        times = [start + number / FPS for number in range(0, 2 * slices, BAG_EVERY)]
        bags.append((bag_of([render_at(plan, time)[1] for time in times]), plan.goal))
    return bags
