"""What a written decoder has to compute, layer by layer in torch, from the weights that have been written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.backends.torch.attention import Attention
from egolive.assistant.backends.torch.torch_decoder import TorchDecoder
from egolive.assistant.system.anonymous_memory import give_back_memory

__all__ = ["StoredDecoder"]


class StoredDecoder(TorchDecoder):
    """The torch decoder over a model whose weights are read one matrix at a time."""

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        """Take over a model of `open_model`; its last layer is not copied."""
        super().__init__(model)
        self.layer_outputs: list[torch.Tensor] = []
        """Of the last pass, the output of each layer: (tokens, width)."""

    def _head(self, model: Qwen2VLForConditionalGeneration) -> torch.Tensor:
        # Read from where it is stored when it is needed.
        return torch.empty(0)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model.lm_head(self.text_model.norm(hidden))
        return found

    def _layers(
        self, hidden: torch.Tensor, positions: torch.Tensor, attentions: Sequence[Attention]
    ) -> torch.Tensor:
        self.layer_outputs = []
        return super()._layers(hidden, positions, attentions)

    def _layer(self, number: int, layer: Any, hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
        found = super()._layer(number, layer, hidden, *rest)
        give_back_memory()
        self.layer_outputs.append(found)
        return found
