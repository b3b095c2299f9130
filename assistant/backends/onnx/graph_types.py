"""The protocol of a loaded graph: it runs on its device, on inputs and outputs in torch's memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

__all__ = ["Bound", "LoadedGraph"]

Bound = Mapping[str, tuple[torch.Tensor, tuple[int, ...]]]
"""By name, the tensor whose memory begins where the value's does, contiguous from there, and its shape."""


class LoadedGraph(Protocol):
    """A graph on its device."""

    def dtype(self, name: str) -> torch.dtype:
        """Number format of an output."""
        ...

    def run(self, inputs: Bound, outputs: Bound, doing: str) -> None:
        """Run it once, reading and writing torch's memory.

        Args:
            inputs: All of them.
            outputs: All of them.
            doing: What is being done, as it stands in "the device failed while ...".

        Raises:
            EngineError: The device failed or is out of memory.
        """
        ...
