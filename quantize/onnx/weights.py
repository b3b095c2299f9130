"""Linear layers at fewer bits: block-wise int4 and int8 by ONNX Runtime's own quantiser, for its MatMulNBits.

Each writer also puts what is left of a weight back into torch's layer, so that the torch model is afterwards
the very thing that the graph has to reproduce.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits
from torch import nn

from egolive.quantize.onnx.decoder_graph import HEAD, LinearWriter
from egolive.quantize.onnx.layers import in_dtype
from egolive.quantize.onnx.onnx_graph import Graph

__all__ = ["Blocks", "block_writer", "plain_writer", "quantise"]

_ACCURACY = 4
"""Of MatMulNBits: activations in 8 bits with a scale for each block. It is what makes prompts fast, and
unlike dynamic quantisation the result does not depend on what else is read in the same pass."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A weight (K, N) in blocks of one column."""

    packed: NDArray[np.uint8]
    """(N, blocks, bytes of a block)."""
    scales: NDArray[np.float32]
    """(N, blocks)."""
    zeros: NDArray[np.uint8] | None
    """(N, bytes of all blocks' zero points); None where zero is in the middle."""
    bits: int
    block: int
    rows: int

    def values(self) -> NDArray[np.float32]:
        """What is left of the weight, (K, N)."""
        columns, blocks, _ = self.packed.shape
        numbers = _unpack(self.packed, self.bits).astype(np.float32)
        if self.zeros is None:
            numbers -= 2 ** (self.bits - 1)
        else:
            numbers -= _unpack(self.zeros, self.bits)[:, :blocks, None]
        numbers *= self.scales[..., None]
        return np.ascontiguousarray(numbers.reshape(columns, -1)[:, : self.rows].T)


def quantise(weight: NDArray[np.float32], bits: int, block: int) -> Blocks:
    """Round a weight (K, N) to 4 or 8 bits, block by block along K, by ONNX Runtime's own kernel."""
    rows, columns = weight.shape
    padded = np.ascontiguousarray(np.pad(weight, ((0, -rows % block), (0, 0))), dtype=np.float32)
    blocks = len(padded) // block
    packed = np.zeros((columns, blocks, block * bits // 8), dtype=np.uint8)
    scales = np.zeros((columns, blocks), dtype=np.float32)
    zeros = np.zeros((columns, -(-blocks * bits // 8)), dtype=np.uint8)
    # With 8 bits a zero point gains nothing, with 4 it does.
    symmetric = bits == 8
    kernel = quantize_matmul_8bits if bits == 8 else quantize_matmul_4bits
    kernel(packed, padded, scales, zeros, block, columns, rows, symmetric)
    return Blocks(packed, scales, None if symmetric else zeros, bits, block, rows)


def plain_writer() -> LinearWriter:
    """Weights at the graph's own precision."""

    def write(graph: Graph, value: str, layer: nn.Linear, name: str) -> str:
        weight = graph.weight(f"{name}.weight", in_dtype(graph, layer.weight).T)
        return graph.op("MatMul", value, weight, name=f"{name}/matmul")

    return write


def block_writer(bits: int, block: int, head_bits: int) -> LinearWriter:
    """Weights in blocks of 4 or 8 bits.

    Args:
        bits: Of all layers but the last.
        block: Numbers that share a scale.
        head_bits: Of the last layer; 32 leaves it as it is.
    """
    plain = plain_writer()

    def write(graph: Graph, value: str, layer: nn.Linear, name: str) -> str:
        wanted = head_bits if name == HEAD else bits
        if wanted == 32:
            return plain(graph, value, layer, name)
        blocks = quantise(layer.weight.detach().float().T.numpy(), wanted, block)
        scales = in_dtype(graph, torch.from_numpy(blocks.scales))
        blocks = replace(blocks, scales=scales.float().numpy())
        inputs = [value, graph.array(f"{name}.packed", blocks.packed)]
        inputs.append(graph.weight(f"{name}.scales", scales))
        if blocks.zeros is not None:
            inputs.append(graph.array(f"{name}.zeros", blocks.zeros))
        found = graph.op(
            "MatMulNBits",
            *inputs,
            name=f"{name}/matmul",
            domain="com.microsoft",
            K=layer.in_features,
            N=layer.out_features,
            bits=wanted,
            block_size=block,
            accuracy_level=_ACCURACY,
        )
        # A new parameter: the last layer may share its old one with the embeddings, which keep theirs.
        layer.weight = nn.Parameter(torch.from_numpy(blocks.values()).T.contiguous(), requires_grad=False)
        return found

    return write


def _unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers of the last axis, the first one in the low half of its byte."""
    if bits == 8:
        return packed
    halves = np.stack([packed & 15, packed >> 4], axis=-1)
    return halves.reshape(*packed.shape[:-1], -1)
