"""Qwen2-VL's text half as one ONNX graph: embeddings, 3-axis positions and a past in, logits out.

Batch, sequence and past are sizes of the run. Keys and values go in and out by name, tokens before heads, so
that a runtime can append new ones behind old ones; the outputs are the new ones alone. Which token sees which
is the caller's business: it gives an attention bias. Token embeddings are looked up outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from typing import cast as cast_type

import torch
from transformers import Qwen2VLForConditionalGeneration

from egolive.quantize.onnx.layers import add_bias, attend, cast, rms_norm, rotate, with_bias
from egolive.quantize.onnx.onnx_graph import FP32, INT64, Graph
from egolive.quantize.weights.stored_layers import StoredLinear

__all__ = ["HEAD", "LinearJoiner", "LinearWriter", "apart", "linear_layers", "write_decoder"]

LinearWriter = Callable[[Graph, str, StoredLinear, str], str]
"""Writes one linear layer without its bias: (graph, input, layer, name) to the output's name."""

LinearJoiner = Callable[[Graph, str, Sequence[StoredLinear], str], str | None]
"""Writes linear layers of the same input as one product without biases: (graph, input, layers, name) to the
output's name, the outputs of the layers behind each other; None where these layers cannot be joined."""

HEAD = "lm_head"
"""Name of the last layer, from hidden states to logits."""


def apart(graph: Graph, value: str, layers: Sequence[StoredLinear], name: str) -> None:
    """A `LinearJoiner` that joins none."""


def linear_layers(model: Qwen2VLForConditionalGeneration) -> dict[str, StoredLinear]:
    """The decoder's linear layers by the names that they have in the graph, the last one included."""
    found = {
        name: module
        for name, module in model.model.language_model.named_modules()
        if isinstance(module, StoredLinear)
    }
    return found | {HEAD: cast_type("StoredLinear", model.lm_head)}


def write_decoder(
    graph: Graph,
    model: Qwen2VLForConditionalGeneration,
    write: LinearWriter,
    join: LinearJoiner,
    wrote: Callable[[], None] = lambda: None,
) -> None:
    """Write the decoder; the caller saves. What a layer has needed is on the disk before the next is begun.

    Inputs: `embeddings` (batch, sequence, width), `positions` (3, batch, sequence) int64, `attention_bias`
    (batch, 1, sequence, past + sequence) float32, `kept` (rows,) int64, places in the flattened batch and
    sequence whose logits are wanted, and for each layer `past.N.key` and `past.N.value` (batch, past,
    key-value heads, width of a head). Outputs: `logits` (rows, vocabulary) float32, and for each layer
    `new.N.key` and `new.N.value` (batch, sequence, key-value heads, width of a head).

    Args:
        graph: An empty graph.
        model: transformers' model.
        write: Writes each linear layer at its precision.
        join: Writes several of them as one, where that is faster: a decoded token then takes fewer products.
        wrote: Called after each layer.
    """
    text, config = model.model.language_model, model.config.text_config
    width = int(config.hidden_size)
    kv_heads = int(config.num_key_value_heads)
    head = width // int(config.num_attention_heads)
    hidden = graph.input("embeddings", graph.dtype, ("batch", "sequence", width))
    positions = graph.input("positions", INT64, (3, "batch", "sequence"))
    seen = graph.input("attention_bias", FP32, ("batch", 1, "sequence", "total"))
    kept = graph.input("kept", INT64, ("rows",))
    cos, sin = _turns(graph, text.rotary_emb, positions)
    # Heads that share keys are rows of one product: the bias stands there once for each of them.
    shared = int(config.num_attention_heads) // kv_heads
    bias = graph.op("Tile", seen, graph.ints([1, 1, shared, 1]), name="attention_bias/heads")
    for number, layer in enumerate(text.layers):
        name = f"layers.{number}"
        past = [
            graph.input(f"past.{number}.{part}", graph.dtype, ("batch", "past", kv_heads, head))
            for part in ("key", "value")
        ]
        read = rms_norm(
            graph,
            hidden,
            layer.input_layernorm.weight,
            layer.input_layernorm.variance_epsilon,
            name=f"{name}.input_layernorm",
        )
        found = _attention(
            graph, read, layer.self_attn, write, join, cos, sin, bias, past, number, f"{name}.self_attn"
        )
        hidden = graph.op("Add", hidden, found, name=f"{name}.self_attn/add")
        norm = layer.post_attention_layernorm
        read = rms_norm(
            graph, hidden, norm.weight, norm.variance_epsilon, name=f"{name}.post_attention_layernorm"
        )
        hidden = graph.op(
            "Add", hidden, _mlp(graph, read, layer.mlp, write, join, f"{name}.mlp"), name=f"{name}/add"
        )
        graph.keep()
        wrote()
    flat = graph.op("Reshape", hidden, graph.ints([-1, width]), name="flat")
    last = graph.op("Gather", flat, kept, name="last", axis=0)
    last = rms_norm(graph, last, text.norm.weight, text.norm.variance_epsilon, name="norm")
    logits = write(graph, last, model.lm_head, HEAD)
    graph.keep()
    wrote()
    logits = cast(graph, logits, FP32, of=graph.dtype, name="logits/wide")
    graph.output(logits, "logits", FP32, ("rows", int(config.vocab_size)))


