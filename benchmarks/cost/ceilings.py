"""What this machine could do at best: how fast it copies memory, how fast it multiplies matrices.

A decoded token reads every weight of the decoder once, so its ceiling is the memory's; a prompt multiplies
them with many tokens at a time, so its ceiling is the processor's. Both are measured with torch, in the same
process and with the same threads as what is held against them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["copy_rate", "matrix_rate", "median_seconds"]

_SECONDS = 0.5
"""Repeats go on for so long."""


def copy_rate(nbytes: int, device: torch.device) -> float:
    """Bytes a second that move when a block is copied, what is read and what is written together.

    Args:
        nbytes: Of the block. Small ones stay in the processor's caches, as the weights of a small model do.
        device: Where.
    """
    source = torch.ones(max(1, nbytes // 4), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device)


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 1024) -> float:
    """Floating-point operations a second of one square matrix times another."""
    one = torch.ones((size, size), device=device, dtype=dtype)
    out = torch.empty_like(one)
    return 2 * size**3 / median_seconds(lambda: torch.mm(one, one, out=out), device)


def median_seconds(work: Callable[[], object], device: torch.device, *, least: int = 5) -> float:
    """Median seconds of a piece of work, after two runs that nobody counts.

    Args:
        work: What is timed; on a GPU until all that it has started is done.
        device: Where it runs.
        least: Runs, at least; more of them where they are short.
    """
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < least + 2 or time.perf_counter() - begun < _SECONDS:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    counted = sorted(times[2:])
    return counted[len(counted) // 2]
