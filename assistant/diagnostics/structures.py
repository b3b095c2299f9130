"""Sizes of the published models, for which no file is needed."""

from __future__ import annotations

from collections.abc import Mapping

from egolive.assistant.model.model_sizes import ModelSizes

__all__ = ["EGOTHINKER", "SMALLER", "STRUCTURES"]

EGOTHINKER = "hyf015/EgoThinker-v1"
SMALLER = "Qwen/Qwen2-VL-2B-Instruct"
"""The next smaller model of the same architecture, with a built-in profile."""


def _sizes(
    *, width: int, mlp_width: int, heads: int, kv_heads: int, vocabulary: int, tied: bool
) -> ModelSizes:
    return ModelSizes(
        width=width,
        mlp_width=mlp_width,
        layers=28,
        heads=heads,
        kv_heads=kv_heads,
        vocabulary=vocabulary,
        tied=tied,
        tower_width=1280,
        tower_mlp_width=5120,
        tower_blocks=32,
        tower_heads=16,
        patch=1176,
        stored_bytes=2,
    )


_7B = _sizes(width=3584, mlp_width=18_944, heads=28, kv_heads=4, vocabulary=152_064, tied=False)
_2B = _sizes(width=1536, mlp_width=8960, heads=12, kv_heads=2, vocabulary=151_936, tied=True)
STRUCTURES: Mapping[str, ModelSizes] = {EGOTHINKER: _7B, "Qwen/Qwen2-VL-7B-Instruct": _7B, SMALLER: _2B}
"""By hub id."""