def _attention(
    graph: Graph,
    hidden: str,
    layer: Any,
    write: LinearWriter,
    join: LinearJoiner,
    cos: str,
    sin: str,
    bias: str,
    past: list[str],
    number: int,
    name: str,
) -> str:
    heads, width = int(layer.num_heads), int(layer.head_dim)
    groups = int(layer.num_key_value_heads)
    shared = heads // groups
    names = ("q_proj", "k_proj", "v_proj")
    modules = [getattr(layer, part) for part in names]
    whole = join(graph, hidden, modules, f"{name}.qkv_proj")
    if whole is not None:
        # Qwen2-VL has a bias in each of the three.
        whole = add_bias(
            graph, whole, torch.cat([module.bias for module in modules]), name=f"{name}.qkv_proj"
        )
        sizes = [(heads + groups) * width, groups * width]
        mixed, value = graph.split(whole, sizes, name=f"{name}/qk_and_v")
    else:
        parts = []
        for part, module in zip(names, modules, strict=True):
            found = write(graph, hidden, module, f"{name}.{part}")
            parts.append(with_bias(graph, found, module, name=f"{name}.{part}"))
        mixed = graph.op("Concat", parts[0], parts[1], name=f"{name}/qk_mixed", axis=-1)
        value = parts[2]
    mixed = graph.op("Reshape", mixed, graph.ints([0, 0, heads + groups, width]), name=f"{name}/qk_heads")
    turned = rotate(graph, mixed, cos, sin, width, name=f"{name}.rope")
    begin, middle, end = graph.ints([0]), graph.ints([heads]), graph.ints([heads + groups])
    axis = graph.ints([2])
    query = graph.op("Slice", turned, begin, middle, axis, name=f"{name}/query")
    key = graph.op("Slice", turned, middle, end, axis, name=f"{name}/key")
    value = graph.op("Reshape", value, graph.ints([0, 0, groups, width]), name=f"{name}/value")
    columns = []
    for part, old, new, order in zip(
        ("key", "value"), past, (key, value), ([0, 2, 3, 1], [0, 2, 1, 3]), strict=True
    ):
        graph.output(new, f"new.{number}.{part}", graph.dtype, ("batch", "sequence", groups, width))
        joined = graph.op("Concat", old, new, name=f"{name}/{part}_all", axis=1)
        columns.append(graph.op("Transpose", joined, name=f"{name}/{part}_columns", perm=order))
    # (batch, sequence, heads, width) to (batch, groups, heads of a group x sequence, width) and back.
    query = graph.op("Reshape", query, graph.ints([0, 0, groups, shared, width]), name=f"{name}/query_groups")
    query = graph.op("Transpose", query, name=f"{name}/query_lined", perm=[0, 2, 3, 1, 4])
    query = graph.op("Reshape", query, graph.ints([0, groups, -1, width]), name=f"{name}/query_rows")
    found = attend(graph, query, columns[0], columns[1], bias, float(layer.scaling), name=name)
    found = graph.op("Reshape", found, graph.ints([0, groups, shared, -1, width]), name=f"{name}/groups")
    found = graph.op("Transpose", found, name=f"{name}/lined", perm=[0, 3, 1, 2, 4])
    found = graph.op("Reshape", found, graph.ints([0, 0, heads * width]), name=f"{name}/joined")
    return write(graph, found, layer.o_proj, f"{name}.o_proj")


def _mlp(graph: Graph, hidden: str, layer: Any, write: LinearWriter, join: LinearJoiner, name: str) -> str:
    modules = [layer.gate_proj, layer.up_proj]
    whole = join(graph, hidden, modules, f"{name}.gate_up_proj")
    if whole is not None:
        sizes = [module.out_features for module in modules]
        gate, wide = graph.split(whole, sizes, name=f"{name}/gate_and_up")
    else:
        gate = write(graph, hidden, layer.gate_proj, f"{name}.gate_proj")
        wide = write(graph, hidden, layer.up_proj, f"{name}.up_proj")
    gate = graph.op("Mul", gate, graph.op("Sigmoid", gate, name=f"{name}/sigmoid"), name=f"{name}/silu")
    return write(
        graph, graph.op("Mul", gate, wide, name=f"{name}/gated"), layer.down_proj, f"{name}.down_proj"
    )


def _turns(graph: Graph, rotary: Any, positions: str) -> tuple[str, str]:
    """Cosines and sines (batch, sequence, 1, width of a head) of 3-axis positions, computed in fp32."""
    frequencies = rotary.inv_freq.detach().float()
    half = len(frequencies)
    # Which of the three axes turns each pair: 0 for the first so many, then 1, then 2.
    axes = torch.repeat_interleave(torch.arange(3), torch.tensor(rotary.mrope_section))
    chosen = graph.op("Gather", positions, graph.weight("rope.axes", axes), name="rope/axes", axis=0)
    wide = graph.op("Cast", chosen, name="rope/wide", to=FP32)
    ordered = graph.op("Transpose", wide, name="rope/ordered", perm=[1, 2, 0])
    angles = graph.op("Mul", ordered, graph.weight("rope.frequencies", frequencies), name="rope/angles")
    cos, sin = graph.op("Cos", angles, name="rope/cos"), graph.op("Sin", angles, name="rope/sin")
    against = graph.op("Neg", sin, name="rope/against")
    cos = graph.op("Concat", cos, cos, name="rope/cos_both", axis=-1)
    # The first half of a head is turned against the second.
    sin = graph.op("Concat", against, sin, name="rope/sin_both", axis=-1)
    shape = graph.ints([0, 0, 1, 2 * half])
    found = [
        cast(
            graph,
            graph.op("Reshape", value, shape, name=f"rope/{name}_heads"),
            graph.dtype,
            of=FP32,
            name=f"rope/{name}_narrow",
        )
        for name, value in (("cos", cos), ("sin", sin))
    ]
    return found[0], found[1]
