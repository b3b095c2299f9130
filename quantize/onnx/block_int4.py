"""Weights in groups of int4 as ONNX itself has them: a block-wise DequantizeLinear before the product.

ONNX Runtime fuses the two, TensorRT reads them: it knows groups of 64 and 128 along K, symmetric, with
positive scales (docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-schemes.html).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from egolive.quantize.onnx.decoder_graph import HEAD, LinearWriter
from egolive.quantize.onnx.layers import in_dtype
from egolive.quantize.onnx.onnx_graph import INT4, Graph
from egolive.quantize.onnx.weights import dense_writer, written_scales
from egolive.quantize.weights.forms import unpack
from egolive.quantize.weights.published import PublishedWeight
from egolive.quantize.weights.rounding import LEAST, blocks_of
from egolive.quantize.weights.stored_layers import StoredLinear
from egolive.streaming.errors import ConfigError

__all__ = ["GROUPS", "Groups", "check_widths", "group_writer", "write_groups"]

GROUPS = (64, 128)
"""Numbers of a weight that may share a scale."""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """A written weight: its numbers stand input by input, two outputs a byte. A `Weight`."""

    packed: NDArray[np.uint8]
    """(K, N / 2)."""
    scales: NDArray[np.float32]
    """(K / group, N)."""
    group: int

    @property
    def rows(self) -> int:
        """N."""
        return int(self.scales.shape[1])

    @property
    def columns(self) -> int:
        """K."""
        return len(self.packed)

    def values(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """See `Weight`."""
        stop = self.rows if stop is None else stop
        first = start // 2
        numbers = unpack(self.packed[:, first : -(-stop // 2)], 4)[:, start - 2 * first : stop - 2 * first]
        # The four bits are those of a number from -8 to 7.
        signed = ((numbers ^ 8).astype(np.int8) + np.int8(LEAST)).astype(np.float32)
        signed *= np.repeat(self.scales[:, start:stop], self.group, axis=0)
        return torch.from_numpy(np.ascontiguousarray(signed.T))


def check_widths(layers: dict[str, StoredLinear], group: int) -> None:
    """See to it that groups fit all layers but the last.

    Raises:
        ConfigError: A layer's width is no multiple of the group.
    """
    for name, layer in layers.items():
        if name != HEAD and (layer.in_features % group or layer.out_features % 2):
            raise ConfigError(
                f"int4 groups need widths that are multiples of {group}, {name} has {layer.in_features}"
            )


def group_writer(group: int) -> LinearWriter:
    """All layers but the last in groups of int4; layers that are in 4 bits already keep their numbers.

    The model computes with the written weights afterwards.

    Args:
        group: One of `GROUPS`.
    """
    dense = dense_writer()

    def write(graph: Graph, value: str, layer: StoredLinear, name: str) -> str:
        if name == HEAD:
            return dense(graph, value, layer, name)
        stored = layer.stored
        if graph.holds(f"{name}.weight", f"{name}.scales"):
            return write_groups(graph, value, layer, name, None, None, group)
        if isinstance(stored, PublishedWeight):
            blocks = stored.load()
            if blocks.zeros is not None or blocks.block not in GROUPS:
                raise ConfigError(
                    f"TensorRT reads symmetric int4 in groups of 64 or 128, {name} has groups of "
                    f"{blocks.block}{'' if blocks.zeros is None else ' with zero points'}; use --to int4 for "
                    "ONNX Runtime, or give the original model"
                )
        else:
            blocks = blocks_of(stored, 4, group)
        numbers = (unpack(blocks.packed, 4).astype(np.int8) + np.int8(LEAST)).reshape(blocks.rows, -1)
        return write_groups(graph, value, layer, name, numbers, blocks.scales, blocks.block)

    return write


def write_groups(
    graph: Graph,
    value: str,
    layer: StoredLinear,
    name: str,
    numbers: NDArray[np.int8] | None,
    scales: NDArray[np.float32] | None,
    group: int,
) -> str:
    """Write the product with a weight that has been rounded; it takes the place of the layer's own.

    Args:
        graph: The graph.
        value: (..., K).
        layer: The layer.
        name: Of the layer.
        numbers: (N, K), whole numbers from -8 to 7; None where the graph holds them already.
        scales: (N, K / group); None likewise.
        group: Numbers along K that share a scale.
    """
    packed, steps = f"{name}.weight", f"{name}.scales"
    rows, columns = layer.out_features, layer.in_features
    if numbers is None or scales is None:
        graph.held(packed)
        graph.held(steps)
    else:
        across = np.ascontiguousarray(numbers.T)
        graph.raw(packed, INT4, across.shape, _pack(across))
        graph.weight(steps, in_dtype(graph, torch.from_numpy(scales)).T)
    written = written_scales(graph, steps)
    group = columns // len(written)
    flat = graph.mapped(packed, shape=(columns, rows // 2)).astype(np.uint8, copy=False)
    layer.stored = Groups(flat, written, group)
    wide = graph.op("DequantizeLinear", packed, steps, name=f"{name}/dequantised", axis=0, block_size=group)
    return graph.op("MatMul", value, wide, name=f"{name}/matmul")


def _pack(numbers: NDArray[np.int8]) -> bytes:
    """Two numbers a byte, the first one in its low half, as ONNX stores int4."""
    flat = numbers.reshape(-1).view(np.uint8) & 15
    return (flat[::2] | (flat[1::2] << 4)).astype(np.uint8).tobytes()
