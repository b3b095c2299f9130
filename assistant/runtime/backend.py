"""The two halves that every backend supplies: a vision tower and a decoder.

Everything that makes answering fast is written once above them, in
`egolive.assistant.runtime.engine_session`. Values that pass between the halves are torch tensors on the
backend's device; it alone looks into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["CacheFork", "Decoder", "ForwardInput", "KVCache", "VisionTower"]


class VisionTower(Protocol):
    """Pixels to visual tokens."""

    def encode(self, patches: NDArray[np.float32], grid: tuple[int, int, int]) -> torch.Tensor:
        """Encode one slice or picture.

        Args:
            patches: (n, 1176), as `Preprocessor.patches` gives them.
            grid: (1, rows, columns) of patches.

        Returns:
            (n / 4, width) visual tokens, ready to stand among token embeddings.

        Raises:
            EngineError: The device failed or is out of memory.
        """
        ...


class KVCache(Protocol):
    """One sequence that a decoder has read: its keys and values.

    Several branches may go on from its end side by side, as the questions about one window do. It is read
    further only once they are thrown away, or in the same pass in which they begin.
    """

    @property
    def length(self) -> int:
        """Tokens read so far, without those of branches."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        ...

    def copy(self, length: int) -> KVCache:
        """A row of its own that has read the first `length` tokens of this one, which stays as it is."""
        ...

    def fork(self) -> CacheFork:
        """A way to go on from its end that leaves the row as it is; no other branch sees it."""
        ...

    def drop_forks(self) -> None:
        """Throw all branches away; they cannot be used afterwards."""
        ...


class CacheFork(Protocol):
    """What follows the end of a row for one question."""

    @property
    def length(self) -> int:
        """Tokens read since the end of its row."""
        ...

    def rewind(self, length: int) -> None:
        """Take back all tokens of its own but the first `length`."""
        ...


@dataclass(frozen=True, slots=True)
class ForwardInput:
    """What one row or branch reads in one pass."""

    onto: KVCache | CacheFork
    embeddings: torch.Tensor
    """(n, width) of the tokens that follow."""
    positions: NDArray[np.int64]
    """(3, n), the temporal, height and width position of each."""
    keep: int = 1
    """For how many of the last tokens to compute logits."""


class Decoder(Protocol):
    """Token embeddings to logits."""

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """(n, width) embeddings of token ids."""
        ...

    def new_cache(self) -> KVCache:
        """A row that has read nothing."""
        ...

    def forward(self, inputs: Sequence[ForwardInput]) -> list[torch.Tensor]:
        """Let several rows and branches read on in one pass over the weights.

        Args:
            inputs: At most one for each row or branch; a row's own stands before those of its branches,
                which see it.

        Returns:
            For each chunk the (keep, vocabulary) float32 logits of the token after each of its last `keep`.

        Raises:
            EngineError: The device failed or is out of memory; nothing has been read then.
        """
        ...
