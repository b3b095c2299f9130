"""Qwen2-VL's vision tower as one ONNX graph, for one slice (or picture) of one fixed size.

One slice attends to itself alone, so there is no mask, and the positions of its patches are constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from egolive.quantize.onnx.decoder_graph import LinearWriter
from egolive.quantize.onnx.layers import attend, cast, in_dtype, layer_norm, rotate, with_bias
from egolive.quantize.onnx.onnx_graph import FP32, Graph
from egolive.quantize.weights.stored_layers import StoredLinear

__all__ = ["write_tower"]

_MERGED = 4
"""Patches in a visual token."""


def write_tower(
    graph: Graph,
    visual: Qwen2VisionTransformerPretrainedModel,
    rows: int,
    columns: int,
    write: LinearWriter,
    wrote: Callable[[], None] = lambda: None,
) -> None:
    """Write the tower; the caller saves. What a block has needed is on the disk before the next is begun.

    Input `patches` (n, 1176) float32, output `visual_tokens` (n / 4, width) in the graph's number format.

    Args:
        graph: An empty graph.
        visual: transformers' tower.
        rows: Of patches.
        columns: Of patches.
        write: Writes each linear layer at its precision.
        wrote: Called after each block.
    """

    def linear(value: str, layer: StoredLinear, *, name: str) -> str:
        return with_bias(graph, write(graph, value, layer, name), layer, name=name)

    count, config = rows * columns, visual.config
    patch = int(visual.patch_embed.proj.weight[0].numel())
    pixels = graph.input("patches", FP32, (count, patch))
    pixels = cast(graph, pixels, graph.dtype, of=FP32, name="patches/narrow")
    # A convolution whose steps are as long as its kernel is one product.
    kernel = in_dtype(graph, visual.patch_embed.proj.weight).reshape(config.embed_dim, patch).T
    weight = graph.weight("patch_embed.weight", kernel)
    hidden = graph.op("MatMul", pixels, weight, name="patch_embed/matmul")
    cos, sin = _turns(graph, visual, rows, columns)
    for number, block in enumerate(visual.blocks):
        name = f"blocks.{number}"
        read = layer_norm(graph, hidden, block.norm1, name=f"{name}.norm1")
        found = _attention(graph, linear, read, block.attn, cos, sin, count, name=f"{name}.attn")
        hidden = graph.op("Add", hidden, found, name=f"{name}.attn/add")
        read = layer_norm(graph, hidden, block.norm2, name=f"{name}.norm2")
        wide = linear(read, block.mlp.fc1, name=f"{name}.mlp.fc1")
        wide = _activation(graph, wide, config.hidden_act, name=f"{name}.mlp.act")
        found = linear(wide, block.mlp.fc2, name=f"{name}.mlp.fc2")
        hidden = graph.op("Add", hidden, found, name=f"{name}.mlp/add")
        graph.keep()
        wrote()
    hidden = layer_norm(graph, hidden, visual.merger.ln_q, name="merger.ln_q")
    shape = graph.ints([count // _MERGED, _MERGED * config.embed_dim])
    merged = graph.op("Reshape", hidden, shape, name="merger/tokens")
    merged = linear(merged, visual.merger.mlp[0], name="merger.mlp.0")
    merged = graph.op("Gelu", merged, name="merger.act")
    merged = linear(merged, visual.merger.mlp[2], name="merger.mlp.2")
    graph.keep()
    graph.output(merged, "visual_tokens", graph.dtype, (count // _MERGED, config.hidden_size))


def _attention(
    graph: Graph,
    linear: Callable[..., str],
    hidden: str,
    layer: Any,
    cos: str,
    sin: str,
    count: int,
    *,
    name: str,
) -> str:
    heads, width = layer.num_heads, layer.head_dim
    mixed = linear(hidden, layer.qkv, name=f"{name}.qkv")
    parts = graph.split(mixed, [2 * heads * width, heads * width], name=f"{name}/parts")
    shape = graph.ints([count, 2 * heads, width])
    turning = graph.op("Reshape", parts[0], shape, name=f"{name}/turning")
    turning = cast(graph, turning, FP32, of=graph.dtype, name=f"{name}.rope/wide")
    turned = rotate(graph, turning, cos, sin, width, name=f"{name}.rope")
    turned = cast(graph, turned, graph.dtype, of=FP32, name=f"{name}.rope/narrow")
    lined = graph.op("Transpose", turned, name=f"{name}/lined", perm=[1, 0, 2])
    begin, middle, end = graph.ints([0]), graph.ints([heads]), graph.ints([2 * heads])
    axis = graph.ints([0])
    query = graph.op("Slice", lined, begin, middle, axis, name=f"{name}/query")
    key = graph.op("Slice", lined, middle, end, axis, name=f"{name}/key")
    value = graph.op("Reshape", parts[1], graph.ints([count, heads, width]), name=f"{name}/values")
    value = graph.op("Transpose", value, name=f"{name}/value", perm=[1, 0, 2])
    key = graph.op("Transpose", key, name=f"{name}/keys", perm=[0, 2, 1])
    found = attend(graph, query, key, value, None, float(layer.scaling), name=name)
    found = graph.op("Transpose", found, name=f"{name}/tokens", perm=[1, 0, 2])
    found = graph.op("Reshape", found, graph.ints([count, heads * width]), name=f"{name}/joined")
    return linear(found, layer.proj, name=f"{name}.proj")


def _activation(graph: Graph, value: str, kind: str, *, name: str) -> str:
    if kind != "quick_gelu":
        raise ValueError(f"a tower with the activation {kind!r} is not written; Qwen2-VL has quick_gelu")
    # In fp32: bf16 would round the factor.
    wide = cast(graph, value, FP32, of=graph.dtype, name=f"{name}/wide")
    scaled = graph.op("Mul", wide, graph.scalar(1.702, FP32), name=f"{name}/scaled")
    gate = graph.op("Sigmoid", scaled, name=f"{name}/gate")
    gate = cast(graph, gate, graph.dtype, of=FP32, name=f"{name}/narrow")
    return graph.op("Mul", value, gate, name=f"{name}/gated")


def _turns(
    graph: Graph, visual: Qwen2VisionTransformerPretrainedModel, rows: int, columns: int
) -> tuple[str, str]:
    """Cosines and sines (n, 1, width of a head) of all patches, in the order in which they are merged."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([_merge_order(place) for place in (row, column)], dim=1)
    cos, sin = visual.rotary_pos_emb(torch.empty(0, dtype=torch.float32), places)
    half = sin.shape[-1] // 2
    sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
    return graph.weight("rope.cos", cos[:, None].float()), graph.weight("rope.sin", sin[:, None].float())


def _merge_order(grid: torch.Tensor) -> torch.Tensor:
    """A (rows, columns) grid as a list in which the four patches of a visual token follow each other."""
    rows, columns = grid.shape
    cells = grid.reshape(rows // 2, 2, columns // 2, 2).permute(0, 2, 1, 3)
    return cells.reshape(-1)
