"""`egolive bench estimates`: what is estimated of a model's forms beside what they take.

    egolive bench estimates random-2b random-2b-int4 --rounds 5

Each round measures the machine and one engine in a process of its own, so that both meet the same load and
the memory is the engine's. The estimates are those of `egolive.assistant.diagnostics.fit`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.table import Table

from egolive.assistant.cli.printing import note, working
from egolive.assistant.diagnostics.fit import FORMS, Form, Work, memory_of
from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.model.engine_folder import files_folder, is_engine_folder, read_engine_card
from egolive.assistant.model.model_sizes import model_sizes
from egolive.assistant.system.speed import measure_speeds
from egolive.benchmarks.bench_output import print_figures
from egolive.quantize.measure.engine_speed import (
    AnyLocalEngine,
    loaded,
    noise_frames,
    run_apart,
    time_engine,
)
from egolive.streaming.errors import EngineError
from egolive.streaming.json_files import read_json_object

__all__ = ["compare_once", "forms_of", "run_estimates"]


def run_estimates(
    model: Sequence[str],
    *,
    rounds: int,
    slices: Sequence[int],
    cpu_time: bool,
    device: str,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Measure, print and write; the arguments are those of `egolive.benchmarks.commands.estimates`."""
    wanted = [(name, form.name) for name in model for form in forms_of(name, device)]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {one: [] for one in wanted}
    for number in range(rounds):
        for name, form in wanted:
            with working(f"round {number + 1} of {rounds}: {name} in {form}"):
                once = run_apart(
                    "egolive.benchmarks.cost.estimates",
                    name,
                    form=form,
                    slices=sorted(set(slices)),
                    cpu_time=cpu_time,
                    device=device,
                    threads=threads,
                )
            found[name, form].append(once)
            # A round may take an hour: what it gave is told at once.
            ratios = {work: one for work, one in once.items() if work != "memory"}
            told = (f"{work} {one['estimated'] / one['measured']:.2f}" for work, one in ratios.items())
            note(f"{form}, estimated / measured: {', '.join(told)}")
    entries = [_summary(name, form, times) for (name, form), times in found.items()]
    figures = {"estimates": entries, "rounds": rounds, "threads": threads, "cpu_time": cpu_time}
    print_figures(figures, _drawn(entries), json_file)


def forms_of(model: str, device: str) -> list[Form]:
    """The forms in which a model can be measured: an engine folder's own, a checkpoint's as it is.

    Raises:
        EngineError: It is an engine folder of a form that is not estimated.
    """
    folder = resolve_model(model)
    kind = "cpu" if device == "cpu" or not _has_gpu() else "cuda"
    if not is_engine_folder(folder):
        return [form for form in FORMS[kind] if not form.built]
    card = read_engine_card(folder)
    decoder = card.precision["decoder"]
    found = [form for form in FORMS[kind] if form.built and form.name == decoder]
    if not found or found[0].engine != card.backend:
        raise EngineError(f"{folder} is {decoder} for {card.backend}, of which nothing is estimated")
    return found


