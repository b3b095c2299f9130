"""Whitening of the visual tokens (ZCA), folded into the last linear layer of the merger.

After the dense loss, whose linear heads are insensitive to scale, a few directions of the visual tokens carry
nearly all variance, and the text decoder hardly learns from the others. Whitening is a linear map, so it can
be multiplied into the merger's last layer: the model stays a plain Qwen2-VL, and no information is lost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["fold_into", "whitening"]

DEVIATION = 0.25
"""Standard deviation of a whitened token's entries."""
FLOOR = 1e-4
"""Directions below this share of the largest variance are treated as if they had it: they are noise."""


def whitening(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The map that gives tokens (n, width) zero mean and equal variance in all directions.

    Returns:
        matrix (width, width) and mean (width,), float64: a whitened token is `matrix @ (token - mean)`.
    """
    values = tokens.double()
    mean = values.mean(0)
    variance, directions = torch.linalg.eigh(torch.cov((values - mean).T))
    variance = variance.clamp(min=FLOOR * float(variance[-1]))
    # Rotated back (ZCA), which changes a token least.
    matrix = (directions / variance.sqrt()) @ directions.T * DEVIATION
    return matrix, mean


def fold_into(layer: nn.Linear, matrix: Tensor, mean: Tensor) -> None:
    """Change a linear layer in place so that its output becomes `matrix @ (output - mean)`."""
    with torch.no_grad():
        device = layer.weight.device
        weight, bias = layer.weight.cpu().double(), layer.bias.cpu().double()
        layer.weight.copy_((matrix @ weight).to(device))
        layer.bias.copy_((matrix @ (bias - mean)).to(device))
