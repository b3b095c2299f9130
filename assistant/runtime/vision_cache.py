"""Encoded slices, kept for the windows that will hold them again, within limits of memory and number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import torch

__all__ = ["VisionCache"]

_MOST = 512
"""Slices and pictures that are kept at most: windows of 200 slices, with the pictures asked about between
them. A small model's would fill any limit of bytes with what no window will hold again."""


class VisionCache:
    """Visual tokens by slice name; the least recently used leave first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._bytes = 0

    def get(self, name: Hashable) -> torch.Tensor | None:
        """The slice's visual tokens, or None."""
        if name in self._kept:
            self._kept.move_to_end(name)
        return self._kept.get(name)

    def put(self, name: Hashable, tokens: torch.Tensor) -> None:
        """Keep a slice that is not kept yet, at the cost of the least recently used ones."""
        self._kept[name] = tokens
        self._bytes += tokens.nbytes
        while self._bytes > self._limit or len(self._kept) > _MOST:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return self._bytes