def compare_once(
    model: str,
    *,
    form: str,
    slices: Sequence[int],
    cpu_time: bool,
    device: str,
    threads: int | None,
) -> dict[str, Any]:
    """Measure the machine, then the engine.

    Args:
        model: A checkpoint or an engine folder.
        form: Its name, as `forms_of` has it.
        slices: Lengths of the windows whose prompts are read.
        cpu_time: Count processor time.
        device: Where.
        threads: CPU threads.

    Returns:
        By name of a piece of work (and `anonymous` and `mapped`, in GB), the estimate and what was measured.

    Raises:
        EngineError: The engine cannot be loaded, or a format that it needs was not measured.
    """
    (chosen,) = (one for one in forms_of(model, device) if one.name == form)
    folder = resolve_model(model)
    if is_engine_folder(folder):
        folder = files_folder(folder, read_engine_card(folder))
    config = folder / "config.json"
    sizes = model_sizes(
        read_json_object(config, remedy="give another model", error=EngineError), where=str(config)
    )
    before = _memory()
    dtype = "auto" if chosen.built else form
    with loaded(model, device=device, dtype=dtype, threads=threads) as (engine, facts):
        place = str(facts["device"])
        formats = {chosen.text, chosen.head, chosen.tower, "fp32"}
        speeds = measure_speeds(
            place, threads, formats=formats, clock=time.process_time if cpu_time else time.perf_counter
        )
        if not formats <= set(speeds.linear):
            lacking = ", ".join(sorted(formats - set(speeds.linear)))
            raise EngineError(f"{form} needs the speed of {lacking}, which cannot be measured here")
        times = time_engine(engine, slices)
        after = _memory()
        work = Work(sizes, chosen, speeds)
        last = times.prefill[-1][1]
        steps = {
            "encode": (work.encode(_patches(engine)), times.encode),
            **{
                f"prefill {tokens}": (work.prefill(tokens, tokens) + work.head(1), spent)
                for _, tokens, spent in times.prefill
            },
            f"step at {last}": (work.step(last, 1), times.step),
        }
    needs = memory_of(sizes, chosen, cuda=place != "cpu")
    found: dict[str, Any] = {
        name: {"estimated": estimate, "measured": spent.cpu if cpu_time else spent.wall}
        for name, (estimate, spent) in steps.items()
    }
    if place == "cpu":
        found["memory"] = {
            "anonymous_estimated": needs.anonymous,
            "anonymous_measured": after["anonymous"],
            "mapped_estimated": needs.mapped,
            "mapped_measured": after["mapped"] - before["mapped"],
        }
    return found


def _summary(name: str, form: str, times: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds; ratios are those of each round, in which both met the same load."""
    rows = []
    for work in times[0]:
        if work == "memory":
            continue
        both = [once[work] for once in times]
        ratios = [one["estimated"] / one["measured"] for one in both]
        rows.append(
            {
                "work": work,
                "estimated_ms": round(1e3 * statistics.median(one["estimated"] for one in both), 2),
                "measured_ms": round(1e3 * statistics.median(one["measured"] for one in both), 2),
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(ratio, 3) for ratio in ratios],
            }
        )
    memory = [once["memory"] for once in times if "memory" in once]
    medians = (
        {key: round(statistics.median(one[key] for one in memory) / 1e6) for key in memory[0]}
        if memory
        else {}
    )
    return {
        "name": name,
        "form": form,
        "work": rows,
        "memory_mb": medians or None,
    }


def _drawn(entries: Sequence[Mapping[str, Any]]) -> Table:
    drawn = Table(title="What is estimated, beside what is measured", title_justify="left")
    for column in ("form", "work", "estimated", "measured", "estimated / measured"):
        drawn.add_column(column, justify="left" if column in ("form", "work") else "right")
    for entry in entries:
        for row in entry["work"]:
            drawn.add_row(
                entry["form"],
                row["work"],
                f"{row['estimated_ms']:.1f} ms",
                f"{row['measured_ms']:.1f} ms",
                f"{row['ratio']:.2f} ({min(row['ratios']):.2f} to {max(row['ratios']):.2f})",
            )
        memory = entry["memory_mb"]
        for kind in ("anonymous", "mapped") if memory else ():
            estimated, measured = memory[f"{kind}_estimated"], memory[f"{kind}_measured"]
            ratio = f"{estimated / measured:.2f}" if measured > 0 else ""
            drawn.add_row(entry["form"], f"{kind} memory", f"{estimated} MB", f"{measured} MB", ratio)
        drawn.add_section()
    drawn.caption = "medians over the rounds; in brackets the least and the largest ratio of a round"
    return drawn


def _patches(engine: AnyLocalEngine) -> int:
    height, width = noise_frames(engine, 1)[0].shape[:2]
    return int(np.prod((height // 14, width // 14)))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _memory() -> dict[str, int]:
    """Bytes of this process that are its own, and of files that are mapped."""
    whole = psutil.Process().memory_info()
    # Linux alone tells them apart; elsewhere all counts as the process's own.
    shared = int(getattr(whole, "shared", 0))
    return {"anonymous": int(whole.rss) - shared, "mapped": shared}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(compare_once(**json.loads(sys.argv[1]))) + "\n")
