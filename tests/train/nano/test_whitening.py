"""Whitening of the tower's tokens, folded into its last layer."""

from __future__ import annotations

import torch
from torch import nn

from egolive.train.nano.whitening import DEVIATION, fold_into, whitening


def skewed(count: int = 4000) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(count, 6) @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.3, 0.2])) + 5


def test_whitened_tokens_vary_alike_in_all_directions() -> None:
    tokens = skewed()
    matrix, mean = whitening(tokens)
    white = (tokens.double() - mean) @ matrix.T
    assert torch.allclose(white.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(torch.cov(white.T), torch.eye(6, dtype=torch.float64) * DEVIATION**2, atol=1e-9)


def test_a_direction_without_variance_is_not_blown_up() -> None:
    tokens = skewed()
    tokens[:, 5] = 1e-6 * torch.randn(len(tokens))
    matrix, mean = whitening(tokens)
    white = (tokens.double() - mean) @ matrix.T
    assert white.isfinite().all()
    assert white[:, 5].std() < 0.01


def test_a_folded_layer_gives_whitened_values() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(4, 6)
    inputs = torch.randn(10, 4)
    matrix, mean = whitening(skewed())
    with torch.no_grad():
        expected = (layer(inputs).double() - mean) @ matrix.T
        fold_into(layer, matrix, mean)
        assert torch.allclose(layer(inputs).double(), expected, atol=1e-4)
