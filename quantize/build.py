"""From a checkpoint to a folder of ONNX graphs: written, checked against torch, described, put in place."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.backends.onnx.graph_limits import Sizes
from egolive.assistant.backends.torch.torch_decoder import TorchDecoder
from egolive.assistant.backends.torch.torch_engine import TorchTower
from egolive.assistant.load_local import load_transformers_model
from egolive.assistant.model.engine_folder import (
    CACHE_FILE,
    DECODE_FILE,
    DECODER_FILE,
    EMBEDDINGS_FILE,
    TOWER_FILE,
    EngineCard,
    Shapes,
    describe_files,
    hash_checkpoint,
)
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.schema.profiles import Profile, load_profile, save_profile
from egolive.assistant.schema.tokenizer import Tokenizer, load_tokenizer
from egolive.assistant.system import machine
from egolive.quantize.checkpoint_source import checkpoint_of
from egolive.quantize.methods import awq
from egolive.quantize.methods.calibration import shown_windows
from egolive.quantize.onnx.block_int4 import GROUPS, check_widths, group_writer
from egolive.quantize.onnx.decoder_graph import LinearWriter, linear_layers, write_decoder
from egolive.quantize.onnx.onnx_graph import BF16, FP32, Graph, fix_sizes
from egolive.quantize.onnx.parity import LIMIT, Probe, check_decoder, check_steps, check_tower
from egolive.quantize.onnx.tower_graph import write_tower
from egolive.quantize.onnx.weights import block_writer, plain_writer
from egolive.quantize.output_folder import (
    DEFAULT_SIZE,
    copy_small_files,
    model_shapes,
    new_folder,
    package_versions,
    write_card,
)
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Window
from egolive.streaming.metrics import peak_rss_bytes, reset_peak_rss

__all__ = ["Precision", "Recipe", "build_onnx"]

Precision = Literal["full", "int8", "int4", "awq-int4"]
_BITS = {"int8": 8, "int4": 4}
_PRODUCER = "egolive"
_CPU = torch.device("cpu")
_SIZES = Sizes()
_ALIGN = 256
"""Bytes; TensorRT writes to multiples of it, and the keys of a token stand right behind those of another."""


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
    standard: bool = False
    """Nodes of ONNX itself alone, as TensorRT reads them, and the decoder once more with sizes for decode
    steps. The last layer is not quantised then."""

    def __post_init__(self) -> None:
        if self.standard and (self.head_bits != 32 or self.precision == "int8"):
            raise ConfigError("standard nodes are for full, int4 and awq-int4, with a last layer of 32 bits")
        if self.standard and self.precision == "int4" and self.block not in GROUPS:
            raise ConfigError(f"int4 for TensorRT has groups of 64 or 128 numbers, got {self.block}")
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
    sizes: Sizes = _SIZES,
) -> EngineCard:
    """Write an engine folder of ONNX graphs: for ONNX Runtime, or for TensorRT to build from.

    Args:
        model: What `checkpoint_of` takes.
        out: The folder; an engine there is replaced.
        recipe: How weights are stored.
        size: Height and width of the pictures that the engine takes, multiples of 28.
        windows: What AWQ is shown; needed for it alone.
        sizes: Limits of one pass, for standard graphs.

    Raises:
        EngineError: The checkpoint cannot be used, or what was written is not what torch computes.
        ConfigError: A setting that cannot work, or something else stands in `out`.
    """
    reset_peak_rss()
    started = time.monotonic()
    if recipe.precision == "awq-int4" and not windows:
        raise ValueError("AWQ needs windows to be shown")
    with checkpoint_of(model) as source, new_folder(out) as folder:
        profile = _fixed(load_profile(source), size)
        loaded = load_transformers_model(source, _CPU, torch.float32)
        assert profile.picture is not None
        shapes, tokenizer = model_shapes(loaded.config, profile.picture), _tokenizer(source, loaded)
        preprocessor = Preprocessor.from_folder(source)
        copy_small_files(source, folder)
        save_profile(profile, folder)
        calibration = shown_windows(windows, profile, tokenizer, preprocessor)
        precision = _write(folder, loaded, recipe, shapes, calibration)
        if recipe.standard:
            _fix(folder, recipe, shapes, sizes)
            if (out / CACHE_FILE).is_file():
                shutil.copyfile(out / CACHE_FILE, folder / CACHE_FILE)
        parity = _check(folder, loaded, recipe, Probe(shapes, tokenizer, preprocessor), shapes, sizes)
        card = EngineCard(
            name=out.name,
            backend="tensorrt" if recipe.standard else "onnx",
            precision=precision,
            shapes=shapes,
            image_token=int(loaded.config.image_token_id),
            video_token=int(loaded.config.video_token_id),
            profile=profile.name,
            source={"name": model, "sha256": hash_checkpoint(source)},
            versions=package_versions(),
            files=describe_files(folder),
            sizes=asdict(sizes) if recipe.standard else {},
            made={
                "command": machine.gather()["command"],
                "commit": machine.commit(),
                "block": awq.GROUP if recipe.precision == "awq-int4" else recipe.block,
                "parity": parity,
                "seconds": round(time.monotonic() - started, 1),
                "peak_memory_bytes": peak_rss_bytes(),
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
    """Write tower, decoder and embeddings; returns the precision of each part."""
    dtype = BF16 if recipe.dtype == "bf16" else FP32
    if dtype == BF16:
        # What the file will hold is what torch has to be compared with. Weights alone: the frequencies of
        # positions are none, and in bf16 they would be off by a radian after a thousand tokens.
        for weights in model.parameters():
            weights.data = weights.data.to(torch.bfloat16).float()
    grid = (shapes.height // 14, shapes.width // 14)
    with Graph(folder / TOWER_FILE, dtype) as graph:
        write_tower(graph, model.model.visual, *grid)
        graph.save(_PRODUCER)
    stored = _write_embeddings(folder / EMBEDDINGS_FILE, model)
    writer: LinearWriter
    if recipe.precision == "awq-int4":
        writer = awq.quantised_writer(model, calibration, recipe.block, recipe.head_bits)
    elif recipe.standard and recipe.precision == "int4":
        check_widths(linear_layers(model), recipe.block)
        writer = group_writer(recipe.block)
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


def _fix(folder: Path, recipe: Recipe, shapes: Shapes, sizes: Sizes) -> None:
    """One row of tokens at a time, and the same decoder with the sizes of a decode step."""
    token = shapes.kv_heads * shapes.head_width * (2 if recipe.dtype == "bf16" else 4)
    if token % _ALIGN:
        raise ConfigError(
            f"TensorRT needs keys of a token in multiples of {_ALIGN} bytes, this model's have {token}"
        )
    fix_sizes(folder / DECODER_FILE, folder / DECODER_FILE, batch=1)
    fix_sizes(
        folder / DECODER_FILE,
        folder / DECODE_FILE,
        sequence=sizes.step,
        rows=sizes.step,
        past=sizes.columns,
        total=sizes.columns + sizes.step,
    )


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
    sizes: Sizes,
) -> dict[str, float]:
    """Compare tower and decoder with torch, one after the other: each may be as large as the model."""
    slices = probe.slices(TorchTower(model))
    found = {"tower": check_tower(folder, shapes, probe, slices)}
    expected = probe.logits(TorchDecoder(model), slices)
    limit = awq.LIMIT if recipe.precision == "awq-int4" else LIMIT
    found |= check_decoder(folder, shapes, probe, slices, expected, limit)
    if recipe.standard:
        found["decode"] = check_steps(folder, shapes, sizes, probe, slices, expected, limit)
    return found


def _fixed(profile: Profile, size: tuple[int, int] | None) -> Profile:
    """The profile with one size for all pictures, the only one that the tower takes."""
    height, width = size or profile.picture or DEFAULT_SIZE
    return replace(profile, picture=(height, width))


def _tokenizer(folder: Path, model: Qwen2VLForConditionalGeneration) -> Tokenizer:
    return load_tokenizer(
        folder, image_token=model.config.image_token_id, video_token=model.config.video_token_id
    )
