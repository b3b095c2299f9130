"""What one engine costs on this machine, against the machine's own ceilings; in a process of its own.

    python -m egolive.benchmarks.cost.engine_costs nano --threads 1

A fresh process, so that memory is the engine's own. `egolive bench engines` starts one for each engine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2VLConfig

from egolive.assistant.backends.torch.torch_decoder import TorchDecoder
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.model.engine_folder import is_engine_folder, read_engine_card
from egolive.assistant.model.prompt_tokens import lay_out
from egolive.assistant.prompts.prompts import build_prompt, vision_of
from egolive.assistant.runtime.backend import Decoder, ForwardInput, VisionTower
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.runtime.torch_threads import torch_threads
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Engine, Prompt, Request, Vision
from egolive.benchmarks.cost.ceilings import copy_rate, matrix_rate, median_seconds
from egolive.benchmarks.cost.energy import Energy
from egolive.quantize.new_folder import peak_memory
from egolive.quantize.prompt_embeddings import embeddings_of
from egolive.streaming.errors import EngineError
from egolive.streaming.frames import Frame, Slice
from egolive.streaming.metrics import rss_bytes
from egolive.streaming.pipeline.windowing import Windows

__all__ = ["cost_apart", "cost_of"]

_BLOCK = 256 * 1024**2
"""Bytes that no processor's cache holds."""
_PICTURE = (252, 448)
"""Height and width of pictures where a profile has none."""
_STEPS = 64
"""Tokens that are decoded one by one."""
_WARM = 2
"""Tokens before them that are not timed."""
_HOPS = 4
"""Live hops of which the median counts."""

Halves = LocalEngine[VisionTower, Decoder]


def cost_of(
    model: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    slices: Sequence[int] = (1, 2, 4, 8, 16),
) -> dict[str, Any]:
    """Load an engine and time what it does.

    Args:
        model: What `load_engine` takes.
        device: Where it runs.
        threads: CPU threads.
        slices: Lengths of the windows whose prompts are read.

    Returns:
        name, backend, precision, device, threads; load_s, loaded_mb, peak_mb (of the process), device_mb
        (most on a GPU); ceilings: copy_gb_s, copy_weights_gb_s (a block as large as the weights that a token
        reads), matrix_gflop_s; encode_ms of a slice; prefill: for each length slices, tokens, ms, of_ceiling;
        ttft_ms of a question about pictures that are all new, ttft_live_ms about a window that has grown by a
        slice; tok_s, floor_tok_s (its ceiling), of_floor; joules_token, None where nobody tells, and energy,
        who did.

    Raises:
        EngineError: The engine cannot be loaded, or the device failed.
    """
    before, begun = rss_bytes() or 0, time.perf_counter()
    engine = load_engine(model, device=device, threads=threads)
    load_s = time.perf_counter() - begun
    loaded = (rss_bytes() or 0) - before
    with torch_threads(threads), closing(engine):
        place = torch.device(engine.info.device)
        read, weights = _weights_read(engine, resolve_model(model))
        dtype = torch.bfloat16 if _computes_in_bf16(engine, resolve_model(model)) else torch.float32
        found: dict[str, Any] = {
            "name": engine.info.name,
            "backend": engine.info.backend,
            "precision": engine.info.precision,
            "device": engine.info.device,
            "threads": threads,
            "weight_mb": round(engine.info.weight_bytes / 1e6, 1),
            "token_mb": round(read / 1e6, 1),
            "load_s": round(load_s, 2),
            "loaded_mb": round(loaded / 1e6),
        }
        found |= _times(engine, place, slices)
        # What ceilings need is not the engine's.
        found["peak_mb"] = round(peak_memory() / 1e6)
        if place.type == "cuda":
            found["device_mb"] = round(torch.cuda.max_memory_allocated(place) / 1e6)
    with torch_threads(threads):
        ceilings = {
            "copy_gb_s": copy_rate(_BLOCK, place) / 1e9,
            "copy_weights_gb_s": copy_rate(read, place) / 1e9,
            # On a GPU a small product is over before the next one is told to it.
            "matrix_gflop_s": matrix_rate(place, dtype, 8192 if place.type == "cuda" else 1024) / 1e9,
        }
    found["ceilings"] = {name: round(value, 2) for name, value in ceilings.items()}
    found["floor_tok_s"] = round(ceilings["copy_weights_gb_s"] * 1e9 / read, 1)
    found["of_floor"] = float(f"{found['tok_s'] / found['floor_tok_s']:.3g}")
    for entry in found["prefill"]:
        reached = 2 * weights * entry["tokens"] / (entry["ms"] / 1e3)
        entry["of_ceiling"] = round(reached / (ceilings["matrix_gflop_s"] * 1e9), 4)
    return found


