"""Training in several processes: their number, the share of each, and how they are connected.

torchrun --nproc-per-node 2 "$(which egolive)" train sft nano-sft
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import PartialState

from egolive.streaming.errors import ConfigError

__all__ = ["part_of", "processes", "together"]

_TIMEOUT = timedelta(days=1)
"""The others wait while the first process simulates episodes, longer than torch would wait by itself."""


def processes() -> int:
    """How many processes train together, as accelerate and torchrun tell each of them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def together() -> PartialState:
    """What this process knows of the others; the first call of all processes connects them.

    Raises:
        ConfigError: there are more processes here than GPUs.
    """
    on_gpu = torch.cuda.is_available()
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if on_gpu and here > gpus:
        raise ConfigError(f"{here} processes cannot share {gpus} GPUs: start one for each")
    if "LOCAL_RANK" not in os.environ:
        return PartialState(cpu=not on_gpu)
    return PartialState(cpu=not on_gpu, backend="nccl" if on_gpu else "gloo", timeout=_TIMEOUT)


def part_of(rows: int) -> int:
    """How many of the `rows` of a step each process takes.

    Raises:
        ConfigError: they cannot be cut evenly.
    """
    count = processes()
    if rows % count:
        raise ConfigError(f"a step of {rows} rows cannot be cut evenly over {count} processes")
    return rows // count
