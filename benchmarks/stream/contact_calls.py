"""`egolive bench contact`: questions that are asked when a hand has done something, beside a fixed cadence.

    egolive bench contact --episodes 50 --json contact.json --plot contact.png

Simulated episodes are played in stream time as a live source to an engine that takes so many seconds for each
call: the scheduler, the governor, box tracking and the trigger are those of `egolive run --on-contact`, the
boxes that the trigger looks at are the model's own. A change of contact is missed where no question for what
that hand holds is asked about a picture between this change and the hand's next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from egolive.assistant.cli.options import open_model
from egolive.assistant.live.assistant import LIVE_QUESTIONS, Assistant
from egolive.assistant.live.hand_fusion import held_side
from egolive.assistant.live.runner import Runner, say_the_same
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Engine
from egolive.benchmarks.bench_output import print_figures, save_figure, table
from egolive.streaming.frames import Frame
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.governor import Governor
from egolive.streaming.pipeline.latest_results import LatestResults
from egolive.streaming.pipeline.results import Result
from egolive.streaming.pipeline.scheduler import Work
from egolive.streaming.pipeline.windowing import Windower
from egolive.train.simulator.episode import HANDS, Plan, plan_episode, render_frame

__all__ = ["run_contact"]

_FPS = 10.0
_SIZE = (448, 252)
_CADENCE = 0.5
"""Seconds between two questions for boxes at a fixed cadence: a model sees 2 pictures a second."""
_EVERY = 2
"""Slices from one question for words to the next."""
_GAP = 5.0
"""Seconds between two episodes."""
_SHORT = 0.5
"""Seconds; of contacts that are shorter, a fixed cadence sees some by chance only."""


@dataclass(slots=True)
class _Change:
    """A hand takes or leaves something."""

    side: str
    time: float
    end: float
    """When the same hand does so again."""


@dataclass(slots=True)
class _Asked:
    """When an episode was asked about."""

    calls: int = 0
    questions: int = 0
    held: dict[str, list[float]] = field(default_factory=lambda: {hand: [] for hand in HANDS})
    """Times of the pictures in which what a hand holds was asked for."""


def run_contact(
    *,
    model: str,
    episodes: int,
    seed: int,
    engine_seconds: float,
    device: str,
    threads: int | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Measure, print and write; the arguments are those of `egolive.benchmarks.commands.contact`."""
    changes: list[_Change] = []
    with closing(open_model(model, device=device, threads=threads)) as engine:
        plans = [plan_episode(index, seed=seed, split="test") for index in range(episodes)]
        shown = track(plans, "episodes", console=Console(stderr=True))
        contact = _play(engine, _frames(shown, changes), engine_seconds)
        said = {"model": engine.info.name, "backend": engine.info.backend, "precision": engine.info.precision}
    seconds = sum(len(_times(plan)) for plan in plans) / _FPS
    ways = {
        "on contact": _figures(changes, contact, seconds),
        f"every {_CADENCE:g} s": _figures(changes, _cadence(plans), seconds),
    }
    here, fixed = ways.values()
    figures = said | {
        "episodes": episodes,
        "seed": seed,
        "engine_seconds": engine_seconds,
        "seconds": round(seconds, 1),
        "calls_saved": round(1 - here["calls"] / fixed["calls"], 4),
        "questions_saved": round(1 - here["questions"] / fixed["questions"], 4),
        "missed": here["missed_share"],
        "delay_p95": here["delay_p95"],
        "ways": ways,
    }
    if plot_file is not None:
        _plot(ways, plot_file)
    print_figures(figures, _table(ways), json_file)


def _times(plan: Plan) -> list[float]:
    return [index / _FPS for index in range(round(plan.duration * _FPS))]


def _frames(plans: Iterable[Plan], changes: list[_Change]) -> Iterator[Frame]:
    """The pictures of episodes as one stream with gaps between; notes when hands take or leave something."""
    start, number = 0.0, 0
    for plan in plans:
        before: dict[str, str | None] = {}
        last: dict[str, _Change] = {}
        for time in _times(plan):
            image, truth = render_frame(plan, time, _SIZE)
            for hand in HANDS:
                if before and truth.held[hand] != before[hand]:
                    if hand in last:
                        last[hand].end = start + time
                    last[hand] = _Change(hand, start + time, start + plan.duration)
                    changes.append(last[hand])
            before = truth.held
            yield Frame(image, start + time, number, gap=number > 0 and time == 0)
            number += 1
        start += round(plan.duration) + _GAP


