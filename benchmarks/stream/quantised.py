"""What int4 gains on this machine at a real model's size, with random weights: both sides in one run.

    python -m egolive.benchmarks.stream.quantised --model 2b --json 2b.json

The torch checkpoint in fp32 and the ONNX engine made from it are each measured in a process of their own.
Random weights say nothing about quality; speed, size and memory do not depend on what weights say.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import App, Parameter
from rich.console import Console

from egolive.assistant.backends.torch.torch_decoder import TorchDecoder
from egolive.assistant.model.engine_folder import EngineCard
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import save_profile
from egolive.assistant.system import machine
from egolive.benchmarks.stream.random_weights import STRUCTURES, Structure, random_engine
from egolive.quantize.build import Recipe, build_onnx
from egolive.quantize.measure.engine_speed import measure_apart
from egolive.quantize.methods.calibration import simulated_windows
from egolive.streaming.errors import ConfigError

__all__ = ["quantised"]


def quantised(
    *,
    model: Literal["2b", "7b"] = "2b",
    layers: int | None = None,
    vision_layers: int | None = None,
    to: tuple[Literal["int4", "int8", "awq-int4"], ...] = ("int4",),
    block: Literal[32, 64, 128] = 32,
    slices: int = 3,
    windows: int = 1,
    calibrated_slices: int = 1,
    threads: int | None = None,
    folder: Path | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Measure torch in fp32 against quantised engines with random weights of a real structure.

    Args:
        model: Whose structure.
        layers: Text layers, fewer than the real number where memory does not hold them.
        vision_layers: The same for the tower.
        to: What it is quantised to.
        block: Weights that share a scale, for int4 and int8.
        slices: In the window whose prompt is read.
        windows: What AWQ is shown; its time grows with it.
        calibrated_slices: Slices in such a window.
        threads: CPU threads.
        folder: Where checkpoint and engines are kept; they are deleted without it.
        json_file: Also write the JSON object here.
    """
    structure = STRUCTURES[model]
    structure = replace(
        structure,
        text_layers=layers or structure.text_layers,
        vision_layers=vision_layers or structure.vision_layers,
    )
    if not to:
        raise ConfigError("nothing to quantise to")
    with tempfile.TemporaryDirectory() as temporary:
        root = folder or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        checkpoint = root / f"random-{model}-{structure.text_layers}-{structure.vision_layers}"
        console = Console(stderr=True)
        if not (checkpoint / "config.json").is_file():
            with console.status("drawing random weights"):
                _write_checkpoint(checkpoint, model, structure)
        engines = []
        for precision in to:
            shown = simulated_windows(windows, calibrated_slices) if precision == "awq-int4" else []
            out = root / f"onnx-{precision}"
            with console.status(f"quantising to {precision}"):
                card = build_onnx(
                    str(checkpoint), out, Recipe(precision=precision, block=block), windows=shown
                )
            engines.append(_described(card, out))
        for entry in engines:
            with console.status(f"measuring {entry['name']}"):
                entry |= measure_apart(entry.pop("folder"), threads=threads, slices=slices)
        with console.status("measuring torch"):
            torch_fp32 = measure_apart(str(checkpoint), dtype="fp32", threads=threads, slices=slices)
        whole = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    for entry in engines:
        entry["decode_gain"] = round(entry["tok_s"] / torch_fp32["tok_s"], 2)
        entry["prefill_gain"] = round(entry["prefill_tok_s"] / torch_fp32["prefill_tok_s"], 2)
        entry["decode_cpu_gain"] = round(entry["tok_cpu_s"] / torch_fp32["tok_cpu_s"], 2)
        entry["prefill_cpu_gain"] = round(entry["prefill_tok_cpu_s"] / torch_fp32["prefill_tok_cpu_s"], 2)
    found = {
        "model": model,
        "text_layers": structure.text_layers,
        "vision_layers": structure.vision_layers,
        "checkpoint_mb": round(whole / 1e6),
        "torch_fp32": torch_fp32,
        "engines": engines,
        **machine.gather(),
    }
    text = json.dumps(found)
    if json_file is not None:
        json_file.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


def _described(card: EngineCard, folder: Path) -> dict[str, Any]:
    """Sizes against the same weights in fp32, and what making it took."""
    sizes = {name: known["bytes"] for name, known in card.files.items()}
    decoder = sum(size for name, size in sizes.items() if name.startswith("decoder."))
    return {
        "name": card.name,
        "folder": str(folder),
        "decoder_mb": round(decoder / 1e6),
        "engine_mb": round(sum(sizes.values()) / 1e6),
        "made_s": card.made["seconds"],
        "made_peak_mb": round(card.made["peak_memory_bytes"] / 1e6),
        "parity": card.made["parity"],
    }


def _write_checkpoint(folder: Path, model: str, structure: Structure) -> None:
    questions = [Question("intent"), Question("ground", "left hand")]
    engine = random_engine(model, structure, questions=questions, device=torch.device("cpu"))
    _, decoder = engine.halves()
    assert isinstance(decoder, TorchDecoder)
    decoder.model.save_pretrained(folder)
    save_profile(engine.profile, folder)
    # The words are those of the questions; only this benchmark ever writes them down.
    tokenizer: Any = engine.tokenizer._tokenizer
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    App(default_command=quantised)()
