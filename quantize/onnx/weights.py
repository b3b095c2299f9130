"""Writes linear layers: at full precision, or in blocks of 4 or 8 bits for ONNX Runtime's MatMulNBits.

A layer's weight is read, rounded and written a part at a time. What has been written takes the place of the
layer's weight, mapped from the file, so that the model afterwards computes what the graph has to reproduce.
What the graph holds already, from a run that was cut off, is not computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from egolive.quantize.onnx.decoder_graph import HEAD, LinearJoiner, LinearWriter
from egolive.quantize.onnx.layers import in_dtype
from egolive.quantize.onnx.onnx_graph import BF16, FP32, UINT8, Graph
from egolive.quantize.weights.forms import Blocks, DenseWeight, Weight, chunks_of_rows
from egolive.quantize.weights.published import PublishedWeight
from egolive.quantize.weights.rounding import round_to_int4, round_to_int8
from egolive.quantize.weights.stored_layers import StoredLinear

__all__ = ["block_joiner", "block_writer", "dense_writer", "written_scales"]

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
        sources = [_Source.of(layer, head_block if last else block)]
        return _write_blocks(graph, value, [layer], sources, name, wanted)

    return write


def block_joiner(bits: int, block: int) -> LinearJoiner:
    """Layers of the same input as one product in blocks; None where their forms are not of one kind.

    A token is decoded by fewer and larger products, each with an input that has to be rounded once: with the
    widths of Qwen2-VL-2B, a step was 5 to 8 % shorter.

    Args:
        bits: Of the layers, 4 or 8.
        block: Numbers that share a scale.
    """

    def join(graph: Graph, value: str, layers: Sequence[StoredLinear], name: str) -> str | None:
        sources = [_Source.of(layer, block) for layer in layers]
        if len({(source.block, source.asymmetric) for source in sources}) > 1:
            return None
        return _write_blocks(graph, value, layers, sources, name, bits)

    return join


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """A weight that is to be written in blocks."""

    stored: Weight
    published: Blocks | None
    """Its numbers, where it is in blocks of few bits already."""
    block: int

    @classmethod
    def of(cls, layer: StoredLinear, block: int) -> _Source:
        """A layer's weight; `block` counts where it is not in blocks already."""
        stored = layer.stored.unrounded() if isinstance(layer.stored, DenseWeight) else layer.stored
        published = stored.load() if isinstance(stored, PublishedWeight) else None
        return cls(stored, published, block if published is None else published.block)

    @property
    def asymmetric(self) -> bool:
        """Whether its blocks have zero points."""
        return self.published is not None and self.published.zeros is not None

    def parts(self, bits: int) -> Iterator[Blocks]:
        """Its rows in blocks, so many at a time as memory shall hold."""
        for start, stop in chunks_of_rows(self.stored):
            if self.published is not None:
                yield self.published.part(start, stop)
            else:
                rounding = round_to_int4 if bits == 4 else round_to_int8
                yield rounding(self.stored.values(start, stop), self.block)


def _write_blocks(
    graph: Graph,
    value: str,
    layers: Sequence[StoredLinear],
    sources: Sequence[_Source],
    name: str,
    bits: int,
) -> str:
    """One product with the rows of all layers; what has been written takes the place of their weights."""
    packed, scales, zeros = f"{name}.packed", f"{name}.scales", f"{name}.zeros"
    block, asymmetric = sources[0].block, sources[0].asymmetric
    rows, columns = sum(layer.out_features for layer in layers), layers[0].in_features
    names = [packed, scales, zeros] if asymmetric else [packed, scales]
    if graph.holds(*names):
        for held in names:
            graph.held(held)
    else:
        found: list[Blocks] = []

        def parts() -> Iterator[bytes]:
            for source in sources:
                for made in source.parts(bits):
                    yield made.packed.tobytes()
                    # Of the large part nothing is kept.
                    found.append(made.without_numbers())

        shape = (rows, -(-columns // block), block * bits // 8)
        graph.stream(packed, UINT8, shape, parts())
        steps = np.concatenate([part.scales for part in found])
        graph.weight(scales, in_dtype(graph, torch.from_numpy(steps)))
        if asymmetric:
            graph.array(zeros, np.concatenate([part.zeros for part in found if part.zeros is not None]))
    numbers, steps = graph.mapped(packed).astype(np.uint8, copy=False), written_scales(graph, scales)
    middles = graph.mapped(zeros).astype(np.uint8, copy=False) if asymmetric else None
    end = 0
    for layer in layers:
        own = slice(end, end := end + layer.out_features)
        some = None if middles is None else middles[own]
        layer.stored = Blocks(numbers[own], steps[own], some, bits, block, columns)
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
