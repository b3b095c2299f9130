"""Prompts as a decoder reads them, outside a session: for calibration, for checks and for measuring."""

from __future__ import annotations

from collections.abc import Hashable

import torch

from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.model.prompt_tokens import Layout, SlicePiece
from egolive.assistant.runtime.backend import Decoder, VisionTower

__all__ = ["embeddings_of"]


def embeddings_of(
    layout: Layout,
    tower: VisionTower,
    decoder: Decoder,
    preprocessor: Preprocessor,
    encoded: dict[Hashable, torch.Tensor] | None = None,
) -> torch.Tensor:
    """(n, width) embeddings of a whole prompt, text and visual tokens.

    Args:
        layout: The prompt.
        tower: Encodes its slices.
        decoder: Knows the embeddings of its text.
        preprocessor: Of the same checkpoint.
        encoded: Slices that have been encoded, by name; filled.
    """
    encoded = {} if encoded is None else encoded
    found = []
    for piece in layout.pieces:
        if not isinstance(piece, SlicePiece):
            found.append(decoder.embed(piece))
            continue
        if piece.name not in encoded:
            patches = preprocessor.patches(piece.frames, piece.height, piece.width)
            encoded[piece.name] = tower.encode(*patches)
        found.append(encoded[piece.name])
    return torch.cat(found)
