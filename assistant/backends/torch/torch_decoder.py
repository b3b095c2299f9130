"""The decoder of the torch engine: one forward pass over several KV caches and their forks.

The new tokens of all inputs go through the linear layers as one batch. Attention is computed for each KV
cache by itself, over a buffer in which the tokens of its forks follow its own and a mask keeps them apart:
questions about one window share its keys and values without a copy. The modules and numbers are those of
transformers' Qwen2-VL. On a GPU, passes of a few tokens are run by
`egolive.assistant.backends.torch.cuda_graphs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.backends.torch.attention import Attention, SegmentAttention
from egolive.assistant.backends.torch.batch_plan import plan_batch
from egolive.assistant.backends.torch.cuda_graphs import COLUMNS, Capture, StaticSteps
from egolive.assistant.backends.torch.device_errors import as_engine_errors
from egolive.assistant.backends.torch.kv_cache import TorchKVCache
from egolive.assistant.runtime.backend import ForwardInput

__all__ = ["TorchDecoder", "apply", "linear"]

_ROWS = range(2, 65)
"""Numbers of rows for which oneDNN's kernel, which torch's own compiler uses, is faster in fp32 on a CPU.

MKL's GEMM takes twice as long for four rows as for one, oneDNN's a quarter longer. One row, and hundreds of
rows, are equally fast."""
_LEAST = 2**20
"""Weights of a layer from which that outweighs the kernel's overhead."""


class TorchDecoder:
    """Embeddings to logits, the last layer in fp32 whatever the weights are."""

    def __init__(self, model: Qwen2VLForConditionalGeneration, capture: Capture | None = None) -> None:
        """Take over a model.

        Args:
            model: In evaluation mode, on its device.
            capture: Records passes of a few tokens, `cuda_capture` on a GPU; None to run them as all others.
        """
        self.model = model
        """The whole model of transformers, to compare with its own `generate`."""
        self.text_model = model.model.language_model
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.head = self._head(model)
        config = model.config.text_config
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads)
        self._head_width = int(config.hidden_size) // self._heads
        self.static: StaticSteps | None = None
        """Runs passes of a few tokens; None without capture."""
        if capture is not None:
            self.static = StaticSteps(
                self._new_buffer(COLUMNS[-1]).zero_(),
                heads=self._heads,
                width=int(config.hidden_size),
                vocabulary=len(self.head),
                capture=capture,
                columns=COLUMNS,
            )

    def _head(self, model: Qwen2VLForConditionalGeneration) -> torch.Tensor:
        # bf16 logits have 8 bits: neighbours tie. The copy costs memory once; fp32 weights are not copied.
        head: torch.Tensor = model.lm_head.weight.detach().float()
        return head

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """(n, width) embeddings of token ids."""
        with torch.inference_mode():
            embeddings: torch.Tensor = self.text_model.embed_tokens(torch.tensor(tokens, device=self.device))
        return embeddings

    def new_cache(self) -> TorchKVCache:
        """An empty KV cache."""
        return TorchKVCache(self._new_buffer)

    def _new_buffer(self, capacity: int) -> torch.Tensor:
        """Room for keys and values: (layers, 2, key-value heads, capacity, width of a head)."""
        shape = (len(self.text_model.layers), 2, self._kv_heads, capacity, self._head_width)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def forward(self, inputs: Sequence[ForwardInput]) -> list[torch.Tensor]:
        """Extend several KV caches and forks in one pass; see `Decoder`."""
        if not inputs:
            return []
        with as_engine_errors("reading a prompt"), torch.inference_mode():
            planned, order = plan_batch(inputs)
            embeddings = torch.cat([inputs[at].embeddings for at in order])
            positions = np.concatenate([inputs[at].positions for at in order], axis=1)
            kept: list[int] = []
            end = 0
            for at in order:
                end += len(inputs[at].embeddings)
                kept += range(end - inputs[at].keep, end)
            static = self.static
            if static is not None and static.fits(planned):
                found = static.read(self._forward, planned, embeddings, positions, kept)
            else:
                if static is not None:
                    static.overtaken(planned)
                attentions = [SegmentAttention(segment) for segment in planned]
                places = torch.from_numpy(positions).to(self.device)
                found = self._logits(self._layers(embeddings, places, attentions)[kept])
            logits = torch.split(found, [inputs[at].keep for at in order])
        for segment in planned:
            segment.cache.commit(segment.owners)
        placed = dict(zip(order, logits, strict=True))
        return [placed[at] for at in range(len(inputs))]

    def _forward(
        self, embeddings: torch.Tensor, positions: torch.Tensor, attentions: Sequence[Attention]
    ) -> torch.Tensor:
        return self._logits(self._layers(embeddings, positions, attentions))

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return linear(self.text_model.norm(hidden).float(), self.head)

    def _layers(
        self, hidden: torch.Tensor, positions: torch.Tensor, attentions: Sequence[Attention]
    ) -> torch.Tensor:
        turns = self.text_model.rotary_emb(hidden, positions[:, None])
        cos, sin = (part.transpose(0, 1) for part in turns)
        # Rotary embedding pairs the two halves of a head: a sign on the sine replaces a negation.
        half = self._head_width // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        for number, layer in enumerate(self.text_model.layers):
            hidden = self._layer(number, layer, hidden, cos, sin, attentions)
        return hidden

    def _layer(
        self,
        number: int,
        layer: Any,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        attentions: Sequence[Attention],
    ) -> torch.Tensor:
        count, attention = len(hidden), layer.self_attn
        read = layer.input_layernorm(hidden)
        query = _rotate(apply(attention.q_proj, read).view(count, self._heads, -1), cos, sin)
        key = _rotate(attention.k_proj(read).view(count, self._kv_heads, -1), cos, sin)
        value = attention.v_proj(read).view(count, self._kv_heads, -1)
        found = [one.attend(number, query, key, value) for one in attentions]
        joined = found[0] if len(found) == 1 else torch.cat(found)
        hidden = hidden + apply(attention.o_proj, joined)
        read, mlp = layer.post_attention_layernorm(hidden), layer.mlp
        opened = mlp.act_fn(apply(mlp.gate_proj, read)) * apply(mlp.up_proj, read)
        return hidden + apply(mlp.down_proj, opened)


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding; the sign of the rotated half is in the sine."""
    return states * cos + states.roll(states.shape[-1] // 2, dims=-1) * sin


def apply(module: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """A linear layer applied to (rows, width); quantised, hooked or wrapped modules are called."""
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
