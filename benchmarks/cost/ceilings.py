"""Upper limits of this machine: rates of memory copies and of matrix products.

A decoded token reads every weight of the decoder once, so its ceiling is the memory's; a prompt multiplies
them with many tokens at a time, so its ceiling is the processor's. Both are measured with torch, in the same
process and with the same threads as what is compared with them.
"""

from __future__ import annotations

import torch

from egolive.quantize.measure.engine_speed import timed

__all__ = ["copy_rate", "matrix_rate"]


def copy_rate(nbytes: int, device: torch.device) -> float:
    """Bytes a second that move when a block is copied, what is read and what is written together.

    Args:
        nbytes: Of the block. Small ones stay in the processor's caches, as the weights of a small model do.
        device: Where.
    """
    source = torch.ones(max(1, nbytes // 4), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / timed(lambda: target.copy_(source), device).wall


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 1024) -> float:
    """Floating-point operations a second of one square matrix times another."""
    one = torch.ones((size, size), device=device, dtype=dtype)
    out = torch.empty_like(one)
    return 2 * size**3 / timed(lambda: torch.mm(one, one, out=out), device).wall
