"""`egolive bench governor`: live runs under load, governed and with fixed settings, and the motion gate.

    egolive bench governor --json governor.json --plot governor.png

A clip is played in real time and the live questions are asked of it, beside busy processes and with an engine
that takes a multiple of its own time. What the governor reaches is held against the best of a sweep of fixed
settings; it is the one with the most answers in time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from egolive.assistant.cli.options import open_model
from egolive.assistant.model.media import bundled_clip
from egolive.benchmarks.bench_output import print_figures, save_figure, table
from egolive.benchmarks.stream.contact_changes import contact_changes, still_picture
from egolive.benchmarks.stream.governor_runs import KeptClip, SlowedEngine, busy_loops, play
from egolive.streaming.frames import Frame
from egolive.streaming.sources.opening import open_source

__all__ = ["run_governor"]

_STEP = 10.0
"""Factor by which an engine becomes slower in the middle of a run."""


def run_governor(
    *,
    model: str,
    slow: tuple[float, ...],
    loops: int,
    seconds: float,
    every: tuple[int, ...],
    slices: tuple[int, ...],
    still_seconds: float,
    episodes: int,
    device: str,
    threads: int | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Measure, print and write; the arguments are those of `egolive.benchmarks.commands.governor`."""
    with closing(open_model(model, device=device, threads=threads)) as engine:
        slowed = SlowedEngine(engine, lambda: 1.0)
        lengths = slices or (engine.profile.window_slices,)
        # What is loaded at the first use is no cost of a run.
        with open_source(bundled_clip()) as source:
            # Decoding is no part of what is measured.
            frames = [replace(frame, pixels=frame.image) for frame in source]
        play(slowed, KeptClip(frames), seconds=3.0, govern=False)
        cases: list[dict[str, Any]] = []
        for factor, busy in [*((factor, 0) for factor in slow), (1.0, loops)]:
            cases.append(_case(slowed, frames, factor, busy, seconds, every, lengths))
            Console(stderr=True).print(_in_words(cases[-1]), highlight=False)
        step = _step(slowed, frames, seconds)
        slowed.factor = lambda: 1.0
        still = still_picture(slowed, frames[0].image, still_seconds)
        said = {"model": engine.info.name, "backend": engine.info.backend}
        said |= {"precision": engine.info.precision, "device": engine.info.device}
    contacts = [contact_changes(episodes, head_still=head_still) for head_still in (False, True)]
    figures = said | {
        "threads": threads,
        "seconds": seconds,
        "stale": sum(case["governor"]["stale"] for case in cases) + step["stale"],
        "held": min((case["governor"]["held"] for case in cases if case["governor"]["held"]), default=None),
        "of_best": min((case["of_best"] for case in cases if case["of_best"] is not None), default=None),
        "cases": cases,
        "step": step,
        "still": still,
        "contacts": contacts,
    }
    if plot_file is not None:
        _plot(cases, step, plot_file)
    print_figures(figures, _table(cases, step, still, contacts), json_file)


