"""From a checkpoint to a folder of ONNX graphs: written, checked against torch, described, put in place."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.backends.onnx.graph_limits import Sizes
from egolive.assistant.backends.onnx.token_table import shared_table, stored_table
from egolive.assistant.backends.torch.torch_engine import TorchTower
from egolive.assistant.model.engine_folder import (
    CACHE_FILE,
    DECODE_FILE,
    DECODER_FILE,
    EMBEDDINGS_FILE,
    TOWER_FILE,
    EngineCard,
    Shapes,
    SharedTable,
    describe_files,
    hash_checkpoint,
)
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.schema.profiles import Profile, load_profile, profile_to_dict, save_profile
from egolive.assistant.schema.tokenizer import Tokenizer, load_tokenizer
from egolive.assistant.system import machine
from egolive.assistant.system.anonymous_memory import AnonymousPeak
from egolive.quantize.checkpoint_source import checkpoint_of
from egolive.quantize.methods import awq
from egolive.quantize.methods.calibration import shown_windows
from egolive.quantize.onnx.block_int4 import GROUPS, check_widths, group_writer
from egolive.quantize.onnx.decoder_graph import (
    HEAD,
    LinearJoiner,
    LinearWriter,
    apart,
    linear_layers,
    write_decoder,
)
from egolive.quantize.onnx.onnx_graph import BF16, FP32, Graph, fix_sizes
from egolive.quantize.onnx.parity import Probe, check_decoder, check_steps, check_tower
from egolive.quantize.onnx.pieces import runs_otherwise
from egolive.quantize.onnx.reference import StoredDecoder
from egolive.quantize.onnx.tower_graph import write_tower
from egolive.quantize.onnx.weights import block_joiner, block_writer, dense_writer
from egolive.quantize.output_folder import (
    DEFAULT_SIZE,
    copy_small_files,
    model_shapes,
    new_folder,
    package_versions,
    write_card,
)
from egolive.quantize.progress import Progress, silent
from egolive.quantize.weights.forms import DenseWeight, chunks_of_rows
from egolive.quantize.weights.lazy_model import open_model
from egolive.quantize.weights.published import Published
from egolive.quantize.weights.stored_layers import StoredEmbedding
from egolive.quantize.weights.tensor_file import write_tensor
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Window
from egolive.streaming.metrics import peak_rss_bytes, reset_peak_rss

__all__ = ["Precision", "Recipe", "build_onnx"]

Precision = Literal["full", "int8", "int4", "awq-int4"]
_BITS = {"int8": 8, "int4": 4}
_PRODUCER = "egolive"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_TOWER_BLOCK = 128
"""Numbers of the vision tower's weights that share a scale: a third faster than 32."""
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
    block: int = 128
    """Numbers of a text layer's weight that share a scale, for int8 and int4; AWQ has its own 128."""
    head_bits: int = 8
    """Of the last layer when the others are quantised: 4, 8, or 32 for none."""
    head_block: int = 128
    """Numbers of its weight that share a scale."""
    tower_bits: int = 32
    """Of the vision tower's linear layers: 8, or 32 for none."""
    standard: bool = False
    """Nodes of ONNX itself alone, as TensorRT reads them, and the decoder once more with sizes for decode
    steps. The last layer is not quantised then."""

    def __post_init__(self) -> None:
        if self.standard and (self.head_bits != 32 or self.precision == "int8"):
            raise ConfigError("standard nodes are for full, int4 and awq-int4, with a last layer of 32 bits")
        if self.standard and self.precision == "int4" and self.block not in GROUPS:
            raise ConfigError(f"int4 for TensorRT has groups of 64 or 128 numbers, got {self.block}")
        if self.block not in (32, 64, 128) or self.head_block not in (32, 64, 128):
            raise ConfigError(f"a block is 32, 64 or 128 numbers, got {self.block} and {self.head_block}")
        if self.tower_bits not in (8, 32) or (self.standard and self.tower_bits != 32):
            raise ConfigError(f"the vision tower has 8 or 32 bits, for TensorRT 32, got {self.tower_bits}")
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
    progress: Progress = silent,
) -> EngineCard:
    """Write an engine folder of ONNX graphs: for ONNX Runtime, or for TensorRT to build from.

    The checkpoint's weights are read, rounded, written and checked one layer at a time. What an earlier call
    with the same arguments has written before it was killed or interrupted is taken over.

    Args:
        model: What `checkpoint_of` takes.
        out: The folder; an engine there is replaced.
        recipe: How weights are stored.
        size: Height and width of the pictures that the engine takes, multiples of 28.
        windows: What AWQ is shown; needed for it alone.
        sizes: Limits of one pass, for standard graphs.
        progress: Told how far it is.

    Raises:
        EngineError: The checkpoint cannot be used, or what was written is not what torch computes.
        ConfigError: A setting that cannot work, or something else stands in `out`.
    """
    reset_peak_rss()
    started = time.monotonic()
    if recipe.precision == "awq-int4" and not windows:
        raise ValueError("AWQ needs windows to be shown")
    with checkpoint_of(model) as source, AnonymousPeak() as memory:
        profile = _fixed(load_profile(source), size)
        assert profile.picture is not None
        loaded, form = open_model(source, _DTYPES[recipe.dtype])
        _check_form(model, recipe, form)
        shapes, tokenizer = model_shapes(loaded.config, profile.picture), _tokenizer(source, loaded)
        preprocessor = Preprocessor.from_folder(source)
        probe = Probe(shapes, tokenizer, preprocessor)
        original = probe.slices(TorchTower(loaded)) if recipe.tower_bits != 32 else []
        with progress.task("reading the checkpoint", 1) as step:
            source_hash = hash_checkpoint(source)
            step()
        key = _key(source_hash, recipe, profile, windows, sizes)
        with new_folder(out, key, about=str(len(windows))) as folder:
            copy_small_files(source, folder)
            save_profile(profile, folder)
            calibration = shown_windows(windows, profile, tokenizer, preprocessor)
            table = _write(folder, loaded, recipe, shapes, calibration, progress)
            if recipe.standard:
                _fix(folder, recipe, shapes, sizes)
                if (out / CACHE_FILE).is_file():
                    shutil.copyfile(out / CACHE_FILE, folder / CACHE_FILE)
            parity = _check(folder, loaded, recipe, probe, original, shapes, sizes, table, progress)
            for journal in folder.glob("*.journal"):
                journal.unlink()
            card = EngineCard(
                name=out.name,
                backend="tensorrt" if recipe.standard else "onnx",
                precision=_precision(recipe, form, loaded, table),
                shapes=shapes,
                image_token=int(loaded.config.image_token_id),
                video_token=int(loaded.config.video_token_id),
                profile=profile.name,
                source={"name": model, "sha256": source_hash},
                versions=package_versions(),
                files=describe_files(folder),
                embeddings=table,
                sizes=asdict(sizes) if recipe.standard else {},
                made={
                    "command": machine.gather()["command"],
                    "commit": machine.commit(),
                    "block": _block(recipe, form),
                    "parity": parity,
                    "seconds": round(time.monotonic() - started, 1),
                    "peak_memory_bytes": peak_rss_bytes(),
                    "peak_anonymous_bytes": memory.most,
                },
            )
            write_card(folder, card)
    return card


