"""One pass of a decoder over several rows and branches: which tokens go in, and which columns each sees.

The same for every backend whose rows are `TorchKVCache`; how attention is computed is the backend's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egolive.assistant.backends.torch.kv_cache import OWN, TorchCacheFork, TorchKVCache
from egolive.assistant.runtime.backend import ForwardInput

__all__ = ["CacheSegment", "plan_batch"]


@dataclass(frozen=True, slots=True)
class CacheSegment:
    """The new tokens of one row and its branches among those of one pass."""

    cache: TorchKVCache
    start: int
    """Place of the first new token in the pass."""
    owners: NDArray[np.int32]
    """Whose token each new one is."""
    used: int
    """Columns of the row's buffer that are in use already; the new tokens come behind them."""
    seen: NDArray[np.bool_]
    """(new tokens, used + new tokens), which column each new token sees."""

    @property
    def count(self) -> int:
        """New tokens."""
        return len(self.owners)


def plan_batch(inputs: Sequence[ForwardInput]) -> tuple[list[CacheSegment], list[int]]:
    """Bring the chunks of each row together.

    Returns:
        The rows' spans of tokens, and the order in which the chunks stand in the pass.

    Raises:
        ValueError: A row or branch of another decoder, thrown away, or read in the wrong order.
    """
    members: dict[TorchKVCache, list[int]] = {}
    for at, chunk in enumerate(inputs):
        onto = chunk.onto
        if not isinstance(onto, TorchKVCache | TorchCacheFork):
            raise ValueError("a chunk is read onto a row or branch of the same decoder")
        members.setdefault(onto.cache, []).append(at)
    spans, start = [], 0
    for cache, places in members.items():
        owners: list[int] = []
        for at in places:
            owners += [inputs[at].onto.owner] * len(inputs[at].embeddings)  # type: ignore[union-attr]
        spans.append(_span(cache, start, np.array(owners, dtype=np.int32)))
        start += len(owners)
    return spans, [at for places in members.values() for at in places]


def _span(cache: TorchKVCache, start: int, owners: NDArray[np.int32]) -> CacheSegment:
    before = cache.owners
    if OWN in owners and (len(before) > cache.length or owners[0] != OWN):
        raise ValueError("a row is read further before its branches, or once they are thrown away")
    for owner in set(owners.tolist()) - {OWN}:
        cache.columns_of(owner)
    used, new = len(before), len(owners)
    everyone = np.concatenate([before, owners])
    seen = (everyone == OWN) | (everyone == owners[:, None])
    seen &= np.arange(used + new) <= np.arange(used, used + new)[:, None]
    return CacheSegment(cache, start, owners, used, seen)
