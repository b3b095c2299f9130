"""Linear layers on a few rows, on a CPU in fp32: the kernel that reads large weights fastest.

Questions that are decoded side by side make passes of a few rows. For these torch takes MKL's GEMM, which
needs twice as long for four rows as for one; oneDNN's, which torch's own compiler uses, needs a quarter more.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["apply", "linear"]

_ROWS = range(2, 65)
"""Rows for which oneDNN is quicker; one row is read equally fast, hundreds as well."""
_LEAST = 2**20
"""Weights from which that is worth its overhead."""


def apply(module: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """What a linear layer makes of (rows, width); quantised, hooked or wrapped ones do their own work."""
    if type(module) is nn.Linear and not (module._forward_hooks or module._forward_pre_hooks):
        return linear(states, module.weight, module.bias)
    found: torch.Tensor = module(states)
    return found


def linear(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Torch's `linear`, equal but for rounding (1e-6 in fp32).

    Args:
        states: (rows, width).
        weight: (made, width).
        bias: (made,).
    """
    few = (
        len(states) in _ROWS
        and weight.numel() >= _LEAST
        and weight.dtype == states.dtype == torch.float32
        and weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )
    if not few:
        return F.linear(states, weight, bias)
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
        states.contiguous(), weight, bias, "none", [], ""
    )
    return found
