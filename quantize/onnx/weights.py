"""Writes linear layers: at full precision, or in blocks of 4 or 8 bits for ONNX Runtime's MatMulNBits.

A layer's weight is read, rounded and written a part at a time. What has been written takes the place of the
layer's weight, mapped from the file, so that the model afterwards computes what the graph has to reproduce.
What the graph holds already, from a run that was cut off, is not computed again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from egolive.quantize.onnx.decoder_graph import HEAD, LinearWriter
from egolive.quantize.onnx.layers import in_dtype
from egolive.quantize.onnx.onnx_graph import BF16, FP32, UINT8, Graph
from egolive.quantize.weights.forms import Blocks, DenseWeight, chunks_of_rows
from egolive.quantize.weights.published import PublishedWeight
from egolive.quantize.weights.rounding import round_to_int4, round_to_int8
from egolive.quantize.weights.stored_layers import StoredLinear

__all__ = ["block_writer", "dense_writer", "written_scales"]

_ACCURACY = 4
"""Of MatMulNBits: activations in 8 bits with a scale for each block. It is what makes prompts fast, and
unlike dynamic quantisation the result does not depend on what else is read in the same pass."""


def dense_writer() -> LinearWriter:
    """Weights at the graph's own precision.

    The last layer is written as torch has it, a row a token, so that it can be the table of embeddings too.
    """

    def write(graph: Graph, value: str, layer: StoredLinear, name: str) -> str:
        weight = f"{name}.weight"
        if name == HEAD:
            shape = (layer.out_features, layer.in_features)
            graph.stream(weight, graph.dtype, shape, _rows(graph, layer))
            return graph.op("Gemm", value, weight, name=f"{name}/matmul", transB=1)
        if graph.holds(weight):
            graph.held(weight)
        else:
            graph.weight(weight, in_dtype(graph, layer.stored.values()).T)
        return graph.op("MatMul", value, weight, name=f"{name}/matmul")

    return write


def _rows(graph: Graph, layer: StoredLinear) -> Iterator[bytes]:
    for start, stop in chunks_of_rows(layer.stored):
        part = in_dtype(graph, layer.stored.values(start, stop)).contiguous()
        yield part.view(torch.uint8).numpy().tobytes()


def block_writer(bits: int, block: int, head_bits: int, head_block: int = 32) -> LinearWriter:
    """Weights in blocks of 4 or 8 bits; layers that are in 4 bits already keep their numbers.

    Args:
        bits: Of all layers but the last; 32 leaves them as they are.
        block: Numbers that share a scale.
        head_bits: Of the last layer; 32 leaves it as it is.
        head_block: Numbers of the last layer that share a scale.
    """
    dense = dense_writer()

    def write(graph: Graph, value: str, layer: StoredLinear, name: str) -> str:
        last = name == HEAD
        wanted = head_bits if last else bits
        if wanted == 32:
            return dense(graph, value, layer, name)
        return _write_blocks(graph, value, layer, name, wanted, head_block if last else block)

    return write


def _write_blocks(graph: Graph, value: str, layer: StoredLinear, name: str, bits: int, block: int) -> str:
    packed, scales, zeros = f"{name}.packed", f"{name}.scales", f"{name}.zeros"
    stored = layer.stored.unrounded() if isinstance(layer.stored, DenseWeight) else layer.stored
    published = stored.load() if isinstance(stored, PublishedWeight) else None
    if published is not None:
        block = published.block
    rows, columns = layer.out_features, layer.in_features
    asymmetric = published is not None and published.zeros is not None
    names = [packed, scales, zeros] if asymmetric else [packed, scales]
    if graph.holds(*names):
        for held in names:
            graph.held(held)
    else:
        found: list[Blocks] = []

        def parts() -> Iterator[bytes]:
            for start, stop in chunks_of_rows(stored):
                if published is None:
                    rounding = round_to_int4 if bits == 4 else round_to_int8
                    made = rounding(stored.values(start, stop), block)
                else:
                    made = published.part(start, stop)
                yield made.packed.tobytes()
                # Of the large part nothing is kept.
                found.append(made.without_numbers())

        shape = (rows, -(-columns // block), block * bits // 8)
        graph.stream(packed, UINT8, shape, parts())
        steps = np.concatenate([part.scales for part in found])
        graph.weight(scales, in_dtype(graph, torch.from_numpy(steps)))
        if asymmetric:
            graph.array(zeros, np.concatenate([part.zeros for part in found if part.zeros is not None]))
    layer.stored = Blocks(
        graph.mapped(packed).astype(np.uint8, copy=False),
        written_scales(graph, scales),
        graph.mapped(zeros).astype(np.uint8, copy=False) if asymmetric else None,
        bits,
        block,
        columns,
    )
    return graph.op(
        "MatMulNBits",
        value,
        *names,
        name=f"{name}/matmul",
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=bits,
        block_size=block,
        accuracy_level=_ACCURACY,
    )


def written_scales(graph: Graph, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Scales as a graph holds them, in fp32."""
    if graph.dtype == FP32:
        return graph.mapped(name, np.float32).astype(np.float32, copy=False)
    assert graph.dtype == BF16
    # numpy has no bf16: it is the upper half of fp32.
    halves = graph.mapped(name, np.uint16).astype(np.uint32)
    return (halves << 16).view(np.float32)
