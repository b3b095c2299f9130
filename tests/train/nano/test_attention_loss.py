"""Attention that is shown where to look, in training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration

from egolive.train.nano.attention_loss import SUPERVISED_LAYERS, attention_loss, record_attention
from egolive.train.nano.nano_model import new_nano
from egolive.train.nano.nano_sft import nano_tokenizer

VISUAL = torch.tensor([[False, False, True, True, True, False, False]])
"""Seven tokens: two of text, three visual ones, two of text."""


@pytest.fixture(scope="module")
def model() -> Qwen2VLForConditionalGeneration:
    return new_nano(nano_tokenizer()).eval()


def aim(*columns: int, word: int = 6) -> Tensor:
    """Look at these of the three visual tokens (1 to 3), or in front of them (0), at one word."""
    where = torch.zeros(1, 7, 4, dtype=torch.bool)
    where[0, word, list(columns)] = True
    return where


def looks_at(model: Qwen2VLForConditionalGeneration, token: int) -> None:
    """Let the pointing heads look at one token of the row alone."""
    key = torch.zeros(1, 2, 7, 64)
    key[:, :, token] = 10.0
    for layer in SUPERVISED_LAYERS:
        model.model.language_model.layers[layer].self_attn.recorded = (torch.full((1, 2, 7, 64), 10.0), key)


def test_attention_where_it_should_be_costs_nothing(model: Qwen2VLForConditionalGeneration) -> None:
    looks_at(model, 3)
    assert attention_loss(model, VISUAL, aim(2)).item() == pytest.approx(0, abs=1e-5)
    assert attention_loss(model, VISUAL, aim(2, 3)).item() == pytest.approx(0, abs=1e-5)
    assert attention_loss(model, VISUAL, aim(1)).item() > 10


def test_the_token_in_front_of_the_picture_stands_for_none(model: Qwen2VLForConditionalGeneration) -> None:
    looks_at(model, 1)
    assert attention_loss(model, VISUAL, aim(0)).item() == pytest.approx(0, abs=1e-5)


def test_attention_that_is_spread_evenly_pays_for_what_it_misses(
    model: Qwen2VLForConditionalGeneration,
) -> None:
    for layer in SUPERVISED_LAYERS:
        model.model.language_model.layers[layer].self_attn.recorded = (torch.zeros(1, 2, 7, 64),) * 2
    assert attention_loss(model, VISUAL, aim(1)).item() == pytest.approx(math.log(4))
    assert attention_loss(model, VISUAL, aim(1, 2)).item() == pytest.approx(math.log(2))


def test_a_watched_model_says_the_same_and_teaches_its_layers_where_to_look(
    model: Qwen2VLForConditionalGeneration,
) -> None:
    language = model.model.language_model
    torch.manual_seed(0)
    inputs = {
        "inputs_embeds": torch.randn(1, 7, 256),
        "position_ids": torch.arange(7).expand(3, 1, 7),
        "attention_mask": torch.ones(7, 7).tril().bool()[None, None],
        "use_cache": False,
    }
    usual = language(**inputs).last_hidden_state
    with record_attention(model):
        watching = language(**inputs).last_hidden_state
        attention_loss(model, VISUAL, aim(2)).backward()  # type: ignore[no-untyped-call]
    assert (usual - watching).abs().max() <= 1e-5 * usual.abs().max()
    taught = [layer.self_attn.q_proj.weight.grad is not None for layer in language.layers]
    assert taught == [number <= max(SUPERVISED_LAYERS) for number in range(len(taught))]
    model.zero_grad()
    for layer in SUPERVISED_LAYERS:
        language.layers[layer].self_attn.recorded = None
    language(**inputs)
    assert all(language.layers[layer].self_attn.recorded is None for layer in SUPERVISED_LAYERS)
