"""Rows that a session keeps from one question to the next: what windows and pictures begin with.

A window grows slice by slice, and so does its row. A younger row that began later runs beside it and takes
over when the window has become too long; nothing is ever cut off at the front, which would not be exact.
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
"""Rows kept of each kind: what prompts open with, the newest picture, and two windows."""


@dataclass(frozen=True, slots=True, eq=False)
class PrefixEntry:
    """A row and what it has read."""

    layout: Layout
    row: KVCache

    @property
    def kind(self) -> Kind:
        """What it ends with."""
        slices = self.layout.slices
        if not slices:
            return "text"
        return "image" if slices[-1].kind == "image" else "video"


class PrefixCache:
    """A few rows, within a limit of memory; of each kind those used longest ago leave first."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit = limit_bytes
        self._kept: list[PrefixEntry] = []
        """The one used last stands last."""

    def best(self, layout: Layout, most: int) -> tuple[PrefixEntry | None, int]:
        """The row that shares the longest beginning with a prompt, and how long that is.

        Args:
            layout: The prompt.
            most: Tokens of it that may be taken from a row.
        """
        found, length = None, 0
        for kept in self._kept:
            shared = min(layout.shared_with(kept.layout), most)
            if shared > length:
                found, length = kept, shared
        return found, length

    def put(self, layout: Layout, row: KVCache) -> None:
        """Keep a row that has read a prompt up to its length, in place of what was known of it."""
        kept = PrefixEntry(layout.cut(row.length), row)
        self._kept = [other for other in self._kept if other.row is not row]
        self._kept.append(kept)
        same = [other for other in self._kept if other.kind == kept.kind]
        if len(same) > _MOST[kept.kind]:
            self._kept.remove(same[0])
        while self.nbytes > self.limit:
            self._kept.pop(0)

    def clear(self) -> None:
        """Drop all rows."""
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[PrefixEntry]:
        return iter(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(kept.row.nbytes for kept in self._kept)
