"""Layers of tower and decoder as ONNX nodes: linear layers, norms, attention, rotary embedding."""

from __future__ import annotations

import torch
from torch import nn

from egolive.quantize.onnx.onnx_graph import BF16, FP32, Graph
from egolive.quantize.weights.stored_layers import StoredLinear

__all__ = ["add_bias", "attend", "cast", "in_dtype", "layer_norm", "rms_norm", "rotate", "with_bias"]


def cast(graph: Graph, value: str, dtype: int, *, of: int, name: str) -> str:
    """The value in another number format; itself where it has that format already."""
    return value if dtype == of else graph.op("Cast", value, name=name, to=dtype)


def in_dtype(graph: Graph, tensor: torch.Tensor) -> torch.Tensor:
    """A weight in the graph's number format."""
    return tensor.to(torch.bfloat16 if graph.dtype == BF16 else torch.float32)


def with_bias(graph: Graph, value: str, layer: StoredLinear, *, name: str) -> str:
    """Add the bias of a linear layer, where it has one."""
    return value if layer.bias is None else add_bias(graph, value, layer.bias, name=name)


def add_bias(graph: Graph, value: str, bias: torch.Tensor, *, name: str) -> str:
    """Add a bias of (N,) to (..., N)."""
    weight = graph.weight(f"{name}.bias", in_dtype(graph, bias))
    return graph.op("Add", value, weight, name=f"{name}/bias")


def rms_norm(graph: Graph, value: str, weight: torch.Tensor, eps: float, *, name: str) -> str:
    """Root-mean-square norm, computed in fp32 as Qwen2-VL does."""
    wide = cast(graph, value, FP32, of=graph.dtype, name=f"{name}/wide")
    square = graph.op("Pow", wide, graph.scalar(2.0, FP32), name=f"{name}/square")
    mean = graph.op("ReduceMean", square, graph.ints([-1]), name=f"{name}/mean", keepdims=1)
    safe = graph.op("Add", mean, graph.scalar(eps, FP32), name=f"{name}/eps")
    root = graph.op("Sqrt", safe, name=f"{name}/root")
    even = graph.op("Div", wide, root, name=f"{name}/div")
    even = cast(graph, even, graph.dtype, of=FP32, name=f"{name}/narrow")
    scale = graph.weight(f"{name}.weight", in_dtype(graph, weight))
    return graph.op("Mul", even, scale, name=f"{name}/scale")


def layer_norm(graph: Graph, value: str, layer: nn.LayerNorm, *, name: str) -> str:
    """The vision tower's norm."""
    weight = graph.weight(f"{name}.weight", in_dtype(graph, layer.weight))
    bias = graph.weight(f"{name}.bias", in_dtype(graph, layer.bias))
    return graph.op("LayerNormalization", value, weight, bias, name=f"{name}/norm", epsilon=layer.eps)


def rotate(graph: Graph, value: str, cos: str, sin: str, width: int, *, name: str) -> str:
    """Turn pairs of numbers by their position.

    Args:
        graph: The graph.
        value: (..., heads, width).
        cos: (..., 1, width).
        sin: The same, with the sign of its first half turned round: that spares a negation in each layer.
        width: Of a head.
        name: Of the nodes.
    """
    first, second = graph.split(value, [width // 2, width // 2], name=f"{name}/halves")
    swapped = graph.op("Concat", second, first, name=f"{name}/swap", axis=-1)
    straight = graph.op("Mul", value, cos, name=f"{name}/cos")
    across = graph.op("Mul", swapped, sin, name=f"{name}/sin")
    return graph.op("Add", straight, across, name=f"{name}/turned")


def attend(
    graph: Graph, query: str, key: str, value: str, bias: str | None, scale: float, *, name: str
) -> str:
    """Scaled products of queries and keys, softmax in fp32, sums of values.

    Args:
        graph: The graph.
        query: (..., rows, width).
        key: (..., width, columns).
        value: (..., columns, width).
        bias: Added to the products where given, in fp32.
        scale: Of the products; in fp32, since bf16 would round it by up to 0.4 %.
        name: Of the nodes.
    """
    products = graph.op("MatMul", query, key, name=f"{name}/products")
    wide = cast(graph, products, FP32, of=graph.dtype, name=f"{name}/wide")
    wide = graph.op("Mul", wide, graph.scalar(scale, FP32), name=f"{name}/scaled")
    if bias is not None:
        wide = graph.op("Add", wide, bias, name=f"{name}/seen")
    shares = graph.op("Softmax", wide, name=f"{name}/softmax", axis=-1)
    shares = cast(graph, shares, graph.dtype, of=FP32, name=f"{name}/narrow")
    return graph.op("MatMul", shares, value, name=f"{name}/sum")
