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
from rich.table import Table

from egolive.assistant.audit import tie_margin
from egolive.assistant.engine_folder import is_engine_folder, read_engine_card
from egolive.assistant.run import bundled_clip
from egolive.benchmarks.peer_sides import SETTINGS
from egolive.benchmarks.peer_worker import SETS, Answers, Plan, Worker
from egolive.benchmarks.stream_run import fair_steps, naive_places
from egolive.benchmarks.stream_sides import compare
from egolive.benchmarks.telling import check_places, save_figure, tell
from egolive.streaming.errors import EngineError, UsageError

__all__ = ["peers"]

_PREFIXES = ("prefix kept", "one by one")
"""Of ONNX Runtime alone."""


def peers(
    *,
    model: str = "nano",
    engine: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    source: Path | None = None,
    slices: int = 8,
    every: int | None = None,
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
        source: A video; the bundled clip without it.
        slices: N: windows grow from N to 2N - 1 slices; one cycle of 2N hops is measured.
        every: Peers answer at one hop of so many; N / 2 without it.
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
    plans = list(_plans(model, engine, common))
    found = _run(plans, slices=slices, every=every)
    figures = {"model": model, "threads": threads, "slices": slices, "every": every, "sides": found}
    figures |= _verdict(found)
    if plot_file is not None:
        _plot(figures, plot_file)
    tell(figures, _table(figures), json_file)


def _plans(model: str, engines: Sequence[str], common: dict[str, Any]) -> Iterator[Plan]:
    yield Plan(name="egolive, torch", kind="egolive", model=model, **common)
    for folder in engines:
        yield Plan(name=f"egolive, {Path(folder).name}", kind="egolive", model=folder, **common)
    for setting in SETTINGS:
        yield Plan(
            name=f"transformers, {setting}", kind="transformers", setting=setting, model=model, **common
        )
    for folder in engines:
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
                    _audit(said, kind, audits)
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


def _audit(said: dict[str, Answers], kind: str, audits: dict[tuple[str, str], Counter[str]]) -> None:
    """Hold answers against those of the first side, our engine on the checkpoint itself."""
    first, *others = said
    for name in others:
        for one, other in zip(said[first].said, said[name].said, strict=True):
            audits[name, kind][compare(one, other, tie_margin("fp32"))] += 1


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


def _verdict(sides: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Every side against ours: the fastest that says what the checkpoint says, and the one on the same files.

    Returns:
        ours (a name); ratios by name, to it; same_backend: ratios by name, to our engine on the same files;
        best: by kind the fastest peer that says the same; ahead_of_all: by set, whether no peer is as fast.
    """
    here = [side for side in sides if "skipped" not in side]
    exact = [side for side in here if not any(side[kind]["audit"].get("error") for kind in SETS)]
    engines = [side for side in exact if side["kind"] == "egolive"]
    if not engines:
        return {"ours": None, "ratios": {}, "same_backend": {}, "best": {}, "ahead_of_all": {}}
    ours = min(engines, key=_live_ms)
    own = {side["model"]: side for side in here if side["kind"] == "egolive"}
    theirs = [side for side in here if side["kind"] != "egolive"]
    ratios = {side["name"]: _ratios(side, ours) for side in here}
    same = {side["name"]: _ratios(side, own[side["model"]]) for side in theirs if side["model"] in own}
    best: dict[str, str] = {}
    for side in sorted((side for side in exact if side["kind"] != "egolive"), key=_live_ms):
        best.setdefault(side["kind"], side["name"])
    ahead = {kind: all(ratios[side["name"]][kind]["answer_set"] > 1 for side in theirs) for kind in SETS}
    return {
        "ours": ours["name"],
        "ratios": ratios,
        "same_backend": same,
        "best": best,
        "ahead_of_all": ahead,
    }


def _live_ms(side: dict[str, Any]) -> float:
    found: float = side["live"]["answer_set_ms"]
    return found


def _ratios(side: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Above 1 is in our favour: they take longer, say fewer tokens a second, hold more memory."""
    found: dict[str, Any] = {}
    for kind in SETS:
        they, we = side[kind], ours[kind]
        found[kind] = {
            "answer_set": round(they["answer_set_ms"] / we["answer_set_ms"], 2),
            "first_token": round(they["first_token_ms"] / we["first_token_ms"], 2),
            "tok_s": round(we["tok_s"] / they["tok_s"], 2) if they["tok_s"] else None,
        }
        if they["answer_set_cpu_ms"] and we["answer_set_cpu_ms"]:
            found[kind]["answer_set_cpu"] = round(they["answer_set_cpu_ms"] / we["answer_set_cpu_ms"], 2)
    return found | {"memory": round(side["peak_mb"] / ours["peak_mb"], 2)}


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title=f"Four questions a hop; times of {figures['ours']} in brackets", title_justify="left")
    table.add_column("", no_wrap=True)
    for title in (
        "set, ms",
        "live set, ms",
        "CPU ms",
        "first token, ms",
        "tok/s",
        "peak MB",
        "says the same",
    ):
        table.add_column(title, justify="right")
    for side in figures["sides"]:
        if "skipped" in side:
            table.add_row(side["name"], "skipped")
            continue
        ratio, live = figures["ratios"].get(side["name"]), side["live"]
        cells = [
            f"{side['window']['answer_set_ms']:.0f}",
            f"{live['answer_set_ms']:.0f}",
            "" if live["answer_set_cpu_ms"] is None else f"{live['answer_set_cpu_ms']:.0f}",
            f"{live['first_token_ms']:.0f}",
            f"{live['tok_s']:.0f}",
            f"{side['peak_mb']}",
        ]
        if ratio:
            times = [ratio["window"]["answer_set"], ratio["live"]["answer_set"]]
            times += [ratio["live"].get("answer_set_cpu"), ratio["live"]["first_token"]]
            times += [ratio["live"]["tok_s"], ratio["memory"]]
            cells = [
                cell + (f" ({time:.1f})" if time is not None else "")
                for cell, time in zip(cells, times, strict=True)
            ]
        same = Counter(live["audit"]) + Counter(side["window"]["audit"])
        told = f"{same['same']}/{sum(same.values())}" if same else ""
        table.add_row(side["name"], *cells, told + (f", {same['tie']} ties" if same["tie"] else ""))
    return table


def _plot(figures: dict[str, Any], path: Path) -> None:
    """Time of an answer set on the left, first token and memory beside it."""
    from matplotlib.figure import Figure

    sides = [side for side in figures["sides"] if "skipped" not in side]
    figure = Figure(figsize=(11, 0.9 + 0.36 * len(sides)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    colours = {"egolive": "tab:blue", "transformers": "tab:orange", "onnx": "tab:green"}
    shown = [colours.get(side["kind"], "tab:purple") for side in sides]
    for axes, title, values in (
        (panels[0], "four live questions, ms", [side["live"]["answer_set_ms"] for side in sides]),
        (panels[1], "first token, ms", [side["live"]["first_token_ms"] for side in sides]),
        (panels[2], "peak memory, MB", [side["peak_mb"] for side in sides]),
    ):
        bars = axes.barh(range(len(sides)), values, color=shown)
        axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=2)
        axes.margins(x=0.15)
        axes.set(title=title)
        axes.grid(alpha=0.3, axis="x")
    panels[0].set_yticks(range(len(sides)), [side["name"] for side in sides], fontsize=8)
    panels[0].invert_yaxis()
    save_figure(figure, path)
