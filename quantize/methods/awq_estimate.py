"""How long AWQ's search takes, from the model's size and this machine's speed, before it is begun."""

from __future__ import annotations

import time
from functools import cache

import torch

from egolive.assistant.model.checkpoint import resolve_model
from egolive.quantize.weights.lazy_model import model_config

__all__ = ["estimated_minutes", "windows_within_an_hour"]

_MOST_WINDOWS = 16
_MINUTES = 60.0
_PASSES = 14
"""Times that a layer is computed for each sample: as it is, for the statistics, with each of eleven
exponents, and to compare these with."""
_ROUNDINGS = 11
"""Times that its weights are rounded for each sample."""
_TEXT = 30
"""Tokens of a question beside its pictures."""
_PIXELS = 28
_PICTURE = (252, 448)
_SIDE = 1536
"""Of the matrix by which the speed is measured."""


def _sizes(model: str) -> tuple[int, int]:
    """Weights of the text layers, and tokens of a slice."""
    config = model_config(resolve_model(model)).text_config
    width, inner = int(config.hidden_size), int(config.intermediate_size)
    shared = int(config.num_key_value_heads) / int(config.num_attention_heads)
    layer = 2 * width * width * (1 + shared) + 3 * width * inner
    height, breadth = _PICTURE
    return round(layer) * int(config.num_hidden_layers), (height // _PIXELS) * (breadth // _PIXELS)


@cache
def _speeds() -> tuple[float, float]:
    """Products and roundings of weights a second that torch manages here, in fp32."""
    left, right = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    fastest = [float("inf"), float("inf")]
    for _ in range(4):
        started = time.perf_counter()
        left @ right
        fastest[0] = min(fastest[0], time.perf_counter() - started)
        started = time.perf_counter()
        blocks = left.reshape(-1, 128)
        scale = blocks.abs().amax(dim=-1, keepdim=True) / 7
        (torch.round(blocks / scale).clamp(-8, 7) * scale).reshape(left.shape)
        fastest[1] = min(fastest[1], time.perf_counter() - started)
    return _SIDE**3 / fastest[0], _SIDE**2 / fastest[1]


def estimated_minutes(model: str, windows: int, slices: int) -> float:
    """Minutes that the search will take on this machine, as many threads as torch has now."""
    weights, tokens = _sizes(model)
    products, roundings = _speeds()
    each = weights * _PASSES * (slices * tokens + _TEXT) / products + weights * _ROUNDINGS / roundings
    return windows * each / 60


def windows_within_an_hour(model: str, slices: int) -> int:
    """How many windows AWQ may be shown so that the search takes about an hour: 1 to 16."""
    each = estimated_minutes(model, 1, slices)
    return max(1, min(_MOST_WINDOWS, int(_MINUTES / each)))
