"""Layers of a model whose weights stay where they are stored until they are used, one matrix at a time."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from egolive.quantize.weights.forms import Weight, chunks_of_rows

__all__ = ["StoredEmbedding", "StoredLinear", "dense_layer"]


class StoredLinear(nn.Module):
    """A linear layer that computes in fp32 from whatever form its weight has."""

    factor: torch.Tensor | None
    """(K,) by which its input is multiplied first, as AWQ has it; None where it is not."""

    def __init__(self, stored: Weight, bias: torch.Tensor | None) -> None:
        """Hold a weight.

        Args:
            stored: Of N rows and K columns; may be replaced by what has been written of it.
            bias: (N,), where there is one.
        """
        super().__init__()
        self.stored = stored
        self.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)
        self.factor = None

    @property
    def in_features(self) -> int:
        """K."""
        return self.stored.columns

    @property
    def out_features(self) -> int:
        """N."""
        return self.stored.rows

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., K) to (..., N), in fp32."""
        if self.factor is not None:
            states = states * self.factor
        parts = [
            F.linear(states, self.stored.values(start, stop)) for start, stop in chunks_of_rows(self.stored)
        ]
        made = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return made if self.bias is None else made + self.bias


class StoredEmbedding(nn.Module):
    """Token embeddings in fp32 from whatever form their table has."""

    def __init__(self, stored: Weight) -> None:
        """Hold a table of one row a token."""
        super().__init__()
        self.stored = stored

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(...) token ids to (..., width)."""
        rows = [self.stored.values(token, token + 1) for token in tokens.flatten().tolist()]
        return torch.cat(rows).reshape(*tokens.shape, -1)


def dense_layer(layer: nn.Module, empty: nn.Module) -> nn.Module:
    """A copy of a layer with ordinary modules, whose weights are in memory in fp32.

    Args:
        layer: With `StoredLinear`s in it.
        empty: The same layer with ordinary modules on the device "meta"; becomes the copy.
    """
    state = {name: weight.detach().float() for name, weight in layer.named_parameters()}
    for name, module in layer.named_modules():
        if isinstance(module, StoredLinear):
            state[f"{name}.weight"] = module.stored.values().contiguous()
    empty.load_state_dict(state, assign=True)
    return empty.requires_grad_(requires_grad=False).eval()
