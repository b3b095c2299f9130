"""Attention that is shown where to look while the text part learns to answer.

Whoever answers a question about a picture must first find the place in it that the question is about. Left
to next-token loss alone, a small decoder finds out very late that it should look there at all. Some heads
of one layer are therefore shown the right visual tokens at each token of an answer, or the token in front of
the picture where the answer is "none". The weights stay those of a plain Qwen2-VL.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = ["POINTING", "pointing_loss", "seen_attention"]

POINTING = 2
"""The layer that is shown where to look: the first query head of each key head."""

_seen: dict[str, tuple[Tensor, Tensor]] = {}


def seen_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention that leaves queries and keys of the pointing layer for `pointing_loss`."""
    if module.layer_idx == POINTING:
        _seen["last"] = (query[:, :: query.shape[1] // key.shape[1]], key)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]


AttentionInterface.register("seen_sdpa", seen_attention)


def pointing_loss(visual: Tensor, aim: Tensor) -> Tensor:
    """Minus the log of the attention that the pointing head spends where it should, among all visual tokens.

    Args:
        visual: (B, L) bool, n visual tokens a row, next to each other.
        aim: (B, L, 1 + n) bool: where to look; the first column is the token in front of the picture. Rows
            without any do not count.
    """
    query, key = _seen.pop("last")
    first = visual.int().argmax(1) - 1
    places = first[:, None] + torch.arange(aim.shape[2], device=aim.device)
    keys = torch.stack([one[:, at] for one, at in zip(key, places, strict=True)])
    row, word = aim.any(2).nonzero(as_tuple=True)
    scores = torch.einsum("nhd,nhkd->nhk", query[row, :, word], keys[row]).float() / query.shape[-1] ** 0.5
    right = scores.masked_fill(~aim[row, word][:, None], float("-inf"))
    return (scores.logsumexp(2) - right.logsumexp(2)).mean()
