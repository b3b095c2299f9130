"""How fast and how large one engine is, measured in a process of its own so that memory is its own.

python -m egolive.quantize.measure.engine_speed engines/onnx-int4 --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egolive.assistant.load_local import load_engine
from egolive.assistant.model.prompt_tokens import lay_out
from egolive.assistant.runtime.backend import ForwardInput
from egolive.assistant.runtime.torch_threads import torch_threads
from egolive.assistant.schema.engine import Prompt, Vision
from egolive.quantize.build import DEFAULT_SIZE
from egolive.quantize.new_folder import peak_memory
from egolive.quantize.prompt_embeddings import embeddings_of
from egolive.streaming.errors import EngineError

__all__ = ["measure", "measure_apart"]

_REPEATS = 5
_SECONDS = 20.0
"""Repeats end after so long: a large model takes that for a single prompt."""
_STEPS = 32


def measure(
    model: str, *, device: str = "cpu", dtype: str = "auto", threads: int | None = None, slices: int = 8
) -> dict[str, Any]:
    """Load an engine and time its halves.

    Args:
        model: What `load_engine` takes.
        device: Where it runs.
        dtype: Of a checkpoint; engine folders have their own.
        threads: CPU threads.
        slices: In the window that is read.

    Returns:
        load_s, loaded_mb (memory that it takes), peak_mb (of the whole process), encode_ms (one slice),
        prompt_tokens, prefill_ms (that many tokens), prefill_tok_s, tok_s (one answer, token by token).
        Names with `cpu` are the same by processor time, which other programs do not lengthen: with one
        thread it is what an idle machine needs.

    Raises:
        EngineError: The engine cannot be loaded, or the device failed.
    """
    before, started = _resident(), time.perf_counter()
    with torch_threads(threads):
        engine = load_engine(model, device=device, dtype=dtype, threads=threads)
        load_s = time.perf_counter() - started
        tower, decoder = engine.halves()
        height, width = engine.profile.picture or DEFAULT_SIZE
        rng = np.random.default_rng(0)
        frames = tuple(rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2 * slices))
        vision = Vision(frames, height, width, "video")
        text = "<|vision_end|>What is the wearer doing?<|im_end|>\n<|im_start|>assistant\n"
        prompt = Prompt(("<|im_start|>user\n<|vision_start|>", vision, text))
        layout = lay_out(prompt, engine.tokenizer)
        patches = engine.preprocessor.patches(frames[:2], height, width)
        encode = _timed(lambda: tower.encode(*patches))
        embeddings = embeddings_of(layout, tower, decoder, engine.preprocessor)
        prefill = _timed(
            lambda: decoder.forward([ForwardInput(decoder.new_cache(), embeddings, layout.positions, keep=1)])
        )
        row = decoder.new_cache()
        decoder.forward([ForwardInput(row, embeddings, layout.positions, keep=1)])
        branch, token = row.fork(), decoder.embed([0])
        places = (np.full((3, 1), layout.next_position + step) for step in range(_STEPS))
        step = _timed(
            lambda: decoder.forward([ForwardInput(branch, token, next(places))]), repeats=_STEPS - 1
        )
    return {
        "backend": engine.info.backend,
        "precision": engine.info.precision,
        "device": engine.info.device,
        "weight_mb": round(engine.info.weight_bytes / 1e6, 1),
        "load_s": round(load_s, 2),
        "loaded_mb": round((_resident() - before) / 1e6),
        "peak_mb": round(peak_memory() / 1e6),
        "encode_ms": round(encode[0] * 1e3, 2),
        "encode_cpu_ms": round(encode[1] * 1e3, 2),
        "prompt_tokens": len(layout),
        "prefill_ms": round(prefill[0] * 1e3, 1),
        "prefill_tok_s": round(len(layout) / prefill[0], 1),
        "prefill_tok_cpu_s": round(len(layout) / prefill[1], 1),
        "tok_s": round(1 / step[0], 2),
        "tok_cpu_s": round(1 / step[1], 2),
    }


def measure_apart(
    model: str, *, device: str = "cpu", dtype: str = "auto", threads: int | None = None, slices: int = 8
) -> dict[str, Any]:
    """The same in a fresh process.

    Raises:
        EngineError: It failed there.
    """
    command = [sys.executable, "-m", "egolive.quantize.measure.engine_speed", model]
    command += ["--device", device, "--dtype", dtype, "--slices", str(slices)]
    if threads is not None:
        command += ["--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(f"{model} cannot be measured: {lines[-1][:300]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def folder_bytes(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _resident() -> int:
    """Bytes of this process in memory now; 0 where the system does not say."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


def _timed(work: Callable[[], object], repeats: int = _REPEATS) -> tuple[float, float]:
    """Median seconds of a few runs, by the clock and of the processor, after one that nobody counts."""
    work()
    times: list[float] = []
    busy: list[float] = []
    while len(times) < repeats and sum(times) < _SECONDS:
        began, worked = time.perf_counter(), time.process_time()
        work()
        if torch.cuda.is_available():
            # A GPU has been told what to do by now, not done it.
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        busy.append(time.process_time() - worked)
    return statistics.median(times), statistics.median(busy)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--slices", type=int, default=8)
    asked = vars(parser.parse_args())
    sys.stdout.write(json.dumps(measure(**asked)) + "\n")
