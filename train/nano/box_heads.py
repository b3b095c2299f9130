"""Auxiliary box regression losses on hidden states of the text decoder.

Visual tokens encode boxes relative to their own cell; where the cell is in the picture only the decoder's
positions tell. With the next-token loss alone, a small decoder takes very long to combine the two. Linear
heads therefore predict whole boxes, as shares of the picture: at the visual tokens, after the second layer,
the box of every class; at each answer token, after the fourth, the coordinates of the box asked for that are
still to be generated. The heads are dropped after training.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from egolive.train.nano.dense_loss import box_iou

__all__ = ["CELL_LAYER", "WORD_LAYER", "BoxHeads", "box_head_loss"]

CELL_LAYER, WORD_LAYER = 2, 4
"""Layers after which the heads read visual tokens and answer tokens."""


class BoxHeads(nn.Module):
    """Linear heads over hidden states of the text part."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.inside = nn.Linear(width, classes)
        self.boxes = nn.Linear(width, 4 * classes)
        self.word = nn.Linear(width, 5)
        nn.init.constant_(self.inside.bias, -3.0)


def box_head_loss(
    heads: BoxHeads, hidden: Sequence[Tensor], visual: Tensor, target: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Both losses, by the names of their parts.

    Args:
        heads: the linear heads.
        hidden: hidden states (B, L, width), the embeddings first.
        visual: (B, L) bool, the visual tokens.
        target: `inside` (B, N, C) and `rects` (B, C, 4) of the picture of each row, both empty for rows of
            windows; `word_there` (B, L): 1 there, 0 not, -1 everywhere but where the answer about a box
            starts; `word_boxes` (B, L, 4): the coordinates still to be written at each token, others NaN.
    """
    parts: dict[str, Tensor] = {}
    asked = target["word_there"] >= 0
    if bool(asked.any()):
        said = heads.word(_normalised(hidden[WORD_LAYER][asked])).float()
        there = target["word_there"][asked]
        parts["read_there"] = 0.3 * F.binary_cross_entropy_with_logits(said[:, 4], there)
        parts["read_word"] = _box_loss(said[there > 0, :4], target["word_boxes"][asked][there > 0])
        boxes = target["word_boxes"]
        begun = ~boxes.isnan().all(-1) & ~asked
        if bool(begun.any()):
            said = heads.word(_normalised(hidden[WORD_LAYER][begun])).float()
            left = ~boxes[begun].isnan()
            parts["read_rest"] = 4 * (said[:, :4][left] - boxes[begun][left]).abs().mean()
    if target["inside"].numel():
        inside = target["inside"]
        cells = _normalised(hidden[CELL_LAYER][visual]).view(*inside.shape[:2], -1)
        logits = heads.inside(cells).float()
        weight = 1 + 4 * inside
        parts["read_inside"] = F.binary_cross_entropy_with_logits(logits, inside, weight)
        row, cell, place = inside.nonzero(as_tuple=True)
        boxes = heads.boxes(cells).float().view(*inside.shape, 4)[row, cell, place]
        parts["read_cells"] = _box_loss(boxes, target["rects"][row, place])
    return parts


def _normalised(states: Tensor) -> Tensor:
    """Hidden states at one scale: they grow from layer to layer."""
    return F.layer_norm(states, states.shape[-1:])


def _box_loss(said: Tensor, truth: Tensor) -> Tensor:
    if not len(said):
        return said.sum()
    return 4 * (said - truth).abs().mean() + 0.5 * (1 - box_iou(said, truth)).mean()
