"""Attention that is shown where to look while the text part learns to answer.

Whoever answers a question about a picture must first find the place in it that the question is about. Left
to next-token loss alone, a small decoder finds out very late that it should look there at all. Some heads
of two layers are therefore shown the right visual tokens at each token of an answer, or the token in front of
the picture where the answer is "none". The weights stay those of a plain Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Qwen2VLForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = ["POINTING", "attention_loss", "seen_attention", "watched"]

POINTING = (2, 3)
"""The layers that are shown where to look: in each the first query head of each key head."""


def seen_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention that leaves the pointing layers' queries and keys for `attention_loss`."""
    if module.layer_idx in POINTING:
        module.seen = (query[:, :: query.shape[1] // key.shape[1]], key)  # type: ignore[assignment]
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]


AttentionInterface.register("seen_sdpa", seen_attention)


@contextmanager
def watched(model: Qwen2VLForConditionalGeneration) -> Iterator[None]:
    """Let `seen_attention` do the text part's attention for as long as it is open."""
    usual = model.config.text_config._attn_implementation
    model.model.language_model.set_attn_implementation("seen_sdpa")
    yield
    model.model.language_model.set_attn_implementation(usual)


def attention_loss(model: Qwen2VLForConditionalGeneration, visual: Tensor, aim: Tensor) -> Tensor:
    """Minus the log of the attention that the pointing head spends where it should, among all visual tokens.

    Args:
        model: has just read the rows, `watched`.
        visual: (B, L) bool, n visual tokens a row, next to each other.
        aim: (B, L, 1 + n) bool: where to look; the first column is the token in front of the picture. Rows
            without any do not count.
    """
    first = visual.int().argmax(1) - 1
    places = first[:, None] + torch.arange(aim.shape[2], device=aim.device)
    row, word = aim.any(2).nonzero(as_tuple=True)
    missed = []
    for layer in POINTING:
        query, key = model.model.language_model.layers[layer].self_attn.seen
        keys = torch.stack([one[:, at] for one, at in zip(key, places, strict=True)])
        scores = torch.einsum("nhd,nhkd->nhk", query[row, :, word], keys[row]).float()
        scores /= query.shape[-1] ** 0.5
        right = scores.masked_fill(~aim[row, word][:, None], float("-inf"))
        missed.append(scores.logsumexp(2) - right.logsumexp(2))
    return torch.stack(missed).mean()
