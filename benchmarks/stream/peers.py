"""`egolive bench peers`: the same questions about the same stream, asked of other ways to run the model.

    egolive bench peers --engine engines/onnx-fp32 --engine engines/onnx-int4 --threads 1

Each baseline has a process of its own and all its memory; they answer one after the other, hop by hop, so
that whatever else the machine does is shared among them. transformers answers in every setting that its
documentation recommends, and the fastest one counts. What is not installed is skipped, with the reason.

    egolive bench peers --model engines/int4 --no-transformers --threads 1 --llama-server llama-server \
        --gguf model-q4_0.gguf --mmproj mmproj-f16.gguf

compares with llama.cpp stage by stage, in turn with ours: encode, prefill, first token and decode of single
answers with nothing kept, of a second question and of a window that has moved on. `--no-cycle` leaves away
the hops of the stream, which take long with a large model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from rich.console import Console
from rich.progress import Progress

from egolive.assistant.generation.audit import tie_margin
from egolive.assistant.model.engine_folder import is_engine_folder, read_engine_card
from egolive.assistant.model.media import bundled_clip
from egolive.benchmarks.bench_output import print_figures
from egolive.benchmarks.stream.baseline_runner import SETS, Entry, fair_steps, places_of, play
from egolive.benchmarks.stream.baselines import SETTINGS, Answers
from egolive.benchmarks.stream.peer_worker import Plan, Worker
from egolive.benchmarks.stream.peers_report import plot, stage_ratios, table_of, verdict_of
from egolive.benchmarks.stream.stages import CASES, Stages, hops_needed, medians
from egolive.streaming.errors import EngineError, UsageError

__all__ = ["run_peers"]

_PREFIXES = ("prefix kept", "one by one")
"""Of ONNX Runtime alone."""


def run_peers(
    *,
    model: str,
    engine: tuple[str, ...],
    server: tuple[str, ...],
    server_model: str | None,
    source: Path | None,
    slices: int,
    every: int | None,
    compiled: bool,
    transformers: bool,
    llama: tuple[Path, Path, Path] | None,
    rounds: int,
    cycle: bool,
    max_tokens: int,
    device: Literal["cpu", "cuda"],
    threads: int | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Measure, print and write; the arguments are those of `egolive.benchmarks.commands.peers`."""
    steps = fair_steps(slices, 2 * slices)
    every = every or max(step for step in steps if step <= max(1, slices // 2))
    if every not in steps:
        raise UsageError(f"--every is one of {', '.join(map(str, steps))}, for windows of the mean length")
    common: dict[str, Any] = {"source": str(source or bundled_clip()), "device": device, "threads": threads}
    hops = max(3 * slices - 1, hops_needed(slices, rounds if llama is not None else 0))
    common |= {"slices": slices, "hops": hops, "max_tokens": max_tokens}
    plans = [
        plan
        for plan in _plans(model, engine, common)
        if (compiled or "compiled" not in plan.setting) and (transformers or plan.kind != "transformers")
    ]
    if llama is not None:
        binary, gguf, mmproj = (str(path) for path in llama)
        name = f"llama.cpp, {Path(gguf).stem}"
        plans.append(Plan(name=name, kind="llama", model=model, llama=(binary, gguf, mmproj), **common))
    plans += [
        Plan(
            name=f"server, {address}",
            kind="server",
            model=model,
            setting=address,
            server_model=server_model,
            **common,
        )
        for address in server
    ]
    if not cycle:
        plans = [plan for plan in plans if plan.kind in ("egolive", "llama")]
    places = range(slices - 1, 3 * slices - 1) if cycle else range(0)
    found = _run(plans, places, slices=slices, every=every, rounds=rounds if llama is not None else 0)
    figures = {"model": model, "threads": threads, "slices": slices, "every": every, "sides": found}
    figures |= verdict_of(found) | {"stages": stage_ratios(found)}
    if plot_file is not None:
        plot(figures, plot_file)
    print_figures(figures, table_of(figures), json_file)


def _plans(model: str, engines: Sequence[str], common: dict[str, Any]) -> Iterator[Plan]:
    own = Path(model).name if is_engine_folder(Path(model)) else "torch"
    yield Plan(name=f"egolive, {own}", kind="egolive", model=model, **common)
    for folder in engines:
        yield Plan(name=f"egolive, {Path(folder).name}", kind="egolive", model=folder, **common)
    for setting in SETTINGS:
        yield Plan(
            name=f"transformers, {setting}", kind="transformers", setting=setting, model=model, **common
        )
    # It runs on the CPU alone.
    for folder in engines if common["device"] == "cpu" else ():
        if not is_engine_folder(Path(folder)) or read_engine_card(Path(folder)).backend != "onnx":
            continue
        for setting in _PREFIXES:
            name = f"onnxruntime alone, {Path(folder).name}, {setting}"
            yield Plan(name=name, kind="onnx", setting=setting, model=folder, **common)


def _run(
    plans: Sequence[Plan], cycle: Sequence[int], *, slices: int, every: int, rounds: int
) -> list[dict[str, Any]]:
    """All baselines through one cycle, after the hops that fill the first window; then stages in turn.

    Args:
        plans: Of the baselines.
        cycle: Places of the hops; empty where stages alone are measured.
        slices: Of a window.
        every: Peers answer at one hop of so many.
        rounds: Of stages.
    """
    console = Console(stderr=True)
    found: list[dict[str, Any]] = []
    with ExitStack() as stack, Progress(console=console, transient=True) as progress:
        task = progress.add_task("baselines", total=len(plans) + len(cycle) + rounds)
        workers: list[Worker] = []
        for plan in plans:
            entry: dict[str, Any] = {"name": plan.name, "kind": plan.kind, "model": plan.model}
            found.append(entry)
            try:
                worker = Worker(plan)
                stack.callback(worker.close)
                # Everything that is made once is made here, and our engines fill their first window.
                for place in range(slices - 1) if cycle and plan.kind == "egolive" else cycle[:2]:
                    for kind in SETS:
                        worker.answer(kind, place)
            except EngineError as error:
                entry["skipped"] = str(error)
                console.print(f"{plan.name}: skipped, {error}", highlight=False)
            else:
                entry["load_s"] = worker.load_s
                workers.append(worker)
            progress.advance(task)
        measured = play(
            [
                Entry(
                    name=worker.plan.name,
                    kind=kind,
                    answer=partial(worker.answer, kind),
                    always=worker.plan.kind == "egolive",
                )
                for worker in workers
                for kind in SETS
            ],
            cycle,
            [cycle[place] for place in places_of(len(cycle), every)],
            tie=tie_margin(workers[0].precision) if workers else 0.0,
            progress=lambda: progress.advance(task),
        )
        staged: dict[str, list[dict[str, Stages]]] = {}
        for number in range(rounds):
            for worker in workers:
                if worker.plan.kind in ("egolive", "llama"):
                    staged.setdefault(worker.plan.name, []).append(worker.stages(number))
            progress.advance(task)
        memory = {worker.plan.name: worker.peak_mb() for worker in workers}
        now = {worker.plan.name: worker.memory() for worker in workers}
    for entry in found:
        if "skipped" not in entry:
            entry["peak_mb"] = memory[entry["name"]]
            entry["memory"] = now[entry["name"]]
            if rounds_of := staged.get(entry["name"]):
                entry["stages"] = {case: medians([one[case] for one in rounds_of]) for case in CASES}
            for kind in SETS if cycle else ():
                key = kind, entry["name"]
                entry[kind] = _figures(measured.answers[key], remote=entry["kind"] == "server")
                entry[kind]["audit"] = dict(measured.audits.get(key, Counter()))
    return found


def _figures(answers: Sequence[Answers], *, remote: bool) -> dict[str, Any]:
    """Of one set; the processor of a server is another machine's or process's, and not known."""
    wall, tokens = [one.cost.wall for one in answers], sum(one.tokens for one in answers)
    return {
        "sets": len(answers),
        "answer_set_ms": round(fmean(wall) * 1e3, 2),
        "answer_set_cpu_ms": None if remote else round(fmean(one.cost.cpu for one in answers) * 1e3, 2),
        "first_token_ms": round(median(one.first_token for one in answers) * 1e3, 2),
        "tokens": tokens,
        "tok_s": round(tokens / sum(wall), 2),
    }
