"""How fast and how large one engine is, measured in a process of its own so that the memory is the engine's.

`egolive quantize --compare` shows these figures; `egolive bench engines` adds the machine's limits.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from egolive.assistant.load_local import load_engine
from egolive.assistant.model.prompt_tokens import lay_out
from egolive.assistant.prompts.prompts import build_prompt
from egolive.assistant.runtime.backend import Decoder, ForwardInput, VisionTower
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.runtime.torch_threads import torch_threads
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Vision
from egolive.quantize.output_folder import DEFAULT_SIZE
from egolive.quantize.prompt_embeddings import embeddings_of
from egolive.streaming.errors import EngineError
from egolive.streaming.metrics import peak_rss_bytes, rss_bytes

__all__ = [
    "STEPS",
    "AnyLocalEngine",
    "EngineTimes",
    "Timed",
    "loaded",
    "measure",
    "measure_apart",
    "noise_frames",
    "run_apart",
    "time_engine",
    "timed",
]

AnyLocalEngine = LocalEngine[VisionTower, Decoder]

STEPS = 64
"""Decode steps of which the median counts."""
_REPEATS = 5
_LEAST_SECONDS, _MOST_SECONDS = 0.5, 20.0
"""Short work is repeated for the first time span, long work is no longer repeated after the second."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Median seconds of a piece of work."""

    wall: float
    cpu: float
    """Processor time of this process, which other programs do not lengthen."""


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """What an engine does for an answer, timed."""

    encode: Timed
    """One slice through the vision tower."""
    prefill: list[tuple[int, int, Timed]]
    """For each window its slices, the tokens of its prompt, and the time of one forward pass over them."""
    step: Timed
    """One decode step behind the last of these prompts."""


@contextmanager
def loaded(
    model: str, *, device: str, dtype: str = "auto", threads: int | None
) -> Iterator[tuple[AnyLocalEngine, dict[str, Any]]]:
    """An engine that is closed afterwards, and what loading it tells.

    Yields:
        The engine; name, backend, precision, device, weight_mb, load_s, and after the block loaded_mb: by how
        much the process has grown, since weights that are mapped take memory only when they are read.

    Raises:
        EngineError: It cannot be loaded.
    """
    before, started = rss_bytes() or 0, time.perf_counter()
    with (
        torch_threads(threads),
        closing(load_engine(model, device=device, dtype=dtype, threads=threads)) as engine,
    ):
        facts = {
            "name": engine.info.name,
            "backend": engine.info.backend,
            "precision": engine.info.precision,
            "device": engine.info.device,
            "weight_mb": round(engine.info.weight_bytes / 1e6, 1),
            "load_s": round(time.perf_counter() - started, 2),
        }
        yield engine, facts
        facts["loaded_mb"] = round(((rss_bytes() or 0) - before) / 1e6)


def noise_frames(engine: AnyLocalEngine, count: int) -> tuple[NDArray[np.uint8], ...]:
    """Random frames (height, width, 3) of the size that the engine's profile names; always the same ones."""
    rng = np.random.default_rng(0)
    size = engine.profile.picture or DEFAULT_SIZE
    return tuple(rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count))


