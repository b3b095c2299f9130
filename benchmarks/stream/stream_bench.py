"""`egolive bench stream`: what four questions about a live stream cost, asked naively and asked with reuse.

    egolive bench stream
    egolive bench stream --model 2b --threads 2

One run, all sides: the same frames, weights, prompts, grammars and windows, greedy. What every side says is
compared token by token.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress

from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.media import bundled_clip, load_video
from egolive.assistant.runtime.torch_threads import torch_threads
from egolive.assistant.system import machine
from egolive.benchmarks.stream.random_weights import STRUCTURES, random_engine
from egolive.benchmarks.stream.stream_report import drafted, figures_of, plot, table_of
from egolive.benchmarks.stream.stream_run import (
    FPS,
    QUESTIONS,
    Measured,
    fair_steps,
    hops_of,
    play,
    play_drafts,
)
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Image

__all__ = ["load_images", "measure", "stream"]

_log = logging.getLogger(__name__)
_CUT = (7, 8)
"""Text and vision layers of a random model unless told otherwise: two cores take a quarter of an hour."""


def stream(
    *,
    model: str = "nano",
    text_layers: Annotated[int | None, Parameter(name="--layers")] = None,
    vision_layers: int | None = None,
    source: Path | None = None,
    slices: int = 8,
    hops: int | None = None,
    naive_every: int | None = None,
    gains: bool = True,
    max_tokens: int = 24,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int | None = None,
    graphs: bool = True,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    plot_file: Annotated[Path | None, Parameter(name="--plot")] = None,
) -> None:
    """Compare answering with reuse with what transformers does; prints a table, then one JSON line.

    Args:
        model: nano, a checkpoint folder, or "2b" or "7b": random weights in the structure of Qwen2-VL.
        text_layers: Text layers of a random model; 7 of its 28 without it.
        vision_layers: Vision layers of a random model; 8 of its 32 without it.
        source: A video; the bundled clip without it. One that is too short is played there and back.
        slices: N: windows grow from N to 2N - 1 slices of two frames.
        hops: How many slices come in while it is measured, in whole cycles of 2N; 4N without it.
        naive_every: The naive sides answer at one hop of so many; N / 2 without it, 2N for random models.
        gains: Also measure each reuse by itself, which takes most of the time.
        max_tokens: Most tokens of an answer.
        device: Where the model runs, in fp32 on a CPU and in bf16 on a GPU.
        threads: CPU threads of the model.
        graphs: On a GPU, let our sides decode by CUDA graphs; their gain is the difference to a run without.
        json_file: Also write the JSON object here.
        plot_file: Also draw the cost of each hop into this PNG.
    """
    hops = 4 * slices if hops is None else hops
    if slices < 2 or hops < 1 or hops % (2 * slices):
        raise ConfigError(
            f"at least 2 slices and whole cycles of 2N hops are needed, got {slices} and {hops}"
        )
    if max_tokens < 1:
        raise ConfigError(f"max-tokens is at least 1, got {max_tokens}")
    steps = fair_steps([slices + hop % slices for hop in range(hops)])
    if naive_every is not None and naive_every not in steps:
        raise ConfigError(
            f"windows at one hop of {naive_every} are not as long as all are on average: use "
            + " or ".join(map(str, steps))
        )
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is at least 1, got {threads}")
    for path in (json_file, plot_file):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"cannot write {path}: there is no folder {path.parent}")
    seldom = 2 * slices if model in STRUCTURES else max(1, slices // 2)
    images = load_images(source or bundled_clip(), 2 * (slices - 1 + hops))
    with (
        torch_threads(threads),
        closing(_engine(model, text_layers, vision_layers, device, graphs)) as engine,
    ):
        measured, figures = measure(
            engine,
            images,
            slices=slices,
            naive_every=naive_every or max(step for step in steps if step <= seldom),
            gains=gains,
            max_tokens=max_tokens,
            # What random weights say does not depend on the scene as a model's answers do.
            scenes=model not in STRUCTURES,
        )
    Console(stderr=True).print(table_of(figures))
    if plot_file is not None:
        plot(measured, figures, plot_file)
    line = json.dumps(figures | machine.gather()) + "\n"
    if json_file is not None:
        json_file.write_text(line, encoding="utf-8")
    sys.stdout.write(line)


def measure(
    engine: TorchEngine,
    images: Sequence[Image],
    *,
    slices: int,
    naive_every: int = 1,
    gains: bool = True,
    max_tokens: int = 24,
    scenes: bool = True,
) -> tuple[Measured, dict[str, Any]]:
    """Let all sides answer, and put what was found into figures.

    Args:
        engine: The model.
        images: Frames of the stream, two a hop; the first slices - 1 hops are not measured.
        slices: N, of a full window.
        naive_every: The naive sides answer at one hop of so many.
        gains: Also measure each reuse by itself.
        max_tokens: Most tokens of an answer.
        scenes: Also measure how far drafts hold in a scene that stands still.

    Returns:
        What was noted at each hop, and the figures under the names that other programs read.
    """
    hops = list(hops_of(engine, images, slices=slices, max_tokens=max_tokens))
    held = 3 * slices - 1 if scenes else 0
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("hops", total=len(hops) + held)

        def advance() -> None:
            progress.advance(task)
            _log.info("%d of %d hops", progress.tasks[task].completed, len(hops) + held)

        measured = play(engine, hops, slices=slices, naive_every=naive_every, gains=gains, progress=advance)
        config = engine.halves()[1].model.config
        figures: dict[str, Any] = {
            "model": engine.info.name,
            "text_layers": config.text_config.num_hidden_layers,
            "vision_layers": config.vision_config.depth,
            "picture": f"{hops[0].window.width}x{hops[0].window.height}",
            "precision": engine.info.precision,
            "device": engine.info.device,
            "threads": torch.get_num_threads(),
            "graphs": engine.halves()[1].static is not None,
            "slices": slices,
            "max_tokens": max_tokens,
            "naive_every": naive_every,
        } | figures_of(measured)
        if scenes:
            still = hops_of(engine, [images[0]] * (2 * held), slices=slices, max_tokens=max_tokens)
            counts = play_drafts(engine, still, slices=slices, progress=advance)
            figures["draft_changing"] = drafted(measured.usage["live"])
            figures["draft_static"] = drafted(counts)
    return measured, figures


def load_images(source: Path, count: int) -> list[Image]:
    """So many frames of a video, sampled as from a live stream; there and back where it is too short.

    Raises:
        SourceError: It cannot be read.
    """
    frames = [frame.image for frame in load_video(source, fps=FPS, max_frames=count, end=count / FPS)]
    return list(islice(cycle(frames + frames[-2:0:-1]), count))


def _engine(
    model: str, text_layers: int | None, vision_layers: int | None, device: str, graphs: bool
) -> TorchEngine:
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch sees no GPU here; use --device cpu")
    if model not in STRUCTURES:
        if text_layers is not None or vision_layers is not None:
            raise ConfigError(f"layers are left out of random models only: {', '.join(STRUCTURES)}")
        with Console(stderr=True).status(f"loading {model}"):
            dtype = "fp32" if device == "cpu" else "bf16"
            engine = load_engine(model, device=device, dtype=dtype, graphs=graphs)
        if not isinstance(engine, TorchEngine):
            engine.close()
            raise ConfigError(f"{model} is compiled: transformers needs a checkpoint to compare with")
        return engine
    whole = STRUCTURES[model]
    layers = [given or cut for given, cut in zip((text_layers, vision_layers), _CUT, strict=True)]
    for given, most in zip(layers, (whole.text_layers, whole.vision_layers), strict=True):
        if not 1 <= given <= most:
            raise ConfigError(f"{model} has 1 to {most} of these layers, got {given}")
    with Console(stderr=True).status(f"making random weights, {model}"):
        return random_engine(
            f"{model}, random",
            replace(whole, text_layers=layers[0], vision_layers=layers[1]),
            questions=QUESTIONS,
            device=torch.device(device),
            dtype=torch.float32 if device == "cpu" else torch.bfloat16,
            graphs=graphs,
        )
