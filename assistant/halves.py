"""The two halves that every backend supplies: a vision tower and a decoder.

Everything that makes answering fast is written once above them, in `egolive.assistant.engine_session`.
Values that pass between the halves are torch tensors on the backend's device; it alone looks into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Decoder", "Row", "VisionTower"]


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


class Row(Protocol):
    """One sequence that a decoder has read: its keys and values."""

    @property
    def length(self) -> int:
        """Tokens read so far."""
        ...

    def append(self, embeddings: torch.Tensor, positions: NDArray[np.int64], keep: int = 1) -> torch.Tensor:
        """Read on.

        Args:
            embeddings: (n, width) of the tokens that follow.
            positions: (3, n), the temporal, height and width position of each.
            keep: For how many of the last tokens to compute logits.

        Returns:
            (keep, vocabulary) float32 logits of the token after each of the last `keep`.

        Raises:
            EngineError: The device failed or is out of memory.
        """
        ...

    def fork(self, length: int) -> Row:
        """A row of its own that has read the first `length` tokens of this one, which stays as it is."""
        ...


class Decoder(Protocol):
    """Token embeddings to logits."""

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """(n, width) embeddings of token ids."""
        ...

    def row(self) -> Row:
        """A row that has read nothing."""
        ...
