"""Prompts as a decoder reads them, outside a session: for calibration, for checks and for measuring."""

from __future__ import annotations

import torch

from egolive.assistant.halves import Decoder, VisionTower
from egolive.assistant.layout import Layout, SlicePiece
from egolive.assistant.preprocess import Preprocessor

__all__ = ["embeddings_of"]


def embeddings_of(
    layout: Layout, tower: VisionTower, decoder: Decoder, preprocessor: Preprocessor
) -> torch.Tensor:
    """(n, width) embeddings of a whole prompt, text and visual tokens."""
    found = [
        tower.encode(*preprocessor.patches(piece.frames, piece.height, piece.width))
        if isinstance(piece, SlicePiece)
        else decoder.embed(piece)
        for piece in layout.pieces
    ]
    return torch.cat(found)
