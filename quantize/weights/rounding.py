"""Rounds weights to whole numbers of 4 or 8 bits with a scale for each block of a row."""

from __future__ import annotations

import numpy as np
import torch
from onnxruntime.capi._pybind_state import quantize_matmul_8bits

from egolive.assistant.runtime.torch_threads import torch_threads
from egolive.quantize.weights.forms import Blocks, DenseWeight, Weight, chunks_of_rows

__all__ = ["LEAST", "MOST", "blocks_of", "round_to_int4", "round_to_int8"]

MOST = 7
LEAST = -8
"""Whole numbers of int4."""
_STEPS = (7.0, 7.5, 8.0, 8.5, 9.0)
"""Into how many steps the largest absolute weight of a block may be divided. Above 7 it is clipped, and the
others are rounded more finely. The choice with the least squared error has 13 % less error than 7 steps with
blocks of 128 of a normal distribution, 10 % less with blocks of 32. More choices gain less than 1 %."""
_PART = 2**18
"""Weights that are rounded at once, so that they stay in the processor's cache."""


def round_to_int4(weight: torch.Tensor, block: int) -> Blocks:
    """Round a weight to int4, symmetric, block by block of each row.

    A scale has as many bits as bf16, so that it is the same in all formats. It is positive, also of a block
    of zeros: TensorRT takes no other.

    Args:
        weight: (N, K) in fp32.
        block: Weights that share a scale; divides K.
    """
    rows, columns = weight.shape
    packed = torch.empty((rows, columns // 2), dtype=torch.uint8)
    scales = torch.empty((rows, columns // block))
    step = max(1, _PART // columns)
    # Parts are so small that a second thread of torch would wait for most of its time.
    with torch_threads(1):
        for start in range(0, rows, step):
            part = weight[start : start + step]
            numbers, scale = _nearest(part.reshape(len(part), -1, block))
            offset = (numbers - LEAST).to(torch.uint8).reshape(len(part), columns)
            packed[start : start + step] = offset[:, ::2] | (offset[:, 1::2] << 4)
            scales[start : start + step] = scale
    return Blocks(packed.numpy().reshape(rows, -1, block // 2), scales.numpy(), None, 4, block, columns)


def _nearest(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers (N, blocks, block) and scales (N, blocks) with the least squared error."""
    largest = blocks.abs().amax(dim=-1, keepdim=True)
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    for steps in _STEPS:
        scale = (largest / steps).to(torch.bfloat16).float()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        numbers = torch.round(blocks / scale).clamp_(LEAST, MOST)
        error = (numbers * scale - blocks).square_().sum(dim=-1, keepdim=True)
        if found is None:
            found = numbers, scale, error
            continue
        better = error < found[2]
        found = (
            torch.where(better, numbers, found[0]),
            torch.where(better, scale, found[1]),
            torch.where(better, error, found[2]),
        )
    assert found is not None
    return found[0], found[1][..., 0]


def round_to_int8(weight: torch.Tensor, block: int) -> Blocks:
    """Round a weight to 8 bits, symmetric, by ONNX Runtime's own kernel.

    Args:
        weight: (N, K) in fp32.
        block: Weights that share a scale.
    """
    rows, columns = weight.shape
    padded = np.zeros((-(-columns // block) * block, rows), dtype=np.float32)
    padded[:columns] = weight.numpy().T
    blocks = len(padded) // block
    packed = np.zeros((rows, blocks, block), dtype=np.uint8)
    scales = np.zeros((rows, blocks), dtype=np.float32)
    zeros = np.zeros((rows, blocks), dtype=np.uint8)
    quantize_matmul_8bits(packed, padded, scales, zeros, block, rows, columns, True)
    return Blocks(packed, scales, None, 8, block, columns)


def blocks_of(weight: Weight, bits: int, block: int) -> Blocks:
    """A whole weight rounded to 4 or 8 bits, a part of its rows at a time."""
    weight = weight.unrounded() if isinstance(weight, DenseWeight) else weight
    rounding = round_to_int4 if bits == 4 else round_to_int8
    parts = [rounding(weight.values(start, stop), block) for start, stop in chunks_of_rows(weight)]
    if len(parts) == 1:
        return parts[0]
    packed = np.concatenate([part.packed for part in parts])
    return Blocks(packed, np.concatenate([part.scales for part in parts]), None, bits, block, weight.columns)
