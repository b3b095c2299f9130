"""The prefix cache: KV caches of prompt prefixes, kept from one question to the next.

A window grows slice by slice, and its KV cache is extended with it. A second cache that started later is kept
beside it and takes over when the window has become too long: tokens are never removed from the front of a
cache, which would not be exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from egolive.assistant.model.prompt_tokens import Layout
from egolive.assistant.runtime.backend import KVCache

__all__ = ["PrefixCache", "PrefixEntry"]

Kind = Literal["text", "image", "video"]

_MOST: dict[Kind, int] = {"text": 2, "image": 1, "video": 2}
"""Entries kept of each kind: texts before pictures, the newest picture, and two windows."""


@dataclass(frozen=True, slots=True, eq=False)
class PrefixEntry:
    """A KV cache and the tokens in it."""

    layout: Layout
    cache: KVCache

    @property
    def kind(self) -> Kind:
        """What the prefix ends with."""
        slices = self.layout.slices
        if not slices:
            return "text"
        return "image" if slices[-1].kind == "image" else "video"


class PrefixCache:
    """A few KV caches within a memory limit; the least recently used of each kind is evicted first."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit = limit_bytes
        self._kept: list[PrefixEntry] = []
        """The most recently used entry is the last."""

    def best(self, layout: Layout, most: int) -> tuple[PrefixEntry | None, int]:
        """The entry with the longest prefix in common with a prompt, and the length of that prefix.

        Args:
            layout: The prompt.
            most: Largest number of tokens to reuse.
        """
        found, length = None, 0
        for kept in self._kept:
            shared = min(layout.shared_with(kept.layout), most)
            if shared > length:
                found, length = kept, shared
        return found, length

    def put(self, layout: Layout, cache: KVCache) -> None:
        """Add a KV cache that holds a beginning of a prompt; an older entry of the same cache is replaced."""
        kept = PrefixEntry(layout.cut(cache.length), cache)
        self._kept = [other for other in self._kept if other.cache is not cache]
        self._kept.append(kept)
        same = [other for other in self._kept if other.kind == kept.kind]
        if len(same) > _MOST[kept.kind]:
            self._kept.remove(same[0])
        while self.nbytes > self.limit:
            self._kept.pop(0)

    def clear(self) -> None:
        """Drop all entries."""
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[PrefixEntry]:
        return iter(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(kept.cache.nbytes for kept in self._kept)
