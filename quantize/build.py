"""From a checkpoint to an ONNX engine folder: written, checked against torch, described, moved into place."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant import machine
from egolive.assistant.engine_folder import (
    DECODER_FILE,
    EMBEDDINGS_FILE,
    TOWER_FILE,
    EngineCard,
    Shapes,
    describe_files,
    hash_checkpoint,
)
from egolive.assistant.loading import load_model
from egolive.assistant.preprocess import Preprocessor
from egolive.assistant.profiles import Profile, load_profile, save_profile
from egolive.assistant.tokenizer import Tokenizer, load_tokenizer
from egolive.assistant.torch_decoder import TorchDecoder
from egolive.assistant.torch_engine import TorchTower
from egolive.quantize import awq
from egolive.quantize.calibration import shown_windows
from egolive.quantize.card import write_card
from egolive.quantize.decoder_graph import LinearWriter, write_decoder
from egolive.quantize.folder import copy_small_files, model_shapes, new_folder, package_versions, peak_memory
from egolive.quantize.graph import BF16, FP32, Graph
from egolive.quantize.parity import LIMIT, Probe, check_decoder, check_tower
from egolive.quantize.source import checkpoint_of
from egolive.quantize.tower_graph import write_tower
from egolive.quantize.weights import block_writer, plain_writer
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Window

__all__ = ["DEFAULT_SIZE", "Precision", "Recipe", "build_onnx"]

Precision = Literal["full", "int8", "int4", "awq-int4"]
DEFAULT_SIZE = (252, 448)
"""Height and width of the pictures that an engine takes, where neither caller nor profile says."""
_BITS = {"int8": 8, "int4": 4}
_PRODUCER = "egolive"
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an engine's weights are stored."""

    precision: Precision = "full"
    """Of the decoder's weights; full: as everything else."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """In which hidden states are computed, and what is not quantised is stored; the CPU knows fp32 alone."""
    block: int = 32
    """Numbers of a weight that share a scale, for int8 and int4; AWQ has its own 128."""
    head_bits: int = 8
    """Of the last layer when the others are quantised: 4, 8, or 32 for none."""

    def __post_init__(self) -> None:
        if self.block not in (32, 64, 128):
            raise ConfigError(f"a block is 32, 64 or 128 numbers, got {self.block}")
        if self.head_bits not in (4, 8, 32):
            raise ConfigError(f"the last layer has 4, 8 or 32 bits, got {self.head_bits}")


def build_onnx(
    model: str,
    out: Path,
    recipe: Recipe,
    *,
    size: tuple[int, int] | None = None,
    windows: Sequence[Window] = (),
) -> EngineCard:
    """Write an ONNX engine folder.

    Args:
        model: What `checkpoint_of` takes.
        out: The folder; an engine there is replaced.
        recipe: How weights are stored.
        size: Height and width of the pictures that the engine takes, multiples of 28.
        windows: What AWQ is shown; needed for it alone.

    Raises:
        EngineError: The checkpoint cannot be used, or what was written is not what torch computes.
        ConfigError: A setting that cannot work, or something else stands in `out`.
    """
    started = time.monotonic()
    if recipe.precision == "awq-int4" and not windows:
        raise ValueError("AWQ needs windows to be shown")
    with checkpoint_of(model) as source, new_folder(out) as folder:
        profile = _fixed(load_profile(source), size)
        loaded = load_model(source, _CPU, torch.float32)
        assert profile.picture is not None
        shapes, tokenizer = model_shapes(loaded.config, profile.picture), _tokenizer(source, loaded)
        preprocessor = Preprocessor.from_folder(source)
        copy_small_files(source, folder)
        save_profile(profile, folder)
        calibration = shown_windows(windows, profile, tokenizer, preprocessor)
        precision = _write(folder, loaded, recipe, shapes, calibration)
        parity = _check(folder, loaded, recipe, Probe(shapes, tokenizer, preprocessor), shapes)
        card = EngineCard(
            name=out.name,
            backend="onnx",
            precision=precision,
            shapes=shapes,
            image_token=int(loaded.config.image_token_id),
            video_token=int(loaded.config.video_token_id),
            profile=profile.name,
            source={"name": model, "sha256": hash_checkpoint(source)},
            versions=package_versions(),
            files=describe_files(folder),
            made={
                "command": machine.gather()["command"],
                "commit": machine.commit(),
                "block": recipe.block if recipe.precision in _BITS else awq.GROUP,
                "parity": parity,
                "seconds": round(time.monotonic() - started, 1),
                "peak_memory_bytes": peak_memory(),
            },
        )
        write_card(folder, card)
    return card


def _write(
    folder: Path,
    model: Qwen2VLForConditionalGeneration,
    recipe: Recipe,
    shapes: Shapes,
    calibration: awq.Calibration,
) -> dict[str, str]:
    """Write both halves and the embeddings; returns the precision of each part."""
    dtype = BF16 if recipe.dtype == "bf16" else FP32
    if dtype == BF16:
        # What the file will hold is what torch has to be compared with.
        model.to(torch.bfloat16).float()
    grid = (shapes.height // 14, shapes.width // 14)
    with Graph(folder / TOWER_FILE, dtype) as graph:
        write_tower(graph, model.model.visual, *grid)
        graph.save(_PRODUCER)
    stored = _write_embeddings(folder / EMBEDDINGS_FILE, model)
    writer: LinearWriter
    if recipe.precision == "awq-int4":
        writer = awq.quantised_writer(model, calibration, recipe.block, recipe.head_bits)
    elif recipe.precision in _BITS:
        writer = block_writer(_BITS[recipe.precision], recipe.block, recipe.head_bits)
    else:
        writer = plain_writer()
    with Graph(folder / DECODER_FILE, dtype) as graph:
        write_decoder(graph, model, writer)
        graph.save(_PRODUCER)
    found = {"tower": recipe.dtype, "decoder": recipe.dtype, "head": recipe.dtype, "embeddings": stored}
    if recipe.precision != "full":
        found["decoder"] = recipe.precision
        found["head"] = {4: "int4", 8: "int8"}.get(recipe.head_bits, recipe.dtype)
    return found


def _write_embeddings(path: Path, model: Qwen2VLForConditionalGeneration) -> str:
    """Write the table of token embeddings; in bf16 where that loses nothing."""
    table = model.model.language_model.embed_tokens.weight.detach()
    short = table.to(torch.bfloat16)
    exact = torch.equal(short.float(), table)
    save_file({"embeddings": short if exact else table.contiguous()}, path)
    return "bf16" if exact else "fp32"


def _check(
    folder: Path,
    model: Qwen2VLForConditionalGeneration,
    recipe: Recipe,
    probe: Probe,
    shapes: Shapes,
) -> dict[str, float]:
    """Compare both halves with torch, one after the other: each may be as large as the model."""
    slices = probe.slices(TorchTower(model))
    found = {"tower": check_tower(folder, shapes, probe, slices)}
    expected = probe.logits(TorchDecoder(model), slices)
    limit = awq.LIMIT if recipe.precision == "awq-int4" else LIMIT
    return found | check_decoder(folder, shapes, probe, slices, expected, limit)


def _fixed(profile: Profile, size: tuple[int, int] | None) -> Profile:
    """The profile with one size for all pictures, the only one that the tower takes."""
    height, width = size or profile.picture or DEFAULT_SIZE
    return replace(profile, picture=(height, width))


def _tokenizer(folder: Path, model: Qwen2VLForConditionalGeneration) -> Tokenizer:
    return load_tokenizer(
        folder, image_token=model.config.image_token_id, video_token=model.config.video_token_id
    )
