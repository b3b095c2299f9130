"""Writes safetensors files whose tensors come in parts, so that no tensor has to be in memory as a whole.

The format is github.com/huggingface/safetensors#format: eight bytes with the length of a JSON header, the
header, the tensors' bytes. The library's own writer takes whole tensors alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

__all__ = ["Part", "write_tensor", "write_tensors"]

_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint8: "U8",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor that will be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    data: Callable[[], Iterable[bytes]]
    """Gives its bytes, one part after the other."""


def write_tensor(
    path: Path, name: str, dtype: torch.dtype, shape: tuple[int, ...], data: Iterable[bytes]
) -> None:
    """Write a file with one tensor; see `write_tensors`."""
    write_tensors(path, [Part(name, dtype, shape, lambda: data)])


def write_tensors(path: Path, parts: Sequence[Part]) -> None:
    """Write a safetensors file.

    Args:
        path: Of the file; replaced where it is there.
        parts: Its tensors, in order.

    Raises:
        ValueError: A tensor has other bytes than its shape says.
        OSError: It cannot be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for part in parts:
        start, end = end, end + prod(part.shape) * part.dtype.itemsize
        header[part.name] = {
            "dtype": _NAMES[part.dtype],
            "shape": list(part.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in parts:
            written = sum(file.write(data) for data in part.data())
            if written != prod(part.shape) * part.dtype.itemsize:
                raise ValueError(f"{part.name} has {written} bytes, its shape {part.shape} says otherwise")
