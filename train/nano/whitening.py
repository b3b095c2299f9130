"""Even out what the vision tower says, without changing what it knows.

Linear heads do not care at what scale a tower keeps a fact, so after the dense loss a few directions of its
tokens carry nearly all variance and everything else is too faint for the text part to learn from. Whitening
is a linear map, and the merger ends in a linear layer: the map is folded into it, and the model stays a plain
Qwen2-VL.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["fold", "whitening"]

DEVIATION = 0.25
"""Standard deviation of a whitened token's entries."""
FLOOR = 1e-4
"""Directions with less than this share of the largest variance are not blown up further: they are noise."""


def whitening(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The map that gives tokens (n, width) zero mean and even variance in all directions.

    Returns:
        matrix (width, width) and mean (width,), float64: a whitened token is `matrix @ (token - mean)`.
    """
    values = tokens.double()
    mean = values.mean(0)
    variance, directions = torch.linalg.eigh(torch.cov((values - mean).T))
    variance = variance.clamp(min=FLOOR * float(variance[-1]))
    # Back in the old directions (ZCA), so that a token changes no more than it must.
    matrix = (directions / variance.sqrt()) @ directions.T * DEVIATION
    return matrix, mean


def fold(layer: nn.Linear, matrix: Tensor, mean: Tensor) -> None:
    """Let a linear layer give whitened values: its output afterwards is `matrix @ (output before - mean)`."""
    with torch.no_grad():
        device = layer.weight.device
        weight, bias = layer.weight.cpu().double(), layer.bias.cpu().double()
        layer.weight.copy_((matrix @ weight).to(device))
        layer.bias.copy_((matrix @ (bias - mean)).to(device))
