"""The torch engine's text half: many rows and their branches read on in one pass over the weights.

All new tokens go through the linear layers as one long row. Only attention is done for each row by itself,
over a buffer in which the tokens of its branches stand behind its own, told apart by a mask: so questions
about one window share its keys and values without a copy. The modules and numbers are those of
transformers' Qwen2-VL.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.halves import Chunk
from egolive.assistant.spans import Span, plan
from egolive.assistant.torch_errors import as_engine_errors
from egolive.assistant.torch_rows import TorchRow

__all__ = ["TorchDecoder"]

_FEW = 64
"""Up to so many new tokens, heads that share keys are multiplied as one matrix: 3 times faster on a CPU."""


class TorchDecoder:
    """Embeddings to logits, the last layer in fp32 whatever the weights are."""

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        self.model = model
        """Weights of both halves as transformers has them, to compare with its own `generate`."""
        self.text_model = model.model.language_model
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        # bf16 logits have 8 bits: neighbours tie. The copy costs memory once; fp32 weights are not copied.
        self.head: torch.Tensor = model.lm_head.weight.detach().float()
        config = model.config.text_config
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads)
        self._head_width = int(config.hidden_size) // self._heads

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """(n, width) embeddings of token ids."""
        with torch.inference_mode():
            embeddings: torch.Tensor = self.text_model.embed_tokens(torch.tensor(tokens, device=self.device))
        return embeddings

    def row(self) -> TorchRow:
        """A row that has read nothing."""
        return TorchRow(self._new_buffer)

    def _new_buffer(self, capacity: int) -> torch.Tensor:
        """Room for keys and values: (layers, 2, key-value heads, capacity, width of a head)."""
        shape = (len(self.text_model.layers), 2, self._kv_heads, capacity, self._head_width)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def read(self, chunks: Sequence[Chunk]) -> list[torch.Tensor]:
        """Let several rows and branches read on in one pass; see `Decoder`."""
        if not chunks:
            return []
        with as_engine_errors("reading a prompt"), torch.inference_mode():
            planned, order = plan(chunks)
            spans = [_Attention(span) for span in planned]
            embeddings = torch.cat([chunks[at].embeddings for at in order])
            positions = np.concatenate([chunks[at].positions for at in order], axis=1)
            hidden = self._layers(embeddings, positions, spans)
            kept: list[int] = []
            end = 0
            for at in order:
                end += len(chunks[at].embeddings)
                kept += range(end - chunks[at].keep, end)
            last = self.text_model.norm(hidden[kept])
            logits = torch.split(linear(last.float(), self.head), [chunks[at].keep for at in order])
        for span in planned:
            span.row.commit(span.owners)
        found = dict(zip(order, logits, strict=True))
        return [found[at] for at in range(len(chunks))]

    def _layers(
        self, hidden: torch.Tensor, positions: NDArray[np.int64], spans: Sequence[_Attention]
    ) -> torch.Tensor:
        count = len(hidden)
        places = torch.from_numpy(positions).to(self.device)[:, None]
        cos, sin = (part.transpose(0, 1) for part in self.text_model.rotary_emb(hidden, places))
        # The first half of a head is turned against the second: a sign on the sine in place of a negation.
        half = self._head_width // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        for number, layer in enumerate(self.text_model.layers):
            attention = layer.self_attn
            read = layer.input_layernorm(hidden)
            query = _rotate(attention.q_proj(read).view(count, self._heads, -1), cos, sin)
            key = _rotate(attention.k_proj(read).view(count, self._kv_heads, -1), cos, sin)
            value = attention.v_proj(read).view(count, self._kv_heads, -1)
            found = [span.attend(number, query, key, value) for span in spans]
            hidden = hidden + attention.o_proj(found[0] if len(found) == 1 else torch.cat(found))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return hidden


class _Attention:
    """What the new tokens of one span take from all that they see."""

    def __init__(self, span: Span) -> None:
        """Make room for the new tokens."""
        self._tokens = slice(span.start, span.start + span.count)
        self._columns = slice(span.used, span.used + span.count)
        self._buffer = buffer = span.row.room(self._columns.stop)
        self._mask: torch.Tensor | None = None
        if not span.seen.all():
            hidden = torch.from_numpy(~span.seen).to(buffer.device)
            self._mask = torch.zeros(hidden.shape, dtype=buffer.dtype, device=buffer.device)
            self._mask.masked_fill_(hidden, -torch.inf)

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Store the span's keys and values of one layer; what its tokens take from all they see."""
        new = self._columns.stop - self._columns.start
        keys, values = self._buffer[layer]
        keys[:, self._columns] = key[self._tokens].transpose(0, 1)
        values[:, self._columns] = value[self._tokens].transpose(0, 1)
        keys, values = keys[:, : self._columns.stop], values[:, : self._columns.stop]
        groups, width = keys.shape[0], keys.shape[2]
        # (groups, heads of a group, new, width)
        asked = query[self._tokens].view(new, groups, -1, width).permute(1, 2, 0, 3)
        heads, mask = asked.shape[1], self._mask
        if new <= _FEW:
            if mask is not None:
                mask = mask.expand(heads, -1, -1).reshape(heads * new, -1)
            asked = asked.reshape(1, groups, heads * new, width)
            found = scaled_dot_product_attention(asked, keys[None], values[None], attn_mask=mask)
            found = found.view(groups, heads, new, width)
        else:
            keys, values = (part[:, None].expand(-1, heads, -1, -1) for part in (keys, values))
            found = scaled_dot_product_attention(asked, keys, values, attn_mask=mask)
        return found.permute(2, 0, 1, 3).reshape(new, -1)


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions; the sign of the turned half is in the sine."""
    return states * cos + states.roll(states.shape[-1] // 2, dims=-1) * sin
