"""A row of the torch engine: keys and values of one sequence, those of its branches behind them.

What is stored and who sees it; reading is in `egolive.assistant.backends.torch.torch_decoder`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from egolive.assistant.backends.torch.device_errors import as_engine_errors

__all__ = ["OWN", "TorchCacheFork", "TorchKVCache"]

OWN = 0
"""In `TorchKVCache.owners`: the row's own tokens. Branches are numbered from 1."""
_DEAD = -1
"""In `TorchKVCache.owners`: taken back."""
_BLOCK = 256
"""Tokens by which a row's buffer grows at least."""


class TorchKVCache:
    """One sequence that the decoder has read, and the branches behind it, in one buffer."""

    def __init__(self, new_buffer: Callable[[int], torch.Tensor]) -> None:
        """Start with nothing read.

        Args:
            new_buffer: Gives memory for so many tokens, shaped (layers, 2, key-value heads, tokens, width of
                a head).
        """
        self.owner = OWN
        self._new_buffer = new_buffer
        self._buffer = new_buffer(0)
        self._length = 0
        self._owners: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._branches = 0
        self._first_branch = 1

    @property
    def cache(self) -> TorchKVCache:
        """Itself; of a branch, the row that it follows."""
        return self

    @property
    def length(self) -> int:
        """Tokens read so far, without those of branches."""
        return self._length

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return self._buffer.nbytes

    @property
    def owners(self) -> NDArray[np.int32]:
        """Whose token stands in each column of the buffer."""
        return self._owners

    def copy(self, length: int) -> TorchKVCache:
        """A row of its own that has read the first `length` tokens of this one."""
        if not 0 <= length <= self._length:
            raise ValueError(f"a row of {self._length} tokens cannot be cut to {length}")
        made = TorchKVCache(self._new_buffer)
        if length:
            with as_engine_errors("copying a prompt"), torch.inference_mode():
                made.room(length)[..., :length, :] = self._buffer[..., :length, :]
        made.commit(np.zeros(length, dtype=np.int32))
        return made

    def fork(self) -> TorchCacheFork:
        """A way to go on from its end."""
        self._branches += 1
        return TorchCacheFork(self, self._branches)

    def drop_forks(self) -> None:
        """Throw all branches away."""
        self._owners = self._owners[: self._length]
        self._first_branch = self._branches + 1

    def columns_of(self, branch: int) -> NDArray[np.int64]:
        """Where the tokens of a branch stand.

        Raises:
            ValueError: The branch was thrown away.
        """
        if branch < self._first_branch:
            raise ValueError("this branch was thrown away with the others of its row")
        return np.flatnonzero(self._owners == branch)

    def take_back(self, columns: NDArray[np.int64]) -> None:
        """Let nothing see these columns any more; those at the end are free again."""
        self._owners[columns] = _DEAD
        alive = np.flatnonzero(self._owners != _DEAD)
        self._owners = self._owners[: alive[-1] + 1 if len(alive) else 0]

    def room(self, columns: int) -> torch.Tensor:
        """The buffer, grown where it has fewer columns."""
        if self._buffer.shape[3] < columns:
            # By half, so that copying stays a small share; branches of the next questions fit as well.
            capacity = -(-max(columns, 3 * self._buffer.shape[3] // 2) // _BLOCK) * _BLOCK
            grown = self._new_buffer(capacity)
            used = len(self._owners)
            grown[..., :used, :] = self._buffer[..., :used, :]
            self._buffer = grown
        return self._buffer

    def commit(self, owners: NDArray[np.int32]) -> None:
        """Count the columns that were written as read."""
        self._owners = np.concatenate([self._owners, owners])
        self._length += int((owners == OWN).sum())


class TorchCacheFork:
    """What follows the end of a row for one question."""

    def __init__(self, cache: TorchKVCache, owner: int) -> None:
        self.cache = cache
        self.owner = owner

    @property
    def length(self) -> int:
        """Tokens read since the end of its row."""
        return len(self.cache.columns_of(self.owner))

    def rewind(self, length: int) -> None:
        """Take back all tokens of its own but the first `length`."""
        columns = self.cache.columns_of(self.owner)
        if not 0 <= length <= len(columns):
            raise ValueError(f"a branch of {len(columns)} tokens cannot be cut to {length}")
        if length < len(columns):
            self.cache.take_back(columns[length:])