def _computes_in_bf16(engine: Halves, folder: Path) -> bool:
    """Weights of few bits say nothing about the sums: the tower's precision does, and torch's own type."""
    decoder = engine.halves()[1]
    if isinstance(decoder, TorchDecoder):
        return decoder.dtype == torch.bfloat16
    precision = (
        read_engine_card(folder).precision["tower"] if is_engine_folder(folder) else engine.info.precision
    )
    return precision == "bf16"


def cost_apart(model: str, *, device: str, threads: int | None, slices: Sequence[int]) -> dict[str, Any]:
    """The same in a fresh process.

    Raises:
        EngineError: It failed there.
    """
    command = [sys.executable, "-m", "egolive.benchmarks.cost.engine_costs", model, "--device", device]
    command += ["--slices", *map(str, slices)]
    if threads is not None:
        command += ["--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(f"{model} cannot be measured: {lines[-1][:300]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _weights_read(engine: Halves, folder: Path) -> tuple[int, int]:
    """Bytes of weights that each decoded token reads, and how many numbers they are."""
    text = Qwen2VLConfig.from_pretrained(folder).text_config
    head = int(text.hidden_size) // int(text.num_attention_heads)
    attention = int(text.hidden_size) * head * 2 * (text.num_attention_heads + text.num_key_value_heads)
    layer = attention + 3 * int(text.hidden_size) * int(text.intermediate_size)
    weights = int(text.num_hidden_layers) * layer
    decoder = engine.halves()[1]
    if isinstance(decoder, TorchDecoder):
        layers = sum(weight.nbytes for weight in decoder.text_model.layers.parameters())
        return layers + decoder.head.nbytes, weights
    # TensorRT's decode step stands beside the graphs that it was built from.
    built = list(folder.glob("decode.engine"))
    return sum(path.stat().st_size for path in built or folder.glob("decoder.*")), weights


def _times(engine: Halves, place: torch.device, slices: Sequence[int]) -> dict[str, Any]:
    tower, decoder = engine.halves()
    height, width = engine.profile.picture or _PICTURE
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2 * max(slices))]
    patches = engine.preprocessor.patches(frames[:2], height, width)
    found: dict[str, Any] = {
        "encode_ms": round(median_seconds(lambda: tower.encode(*patches), place) * 1e3, 3)
    }
    prefill = []
    for count in slices:
        vision = Vision(tuple(frames[: 2 * count]), height, width, "video")
        prompt = build_prompt(engine.profile, Question("intent"), [vision])
        layout = lay_out(prompt, engine.tokenizer)
        embeddings = embeddings_of(layout, tower, decoder, engine.preprocessor)
        chunk = (embeddings, layout.positions)
        spent = median_seconds(
            lambda chunk=chunk: decoder.forward([ForwardInput(decoder.new_cache(), *chunk)]),  # type: ignore[misc]
            place,
        )
        prefill.append({"slices": count, "tokens": len(layout), "ms": round(spent * 1e3, 2)})
    found["prefill"] = prefill
    row = decoder.new_cache()
    decoder.forward([ForwardInput(row, embeddings, layout.positions)])
    branch, token = row.fork(), decoder.embed([0])
    # The first steps of an engine make what later ones use; and what was started is not theirs.
    for step in range(_WARM):
        decoder.forward([ForwardInput(branch, token, np.full((3, 1), layout.next_position + step))])
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    with Energy() as energy:
        begun = time.perf_counter()
        for step in range(_STEPS):
            decoder.forward(
                [ForwardInput(branch, token, np.full((3, 1), layout.next_position + _WARM + step))]
            )
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        spent = time.perf_counter() - begun
    found["tok_s"] = round(_STEPS / spent, 2)
    found["joules_token"] = None if energy.joules is None else round(energy.joules / _STEPS, 4)
    found["energy"] = energy.told_by or "not told"
    return found | _first_tokens(engine, frames)


def _first_tokens(engine: Engine, frames: Sequence[np.ndarray[Any, Any]]) -> dict[str, float]:
    """Milliseconds to the first token: of a stream's first question, and of later ones as it goes on."""
    windows = Windows(len(frames) // 2)
    times: list[float] = []
    with engine.session() as session:
        for place in range(len(frames) // 2 + _HOPS):
            first, second = (Frame(frames[n % len(frames)], n / 2, n) for n in (2 * place, 2 * place + 1))
            window = windows.push(Slice(first, second, place))
            if len(window.slices) < len(frames) // 2:
                continue
            prompt: Prompt = build_prompt(
                engine.profile,
                Question("intent"),
                [vision_of(window, engine.profile)],
                window=window.interval,
            )
            begun = time.perf_counter()
            next(iter(session.ask([Request(prompt, max_tokens=1)])))
            times.append((time.perf_counter() - begun) * 1e3)
    live = sorted(times[1:])
    return {"ttft_ms": round(times[0], 2), "ttft_live_ms": round(live[len(live) // 2], 2)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--slices", type=int, nargs="+")
    asked = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    sys.stdout.write(json.dumps(cost_of(**asked)) + "\n")
