"""The vision cache: visual tokens of encoded slices, within limits of memory and number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import torch

__all__ = ["VisionCache"]

_MOST = 512
"""Largest number of entries: windows of 200 slices, with the pictures asked about between them. For a
small model the byte limit alone would keep entries that no window uses again."""


class VisionCache:
    """Visual tokens by slice name; the least recently used are evicted first."""

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
        """Add a slice, in place of what the cache has under its name; evicts the least recently used ones."""
        before = self._kept.pop(name, None)
        if before is not None:
            self._bytes -= before.nbytes
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
