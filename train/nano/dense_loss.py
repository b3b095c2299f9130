"""The dense detection loss that trains the vision tower on its own.

The next-token loss alone hardly teaches a small tower, trained from random weights, where things are. Linear
heads on the merged visual tokens therefore predict, for every class, whether the token's cell lies inside the
class's box and the distances from the cell to the box's edges (as FCOS does, arXiv 1904.01355), and from the
mean token the step of the activity. The heads are dropped after training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["DenseHeads", "DenseTarget", "box_iou", "decode_boxes", "dense_loss", "dense_target"]

Rect = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class DenseTarget:
    """Targets of a batch of pictures; C classes, N cells in row order."""

    inside: Tensor
    """(B, N, C) float: 1 where the cell belongs to the class's box."""
    boxes: Tensor
    """(B, C, 4) float: x1, y1, x2, y2 as shares of the picture; zeros where absent."""
    step: Tensor
    """(B,) int64: class of the step being done, -100 where it does not count."""


class DenseHeads(nn.Module):
    """Linear heads over merged visual tokens."""

    def __init__(self, width: int, classes: int, steps: int) -> None:
        super().__init__()
        self.inside = nn.Linear(width, classes)
        self.edges = nn.Linear(width, 4 * classes)
        self.step = nn.Linear(width, steps)
        # Most cells lie outside most boxes: this prior saves the first hundred steps.
        nn.init.constant_(self.inside.bias, -3.0)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From (B, N, width) tokens: inside logits (B, N, C), edges (B, N, C, 4), step logits (B, steps)."""
        batch, cells, _ = tokens.shape
        edges = self.edges(tokens).view(batch, cells, -1, 4)
        return self.inside(tokens), edges, self.step(tokens.mean(1))


def cell_centres(rows: int, columns: int) -> NDArray[np.float32]:
    """Centres of the cells in row order as shares of the picture, (rows * columns, 2) as x, y."""
    ys, xs = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
    return np.stack([xs.ravel(), ys.ravel()], -1).astype(np.float32)


def dense_target(
    boxes: Mapping[str, Rect], classes: Sequence[str], rows: int, columns: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Targets of one picture from boxes given as shares of it.

    Returns:
        inside (rows * columns, C) and boxes (C, 4). A cell is inside when its centre is, or when it holds
        the box's centre, so that a small thing has at least one cell.
    """
    centres = cell_centres(rows, columns)
    inside = np.zeros((rows * columns, len(classes)), np.float32)
    rects = np.zeros((len(classes), 4), np.float32)
    for place, name in enumerate(classes):
        rect = boxes.get(name)
        if rect is None:
            continue
        x1, y1, x2, y2 = rects[place] = rect
        x, y = centres[:, 0], centres[:, 1]
        inside[(x >= x1) & (x <= x2) & (y >= y1) & (y <= y2), place] = 1.0
        column = min(columns - 1, int((x1 + x2) / 2 * columns))
        row = min(rows - 1, int((y1 + y2) / 2 * rows))
        inside[row * columns + column, place] = 1.0
    return inside, rects


def decode_edges(edges: Tensor, centres: Tensor) -> Tensor:
    """Distances (…, N, C, 4) from cell centres (N, 2) to boxes x1, y1, x2, y2 as shares of the picture."""
    centre = centres[:, None, :]
    return torch.cat([centre - edges[..., :2], centre + edges[..., 2:]], -1)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Pairwise-aligned intersection over union of (…, 4) boxes; 0 where either is empty."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2]).clamp(min=0).prod(-1)
    other = (second[..., 2:] - second[..., :2]).clamp(min=0).prod(-1)
    return shared / (area + other - shared).clamp(min=1e-9)


def dense_loss(
    heads: tuple[Tensor, Tensor, Tensor], target: DenseTarget, rows: int, columns: int
) -> dict[str, Tensor]:
    """Focal inside loss, edge loss (L1 and 1 - IoU) over inside cells and step cross-entropy, as parts."""
    inside, edges, step = (part.float() for part in heads)
    raw = F.binary_cross_entropy_with_logits(inside, target.inside, reduction="none")
    # Focal weighting (arXiv 1708.02002) with gamma 2 keeps the many easy outside cells from drowning the
    # few others.
    wrong = torch.where(target.inside > 0, 1 - inside.sigmoid(), inside.sigmoid())
    weight = torch.where(target.inside > 0, 0.75, 0.25) * wrong.detach().square() * 4
    positives = target.inside.sum().clamp(min=1)
    inside_loss = (raw * weight).sum() / positives
    centres = torch.from_numpy(cell_centres(rows, columns)).to(edges.device)
    image, cell, place = target.inside.nonzero(as_tuple=True)
    guess = decode_edges(edges, centres)[image, cell, place]
    truth = target.boxes[image, place]
    # Each box counts once, however many cells it covers: else small things would hardly be learned.
    share = 1 / target.inside.sum(1)[image, place]
    boxes = share.sum().clamp(min=1)
    edge_loss = ((guess - truth).abs().sum(-1) * share).sum() / boxes * 4
    overlap_loss = ((1 - box_iou(guess, truth)) * share).sum() / boxes
    step_loss = (
        F.cross_entropy(step, target.step, ignore_index=-100)
        if bool((target.step >= 0).any())
        else step.sum() * 0
    )
    return {"inside": inside_loss, "edges": edge_loss, "overlap": overlap_loss, "step": step_loss * 0.3}


def decode_boxes(heads: tuple[Tensor, Tensor, Tensor], rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The box of each class, from its most confident cell.

    Returns:
        boxes (B, C, 4) as shares of the picture and the probability (B, C) that the class is there.
    """
    inside, edges, _ = (part.float() for part in heads)
    centres = torch.from_numpy(cell_centres(rows, columns)).to(edges.device)
    boxes = decode_edges(edges, centres)
    score, cell = inside.sigmoid().max(1)
    index = cell[:, None, :, None].expand(-1, 1, -1, 4)
    return boxes.gather(1, index)[:, 0], score
