"""One int4 checkpoint for all engines: symmetric, in groups of 128, as compressed-tensors packs it.

vLLM and transformers load it as it is; `egolive quantize --to int4` and `egolive export --to tensorrt`
re-pack its numbers without rounding again. The numbers are those that `--to int4` gives of the original
checkpoint. The format is compressed-tensors' "pack-quantized" (github.com/vllm-project/compressed-tensors),
written without its package.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egolive.assistant.model.checkpoint import inspect_checkpoint
from egolive.assistant.model.engine_folder import hash_checkpoint
from egolive.assistant.schema.profiles import load_profile, save_profile
from egolive.quantize.checkpoint_source import checkpoint_of
from egolive.quantize.output_folder import copy_small_files
from egolive.quantize.progress import Progress, silent
from egolive.quantize.weights.forms import Blocks, DenseWeight
from egolive.quantize.weights.lazy_model import Tensors, canonical_name
from egolive.quantize.weights.published import published_form
from egolive.quantize.weights.rounding import blocks_of
from egolive.quantize.weights.tensor_file import Part, write_tensors
from egolive.streaming.durable_files import replace_file, sync_folder
from egolive.streaming.errors import ConfigError, SinkError
from egolive.streaming.json_files import read_json_object

__all__ = ["GROUP", "build_checkpoint"]

GROUP = 128
"""Numbers of a row that share a scale; the one that vLLM's and TensorRT's kernels know best."""
_FILE_BYTES = 2 * 10**9
"""Of one file, before its last tensor."""
_KEY_FILE = "unfinished"
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SCHEME = {
    "targets": ["Linear"],
    "format": "pack-quantized",
    "weights": {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": GROUP,
        "dynamic": False,
        "actorder": None,
    },
    "input_activations": None,
    "output_activations": None,
}
_QUANTISATION: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "config_groups": {"group_0": _SCHEME},
    # By regular expressions: vLLM and transformers have other names for the same modules.
    "ignore": ["lm_head", "re:.*lm_head", "re:.*visual.*"],
}


def build_checkpoint(model: str, out: Path, *, progress: Progress = silent) -> int:
    """Write a checkpoint whose text layers are in int4; returns its bytes.

    One matrix at a time is in memory. What an earlier call with the same arguments has finished is kept.

    Args:
        model: What `checkpoint_of` takes.
        out: The new folder.
        progress: Told how far it is.

    Raises:
        EngineError: The checkpoint cannot be used.
        ConfigError: It is quantised already, its widths do not fit groups of 128, or something else is in
            `out`.
        SinkError: The disk is full or gone; what is finished stays.
    """
    with checkpoint_of(model) as source:
        inspect_checkpoint(source)
        if published_form(source) is not None:
            raise ConfigError(f"{model} is in 4 bits already; it is taken as it is")
        tensors = Tensors(source)
        _check_widths(tensors)
        with progress.task("reading the checkpoint", 1) as step:
            key = hashlib.sha256(f"{hash_checkpoint(source)} {_QUANTISATION}".encode()).hexdigest()
            step()
        try:
            _begin(out, key)
            size = _write(source, tensors, out, progress)
        except OSError as error:
            raise SinkError(
                f"{out}: the checkpoint cannot be written ({error.strerror or error}); make room and start "
                "it again, it goes on where it was"
            ) from error
    return size


def _begin(out: Path, key: str) -> None:
    """Take over a folder that an earlier call has left, or make one."""
    told = out / _KEY_FILE
    if out.exists() and any(out.iterdir()):
        if not told.is_file() or told.read_bytes()[:256] != key.encode("ascii"):
            raise ConfigError(
                f"{out} is there already and holds something else; give another name with --out"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    told.write_text(key, encoding="ascii")


def _write(source: Path, tensors: Tensors, out: Path, progress: Progress) -> int:
    files = list(_files([part for name in tensors for part in _parts(tensors, name)]))
    index: dict[str, str] = {}
    total = 0
    with progress.task("writing the checkpoint", len(files)) as step:
        for number, parts in enumerate(files):
            name = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
            if not (out / name).is_file():
                unfinished = out / f"{name}.part"
                write_tensors(unfinished, parts)
                with unfinished.open("rb") as file:
                    os.fsync(file.fileno())
                unfinished.replace(out / name)
            index |= {part.name: name for part in parts}
            total += sum(_bytes(part) for part in parts)
            step()
    copy_small_files(source, out)
    save_profile(load_profile(source), out)
    config = read_json_object(source / "config.json", remedy="download it again")
    config["quantization_config"] = _QUANTISATION
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    table = {"metadata": {"total_size": total}, "weight_map": index}
    replace_file(out / "model.safetensors.index.json", json.dumps(table, indent=1).encode())
    (out / _KEY_FILE).unlink()
    sync_folder(out)
    return total


def _files(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """The tensors of each file."""
    held: list[Part] = []
    for part in parts:
        # What belongs to one layer stays together: it is computed once.
        new = not part.name.endswith((".weight_scale", ".weight_shape"))
        if held and new and sum(map(_bytes, held)) > _FILE_BYTES:
            yield held
            held = []
        held.append(part)
    if held:
        yield held


def _bytes(part: Part) -> int:
    return prod(part.shape) * part.dtype.itemsize


def _is_quantised(name: str) -> bool:
    *_, layer, kind = ("", *canonical_name(name).split("."))
    return kind == "weight" and layer in _LINEAR and ".language_model.layers." in canonical_name(name)


def _check_widths(tensors: Tensors) -> None:
    for name in tensors:
        if _is_quantised(name) and tensors[name].shape[1] % GROUP:
            raise ConfigError(
                f"int4 groups need widths that are multiples of {GROUP}, {name} has {tensors[name].shape[1]}"
            )


def _parts(tensors: Tensors, name: str) -> list[Part]:
    """What becomes of one tensor of the checkpoint."""
    tensor, stored = tensors[name], tensors.stored_name(name)
    if not _is_quantised(name):
        return [Part(stored, tensor.dtype, tuple(tensor.shape), lambda: _rows(tensor))]
    rows, columns = tensor.shape
    blocks = _Once(lambda: blocks_of(DenseWeight(tensor), 4, GROUP))
    short = torch.float32 if tensor.dtype == torch.float32 else torch.bfloat16
    return [
        Part(f"{stored}_packed", torch.int32, (rows, columns // 8), lambda: [blocks().packed.tobytes()]),
        Part(f"{stored}_scale", short, (rows, columns // GROUP), lambda: _scales(blocks, short)),
        Part(f"{stored}_shape", torch.int64, (2,), lambda: [np.array([rows, columns]).tobytes()]),
    ]


class _Once:
    """Rounds a weight when it is first asked for; it is let go once its scales are taken."""

    def __init__(self, compute: Callable[[], Blocks]) -> None:
        self._compute = compute
        self._found: Blocks | None = None

    def __call__(self) -> Blocks:
        if self._found is None:
            self._found = self._compute()
        return self._found

    def forget(self) -> None:
        self._found = None


def _scales(blocks: _Once, dtype: torch.dtype) -> Iterable[bytes]:
    scales = torch.from_numpy(blocks().scales).to(dtype)
    blocks.forget()
    return [scales.contiguous().view(torch.uint8).numpy().tobytes()]


def _rows(tensor: torch.Tensor) -> Iterator[bytes]:
    """A tensor's bytes, some 64 MB at a time."""
    flat = tensor.contiguous().reshape(-1)
    step = 2**25
    for start in range(0, len(flat), step):
        yield flat[start : start + step].view(torch.uint8).numpy().tobytes()