def _key(source: str, recipe: Recipe, profile: Profile, windows: Sequence[Window], sizes: Sizes) -> str:
    """Names what is written: the same words give the same engine."""
    whole = hashlib.sha256()
    for window in windows:
        for frame in window.frames:
            whole.update(frame.image.tobytes())
    told = (
        source,
        asdict(recipe),
        profile_to_dict(profile),
        asdict(sizes),
        package_versions(),
        machine.commit(),
    )
    whole.update(json.dumps(told, sort_keys=True).encode())
    return whole.hexdigest()


def _check_form(model: str, recipe: Recipe, form: Published | None) -> None:
    """Refuse to round a second time what is in 4 bits already.

    Raises:
        ConfigError: The recipe wants that.
    """
    if form is None:
        return
    if recipe.precision != "int4":
        raise ConfigError(
            f"{model} is in 4 bits already ({form.method}); use --to int4, or --weights int4 for TensorRT, "
            "which keep its numbers"
        )
    if recipe.standard and (not form.symmetric or form.group not in GROUPS):
        raise ConfigError(
            f"{model} ({form.method}) has {'' if form.symmetric else 'zero points and '}groups of "
            f"{form.group}; TensorRT reads symmetric int4 in groups of 64 or 128: use --to int4 for ONNX "
            "Runtime, or give the original model"
        )


