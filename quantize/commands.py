"""`egolive export` and `egolive quantize`: a checkpoint or a training run becomes an engine folder.

egolive export nano --out engines/onnx-fp32
egolive quantize runs/nano-sft --to int4 --out engines/onnx-int4
egolive run --engine engines/onnx-int4
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from egolive.assistant.engine_folder import EngineCard
from egolive.quantize.bnb import build_torch
from egolive.quantize.build import Recipe, build_onnx
from egolive.quantize.calibration import simulated_windows, windows_of_video
from egolive.streaming.errors import UsageError

__all__ = ["export", "quantize"]

SIMULATOR = "sim"


def export(
    model: str = "nano",
    *,
    out: Path,
    dtype: Literal["fp32", "bf16"] = "fp32",
    height: int | None = None,
    width: int | None = None,
) -> None:
    """Write a checkpoint as an engine folder for ONNX Runtime, at full precision.

    Args:
        model: `nano`, a checkpoint folder, a training run's output folder, LoRA weights, or a hub id.
        out: The engine folder; an engine there is replaced.
        dtype: fp32, or bf16 for GPUs.
        height: Height of the pictures that the engine takes, rounded to a multiple of 28; with `--width`.
        width: Their width, rounded to a multiple of 28; with `--height`.
    """
    size = _size(height, width)
    with Console(stderr=True).status(f"exporting {model}"):
        card = build_onnx(model, out, Recipe(precision=dtype), size=size)
    _tell(out, card)


def quantize(
    model: str = "nano",
    *,
    out: Path,
    to: Literal["int8", "int4", "awq-int4", "nf4", "bnb-int8"] = "int4",
    block: Literal[32, 64, 128] = 32,
    head_bits: Literal[4, 8, 32] = 8,
    height: int | None = None,
    width: int | None = None,
    calibrate: str = SIMULATOR,
    windows: int = 16,
    slices: int = 8,
) -> None:
    """Write a checkpoint as an engine folder with fewer bits; the vision tower stays as it is.

    Args:
        model: `nano`, a checkpoint folder, a training run's output folder, LoRA weights, or a hub id.
        out: The engine folder; an engine there is replaced.
        to: int8, int4 and awq-int4 for ONNX Runtime; nf4 and bnb-int8 (bitsandbytes) for torch.
        block: Weights that share a scale, for int8 and int4.
        head_bits: Of the last layer; 32 leaves it as it is.
        height: Height of the pictures that the engine takes, rounded to a multiple of 28; with `--width`.
        width: Their width, rounded to a multiple of 28; with `--height`.
        calibrate: What AWQ is shown: `sim`, episodes of the simulator, or a video file.
        windows: How many windows AWQ is shown.
        slices: Slices in such a window.
    """
    size = _size(height, width)
    if windows < 1 or slices < 1:
        raise UsageError("AWQ needs at least one window of one slice")
    with Console(stderr=True).status(f"quantising {model}"):
        if to == "nf4" or to == "bnb-int8":
            card = build_torch(model, out, to)
        else:
            shown = []
            if to == "awq-int4":
                simulated = calibrate == SIMULATOR
                shown = (
                    simulated_windows(windows, slices)
                    if simulated
                    else windows_of_video(calibrate, windows, slices)
                )
            card = build_onnx(
                model, out, Recipe(precision=to, block=block, head_bits=head_bits), size=size, windows=shown
            )
    _tell(out, card)


def _size(height: int | None, width: int | None) -> tuple[int, int] | None:
    if (height is None) != (width is None):
        raise UsageError("an exact size needs --height and --width")
    if height is None or width is None:
        return None
    return max(28, round(height / 28) * 28), max(28, round(width / 28) * 28)


def _tell(out: Path, card: EngineCard) -> None:
    """What was made, in two lines."""
    console = Console(stderr=True)
    size = sum(known["bytes"] for known in card.files.values())
    parts = ", ".join(f"{part} {precision}" for part, precision in card.precision.items())
    console.print(f"{out}: {size / 1e6:.1f} MB for {card.backend} ({parts})", highlight=False)
    parity = ", ".join(f"{key} {value:.1e}" for key, value in card.made.get("parity", {}).items())
    told = f"differences from torch: {parity}; " if parity else ""
    seconds, peak = card.made["seconds"], card.made["peak_memory_bytes"] / 2**30
    console.print(f"{told}{seconds} s, {peak:.1f} GiB at most", highlight=False)
