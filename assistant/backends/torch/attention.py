"""Attention of new tokens over the KV caches of the torch backend."""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from egolive.assistant.backends.torch.batch_plan import CacheSegment

__all__ = ["Attention", "SegmentAttention", "attend_few"]

_FEW = 64
"""Up to this number of new tokens, heads that share keys are one matrix product: 3 times faster on a CPU."""


class Attention(Protocol):
    """Attention of one layer for the new tokens of a pass."""

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Store the new tokens' keys and values of one layer, then compute attention.

        Args:
            layer: Number of the layer.
            query: (tokens of the pass, heads, width of a head).
            key: (tokens of the pass, key-value heads, width of a head).
            value: As `key`.

        Returns:
            (tokens of this attention, heads x width of a head).
        """
        ...


class SegmentAttention:
    """Attention of one segment, over the columns of its cache that are in use."""

    def __init__(self, segment: CacheSegment) -> None:
        """Make room for the new tokens."""
        self._tokens = slice(segment.start, segment.start + segment.count)
        self._columns = slice(segment.used, segment.used + segment.count)
        self._buffer = buffer = segment.cache.room(self._columns.stop)
        self._mask: torch.Tensor | None = None
        if not segment.seen.all():
            hidden = torch.from_numpy(~segment.seen).to(buffer.device)
            self._mask = torch.zeros(hidden.shape, dtype=buffer.dtype, device=buffer.device)
            self._mask.masked_fill_(hidden, -torch.inf)

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Store the segment's keys and values of one layer, then compute attention; see `Attention`."""
        new = self._columns.stop - self._columns.start
        keys, values = self._buffer[layer]
        keys[:, self._columns] = key[self._tokens].transpose(0, 1)
        values[:, self._columns] = value[self._tokens].transpose(0, 1)
        keys, values = keys[:, : self._columns.stop], values[:, : self._columns.stop]
        asked, mask = query[self._tokens], self._mask
        heads = asked.shape[1] // len(keys)
        if new <= _FEW:
            if mask is not None:
                mask = mask.expand(heads, -1, -1).reshape(heads * new, -1)
            return attend_few(asked, keys, values, mask)
        asked = asked.view(new, len(keys), heads, -1).permute(1, 2, 0, 3)
        keys, values = (part[:, None].expand(-1, heads, -1, -1) for part in (keys, values))
        found = scaled_dot_product_attention(asked, keys, values, attn_mask=mask)
        return found.permute(2, 0, 1, 3).reshape(new, -1)


def attend_few(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention of a few tokens, in which heads that share keys are multiplied as one matrix.

    Args:
        query: (tokens, heads, width of a head).
        keys: (key-value heads, columns, width of a head).
        values: As `keys`.
        mask: (heads that share keys x tokens, columns), added to the scores; None where nothing is masked.

    Returns:
        (tokens, heads x width of a head).
    """
    tokens, groups, width = len(query), len(keys), query.shape[2]
    asked = query.view(tokens, groups, -1, width).permute(1, 2, 0, 3).reshape(1, groups, -1, width)
    found = scaled_dot_product_attention(asked, keys[None], values[None], attn_mask=mask)
    return found.view(groups, -1, tokens, width).permute(2, 0, 1, 3).reshape(tokens, -1)
