"""Attention supervision loss: some heads of the text decoder are trained to attend to the answer's region.

With the next-token loss alone, a small decoder learns very late to attend to the part of the picture that a
question is about. So in two layers, at each answer token, the loss is the negative log of the attention that
falls on the visual tokens of the true box or interval, or on the token in front of the picture where the
answer is "none". It adds no weights: the model stays a plain Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Qwen2VLForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = ["SUPERVISED_LAYERS", "attention_loss", "record_attention", "recording_attention"]

SUPERVISED_LAYERS = (2, 3)
"""The layers with supervised heads: in each, the first query head of each key head."""


def recording_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention that keeps the supervised heads' queries and keys for `attention_loss`."""
    if module.layer_idx in SUPERVISED_LAYERS:
        module.recorded = (query[:, :: query.shape[1] // key.shape[1]], key)  # type: ignore[assignment]
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]


AttentionInterface.register("recording_sdpa", recording_attention)


@contextmanager
def record_attention(model: Qwen2VLForConditionalGeneration) -> Iterator[None]:
    """Compute the text decoder's attention with `recording_attention` inside this block."""
    usual = model.config.text_config._attn_implementation
    model.model.language_model.set_attn_implementation("recording_sdpa")
    yield
    model.model.language_model.set_attn_implementation(usual)


def attention_loss(model: Qwen2VLForConditionalGeneration, visual: Tensor, aim: Tensor) -> Tensor:
    """Mean negative log of the attention on the target tokens, relative to all visual tokens.

    Args:
        model: after a forward pass over the rows inside `record_attention`.
        visual: (B, L) bool, n contiguous visual tokens a row.
        aim: (B, L, 1 + n) bool: the target tokens; the first column is the token in front of the picture.
            Positions without a target do not count.
    """
    first = visual.int().argmax(1) - 1
    places = first[:, None] + torch.arange(aim.shape[2], device=aim.device)
    row, word = aim.any(2).nonzero(as_tuple=True)
    missed = []
    for layer in SUPERVISED_LAYERS:
        query, key = model.model.language_model.layers[layer].self_attn.recorded
        keys = torch.stack([one[:, at] for one, at in zip(key, places, strict=True)])
        scores = torch.einsum("nhd,nhkd->nhk", query[row, :, word], keys[row]).float()
        scores /= query.shape[-1] ** 0.5
        right = scores.masked_fill(~aim[row, word][:, None], float("-inf"))
        missed.append(scores.logsumexp(2) - right.logsumexp(2))
    return torch.stack(missed).mean()