def _cadence(plans: Sequence[Plan]) -> _Asked:
    """Boxes of each sampled picture; words of every second slice go along, as once they have waited."""
    asked = _Asked()
    grounded = sum(question.task == "ground" for question in LIVE_QUESTIONS)
    start = 0.0
    for plan in plans:
        boxes = [start + float(time) for time in np.arange(0.0, plan.duration, _CADENCE)]
        words = len(np.arange(_EVERY, plan.duration, _EVERY))
        for times in asked.held.values():
            times += boxes
        asked.calls += len(boxes)
        asked.questions += grounded * len(boxes) + (len(LIVE_QUESTIONS) - grounded) * words
        start += round(plan.duration) + _GAP
    return asked


def _play(engine: Engine, frames: Iterable[Frame], engine_seconds: float) -> _Asked:
    """A stream in its own time: a call that is made at a picture is answered `engine_seconds` later."""
    profile = engine.profile
    asked = _Asked()
    windower = Windower(profile.fps, profile.window_slices, _FPS)
    running: tuple[float, Work[Question], list[Result[Question, Answer]]] | None = None
    with closing(Assistant(engine, every=_EVERY, simulated=True)) as assistant:
        scheduler = assistant.scheduler
        latest: LatestResults[Question, Answer] = LatestResults(scheduler.rules, same=say_the_same)
        # Neither the load of this machine nor the time that answers take here is to change what is asked.
        governor: Governor[Question, Answer] = Governor(
            scheduler.rules,
            slices=profile.window_slices,
            every=_EVERY,
            slice_seconds=2 / profile.fps,
            on_contact=True,
        )
        player = Runner([], Metrics(), on_contact=governor.touched)
        for frame in frames:
            now = frame.time
            choice = governor.see(frame)
            if choice is not None:
                windower.resize(choice.slices)
                scheduler.govern(choice)
                latest.hold(choice.still_since)
            sampled = windower.push(frame)
            if sampled.gap is not None:
                latest.gap(sampled.gap.end)
                player.gap(sampled.gap)
            scheduler.see(sampled.frame, sampled.window, now)
            found: list[Result[Question, Answer]] = []
            if running is not None and now >= running[0] - 1e-6:
                done, worked, found = running
                governor.worked(worked, [(result, engine_seconds) for result in found])
                scheduler.done(worked, now=done)
                running = None
            work = scheduler.take(now) if running is None else None
            if work is not None:
                running = (now + engine_seconds, work, list(assistant(work)))
                _count(asked, work)
            player.show(latest.show(sampled.frame, now, found))
    return asked


def _count(asked: _Asked, work: Work[Question]) -> None:
    asked.calls += 1
    asked.questions += len(work.tasks)
    for question in work.tasks:
        side = held_side(question)
        if side is not None:
            asked.held[f"{side} hand"].append(work.picture.time)


def _figures(changes: Sequence[_Change], asked: _Asked, seconds: float) -> dict[str, Any]:
    """Calls, changes that were missed, and how soon the others were asked about."""
    delays: list[float] = []
    missed = longer = missed_longer = 0
    for change in changes:
        times = [time for time in asked.held[change.side] if change.time - 1e-6 <= time < change.end - 1e-6]
        delays += [times[0] - change.time] if times else []
        missed += not times
        if change.end - change.time >= _SHORT:
            longer += 1
            missed_longer += not times
    count = len(changes)
    return {
        "calls": asked.calls,
        "calls_per_s": round(asked.calls / seconds, 3),
        "questions": asked.questions,
        "changes": count,
        "missed": missed,
        "missed_share": round(missed / max(1, count), 4),
        "changes_of_half_a_second": longer,
        "missed_of_these": missed_longer,
        "delay_p50": round(float(np.quantile(delays, 0.5)), 2) if delays else None,
        "delay_p95": round(float(np.quantile(delays, 0.95)), 2) if delays else None,
        "delays": sorted(round(delay, 2) for delay in delays),
    }


def _table(ways: dict[str, dict[str, Any]]) -> Table:
    drawn = table(
        "Asking on contact",
        "",
        "calls",
        "a second",
        "questions",
        "missed",
        "of those ≥ 0.5 s",
        "delay p50/p95",
    )
    for way, found in ways.items():
        drawn.add_row(
            way,
            str(found["calls"]),
            f"{found['calls_per_s']:.2f}",
            str(found["questions"]),
            f"{found['missed']} of {found['changes']} ({found['missed_share']:.1%})",
            f"{found['missed_of_these']} of {found['changes_of_half_a_second']}",
            f"{found['delay_p50']}/{found['delay_p95']} s",
        )
    return drawn


def _plot(ways: dict[str, dict[str, Any]], path: Path) -> None:
    """The share of changes that have been asked about after so many seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for way, found in ways.items():
        shares = np.arange(1, len(found["delays"]) + 1) / max(1, found["changes"])
        axes.step(found["delays"], shares, where="post", label=f"{way}: {found['calls_per_s']:.2f} calls/s")
    axes.set(xlabel="seconds after a change of contact", ylabel="share asked about", ylim=(0, 1), xlim=(0, 2))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)
