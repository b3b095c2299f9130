"""The protocol of a backend: a vision tower, and a decoder with its KV caches.

Prefix reuse, vision cache, batching and speculative decoding are written once for all backends, in
`egolive.assistant.runtime.engine_session`. Tower and decoder exchange torch tensors on the backend's device.
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
    """The keys and values of one token sequence.

    Several forks may extend it at the same time, one for each question about a window. The sequence itself is
    extended only while it has no forks, or in the same forward pass that starts them.
    """

    @property
    def length(self) -> int:
        """Tokens in the cache, without those of forks."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        ...

    def copy(self, length: int) -> KVCache:
        """An independent cache with the first `length` tokens of this one, which does not change."""
        ...

    def fork(self) -> CacheFork:
        """A fork that extends this cache from its end; other forks do not see its tokens."""
        ...

    def drop_forks(self) -> None:
        """Discard all forks; they cannot be used afterwards."""
        ...


class CacheFork(Protocol):
    """Tokens of one question that follow the end of a shared KV cache."""

    @property
    def length(self) -> int:
        """Tokens of the fork, without those of the shared cache."""
        ...

    def rewind(self, length: int) -> None:
        """Remove all tokens of the fork but the first `length`."""
        ...


@dataclass(frozen=True, slots=True)
class ForwardInput:
    """New tokens for one KV cache or fork in one forward pass."""

    onto: KVCache | CacheFork
    embeddings: torch.Tensor
    """(n, width) embeddings of the new tokens."""
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
        """An empty KV cache."""
        ...

    def forward(self, inputs: Sequence[ForwardInput]) -> list[torch.Tensor]:
        """Extend several KV caches and forks in one forward pass.

        Args:
            inputs: At most one for each cache or fork; a cache's own input stands before those of its forks,
                which attend to it.

        Returns:
            For each input the (keep, vocabulary) float32 logits of the token after each of its last `keep`.

        Raises:
            EngineError: The device failed or is out of memory; the caches are unchanged then.
        """
        ...
