"""Numbers of weights in each part of a Qwen2-VL model, from its `config.json` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from egolive.streaming.errors import EngineError

__all__ = ["ModelSizes", "model_sizes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """Widths and counts of one model, and the weights that follow from them."""

    width: int
    mlp_width: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    """Whether the last layer is the table of embeddings."""
    tower_width: int
    tower_mlp_width: int
    tower_blocks: int
    tower_heads: int
    patch: int
    """Numbers in one patch of pixels."""
    stored_bytes: int
    """Bytes of one weight as it is stored."""

    @property
    def kv_width(self) -> int:
        """Width of the keys, and of the values, of one token in one layer."""
        return self.width // self.heads * self.kv_heads

    @property
    def text_linear(self) -> int:
        """Weights of the text layers' linear layers, which are what is quantised."""
        attention = 2 * self.width * (self.width + self.kv_width)
        return self.layers * (attention + 3 * self.width * self.mlp_width)

    @property
    def head(self) -> int:
        """Weights of the last layer, as many as embeddings."""
        return self.vocabulary * self.width

    @property
    def tower_linear(self) -> int:
        """Weights of the tower's linear layers, each of which every patch goes through."""
        block = 4 * self.tower_width**2 + 2 * self.tower_width * self.tower_mlp_width
        return self.tower_blocks * block + self.patch * self.tower_width

    @property
    def merger(self) -> int:
        """Weights of the tower's last two layers, which one in four patches goes through."""
        return 4 * self.tower_width * (4 * self.tower_width + self.width)

    @property
    def small(self) -> int:
        """Norms and biases."""
        text = self.layers * (3 * self.width + 2 * self.kv_width) + self.width
        block = 9 * self.tower_width + self.tower_mlp_width
        return text + self.tower_blocks * block + 6 * self.tower_width + self.width

    @property
    def tower(self) -> int:
        """Weights of the vision tower."""
        return self.tower_linear + self.merger

    @property
    def total(self) -> int:
        """All weights; those that are shared count once."""
        tables = self.head if self.tied else 2 * self.head
        return self.text_linear + tables + self.tower + self.small


def model_sizes(config: Mapping[str, Any], *, where: str) -> ModelSizes:
    """Read a configuration, in the form of transformers 5 or in the flat one of the published checkpoints.

    Args:
        config: What `config.json` holds.
        where: Named in the error.

    Raises:
        EngineError: It is no Qwen2-VL's, or a size is missing or none.
    """
    if config.get("model_type") != "qwen2_vl":
        raise EngineError(f"{where} is of no Qwen2-VL model, so its sizes are not known; check --model")
    text, vision = config.get("text_config"), config.get("vision_config")
    text = {**config, **text} if isinstance(text, Mapping) else config
    vision = vision if isinstance(vision, Mapping) else {}

    def size(part: Mapping[str, Any], key: str, default: int | None = None) -> int:
        value = part.get(key, default)
        if type(value) is not int or not 0 < value < 2**24:
            raise EngineError(f"{where} tells no {key} that a model can have; download it again")
        return value

    tower_width = size(vision, "embed_dim", 1280)
    side, frames = size(vision, "patch_size", 14), size(vision, "temporal_patch_size", 2)
    ratio = vision.get("mlp_ratio", 4)
    if not isinstance(ratio, int | float) or not 0 < ratio < 1024:
        raise EngineError(f"{where} tells no mlp_ratio that a model can have; download it again")
    stored = config.get("dtype") or config.get("torch_dtype") or text.get("dtype")
    return ModelSizes(
        width=size(text, "hidden_size"),
        mlp_width=size(text, "intermediate_size"),
        layers=size(text, "num_hidden_layers"),
        heads=size(text, "num_attention_heads"),
        kv_heads=size(text, "num_key_value_heads"),
        vocabulary=size(text, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
        tower_width=tower_width,
        tower_mlp_width=int(tower_width * ratio),
        tower_blocks=size(vision, "depth", 32),
        tower_heads=size(vision, "num_heads", 16),
        patch=3 * frames * side**2,
        stored_bytes=4 if stored == "float32" else 2,
    )
