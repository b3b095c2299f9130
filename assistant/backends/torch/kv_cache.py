"""The KV cache of the torch backend: one buffer for a sequence and its forks.

It stores keys and values and which fork each column belongs to; the forward pass is in
`egolive.assistant.backends.torch.torch_decoder`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from egolive.assistant.backends.torch.device_errors import as_engine_errors

__all__ = ["OWN", "TorchCacheFork", "TorchKVCache"]

OWN = 0
"""In `TorchKVCache.owners`: the sequence's own tokens. Forks are numbered from 1."""
_DEAD = -1
"""In `TorchKVCache.owners`: removed by `rewind`."""
_BLOCK = 256
"""Smallest number of tokens by which a buffer grows."""


class TorchKVCache:
    """Keys and values of one sequence, followed by those of its forks, in one buffer."""

    def __init__(self, new_buffer: Callable[[int], torch.Tensor]) -> None:
        """Start empty.

        Args:
            new_buffer: Gives memory for so many tokens, shaped (layers, 2, key-value heads, tokens, width of
                a head).
        """
        self.owner = OWN
        self._new_buffer = new_buffer
        self._buffer = new_buffer(0)
        self._length = 0
        self._owners: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._forks = 0
        self._first_fork = 1

    @property
    def cache(self) -> TorchKVCache:
        """Itself; of a fork, the cache that it extends."""
        return self

    @property
    def length(self) -> int:
        """Tokens in the cache, without those of forks."""
        return self._length

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return self._buffer.nbytes

    @property
    def owners(self) -> NDArray[np.int32]:
        """The owner of each column of the buffer: `OWN`, a fork's number, or -1 for a removed token."""
        return self._owners

    def copy(self, length: int) -> TorchKVCache:
        """An independent cache with the first `length` tokens of this one."""
        if not 0 <= length <= self._length:
            raise ValueError(f"a KV cache of {self._length} tokens cannot be cut to {length}")
        made = TorchKVCache(self._new_buffer)
        if length:
            with as_engine_errors("copying a prompt"), torch.inference_mode():
                made.room(length)[..., :length, :] = self._buffer[..., :length, :]
        made.commit(np.zeros(length, dtype=np.int32))
        return made

    def fork(self) -> TorchCacheFork:
        """A fork that extends this cache from its end."""
        self._forks += 1
        return TorchCacheFork(self, self._forks)

    def drop_forks(self) -> None:
        """Discard all forks."""
        self._owners = self._owners[: self._length]
        self._first_fork = self._forks + 1

    def columns_of(self, fork: int) -> NDArray[np.int64]:
        """The columns that hold the tokens of a fork.

        Raises:
            ValueError: The fork was discarded.
        """
        if fork < self._first_fork:
            raise ValueError("this fork was thrown away with the others of its KV cache")
        return np.flatnonzero(self._owners == fork)

    def remove(self, columns: NDArray[np.int64]) -> None:
        """Hide these columns from all tokens; columns at the end of the buffer become free again."""
        self._owners[columns] = _DEAD
        alive = np.flatnonzero(self._owners != _DEAD)
        self._owners = self._owners[: alive[-1] + 1 if len(alive) else 0]

    def room(self, columns: int) -> torch.Tensor:
        """The buffer, enlarged to at least `columns` columns."""
        if self._buffer.shape[3] < columns:
            # By half, so that copying stays a small share of the work and forks of the next questions fit.
            capacity = -(-max(columns, 3 * self._buffer.shape[3] // 2) // _BLOCK) * _BLOCK
            grown = self._new_buffer(capacity)
            used = len(self._owners)
            grown[..., :used, :] = self._buffer[..., :used, :]
            self._buffer = grown
        return self._buffer

    def commit(self, owners: NDArray[np.int32]) -> None:
        """Append the owners of columns that were written."""
        self._owners = np.concatenate([self._owners, owners])
        self._length += int((owners == OWN).sum())


class TorchCacheFork:
    """Tokens of one question that follow the end of a shared KV cache."""

    def __init__(self, cache: TorchKVCache, owner: int) -> None:
        self.cache = cache
        self.owner = owner

    @property
    def length(self) -> int:
        """Tokens of the fork, without those of the shared cache."""
        return len(self.cache.columns_of(self.owner))

    def rewind(self, length: int) -> None:
        """Remove all tokens of the fork but the first `length`."""
        columns = self.cache.columns_of(self.owner)
        if not 0 <= length <= len(columns):
            raise ValueError(f"a fork of {len(columns)} tokens cannot be cut to {length}")
        if length < len(columns):
            self.cache.remove(columns[length:])
