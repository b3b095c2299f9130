"""`egolive bench stream`: cost of four questions about a live stream, with reuse and without.

    egolive bench stream
    egolive bench stream --model 2b --threads 2

All answer in one run: the same frames, weights, prompts, grammars and windows, greedy. The answers of every
baseline are compared token by token.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress

from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.generation.audit import tie_margin
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.media import bundled_clip
from egolive.assistant.runtime.torch_threads import torch_threads
from egolive.assistant.schema.engine import FULL_REUSE, NO_REUSE, Request, Reuse
from egolive.benchmarks.bench_output import print_figures
from egolive.benchmarks.stream.baseline_runner import (
    QUESTIONS,
    Entry,
    Hop,
    Measured,
    fair_steps,
    hops_of,
    load_images,
    places_of,
    play,
)
from egolive.benchmarks.stream.baselines import (
    Answers,
    Cost,
    EngineBaseline,
    Said,
    TransformersBaseline,
    vision_in,
)
from egolive.benchmarks.stream.random_weights import STRUCTURES, random_engine
from egolive.benchmarks.stream.stream_report import SWITCHES, drafted, figures_of, plot, table_of
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Image

__all__ = ["measure", "run_stream"]

_log = logging.getLogger(__name__)
_CUT = (7, 8)
"""Text and vision layers of a random model without options: two cores take a quarter of an hour."""
_REUSE: dict[tuple[str, str], Reuse] = {("window", "all"): FULL_REUSE, ("window", "none"): NO_REUSE}
"""What our engine reuses, by set and name."""
for _switch in SWITCHES:
    _REUSE["window", f"{_switch} alone"] = replace(NO_REUSE, **{_switch: True})
    _REUSE["window", f"without {_switch}"] = replace(FULL_REUSE, **{_switch: False})
_REUSE["live", "live"] = FULL_REUSE
_REUSE["live", "live without draft"] = replace(FULL_REUSE, draft=False)
_EVERY_HOP = ("all", "live")
"""These answer at every hop; the others where the naive ones do, to save time."""
_NEEDED = (*_EVERY_HOP, "without draft", "live without draft")
"""Without these no figure can be computed."""


def run_stream(
    *,
    model: str,
    text_layers: int | None,
    vision_layers: int | None,
    source: Path | None,
    slices: int,
    hops: int | None,
    naive_every: int | None,
    gains: bool,
    max_tokens: int,
    device: Literal["cpu", "cuda"],
    threads: int | None,
    graphs: bool,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Measure, print and write; the arguments are those of `egolive.benchmarks.commands.stream`."""
    hops = 4 * slices if hops is None else hops
    steps = fair_steps(slices, hops)
    if naive_every is not None and naive_every not in steps:
        raise ConfigError(
            f"windows at one hop of {naive_every} are not as long as all are on average: use "
            + " or ".join(map(str, steps))
        )
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
    if plot_file is not None:
        plot(measured, figures, plot_file)
    print_figures(figures, table_of(figures), json_file)


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
    """Let all baselines answer, and put what was found into figures.

    Args:
        engine: The model.
        images: Frames of the stream, two a hop; the first slices - 1 hops are not measured.
        slices: N, of a full window.
        naive_every: The naive baselines answer at one hop of so many.
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

        measured, usage = play_all(
            engine, hops, slices=slices, naive_every=naive_every, gains=gains, progress=advance
        )
        config = engine.backend()[1].model.config
        figures: dict[str, Any] = {
            "model": engine.info.name,
            "text_layers": config.text_config.num_hidden_layers,
            "vision_layers": config.vision_config.depth,
            "picture": f"{hops[0].window.width}x{hops[0].window.height}",
            "precision": engine.info.precision,
            "device": engine.info.device,
            "threads": torch.get_num_threads(),
            "graphs": engine.backend()[1].static is not None,
            "slices": slices,
            "max_tokens": max_tokens,
            "naive_every": naive_every,
        } | figures_of(measured, usage, [hop.length for hop in hops[slices - 1 :]], naive_every)
        if scenes:
            still = hops_of(engine, [images[0]] * (2 * held), slices=slices, max_tokens=max_tokens)
            figures["draft_changing"] = drafted(usage["live"])
            figures["draft_static"] = drafted(_drafts(engine, still, slices, advance))
    return measured, figures


def play_all(
    engine: TorchEngine,
    hops: Sequence[Hop],
    *,
    slices: int,
    naive_every: int,
    gains: bool = True,
    progress: Any = lambda: None,
) -> tuple[Measured, dict[str, Counter[str]]]:
    """Let transformers and the engine answer: (a) one by one, (b) a batch, (c) one by one as live, ours.

    The first slices - 1 hops fill the first window; they are not measured.

    Args:
        engine: Gives weights and kernels to all.
        hops: The stream.
        slices: N, of a full window.
        naive_every: transformers, and the engine with less reuse than all, answer at one hop of so many; at
            the others the engine's sessions only see the window.
        gains: Also let the engine answer with each reuse alone, and with all others.
        progress: Called after each hop.

    Returns:
        What was noted, and by name the engine's counts.
    """
    with ExitStack() as stack:
        batch, singly = TransformersBaseline(engine, "batch"), _OneByOne(TransformersBaseline(engine))
        naive: dict[tuple[str, str], _OneByOne | TransformersBaseline] = {
            ("window", "a"): singly,
            ("window", "b"): batch,
            ("live", "c"): singly,
        }
        ours = {
            (kind, name): stack.enter_context(closing(EngineBaseline(engine, reuse)))
            for (kind, name), reuse in _REUSE.items()
            if gains or name in _NEEDED
        }

        def entry(kind: str, name: str) -> Entry:
            if (kind, name) in naive:
                given = naive[kind, name]
                return Entry(name=name, kind=kind, answer=lambda n: given.answer(kind, hops[n].sets[kind]))
            mine = ours[kind, name]

            def keep_up(place: int, said: Sequence[Said]) -> None:
                mine.keep_up(kind, hops[place].window, hops[place].sets[kind], said)

            return Entry(
                name=name,
                kind=kind,
                answer=lambda n: mine.answer(kind, hops[n].sets[kind]),
                keep_up=keep_up,
                always=name in _EVERY_HOP,
            )

        entries = [entry(kind, name) for kind, name in (*naive, *ours)]

        def run(places: Iterable[int], due: Collection[int]) -> Measured:
            return play(entries, places, due, tie=tie_margin(engine.info.precision), progress=progress)

        run(range(slices - 1), [0])
        for mine in ours.values():
            mine.usage.clear()
        rest = range(slices - 1, len(hops))
        measured = run(rest, [rest[place] for place in places_of(len(rest), naive_every)])
        return measured, {name: mine.usage for (_, name), mine in ours.items()}


class _OneByOne:
    """Answers each question by itself; the intent of a window, which both sets ask, once a hop."""

    def __init__(self, baseline: TransformersBaseline) -> None:
        self._baseline = baseline
        self._known: dict[object, Answers] = {}

    def answer(self, kind: str, requests: Sequence[Request]) -> Answers:
        if kind == "window":
            self._known.clear()
        found = []
        for request in requests:
            key = request.key, vision_in(request).keys
            if key not in self._known:
                self._known[key] = self._baseline.answer(kind, [request])
            found.append(self._known[key])
        cost = sum((answers.cost for answers in found), Cost(0.0, 0.0))
        said = [answers.said[0] for answers in found]
        return Answers(said=said, cost=cost, first_token=found[0].first_token)


def _drafts(engine: TorchEngine, hops: Iterable[Hop], slices: int, progress: Any) -> Counter[str]:
    """The engine's counts of the live questions over a stream, without those that fill the first window."""
    with closing(EngineBaseline(engine)) as ours:
        for place, hop in enumerate(hops):
            if place == slices - 1:
                ours.usage.clear()
            ours.answer("live", hop.sets["live"])
            progress()
        return ours.usage


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
    for given, most in zip(layers, (whole.layers, whole.tower_blocks), strict=True):
        if not 1 <= given <= most:
            raise ConfigError(f"{model} has 1 to {most} of these layers, got {given}")
    with Console(stderr=True).status(f"making random weights, {model}"):
        return random_engine(
            f"{model}, random",
            replace(whole, layers=layers[0], tower_blocks=layers[1]),
            questions=QUESTIONS,
            device=torch.device(device),
            dtype=torch.float32 if device == "cpu" else torch.bfloat16,
            graphs=graphs,
        )
