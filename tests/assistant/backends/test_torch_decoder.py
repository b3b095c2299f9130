"""Passes of a few rows over large fp32 weights: another kernel, the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from egolive.assistant.backends.torch.torch_decoder import apply


@pytest.mark.parametrize("rows", [0, 1, 2, 4, 64, 65])
@pytest.mark.parametrize("bias", [False, True])
def test_a_few_rows_give_what_torch_gives(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    module = nn.Linear(1024, 1100, bias=bias)
    states = torch.randn(rows, 1024)
    with torch.inference_mode():
        torch.testing.assert_close(apply(module, states), module(states), rtol=0, atol=2e-6)
        # Rows that do not stand side by side.
        wide = torch.randn(rows, 2048)[:, ::2]
        torch.testing.assert_close(apply(module, wide), module(wide), rtol=0, atol=2e-6)


def test_a_layer_that_is_watched_or_not_what_it_seems_does_its_own_work() -> None:
    class Doubled(nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(states)

    states = torch.randn(4, 1024)
    with torch.inference_mode():
        module = Doubled(1024, 1100)
        torch.testing.assert_close(apply(module, states), module(states), rtol=0, atol=4e-6)
        watched = nn.Linear(1024, 1100)
        seen: list[int] = []
        watched.register_forward_hook(lambda *_: seen.append(1))
        apply(watched, states)
        assert seen == [1]
