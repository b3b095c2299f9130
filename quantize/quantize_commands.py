"""`egolive export` and `egolive quantize`: a checkpoint or a training run becomes an engine folder.

egolive export nano --out engines/onnx-fp32
egolive export nano --to tensorrt --out engines/tensorrt
egolive quantize runs/nano-sft --to int4 --out engines/onnx-int4
egolive run --engine engines/onnx-int4
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from egolive.assistant.cli.options import MODEL, OUTPUT, DeviceOption, JsonFile, PlotFile, ThreadsOption
from egolive.assistant.cli.printing import check_folders, note, working, wrote
from egolive.assistant.load import check_model
from egolive.assistant.model.engine_folder import EngineCard, is_engine_folder
from egolive.assistant.system.anonymous_memory import use_large_pages
from egolive.quantize.progress import bars
from egolive.streaming.errors import SourceError, UsageError
from egolive.streaming.paths import existing_path

if TYPE_CHECKING:
    from egolive.streaming.frames import Window

__all__ = ["export", "quantize"]

SIMULATOR = "sim"
_NUMBERS = Parameter(group=Group("Numbers and sizes", sort_key=3))
_AWQ = Parameter(group=Group("What AWQ is shown", sort_key=5))
_COMPARE = Parameter(group=Group("Comparison", sort_key=6))
_OUT, _MODEL = Parameter(group=OUTPUT), Parameter(group=MODEL)


def export(
    model: Annotated[str, _MODEL] = "nano",
    *,
    out: Annotated[Path | None, _OUT] = None,
    to: Annotated[Literal["onnx", "tensorrt"], _OUT] = "onnx",
    dtype: Annotated[Literal["fp32", "bf16"] | None, _NUMBERS] = None,
    weights: Annotated[Literal["full", "int4", "awq-int4"] | None, _NUMBERS] = None,
    group: Annotated[Literal[64, 128], _NUMBERS] = 128,
    graphs_only: Annotated[bool, Parameter(negative="", group=OUTPUT)] = False,
    height: Annotated[int | None, _NUMBERS] = None,
    width: Annotated[int | None, _NUMBERS] = None,
    calibrate: Annotated[str, _AWQ] = SIMULATOR,
    windows: Annotated[int | None, _AWQ] = None,
    slices: Annotated[int, _AWQ] = 8,
) -> None:
    """Write a checkpoint as an engine folder: for ONNX Runtime at full precision, or for TensorRT.

    TensorRT's engines are built on the machine that runs them. Where the checkpoint does not fit that
    machine, write the folder elsewhere with `--graphs-only`, copy it, and give it there as the model.

    Args:
        model: `nano`, a checkpoint folder, a training run's output folder, LoRA weights, or a hub id; with
            `--to tensorrt` also an engine folder whose engines are to be built here, in place.
        out: The engine folder; an engine there is replaced.
        to: onnx, or tensorrt (10 or 11).
        dtype: In which hidden states are computed: fp32, for tensorrt bf16; bf16 is for GPUs.
        weights: For tensorrt: int4 in groups; awq-int4, in groups of 128, with modelopt's scales; or full.
        group: Weights that share a scale, for int4.
        graphs_only: For tensorrt: write what it builds from, and leave building to another machine.
        height: Height of the pictures that the engine takes, rounded to a multiple of 28; with `--width`.
        width: Their width, rounded to a multiple of 28; with `--height`.
        calibrate: What AWQ is shown: `sim`, episodes of the simulator, or a video file.
        windows: Windows that AWQ is shown; without it 16, of a large model fewer so that it takes about an
            hour.
        slices: Slices in each of them.
    """
    size = _size(height, width)
    if windows is not None and windows < 1:
        raise UsageError("at least one window is needed")
    if to == "onnx":
        if weights is not None or graphs_only:
            raise UsageError("--weights and --graphs-only are for --to tensorrt; see egolive quantize")
        if out is None:
            raise UsageError("--out names the engine folder")
        _check(out, model, calibrate, slices)
        use_large_pages()
        from egolive.quantize.build import Recipe, build_onnx

        with bars(note) as progress:
            card = build_onnx(model, out, Recipe(dtype=dtype or "fp32"), size=size, progress=progress)
        _tell(out, card)
        return
    in_place = is_engine_folder(Path(model))
    if in_place and (graphs_only or out not in (None, Path(model))):
        raise UsageError("the engines of a folder of graphs are built in place: leave --out away")
    if not in_place and out is None:
        raise UsageError("--out names the engine folder")
    _check(out, model, calibrate, slices)
    use_large_pages()
    # Imported here: these need torch, which what is told above does not wait for.
    from egolive.assistant.backends.tensorrt.tensorrt_runtime import tensorrt_module
    from egolive.quantize.build import Recipe, build_onnx
    from egolive.quantize.tensorrt_build import build_engines

    if not graphs_only:
        # Before the graphs are written, which takes a while.
        tensorrt_module()
    if out is None or in_place:
        out = Path(model)
    else:
        recipe = Recipe(
            precision=weights or "int4", dtype=dtype or "bf16", block=group, head_bits=32, standard=True
        )
        with bars(note) as progress:
            shown = _shown(model, out, calibrate, windows, slices) if weights == "awq-int4" else []
            card = build_onnx(model, out, recipe, size=size, windows=shown, progress=progress)
        _tell(out, card)
    if not graphs_only:
        with working("TensorRT builds and measures: minutes, for a large model much longer"):
            card = build_engines(out)
        note(f"wrote {out}: engines built in {card.made['build_seconds']} s")


def quantize(
    *models: Annotated[str, _MODEL],
    out: Annotated[Path | None, _OUT] = None,
    to: Annotated[
        Literal["int8", "int4", "awq-int4", "compressed-tensors", "nf4", "bnb-int8"], _OUT
    ] = "int4",
    block: Annotated[Literal[32, 64, 128] | None, _NUMBERS] = None,
    head_bits: Annotated[Literal[4, 8, 32], _NUMBERS] = 8,
    tower_bits: Annotated[Literal[8, 32] | None, _NUMBERS] = None,
    dtype: Annotated[Literal["fp32", "bf16"], _NUMBERS] = "fp32",
    height: Annotated[int | None, _NUMBERS] = None,
    width: Annotated[int | None, _NUMBERS] = None,
    calibrate: Annotated[str, _AWQ] = SIMULATOR,
    windows: Annotated[int | None, _AWQ] = None,
    slices: Annotated[int, _AWQ] = 8,
    compare: Annotated[bool, _COMPARE] = False,
    episodes: Annotated[int, _COMPARE] = 40,
    seed: Annotated[int, _COMPARE] = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_file: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """Write a checkpoint as an engine folder with fewer bits, or compare engines with the first of them.

    One layer at a time is in memory. A run that was interrupted goes on where it was when it is started
    again.

    Args:
        models: `nano`, a checkpoint folder, a training run's output folder, LoRA weights, or a hub id; with
            `--compare` several of these or engine folders.
        out: The engine folder; an engine there is replaced.
        to: int8, int4 and awq-int4 for ONNX Runtime; compressed-tensors, an int4 checkpoint for vLLM, of
            which int4 and TensorRT's engines are made without loss; nf4 and bnb-int8 (bitsandbytes) for
            torch.
        block: Weights that share a scale: 32 for int8 and 128 for int4 without it.
        head_bits: Of the last layer; 32 leaves it as it is.
        tower_bits: Of the vision tower; 32 leaves it as it is. Without it 8 for fp32, 32 for bf16.
        dtype: In which the rest is stored and computed, for ONNX; bf16 for GPUs.
        height: Height of the pictures that the engine takes, rounded to a multiple of 28; with `--width`.
        width: Their width, rounded to a multiple of 28; with `--height`.
        calibrate: What AWQ is shown: `sim`, episodes of the simulator, or a video file.
        windows: Windows that AWQ is shown (without it 16, of a large model fewer so that it takes about an
            hour), or about which `--compare` asks token by token (210).
        slices: Slices in a window that AWQ is shown.
        compare: Measure engines: quality on the simulator's test episodes, agreement, size, memory, speed.
        episodes: Test episodes of the comparison.
        seed: Of the comparison's episodes.
        device: Where the comparison runs: auto, cpu, cuda or cuda:N.
        threads: CPU threads of the comparison.
        json_file: Also write the comparison here.
        plot: Draw the comparison here.
    """
    if windows is not None and windows < 1:
        raise UsageError("at least one window is needed")
    if compare:
        if len(models) < 2:
            raise UsageError("--compare needs at least two engines")
        if episodes < 1:
            raise UsageError("a comparison needs at least one episode")
        check_folders(json_file, plot)
        for name in models:
            check_model(name)
        # Imported here: only this needs what training needs.
        from egolive.quantize.measure.compare_engines import compare as compare_engines

        compare_engines(
            models,
            episodes=episodes,
            windows=windows or 210,
            seed=seed,
            device=device,
            threads=threads,
            json_file=json_file,
            plot=plot,
        )
        wrote(json_file, plot)
        return
    if len(models) > 1 or out is None:
        raise UsageError("give one model and --out for its engine folder, or --compare")
    model = models[0] if models else "nano"
    size = _size(height, width)
    if to in ("nf4", "bnb-int8", "compressed-tensors") and (dtype, block, head_bits, tower_bits, size) != (
        "fp32",
        None,
        8,
        None,
        None,
    ):
        raise UsageError(
            f"--dtype, --block, --head-bits, --tower-bits, --height and --width are not for {to}"
        )
    _check(out, model, calibrate, slices)
    use_large_pages()
    # Imported here: these need torch, which what is told above does not wait for.
    from egolive.quantize.build import Recipe, build_onnx
    from egolive.quantize.methods.bnb import build_torch

    if to == "nf4" or to == "bnb-int8":
        with working(f"quantising {model}"):
            card = build_torch(model, out, to)
        _tell(out, card)
        return
    if to == "compressed-tensors":
        from egolive.quantize.methods.compressed_tensors import build_checkpoint

        with bars(note) as progress:
            size_of = build_checkpoint(model, out, progress=progress)
        note(f"wrote {out}: {size_of / 1e6:.1f} MB, text layers in int4")
        return
    recipe = Recipe(
        precision=to,
        dtype=dtype,
        block=block or (32 if to == "int8" else 128),
        head_bits=head_bits,
        # The CPU has no bf16 products, and fp32 weights would take four times the memory.
        tower_bits=tower_bits or (8 if dtype == "fp32" else 32),
    )
    with bars(note) as progress:
        shown = _shown(model, out, calibrate, windows, slices) if to == "awq-int4" else []
        card = build_onnx(model, out, recipe, size=size, windows=shown, progress=progress)
    _tell(out, card)


def _check(out: Path | None, model: str, calibrate: str, slices: int) -> None:
    """Refuse what could only fail after the imports.

    Raises:
        UsageError: --out is a file, or a window of no slices is wanted.
        EngineError: there is no such model.
        SourceError: there is no such video to calibrate on.
    """
    if out is not None and existing_path(out) is not None and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    if slices < 1:
        raise UsageError("a window has at least one slice")
    if calibrate != SIMULATOR and "://" not in calibrate and existing_path(calibrate) is None:
        raise SourceError(
            f"{calibrate[:200]}: there is no such file; --calibrate takes {SIMULATOR} or a video"
        )
    # Training runs and LoRA weights are models too here, with files of their own.
    if existing_path(model) is None:
        check_model(model)


def _shown(model: str, out: Path, calibrate: str, windows: int | None, slices: int) -> list[Window]:
    from egolive.quantize.methods.awq_estimate import estimated_minutes, windows_within_an_hour
    from egolive.quantize.methods.calibration import simulated_windows, windows_of_video
    from egolive.quantize.output_folder import unfinished_about

    if windows is None:
        # What was cut off goes on with its own number: the machine may be faster or slower now.
        begun = [int(about) for about in unfinished_about(out) if about.isdecimal() and about != "0"]
        windows = begun[0] if begun else windows_within_an_hour(model, slices)
    minutes = estimated_minutes(model, windows, slices)
    note(f"AWQ is shown {windows} windows of {slices} slices: about {minutes:.0f} minutes on this machine")
    if calibrate == SIMULATOR:
        return simulated_windows(windows, slices)
    return windows_of_video(calibrate, windows, slices)


def _size(height: int | None, width: int | None) -> tuple[int, int] | None:
    if (height is None) != (width is None):
        raise UsageError("an exact size needs --height and --width")
    if height is None or width is None:
        return None
    return max(28, round(height / 28) * 28), max(28, round(width / 28) * 28)


def _tell(out: Path, card: EngineCard) -> None:
    """What was made, in two lines."""
    size = sum(known["bytes"] for known in card.files.values())
    parts = ", ".join(f"{part} {precision}" for part, precision in card.precision.items())
    note(f"wrote {out}: {size / 1e6:.1f} MB for {card.backend} ({parts})")
    parity = ", ".join(f"{key} {value:.1e}" for key, value in card.made.get("parity", {}).items())
    told = f"differences from torch: {parity}; " if parity else ""
    peak = f"{card.made['peak_memory_bytes'] / 1e9:.1f} GB of memory at most"
    own = card.made.get("peak_anonymous_bytes")
    if own is not None:
        peak += f", {own / 1e9:.1f} GB of them its own, the rest mapped files"
    note(f"{told}{card.made['seconds']} s, {peak}")
