"""Text layers in 4 bits as others publish them: compressed-tensors, GPTQ and AWQ, without their packages.

All of them store whole numbers in groups along a row. They are turned into `Blocks` without loss: the numbers
are the same, and so are scales and zero points.

- compressed-tensors "pack-quantized" (github.com/vllm-project/compressed-tensors): `weight_packed` int32
  (N, K / 8) holds number + 8, the first in the lowest bits; `weight_scale` (N, groups); where it is not
  symmetric, `weight_zero_point` int32 (N / 8, groups) holds zero point + 8.
- GPTQ (github.com/ModelCloud/GPTQModel): `qweight` int32 (K / 8, N), the first in the lowest bits; `qzeros`
  int32 (groups, N / 8) holds the zero point, in format 1 less one; `scales` (groups, N); `g_idx` (K,), the
  group of each input.
- AWQ "gemm" (github.com/casper-hansen/AutoAWQ): `qweight` int32 (K, N / 8) and `qzeros` int32 (groups, N / 8)
  hold eight outputs in a word, 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits; `scales` (groups, N).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from egolive.quantize.weights.forms import Blocks
from egolive.streaming.errors import EngineError
from egolive.streaming.json_files import read_json_object

__all__ = ["Published", "PublishedWeight", "published_form"]

Method = Literal["compressed-tensors", "gptq", "awq"]

_BITS = 4
_WORD = 32 // _BITS
"""Numbers in an int32."""
_MIDDLE = 8
"""Zero of symmetric numbers."""
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word each of eight outputs stands, counted from the lowest bits."""
_INSTEAD = "give the original model, and quantise it with egolive quantize"