def _block(recipe: Recipe, form: Published | None) -> int:
    """Numbers of a text layer that share a scale."""
    if form is not None:
        return form.group
    return awq.GROUP if recipe.precision == "awq-int4" else recipe.block


def _write(
    folder: Path,
    model: Qwen2VLForConditionalGeneration,
    recipe: Recipe,
    shapes: Shapes,
    calibration: awq.Calibration,
    progress: Progress,
) -> SharedTable | None:
    """Write tower, decoder and embeddings; returns where these stand if not in a file of their own."""
    dtype = BF16 if recipe.dtype == "bf16" else FP32
    layers = linear_layers(model)
    search = None
    if recipe.precision == "awq-int4":
        # Before the tower's weights are those that have been rounded.
        search = awq.LayerSearch(model, calibration(model), folder)
    grid = (shapes.height // 14, shapes.width // 14)
    tower = block_writer(recipe.tower_bits, _TOWER_BLOCK, recipe.tower_bits)
    with (
        progress.task("writing the vision tower", len(model.model.visual.blocks)) as step,
        Graph(folder / TOWER_FILE, dtype) as graph,
    ):
        write_tower(graph, model.model.visual, *grid, tower, step)
        graph.save(_PRODUCER)
    writer: LinearWriter
    join: LinearJoiner = apart
    if search is not None:
        writer = awq.awq_writer(model, search, recipe.head_block, recipe.head_bits)
    elif recipe.standard and recipe.precision == "int4":
        check_widths(layers, recipe.block)
        writer = group_writer(recipe.block)
    elif recipe.precision in _BITS:
        if recipe.precision == "int4":
            check_widths(layers, recipe.block)
        bits = _BITS[recipe.precision]
        writer = block_writer(bits, recipe.block, recipe.head_bits, recipe.head_block)
        join = block_joiner(bits, recipe.block)
    else:
        writer = dense_writer()
    with (
        progress.task("writing the decoder", shapes.layers + 1) as step,
        Graph(folder / DECODER_FILE, dtype) as graph,
    ):
        write_decoder(graph, model, writer, join, step)
        table = _shared(graph, model, recipe, shapes)
        graph.save(_PRODUCER)
    if search is not None:
        search.forget()
    embeddings = model.model.language_model.embed_tokens
    if table is None:
        _write_embeddings(folder / EMBEDDINGS_FILE, embeddings)
    else:
        # The engine reads what was written of the last layer.
        embeddings.stored = model.lm_head.stored
    return table


def _shared(
    graph: Graph, model: Qwen2VLForConditionalGeneration, recipe: Recipe, shapes: Shapes
) -> SharedTable | None:
    """Where the embeddings stand that are the last layer too; None where they are weights of their own."""
    if not model.config.tie_word_embeddings:
        return None
    dense = recipe.precision == "full" or recipe.head_bits == 32
    numbers = graph.place(f"{HEAD}.weight" if dense else f"{HEAD}.packed")
    scales = None if dense else graph.place(f"{HEAD}.scales")
    if numbers is None or (scales is None and not dense):
        # So small that they stand in the graph itself.
        return None
    short = recipe.dtype == "bf16"
    return SharedTable(
        file=numbers[0].name,
        rows=shapes.vocabulary,
        width=shapes.hidden,
        bits=(16 if short else 32) if dense else recipe.head_bits,
        offset=numbers[1],
        block=recipe.head_block,
        scales_offset=scales[1] if scales else 0,
        scales_dtype="bf16" if short else "fp32",
    )


def _precision(
    recipe: Recipe, form: Published | None, model: Qwen2VLForConditionalGeneration, table: SharedTable | None
) -> dict[str, str]:
    """Of each part, as the card has it."""
    few = {4: "int4", 8: "int8", 32: recipe.dtype}
    full = recipe.precision == "full"
    head = recipe.dtype if full else few[recipe.head_bits]
    stored = model.model.language_model.embed_tokens.stored
    own = "bf16" if isinstance(stored, DenseWeight) and _is_short(stored) else "fp32"
    return {
        "tower": few[recipe.tower_bits],
        "decoder": recipe.dtype if full else recipe.precision if form is None else "int4",
        "head": head,
        "embeddings": own if table is None else head,
    }


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


def _write_embeddings(path: Path, embeddings: StoredEmbedding) -> None:
    """Write the table of token embeddings; in bf16 where that loses nothing."""
    stored = embeddings.stored
    assert isinstance(stored, DenseWeight)
    table, short = stored.tensor, _is_short(stored)

    def parts() -> Iterator[bytes]:
        for start, stop in chunks_of_rows(stored):
            part = table[start:stop].to(torch.bfloat16) if short else stored.values(start, stop)
            yield part.contiguous().view(torch.uint8).numpy().tobytes()

    kind = torch.bfloat16 if short else torch.float32
    write_tensor(path, "embeddings", kind, tuple(table.shape), parts())


def _is_short(stored: DenseWeight) -> bool:
    """Whether bf16 holds all of a table's numbers exactly."""
    if torch.bfloat16 in (stored.dtype, stored.tensor.dtype):
        return True
    return all(
        torch.equal(part.to(torch.bfloat16).float(), part)
        for start, stop in chunks_of_rows(stored)
        for part in [stored.values(start, stop)]
    )


def _check(
    folder: Path,
    model: Qwen2VLForConditionalGeneration,
    recipe: Recipe,
    probe: Probe,
    original: Sequence[torch.Tensor],
    shapes: Shapes,
    sizes: Sizes,
    table: SharedTable | None,
    progress: Progress,
) -> dict[str, float]:
    """Compare tower and decoder with torch, one layer at a time."""
    few = recipe.tower_bits != 32 and recipe.dtype == "fp32"
    runs = 2 if few else 1
    with progress.task("checking the vision tower", runs * (len(model.model.visual.blocks) + 2)) as step:
        slices, found = check_tower(folder, shapes, probe, model, original, step)
    embeddings = (
        stored_table(folder / EMBEDDINGS_FILE) if table is None else shared_table(folder / table.file, table)
    )
    passes = 2 * (2 if runs_otherwise(folder / DECODER_FILE) else 1) + (2 if recipe.standard else 0)
    with progress.task("checking the decoder", passes * (shapes.layers + 2)) as step:
        reference = StoredDecoder(model)
        expected, differences = check_decoder(folder, shapes, probe, slices, embeddings, reference, step)
        found |= differences
        if recipe.standard:
            found["decode"] = check_steps(folder, shapes, sizes, probe, slices, embeddings, expected, step)
    return found


def _fixed(profile: Profile, size: tuple[int, int] | None) -> Profile:
    """The profile with one size for all pictures, the only one that the tower takes."""
    height, width = size or profile.picture or DEFAULT_SIZE
    return replace(profile, picture=(height, width))


def _tokenizer(folder: Path, model: Qwen2VLForConditionalGeneration) -> Tokenizer:
    return load_tokenizer(
        folder, image_token=model.config.image_token_id, video_token=model.config.video_token_id
    )
