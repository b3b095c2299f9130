"""The batch plan of a forward pass over several KV caches: token order, and what each token attends to.

The same for every backend whose KV caches are `TorchKVCache`; each backend computes attention in its own way.
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
    """The new tokens of one KV cache and its forks in one forward pass."""

    cache: TorchKVCache
    start: int
    """Index of the first new token in the pass."""
    owners: NDArray[np.int32]
    """(new tokens,), the owner of each: `OWN` or a fork's number."""
    used: int
    """Columns of the cache's buffer that are in use; the new tokens are stored after them."""
    seen: NDArray[np.bool_]
    """(new tokens, used + new tokens), the columns that each new token attends to."""

    @property
    def count(self) -> int:
        """New tokens."""
        return len(self.owners)


def plan_batch(inputs: Sequence[ForwardInput]) -> tuple[list[CacheSegment], list[int]]:
    """Group forward inputs by KV cache.

    Returns:
        One segment for each cache, and the indices of the inputs in the order of the pass.

    Raises:
        ValueError: A cache or fork of another decoder, a discarded fork, or a wrong order of inputs.
    """
    members: dict[TorchKVCache, list[int]] = {}
    for at, given in enumerate(inputs):
        onto = given.onto
        if not isinstance(onto, TorchKVCache | TorchCacheFork):
            raise ValueError("an input is for a KV cache or fork of the same decoder")
        members.setdefault(onto.cache, []).append(at)
    segments, start = [], 0
    for cache, places in members.items():
        owners: list[int] = []
        for at in places:
            owners += [inputs[at].onto.owner] * len(inputs[at].embeddings)  # type: ignore[union-attr]
        segments.append(_segment(cache, start, np.array(owners, dtype=np.int32)))
        start += len(owners)
    return segments, [at for places in members.values() for at in places]


def _segment(cache: TorchKVCache, start: int, owners: NDArray[np.int32]) -> CacheSegment:
    before = cache.owners
    if OWN in owners and (len(before) > cache.length or owners[0] != OWN):
        raise ValueError("a KV cache is extended before its forks, or once they are thrown away")
    for owner in set(owners.tolist()) - {OWN}:
        cache.columns_of(owner)
    used, new = len(before), len(owners)
    everyone = np.concatenate([before, owners])
    seen = (everyone == OWN) | (everyone == owners[:, None])
    seen &= np.arange(used + new) <= np.arange(used, used + new)[:, None]
    return CacheSegment(cache, start, owners, used, seen)
