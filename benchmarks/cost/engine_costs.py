"""Cost of one engine on this machine, against the machine's limits, in a process of its own.

A fresh process, so that memory is the engine's own. `egolive bench engines` starts one for each engine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2VLConfig

from egolive.assistant.backends.torch.torch_decoder import TorchDecoder
from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.model.engine_folder import is_engine_folder, read_engine_card
from egolive.assistant.prompts.prompts import build_prompt, vision_of
from egolive.assistant.runtime.torch_threads import torch_threads
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Prompt, Request
from egolive.assistant.system.peak_memory import PeakMemory
from egolive.benchmarks.cost.ceilings import copy_rate, matrix_rate
from egolive.benchmarks.cost.energy import Energy
from egolive.quantize.measure.engine_speed import (
    STEPS,
    AnyLocalEngine,
    loaded,
    noise_frames,
    run_apart,
    time_engine,
)
from egolive.streaming.frames import Frame, Slice
from egolive.streaming.metrics import peak_rss_bytes
from egolive.streaming.pipeline.windowing import Windows

__all__ = ["cost_apart", "cost_of"]

_BLOCK = 256 * 1024**2
"""Bytes that no processor's cache holds."""
_HOPS = 4
"""Live hops of which the median counts."""


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
        (most on a GPU, None where torch does not count it); ceilings: copy_gb_s, copy_weights_gb_s (a block
        as large as the weights that a token reads), matrix_gflop_s; encode_ms of a slice; prefill: for each
        length slices, tokens, ms, of_ceiling; ttft_ms of a question about pictures that are all new,
        ttft_live_ms about a window that has grown by a slice; tok_s, floor_tok_s (its ceiling), of_floor;
        joules_token, None where nothing tells, and energy, what did.

    Raises:
        EngineError: The engine cannot be loaded, or the device failed.
    """
    folder, energy, peak = resolve_model(model), Energy(), PeakMemory()
    with loaded(model, device=device, threads=threads) as (engine, found):
        place = torch.device(engine.info.device)
        read, weights = _weights_read(engine, folder)
        dtype = torch.bfloat16 if _computes_in_bf16(engine, folder) else torch.float32
        times = time_engine(engine, slices, energy)
        found |= {
            "threads": threads,
            "token_mb": round(read / 1e6, 1),
            "encode_ms": round(times.encode.wall * 1e3, 3),
            "prefill": [
                {"slices": count, "tokens": tokens, "ms": round(spent.wall * 1e3, 2)}
                for count, tokens, spent in times.prefill
            ],
            "tok_s": round(1 / times.step.wall, 2),
            "joules_token": None if energy.joules is None else round(energy.joules / STEPS, 4),
            "energy": energy.source or "not told",
            **_first_tokens(engine, 2 * max(slices)),
        }
        # What ceilings need is not the engine's.
        found["peak_mb"] = round(peak_rss_bytes() / 1e6)
        if place.type == "cuda":
            found["device_mb"] = peak.device_mb(engine.info.device, engine.info.backend)
    with torch_threads(threads):
        ceilings = {
            "copy_gb_s": copy_rate(_BLOCK, place) / 1e9,
            "copy_weights_gb_s": copy_rate(read, place) / 1e9,
            # On a GPU a small product is over before the next one is launched.
            "matrix_gflop_s": matrix_rate(place, dtype, 8192 if place.type == "cuda" else 1024) / 1e9,
        }
    found["ceilings"] = {name: round(value, 2) for name, value in ceilings.items()}
    found["floor_tok_s"] = round(ceilings["copy_weights_gb_s"] * 1e9 / read, 1)
    found["of_floor"] = float(f"{found['tok_s'] / found['floor_tok_s']:.3g}")
    for entry in found["prefill"]:
        reached = 2 * weights * entry["tokens"] / (entry["ms"] / 1e3)
        entry["of_ceiling"] = round(reached / (ceilings["matrix_gflop_s"] * 1e9), 4)
    return found


def _computes_in_bf16(engine: AnyLocalEngine, folder: Path) -> bool:
    """Weights of few bits say nothing about the sums: the tower's precision does, and torch's own type."""
    decoder = engine.backend()[1]
    if isinstance(decoder, TorchDecoder):
        return decoder.dtype == torch.bfloat16
    precision = (
        read_engine_card(folder).precision["tower"] if is_engine_folder(folder) else engine.info.precision
    )
    return precision == "bf16"


def cost_apart(model: str, **options: object) -> dict[str, Any]:
    """`cost_of` in a fresh process; see `run_apart`."""
    return run_apart("egolive.benchmarks.cost.engine_costs", model, **options)


def _weights_read(engine: AnyLocalEngine, folder: Path) -> tuple[int, int]:
    """Bytes of weights that each decoded token reads, and how many numbers they are."""
    text = Qwen2VLConfig.from_pretrained(folder).text_config
    head = int(text.hidden_size) // int(text.num_attention_heads)
    attention = int(text.hidden_size) * head * 2 * (text.num_attention_heads + text.num_key_value_heads)
    layer = attention + 3 * int(text.hidden_size) * int(text.intermediate_size)
    weights = int(text.num_hidden_layers) * layer
    decoder = engine.backend()[1]
    if isinstance(decoder, TorchDecoder):
        layers = sum(weight.nbytes for weight in decoder.text_model.layers.parameters())
        return layers + decoder.head.nbytes, weights
    # TensorRT's decode step stands beside the graphs that it was built from.
    built = list(folder.glob("decode.engine"))
    return sum(path.stat().st_size for path in built or folder.glob("decoder.*")), weights


def _first_tokens(engine: AnyLocalEngine, count: int) -> dict[str, float]:
    """Milliseconds to the first token: of a stream's first question, and of later ones as it goes on.

    Args:
        engine: What is asked.
        count: Frames of its window.
    """
    frames = noise_frames(engine, count)
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
    sys.stdout.write(json.dumps(cost_of(**json.loads(sys.argv[1]))) + "\n")