@dataclass(frozen=True, slots=True, eq=False)
class PublishedWeight:
    """A weight in a published form; a `Weight`."""

    rows: int
    columns: int
    load: Callable[[], Blocks]
    """Reads it."""

    def values(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """See `Weight`."""
        return self.load().values(start, stop)


@dataclass(frozen=True, slots=True)
class Published:
    """How the text layers of a checkpoint are quantised."""

    method: Method
    group: int
    """Numbers that share a scale."""
    symmetric: bool
    folder: Path
    zero_is_less_one: bool = False
    """Of GPTQ's format 1."""

    def weight(
        self, tensors: Mapping[str, torch.Tensor], name: str, size: tuple[int, int]
    ) -> PublishedWeight:
        """The weight of a layer.

        Args:
            tensors: Of the checkpoint.
            name: Of the layer, without the ending of its tensors.
            size: N and K.

        Raises:
            EngineError: A tensor is missing, of another shape, or of a kind that cannot be taken.
        """
        rows, columns = size
        if columns % self.group or columns % _WORD or rows % _WORD:
            raise EngineError(
                f"{self.folder}: {name} is {rows} x {columns}, which its groups of {self.group} do not fit"
            )
        groups = columns // self.group
        read: Callable[[], Blocks]
        if self.method == "compressed-tensors":
            packed = self._tensor(tensors, f"{name}.weight_packed", (rows, columns // _WORD), torch.int32)
            scales = self._tensor(tensors, f"{name}.weight_scale", (rows, groups))
            if f"{name}.weight_g_idx" in tensors:
                raise EngineError(self._no_order(name))
            middle = None
            if not self.symmetric:
                middle = self._tensor(
                    tensors, f"{name}.weight_zero_point", (rows // _WORD, groups), torch.int32
                )
            read = lambda: _compressed(packed, scales, middle, columns, self.group)  # noqa: E731
        else:
            shape = (columns // _WORD, rows) if self.method == "gptq" else (columns, rows // _WORD)
            packed = self._tensor(tensors, f"{name}.qweight", shape, torch.int32)
            zeros = self._tensor(tensors, f"{name}.qzeros", (groups, rows // _WORD), torch.int32)
            scales = self._tensor(tensors, f"{name}.scales", (groups, rows))
            if self.method == "gptq" and f"{name}.g_idx" in tensors:
                order = self._tensor(tensors, f"{name}.g_idx", (columns,))
                if not torch.equal(order.long(), torch.arange(columns) // self.group):
                    raise EngineError(self._no_order(name))
            read = lambda: self._across(packed, zeros, scales)  # noqa: E731
        return PublishedWeight(rows, columns, read)

    def _tensor(
        self,
        tensors: Mapping[str, torch.Tensor],
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        if name not in tensors:
            raise EngineError(f"{self.folder} lacks {name}; download it again")
        found = tensors[name]
        if tuple(found.shape) != shape or (dtype is not None and found.dtype != dtype):
            raise EngineError(
                f"{self.folder}: {name} is {found.dtype} of the shape {tuple(found.shape)}, expected "
                f"{dtype or 'numbers'} of {shape}; {_INSTEAD}"
            )
        return found

    def _no_order(self, name: str) -> str:
        return (
            f"{self.folder}: the inputs of {name} are in an order of their own (activation order), which no "
            f"engine here reads; take a checkpoint without it (desc_act false), or {_INSTEAD}"
        )

    def _across(self, packed: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> Blocks:
        """GPTQ's and AWQ's tensors, which have inputs before outputs."""
        if self.method == "gptq":
            # The words of an output, one behind the other, are its numbers in order.
            words = np.ascontiguousarray(packed.numpy().T)
            numbers: NDArray[np.uint8] = words.view(np.uint8)
            points: NDArray[np.uint8] = _halves(np.ascontiguousarray(zeros.numpy()).view(np.uint8))
            if self.zero_is_less_one:
                # 15 stands for the zero point 0: format 1 takes one away without looking.
                points = ((points + 1) & 15).astype(np.uint8)
        else:
            numbers = _packed(np.ascontiguousarray(_awq_order(packed.numpy()).T))
            points = _awq_order(zeros.numpy())
        points = np.ascontiguousarray(points.T)
        kept = None if (points == _MIDDLE).all() else _packed(points)
        rows, bytes_of_row = numbers.shape
        blocks = numbers.reshape(rows, -1, self.group // 2)
        widths = np.ascontiguousarray(scales.float().numpy().T)
        return Blocks(blocks, widths, kept, _BITS, self.group, 2 * bytes_of_row)


def published_form(folder: Path) -> Published | None:
    """How a checkpoint's text layers are quantised, by its config.json; None where they are not.

    Raises:
        EngineError: In a way that cannot be taken; the line says what to do.
    """
    path = folder / "config.json"
    config = read_json_object(path, remedy="download it again", error=EngineError)
    told = config.get("quantization_config")
    if told is None:
        return None

    def refuse(what: str) -> EngineError:
        return EngineError(f"{folder} is quantised {what}, which is not read; {_INSTEAD}")

    if not isinstance(told, dict):
        raise refuse("in an unknown way")
    method = told.get("quant_method")
    if method == "compressed-tensors":
        return _compressed_form(folder, told, refuse)
    if method not in ("gptq", "awq"):
        raise refuse(f"by {method!r:.60}")
    bits, group = told.get("bits"), told.get("group_size")
    if bits != _BITS:
        raise refuse(f"by {method} to {bits!r:.20} bits")
    if type(group) is not int or group < 16 or group & (group - 1):
        raise refuse(f"by {method} in groups of {group!r:.20}")
    if method == "awq":
        version = told.get("version", "gemm")
        if str(version).lower() != "gemm":
            raise refuse(f"by AWQ in the layout {version!r:.40}")
        return Published("awq", group, symmetric=not told.get("zero_point", True), folder=folder)
    if told.get("desc_act"):
        raise refuse("by GPTQ with activation order (desc_act)")
    layout = told.get("checkpoint_format", "gptq")
    if layout not in ("gptq", "gptq_v2"):
        raise refuse(f"by GPTQ in the layout {layout!r:.40}")
    symmetric = bool(told.get("sym", True))
    return Published("gptq", group, symmetric, folder, zero_is_less_one=layout == "gptq")


def _compressed_form(folder: Path, told: dict[str, Any], refuse: Callable[[str], EngineError]) -> Published:
    layout = told.get("format")
    groups = told.get("config_groups")
    if layout != "pack-quantized":
        raise refuse(f"by compressed-tensors in the format {layout!r:.40}")
    if not isinstance(groups, dict) or len(groups) != 1:
        raise refuse("by compressed-tensors in several ways at once")
    (scheme,) = groups.values()
    scheme = scheme if isinstance(scheme, dict) else {}
    weights = scheme.get("weights")
    weights = weights if isinstance(weights, dict) else {}
    wanted = {"num_bits": _BITS, "type": "int", "strategy": "group"}
    for key, value in wanted.items():
        if weights.get(key) != value:
            raise refuse(f"by compressed-tensors with {key} {weights.get(key)!r:.40}")
    if scheme.get("input_activations") is not None:
        raise refuse("by compressed-tensors together with its activations")
    if weights.get("actorder") not in (None, "static", "weight"):
        raise refuse("by compressed-tensors with activation order")
    group = weights.get("group_size")
    if type(group) is not int or group < 16 or group & (group - 1):
        raise refuse(f"by compressed-tensors in groups of {group!r:.20}")
    symmetric = bool(weights.get("symmetric", True))
    return Published("compressed-tensors", group, symmetric, folder)


def _compressed(
    packed: torch.Tensor, scales: torch.Tensor, middle: torch.Tensor | None, columns: int, group: int
) -> Blocks:
    """compressed-tensors' tensors; their bytes are those of `Blocks`."""
    numbers = packed.numpy().view(np.uint8).reshape(len(packed), -1, group // 2)
    zeros = None
    if middle is not None:
        # (N / 8, groups): eight outputs in a word.
        words = np.ascontiguousarray(middle.numpy().T)
        zeros = _packed(np.ascontiguousarray(_halves(words.view(np.uint8)).T))
    return Blocks(numbers, scales.float().numpy(), zeros, _BITS, group, columns)


def _halves(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The two numbers of each byte along the last axis, the low one first."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _packed(numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two numbers a byte along the last axis, the first one in the low half."""
    if numbers.shape[-1] % 2:
        numbers = np.pad(numbers, ((0, 0), (0, 1)))
    return (numbers[..., ::2] | (numbers[..., 1::2] << 4)).astype(np.uint8)


def _awq_order(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Numbers of AWQ's words along the last axis, in the order of the outputs."""
    found = [(words >> (_BITS * place)) & 15 for place in _AWQ_PLACES]
    return np.stack(found, axis=-1).astype(np.uint8).reshape(*words.shape[:-1], -1)