def time_engine(
    engine: AnyLocalEngine, slices: Sequence[int], decoding: AbstractContextManager[object] | None = None
) -> EngineTimes:
    """Time encoding, prefill and decoding.

    Args:
        engine: What is timed.
        slices: Lengths of the windows whose prompts are read.
        decoding: Entered for the `STEPS` decode steps, to count their energy.
    """
    tower, decoder = engine.backend()
    device = torch.device(engine.info.device)
    frames = noise_frames(engine, 2 * max(slices))
    height, width = frames[0].shape[:2]
    patches = engine.preprocessor.patches(frames[:2], height, width)
    encode = timed(lambda: tower.encode(*patches), device)
    prefill = []
    for count in slices:
        vision = Vision(frames[: 2 * count], height, width, "video")
        layout = lay_out(build_prompt(engine.profile, Question("intent"), [vision]), engine.tokenizer)
        prompt = embeddings_of(layout, tower, decoder, engine.preprocessor), layout.positions
        spent = timed(
            partial(lambda read: decoder.forward([ForwardInput(decoder.new_cache(), *read)]), prompt), device
        )
        prefill.append((count, len(layout), spent))
    cache = decoder.new_cache()
    decoder.forward([ForwardInput(cache, *prompt)])
    fork, token = cache.fork(), decoder.embed([0])
    places = (np.full((3, 1), place) for place in range(layout.next_position, sys.maxsize))

    def step() -> None:
        decoder.forward([ForwardInput(fork, token, next(places))])

    # The first steps prepare what later ones use.
    for _ in range(2):
        step()
    with decoding or nullcontext():
        times = timed(step, device, warm=0, repeats=STEPS, least=0.0)
    return EngineTimes(encode, prefill, times)


def timed(
    work: Callable[[], object],
    device: torch.device,
    *,
    warm: int = 1,
    repeats: int = _REPEATS,
    least: float | None = None,
) -> Timed:
    """Median time of a piece of work.

    Args:
        work: What is timed; on a GPU until all that it has started is done.
        device: Where it runs.
        warm: Runs before the first that counts.
        repeats: Runs that count, at least; fewer of them where they take very long.
        least: Seconds over which short work is repeated.
    """
    times: list[tuple[float, float]] = []
    spent = 0.0
    span = _LEAST_SECONDS if least is None else least
    for run in range(sys.maxsize):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if run < warm:
            continue
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
        spent += times[-1][0]
        if (len(times) >= repeats and spent >= span) or spent >= _MOST_SECONDS:
            break
    return Timed(*(statistics.median(column) for column in zip(*times, strict=True)))


def measure(
    model: str, *, device: str = "cpu", dtype: str = "auto", threads: int | None = None, slices: int = 8
) -> dict[str, Any]:
    """Load an engine and time what it does.

    Args:
        model: What `load_engine` takes.
        device: Where it runs.
        dtype: Of a checkpoint; engine folders have their own.
        threads: CPU threads.
        slices: In the window that is read.

    Returns:
        What `loaded` tells; peak_mb (of the whole process), encode_ms (one slice), prompt_tokens, prefill_ms
        (that many tokens), prefill_tok_s, tok_s (one answer, token by token). Names with `cpu` are the same
        by processor time: with one thread it is what an idle machine needs.

    Raises:
        EngineError: The engine cannot be loaded, or the device failed.
    """
    with loaded(model, device=device, dtype=dtype, threads=threads) as (engine, facts):
        times = time_engine(engine, [slices])
    ((_, tokens, prefill),) = times.prefill
    del facts["name"]
    return facts | {
        "peak_mb": round(peak_rss_bytes() / 1e6),
        "encode_ms": round(times.encode.wall * 1e3, 2),
        "encode_cpu_ms": round(times.encode.cpu * 1e3, 2),
        "prompt_tokens": tokens,
        "prefill_ms": round(prefill.wall * 1e3, 1),
        "prefill_tok_s": round(tokens / prefill.wall, 1),
        "prefill_tok_cpu_s": round(tokens / prefill.cpu, 1),
        "tok_s": round(1 / times.step.wall, 2),
        "tok_cpu_s": round(1 / times.step.cpu, 2),
    }


def measure_apart(model: str, **options: object) -> dict[str, Any]:
    """`measure` in a fresh process; see `run_apart`."""
    return run_apart("egolive.quantize.measure.engine_speed", model, **options)


def run_apart(module: str, model: str, **options: object) -> dict[str, Any]:
    """Run a module of measurements in a fresh process.

    Args:
        module: Its main block takes one argument, a JSON object, and writes one as its last line.
        model: What is measured.
        options: What else the object holds.

    Raises:
        EngineError: It failed there.
    """
    command = [sys.executable, "-m", module, json.dumps({"model": model, **options})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(f"{model} cannot be measured: {lines[-1][:300]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