def _case(
    engine: SlowedEngine,
    frames: Sequence[Frame],
    factor: float,
    loops: int,
    seconds: float,
    every: Sequence[int],
    slices: Sequence[int],
) -> dict[str, Any]:
    """The governor and each fixed setting, under the same load."""
    engine.factor = lambda: factor
    with busy_loops(loops):
        # The governor before and after: what else the machine does changes in the course of a sweep.
        before = play(engine, KeptClip(frames), seconds=seconds, govern=True)
        fixed = [
            play(engine, KeptClip(frames), seconds=seconds, govern=False, every=rounds, slices=length)
            for rounds in every
            for length in slices
        ]
        after = play(engine, KeptClip(frames), seconds=seconds, govern=True)
    governor = _both(before, after)
    best = max(fixed, key=lambda run: int(run["answers"]))
    of_best = round(governor["answers"] / best["answers"], 4) if best["answers"] else None
    return {
        "slow": factor,
        "loops": loops,
        "governor": governor,
        "fixed": fixed,
        "best": best,
        "of_best": of_best,
    }


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two governed runs as one of the same length; what was chosen is that of the first."""
    answers, expired = (one[name] + other[name] for name in ("answers", "expired"))
    return one | {
        "answers": answers / 2,
        "expired": expired / 2,
        "held": round(answers / (answers + expired), 4) if answers + expired else None,
        "stale": one["stale"] + other["stale"],
        "of_each": [one["answers"], other["answers"]],
    }


def _step(engine: SlowedEngine, frames: Sequence[Frame], seconds: float) -> dict[str, Any]:
    """An engine that becomes ten times slower in the middle of a governed run."""
    begun = time.monotonic()
    engine.factor = lambda: _STEP if time.monotonic() - begun > seconds / 2 else 1.0
    return {"slow": _STEP, "at": seconds / 2} | play(engine, KeptClip(frames), seconds=seconds, govern=True)


def _in_words(case: dict[str, Any]) -> str:
    load = f"{case['loops']} busy loops, engine {case['slow']:g} times slower"
    return f"{load}: {_run(case['governor'])}; best fixed: {_run(case['best'])}"


def _run(run: dict[str, Any]) -> str:
    held = "-" if run["held"] is None else f"{run['held']:.1%}"
    return f"{run['answers']:g} answers, {held} in time, {run['stale']} stale"


def _table(
    cases: Sequence[dict[str, Any]],
    step: dict[str, Any],
    still: dict[str, Any],
    contacts: Sequence[dict[str, Any]],
) -> Table:
    drawn = table("Governor", "", "answers", "in time", "stale", "changes", "of the best fixed")
    for case in cases:
        name = f"engine x {case['slow']:g}, {case['loops']} busy loops"
        drawn.add_row(f"{name}: governor", *_cells(case["governor"]), f"{case['of_best'] or 0:.2f}")
        for run in case["fixed"]:
            mark = "best " if run is case["best"] else ""
            drawn.add_row(f"  {mark}fixed --every {run['every']} --slices {run['slices']}", *_cells(run), "")
    drawn.add_row(f"engine x {step['slow']:g} from {step['at']:g} s on: governor", *_cells(step), "")
    drawn.add_section()
    share = f"{still['calls']} of {still['calls_fixed']} calls ({still['share']:.1%})"
    drawn.add_row("still picture", share, *[""] * 4)
    for found in contacts:
        head = "head still" if found["head_still"] else "head moves"
        share = f"{found['missed']} of {found['changes']} missed ({found['missed_share']:.1%})"
        drawn.add_row(f"changes of contact, {head}", share, *[""] * 4)
    return drawn


def _cells(run: dict[str, Any]) -> tuple[str, ...]:
    held = "-" if run["held"] is None else f"{run['held']:.1%}"
    return f"{run['answers']:g}", held, str(run["stale"]), str(len(run["choices"]))


def _plot(cases: Sequence[dict[str, Any]], step: dict[str, Any], path: Path) -> None:
    """Answers of each case beside the fixed settings, and ages while the engine becomes slower."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, case in enumerate(cases):
        fixed = [run["answers"] for run in case["fixed"]]
        left.plot([place] * len(fixed), fixed, "o", color="grey", label="" if place else "fixed settings")
        answers = case["governor"]["answers"]
        left.plot([place], [answers], "D", color="tab:blue", label="" if place else "governor")
    names = [f"x{case['slow']:g}" + (f"\n{case['loops']} loops" if case["loops"] else "") for case in cases]
    left.set_xticks(range(len(cases)), names)
    left.set(title="answers in time", yscale="symlog")
    left.legend(fontsize=8)
    right.plot([at for at, _ in step["ages"]], [age for _, age in step["ages"]], ".", color="tab:blue")
    right.axvline(step["at"], color="grey", linestyle="--")
    right.set(title=f"engine {step['slow']:g} times slower from the line on", xlabel="s", ylabel="age (s)")
    for choice in step["choices"]:
        right.axvline(choice["t"], color="tab:orange", alpha=0.4, linewidth=1)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(figure, path)
