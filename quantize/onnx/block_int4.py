"""Weights in groups of int4 as ONNX itself has them: a block-wise DequantizeLinear before the product.

ONNX Runtime fuses the two, TensorRT reads them: it knows groups of 64 and 128 along K, symmetric, with
positive scales (docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-schemes.html).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from egolive.quantize.onnx.decoder_graph import HEAD, LinearWriter
from egolive.quantize.onnx.layers import in_dtype
from egolive.quantize.onnx.onnx_graph import INT4, Graph
from egolive.quantize.onnx.weights import plain_writer
from egolive.streaming.errors import ConfigError

__all__ = ["GROUPS", "LEAST", "MOST", "check_widths", "group_writer", "scales_of", "write_groups"]

GROUPS = (64, 128)
"""Numbers of a weight that may share a scale."""
MOST = 7
"""The largest absolute weight of a group becomes this; -8 is never needed."""
LEAST = -8


def check_widths(layers: dict[str, nn.Linear], group: int) -> None:
    """See to it that groups fit all layers but the last.

    Raises:
        ConfigError: A layer's width is no multiple of the group.
    """
    for name, layer in layers.items():
        if name != HEAD and layer.in_features % group:
            raise ConfigError(
                f"int4 groups need widths that are multiples of {group}, {name} has {layer.in_features}"
            )


def scales_of(largest: torch.Tensor) -> torch.Tensor:
    """The step of each group from its largest absolute weight.

    A group of zeros has a step too: TensorRT refuses scales that are not positive.
    """
    scales = largest.float() / MOST
    return torch.where(scales > 0, scales, torch.ones_like(scales))


def group_writer(group: int) -> LinearWriter:
    """All layers but the last in groups of int4, rounded to the nearest.

    The torch model computes with the rounded weights afterwards.

    Args:
        group: One of `GROUPS`.
    """
    plain = plain_writer()

    def write(graph: Graph, value: str, layer: nn.Linear, name: str) -> str:
        if name == HEAD:
            return plain(graph, value, layer, name)
        weight = layer.weight.detach().float()
        out, width = weight.shape
        parts = weight.reshape(out, -1, group)
        scales = in_dtype(graph, scales_of(parts.abs().amax(dim=-1)))
        steps = scales.float()[..., None]
        numbers = torch.round(parts / steps).clamp(LEAST, MOST)
        layer.weight = nn.Parameter((numbers * steps).reshape(out, width), requires_grad=False)
        return write_groups(graph, value, numbers.reshape(out, width), scales, group, name)

    return write


def write_groups(
    graph: Graph, value: str, numbers: torch.Tensor, scales: torch.Tensor, group: int, name: str
) -> str:
    """Write the product with a weight that has been rounded.

    Args:
        graph: The graph.
        value: (..., K).
        numbers: (N, K), whole numbers from -8 to 7.
        scales: (N, K / group), in the graph's number format.
        group: Numbers along K that share a scale.
        name: Of the layer.
    """
    across = numbers.T.to(torch.int8).numpy()
    packed = graph.raw(f"{name}.weight", INT4, across.shape, _pack(across))
    scale = graph.weight(f"{name}.scales", scales.T)
    wide = graph.op("DequantizeLinear", packed, scale, name=f"{name}/dequantised", axis=0, block_size=group)
    return graph.op("MatMul", value, wide, name=f"{name}/matmul")


def _pack(numbers: NDArray[np.int8]) -> bytes:
    """Two numbers a byte, the first one in its low half, as ONNX stores int4."""
    flat = numbers.reshape(-1).view(np.uint8) & 15
    if len(flat) % 2:
        flat = np.append(flat, np.uint8(0))
    return (flat[::2] | (flat[1::2] << 4)).astype(np.uint8).tobytes()
