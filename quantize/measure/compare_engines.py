"""`egolive quantize --compare A B ...`: what each engine gains and loses against the first one.

Size, load time, memory and speed are measured in a process of its own for each engine; quality on the
simulator's test episodes, question by question; answers and probabilities token by token on windows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from egolive.assistant.generation.audit import tie_margin
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.engine_folder import (
    EngineCard,
    hash_checkpoint,
    is_engine_folder,
    read_engine_card,
)
from egolive.assistant.runtime.torch_threads import torch_threads
from egolive.assistant.schema.engine import EngineInfo
from egolive.assistant.system import machine
from egolive.quantize.checkpoint_source import checkpoint_of
from egolive.quantize.measure.answer_quality import (
    Given,
    agreement,
    ask_episodes,
    loss,
    same_box,
    scores_of,
    windows_of,
)
from egolive.quantize.measure.engine_speed import measure_apart
from egolive.quantize.measure.token_agreement import Spoken, compare_tokens, speak
from egolive.quantize.output_folder import record_loss
from egolive.streaming.errors import ConfigError, DataError
from egolive.streaming.frames import Window
from egolive.streaming.metrics import known
from egolive.train.evaluate.figures import rounded
from egolive.train.evaluate.measures import mean
from egolive.train.simulator.episode import plan_episode

__all__ = ["compare", "markdown"]

_STREAMS_SEED = 1
"""Of the windows for tokens: others than those that AWQ was shown."""
_COLUMNS = {
    "name": "engine",
    "size_mb": "MB",
    "peak_mb": "peak MB",
    "load_s": "load s",
    "encode_ms": "encode ms",
    "prefill_tok_s": "prefill tok/s",
    "tok_s": "decode tok/s",
    "miou": "box mIoU",
    "intent_acc": "intent",
    "agreement": "same answer",
    "box_iou": "box IoU with first",
    "kl": "KL a token",
}


def compare(
    models: Sequence[str],
    *,
    episodes: int,
    windows: int,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    json_file: Path | None = None,
    plot: Path | None = None,
) -> dict[str, Any]:
    """Measure engines against the first of them; prints a table and one JSON line, fills their cards.

    Args:
        models: What `load_engine` takes, checkpoints or engine folders made from one checkpoint.
        episodes: Test episodes of the simulator.
        windows: Windows for the comparison token by token.
        seed: Of the simulator.
        device: Where all of them run: auto, cpu or cuda.
        threads: CPU threads.
        json_file: Also write the JSON object here.
        plot: Draw quality over speed here.

    Raises:
        DataError: Two engines were made from different checkpoints.
        ConfigError: Two engines run on different kinds of devices.
        EngineError: One cannot be loaded, or failed.
    """
    _check_source(models)
    found: list[dict[str, Any]] = []
    first: tuple[list[Given], list[Spoken], EngineInfo] | None = None
    streams = list(_streams(windows))
    whole = {"engines": found, "episodes": episodes, "windows": windows, "seed": seed, "threads": threads}
    whole |= machine.gather()
    with ExitStack() as stack, Progress(console=Console(stderr=True)) as progress:
        for model in models:
            task = progress.add_task(model, total=episodes + 1)
            # A training run's folder, or LoRA weights that are merged for as long as they are measured.
            place = model if is_engine_folder(Path(model)) else str(stack.enter_context(checkpoint_of(model)))
            speed = measure_apart(place, device=device, threads=threads)
            progress.advance(task)
            with (
                torch_threads(threads),
                closing(load_engine(place, device=device, threads=threads)) as engine,
            ):
                if first and _kind(first[2].device) != _kind(engine.info.device):
                    raise ConfigError(
                        f"{model} runs on {engine.info.device} and {models[0]} on {first[2].device}: say "
                        "--device cpu, or install onnxruntime-gpu"
                    )
                answers = ask_episodes(engine, episodes, seed=seed, told=partial(progress.advance, task))
                said = speak(engine, streams, first[1] if first else None)
                name = _name(model, engine.info.backend, engine.info.precision)
                first = first or (answers, said, engine.info)
            size = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
            entry = {"name": name, **speed, "size_mb": round(size / 1e6, 1)}
            tie = tie_margin(first[2].precision)
            found.append(entry | _quality(first[0], answers) | _tokens(first[1], said, tie))
            if json_file is not None:
                # After each engine: what was found stays if the next one fails.
                json_file.write_text(json.dumps(known(whole)) + "\n", encoding="utf-8")
    for model, entry in zip(models, found, strict=True):
        if is_engine_folder(Path(model)):
            told = {"reference": found[0]["name"], "processor": machine.processor().get("name")}
            told |= {key: entry[key] for key in entry if key != "name"}
            record_loss(Path(model), read_engine_card(Path(model)), told)
    sys.stderr.write(markdown(found) + "\n")
    if plot is not None:
        _draw(found, plot)
    sys.stdout.write(json.dumps(known(whole)) + "\n")
    return whole


def _streams(count: int) -> Iterator[list[Window]]:
    """So many windows of training episodes, which follow each other within an episode."""
    index = 0
    while count > 0:
        plan = plan_episode(index, seed=_STREAMS_SEED, split="train")
        windows = [window for window, _ in windows_of(plan, 8)][:count]
        yield windows
        index, count = index + 1, count - len(windows)


def _check_source(models: Sequence[str]) -> None:
    hashes = {}
    for model in models:
        path = Path(model)
        if is_engine_folder(path):
            card: EngineCard = read_engine_card(path)
            hashes[model] = card.source["sha256"]
        else:
            with checkpoint_of(model) as folder:
                hashes[model] = hash_checkpoint(folder)
    for model, found in hashes.items():
        if found != hashes[models[0]]:
            raise DataError(
                f"{model} and {models[0]} were made from different checkpoints, so their answers say nothing "
                "about what quantisation loses; quantise the same checkpoint again"
            )


def _name(model: str, backend: str, precision: str) -> str:
    return read_engine_card(Path(model)).name if is_engine_folder(Path(model)) else f"{backend}-{precision}"


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _quality(first: Sequence[Given], answers: Sequence[Given]) -> dict[str, Any]:
    """Scores, and what is lost of them; None where no such question was asked.

    Raises:
        DataError: No question at all was asked.
    """
    if not answers:
        raise DataError("these episodes have no question to compare answers of; give more --episodes")
    figures: dict[str, Any] = {"questions": len(answers)}
    names = (("miou", "box"), ("absent_acc", "absent"), ("intent_acc", "intent"), ("next_acc", "next"))
    for name, kind in (*names, ("interval_miou", "when")):
        scores = scores_of(answers, kind)  # type: ignore[arg-type]
        figures[name] = rounded(mean(scores))
        figures[f"{name}_n"] = len(scores)
        middle, low, high = loss(first, answers, kind)  # type: ignore[arg-type]
        figures[f"{name}_loss"] = rounded(middle)
        figures[f"{name}_loss_ci"] = [rounded(low), rounded(high)]
    close = {"agreement": agreement(first, answers), "box_iou": same_box(first, answers)}
    return figures | {name: rounded(value) for name, value in close.items()}


def _tokens(first: Sequence[Spoken], said: Sequence[Spoken], tie: float) -> dict[str, Any]:
    figures = compare_tokens(first, said, tie=tie)
    return figures | {"kl": known(float(f"{figures['kl']:.3g}"))}


def markdown(engines: Sequence[dict[str, Any]]) -> str:
    """The figures as a table."""
    rows = [list(_COLUMNS.values()), ["---"] * len(_COLUMNS)]
    rows += [[_shown(entry[key]) for key in _COLUMNS] for entry in engines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(value: object) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw(engines: Sequence[dict[str, Any]], path: Path) -> None:
    """Quality over speed, the area of a mark the size of the engine."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9, 4), layout="constrained")
        for axes, key, title in zip(
            figure.subplots(1, 2), ("miou", "kl"), ("box mIoU", "KL a token (nats)"), strict=True
        ):
            for entry in engines:
                if entry[key] is None:
                    continue
                axes.scatter(entry["tok_s"], entry[key], s=4 * entry["size_mb"], alpha=0.6)
                axes.annotate(
                    entry["name"], (entry["tok_s"], entry[key]), xytext=(5, 4), textcoords="offset points"
                )
            # Room for the name of the fastest.
            axes.margins(x=0.3)
            axes.set_xlabel("decoded tokens a second")
            axes.set_title(title)
            axes.grid(alpha=0.3)
        figure.savefig(path, dpi=110)
