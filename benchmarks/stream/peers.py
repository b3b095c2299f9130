"""`egolive bench peers`: the same questions about the same stream, asked of what one would use instead.

    egolive bench peers --engine engines/onnx-fp32 --engine engines/onnx-int4 --threads 1

Each side has a process of its own and all its memory; they answer one after the other, hop by hop, so that
whatever else the machine does is shared among them. Nobody's hands are tied: transformers answers in every
setting that its documentation recommends, and the fastest one counts. What is not installed is skipped, with
the reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress

from egolive.assistant.generation.audit import tie_margin
from egolive.assistant.model.engine_folder import is_engine_folder, read_engine_card
from egolive.assistant.model.media import bundled_clip
from egolive.benchmarks.output import check_places, tell
from egolive.benchmarks.stream.peer_baselines import SETTINGS
from egolive.benchmarks.stream.peer_worker import SETS, Answers, Plan, Worker
from egolive.benchmarks.stream.peers_report import plot, table_of, verdict_of
from egolive.benchmarks.stream.stream_baselines import compare
from egolive.benchmarks.stream.stream_run import fair_steps, naive_places
from egolive.streaming.errors import EngineError, UsageError

__all__ = ["peers"]

_PREFIXES = ("prefix kept", "one by one")
"""Of ONNX Runtime alone."""


def peers(
    *,
    model: str = "nano",
    engine: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    server: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    server_model: str | None = None,
    source: Path | None = None,
    slices: int = 8,
    every: int | None = None,
    compiled: bool = True,
    max_tokens: int = 24,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    plot_file: Annotated[Path | None, Parameter(name="--plot")] = None,
) -> None:
    """Let this project and its peers answer the same questions; prints a table of ratios, then one JSON line.

    Args:
        model: nano or a checkpoint folder, which transformers can load too.
        engine: Engine folders made of it; ONNX Runtime alone runs those in full precision as well.
        server: Address of an OpenAI-compatible server that holds the model, such as http://localhost:8000/v1;
            it gets one picture a slice, and holds answers to no grammar.
        server_model: The model's name there.
        source: A video; the bundled clip without it.
        slices: N: windows grow from N to 2N - 1 slices; one cycle of 2N hops is measured.
        every: Peers answer at one hop of so many; N / 2 without it.
        compiled: Also try the setting that compiles, which takes a minute or two.
        max_tokens: Most tokens of an answer.
        device: Where models run.
        threads: CPU threads of each side.
        json_file: Also write the JSON object here.
        plot_file: Also draw the sides into this PNG.
    """
    if slices < 2 or max_tokens < 1 or (threads is not None and threads < 1):
        raise UsageError("--slices is 2 or more, --max-tokens and --threads 1 or more")
    steps = fair_steps([slices + hop % slices for hop in range(2 * slices)])
    every = every or max(step for step in steps if step <= max(1, slices // 2))
    if every not in steps:
        raise UsageError(f"--every is one of {', '.join(map(str, steps))}, for windows of the mean length")
    check_places(json_file, plot_file)
    common: dict[str, Any] = {"source": str(source or bundled_clip()), "device": device, "threads": threads}
    common |= {"slices": slices, "hops": 2 * slices, "max_tokens": max_tokens}
    plans = [plan for plan in _plans(model, engine, common) if compiled or "compiled" not in plan.setting]
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
    found = _run(plans, slices=slices, every=every)
    figures = {"model": model, "threads": threads, "slices": slices, "every": every, "sides": found}
    figures |= verdict_of(found)
    if plot_file is not None:
        plot(figures, plot_file)
    tell(figures, table_of(figures), json_file)


def _plans(model: str, engines: Sequence[str], common: dict[str, Any]) -> Iterator[Plan]:
    yield Plan(name="egolive, torch", kind="egolive", model=model, **common)
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


def _run(plans: Sequence[Plan], *, slices: int, every: int) -> list[dict[str, Any]]:
    """All sides through one cycle, after the hops that fill the first window."""
    console = Console(stderr=True)
    sides: list[dict[str, Any]] = []
    costs: dict[tuple[str, str], list[Answers]] = defaultdict(list)
    audits: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    hops = 2 * slices
    due = naive_places(hops, every)
    with ExitStack() as stack, Progress(console=console, transient=True) as progress:
        task = progress.add_task("sides", total=len(plans) + hops)
        workers: list[Worker] = []
        for plan in plans:
            side: dict[str, Any] = {"name": plan.name, "kind": plan.kind, "model": plan.model}
            sides.append(side)
            try:
                worker = Worker(plan)
                stack.callback(worker.close)
                # Everything that is made once is made here, and the egolive sides fill their first window.
                for place in range(slices - 1) if plan.kind == "egolive" else (slices - 1, slices):
                    for kind in SETS:
                        worker.answer(kind, place)
            except EngineError as error:
                side["skipped"] = str(error)
                console.print(f"{plan.name}: skipped, {error}", highlight=False)
            else:
                side["load_s"] = worker.load_s
                workers.append(worker)
            progress.advance(task)
        for hop in range(hops):
            for kind in SETS:
                said = {
                    worker.plan.name: worker.answer(kind, slices - 1 + hop)
                    for worker in workers
                    if worker.plan.kind == "egolive" or hop in due
                }
                for name, answers in said.items():
                    costs[name, kind].append(answers)
                if hop in due:
                    _audit(said, kind, audits, tie_margin(workers[0].precision))
            progress.advance(task)
        for worker in workers:
            next(side for side in sides if side["name"] == worker.plan.name)["peak_mb"] = worker.peak_mb()
    for side in sides:
        if "skipped" not in side:
            side |= {
                kind: _figures(costs[side["name"], kind]) | {"audit": dict(audits[side["name"], kind])}
                for kind in SETS
            }
    return sides


def _audit(
    said: dict[str, Answers], kind: str, audits: dict[tuple[str, str], Counter[str]], tie: float
) -> None:
    """Hold answers against those of the first side, our engine on the checkpoint itself."""
    first, *others = said
    for name in others:
        # A server tells words alone.
        if not said[name].said:
            continue
        for one, other in zip(said[first].said, said[name].said, strict=True):
            audits[name, kind][compare(one, other, tie)] += 1


def _figures(costs: Sequence[Answers]) -> dict[str, Any]:
    wall = fmean(answers.wall for answers in costs)
    cpu = [answers.cpu for answers in costs if answers.cpu is not None]
    return {
        "sets": len(costs),
        "answer_set_ms": round(wall * 1e3, 2),
        "answer_set_cpu_ms": round(fmean(cpu) * 1e3, 2) if cpu else None,
        "first_token_ms": round(median(answers.first_token for answers in costs) * 1e3, 2),
        "tokens": sum(answers.tokens for answers in costs),
        "tok_s": round(sum(answers.tokens for answers in costs) / sum(answers.wall for answers in costs), 2),
    }
