"""The graphs that TensorRT builds from: what stands in them, and what they compute, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from quantizing import logits_of_many_passes
from streams import STREAM, ask
from tensorrt_graphs import CLOSE, CPU, SIZES, decoder_of

from egolive.assistant.backends.onnx.graph_backend import GraphDecoder, GraphTower
from egolive.assistant.backends.onnx.graph_engine import graph_engine
from egolive.assistant.backends.onnx.graph_limits import Sizes
from egolive.assistant.backends.onnx.graph_steps import GraphSteps
from egolive.assistant.backends.onnx.graph_types import Bound
from egolive.assistant.backends.onnx.onnx_runtime import OnnxGraph, tensorrt_settings
from egolive.assistant.backends.onnx.token_table import token_table
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.engine_folder import (
    DECODE_FILE,
    DECODER_FILE,
    TOWER_FILE,
    read_engine_card,
)
from egolive.quantize.build import Recipe, build_onnx
from egolive.streaming.errors import ConfigError

# TensorRT 10.15, https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md: the types that it takes
# of the operators that stand in our graphs, which are all of opset 21 (it takes 9 to 24).
FLOATS = {"FLOAT", "BFLOAT16"}
OPERATORS = {
    **dict.fromkeys(("Cos", "Sin", "Sqrt", "Sigmoid", "Gelu", "Softmax", "LayerNormalization"), FLOATS),
    **dict.fromkeys(("Add", "Mul", "Div", "Neg", "Pow"), FLOATS),
    **dict.fromkeys(("Cast", "Concat", "Gather", "Identity", "Reshape"), FLOATS | {"INT64"}),
    **dict.fromkeys(("Slice", "Split", "Tile", "Transpose"), FLOATS | {"INT64"}),
    **dict.fromkeys(("MatMul", "Gemm"), FLOATS),
    # `axes` must be an initializer.
    "ReduceMean": FLOATS,
    # `x_zero_point` must be zero; ours has none.
    "DequantizeLinear": {"INT4"},
}
SAME_TYPES = ("Add", "Mul", "Div", "Pow", "MatMul", "Gemm", "Concat", "LayerNormalization")
"""Operators that a strongly typed network gives inputs of one type."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs as they are meant for a GPU: nano's in bf16 with int4 weights."""
    out = tmp_path_factory.mktemp("engines") / "tensorrt"
    recipe = Recipe(precision="int4", dtype="bf16", block=64, head_bits=32, standard=True)
    build_onnx("nano", out, recipe, sizes=SIZES)
    return out


def graphs(folder: Path) -> Iterator[tuple[str, onnx.GraphProto]]:
    for name in (TOWER_FILE, DECODER_FILE, DECODE_FILE):
        model = onnx.load(folder / name)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 21)]
        yield name, onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph


def types_of(graph: onnx.GraphProto) -> dict[str, str]:
    """Number format of every value."""
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    found |= {weight.name: weight.data_type for weight in graph.initializer}
    return {name: TensorProto.DataType.Name(kind) for name, kind in found.items()}


def test_graphs_hold_only_what_tensorrt_is_documented_to_take(folder: Path) -> None:
    for _, graph in graphs(folder):
        types, weights = types_of(graph), {weight.name for weight in graph.initializer}
        for node in graph.node:
            assert types[node.input[0]] in OPERATORS[node.op_type], node.name
            if node.op_type == "ReduceMean":
                assert node.input[1] in weights
            if node.op_type in ("Reshape", "Tile", "Slice", "Split"):
                # Shapes are constants: none is computed on the host from values on the device.
                assert set(node.input[1:]) <= weights


def test_no_node_leaves_a_choice_of_number_format(folder: Path) -> None:
    for _, graph in graphs(folder):
        types = types_of(graph)
        for node in graph.node:
            if node.op_type in SAME_TYPES:
                assert len({types[name] for name in node.input}) == 1, node.name


def test_int4_weights_are_groups_of_64_with_positive_scales_of_the_graphs_type(folder: Path) -> None:
    for name, graph in graphs(folder):
        weights = {weight.name: weight for weight in graph.initializer}
        found = [node for node in graph.node if node.op_type == "DequantizeLinear"]
        # The tower and the last layer are not quantised.
        assert len(found) == (0 if name == TOWER_FILE else 7 * 5)
        for node in found:
            packed, scales = (weights[value] for value in node.input)
            assert {a.name: a.i for a in node.attribute} == {"axis": 0, "block_size": 64}
            assert tuple(scales.dims) == (packed.dims[0] // 64, packed.dims[1])
            assert scales.data_type == TensorProto.BFLOAT16
            assert (numpy_helper.to_array(scales).astype(np.float32) > 0).all()


def test_a_group_of_zeros_has_a_scale_too() -> None:
    from egolive.quantize.methods.awq import scales_of
    from egolive.quantize.weights.rounding import round_to_int4

    assert scales_of(torch.tensor([0.0, 7.0, 14.0])).tolist() == [1.0, 1.0, 2.0]
    assert (round_to_int4(torch.zeros(2, 64), 32).scales == 1).all()


def test_ranges_and_graphs_agree_in_names_and_sizes(folder: Path) -> None:
    card = read_engine_card(folder)
    sizes = Sizes(**card.sizes)
    assert card.backend == "tensorrt"
    found = dict(graphs(folder))
    for ranges in sizes.ranges(card.shapes):
        assert set(ranges) == {value.name for value in found[DECODER_FILE].input}
        for at in range(3):
            named: dict[str, int] = {}
            for value in found[DECODER_FILE].input:
                for size, dim in zip(ranges[value.name][at], value.type.tensor_type.shape.dim, strict=True):
                    # One name is one size, whichever input has it.
                    assert size == (named.setdefault(dim.dim_param, size) if dim.dim_param else dim.dim_value)
            assert named["total"] == named["past"] + named["sequence"]
            assert set(named) == {"sequence", "past", "total", "rows"}
    # One shape each: neither needs a range.
    for name in (TOWER_FILE, DECODE_FILE):
        values = (*found[name].input, *found[name].output)
        assert not any(dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim)
    step = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in found[DECODE_FILE].input}
    assert step["embeddings"] == [1, sizes.step, card.shapes.hidden]
    assert step["past.0.key"] == [1, sizes.columns, card.shapes.kv_heads, card.shapes.head_width]


def test_limited_passes_and_fixed_steps_give_the_logits_of_one_pass(nano_graphs: Path) -> None:
    """With nano's weights: rows and branches read together, taken back, pruned and forked."""
    expected = logits_of_many_passes(decoder_of(nano_graphs, steps=False, limited=False))
    limited = logits_of_many_passes(decoder_of(nano_graphs, steps=False))
    decoder = decoder_of(nano_graphs)
    stepped = logits_of_many_passes(decoder)
    assert decoder.steps is not None
    assert decoder.steps.static.sizes == [(SIZES.step, SIZES.columns)], "no pass was a step"
    for one, other, third in zip(expected, limited, stepped, strict=True):
        assert one.shape == other.shape == third.shape
        assert torch.allclose(one, other, atol=CLOSE)
        assert torch.allclose(one, third, atol=CLOSE)


def test_sessions_over_limited_passes_and_fixed_steps_say_what_torch_says(nano_graphs: Path) -> None:
    """Three questions at once on windows that follow each other, with drafts, caches and their handover."""
    tower = GraphTower(OnnxGraph(nano_graphs / TOWER_FILE, CPU, 1), read_engine_card(nano_graphs).shapes, CPU)
    card, decoder = read_engine_card(nano_graphs), decoder_of(nano_graphs)
    engine = graph_engine(nano_graphs, card, tower, decoder, backend="tensorrt", device=CPU)
    said: list[list[list[int]]] = []
    for one in (engine, load_engine("nano", device="cpu", threads=1)):
        said.append([])
        with one.session() as session:
            for window, *_ in STREAM[:8]:
                tokens: list[list[int]] = [[], [], []]
                asked = [ask(window, text, 16) for text in ("What?", "And then?", "Find the left hand.")]
                for delta in session.ask(asked):
                    tokens[delta.request].append(delta.token)
                said[-1] += tokens
    assert said[0] == said[1]
    assert len({token for answer in said[0] for token in answer}) >= 8


def test_a_step_that_saw_one_column_too_many_would_be_noticed(
    nano_graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the comparison above rests on."""
    decoder = decoder_of(nano_graphs)
    expected = logits_of_many_passes(decoder)
    filled = torch.Tensor.index_fill
    monkeypatch.setattr(torch.Tensor, "index_fill", lambda mask, *_: filled(mask, 1, torch.tensor([3]), 0.0))
    found = logits_of_many_passes(decoder_of(nano_graphs))
    assert float((torch.cat(expected) - torch.cat(found)).abs().max()) > 100 * CLOSE


class Recorder:
    """A graph that notes where it reads and writes."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.offsets: list[int] = []

    def dtype(self, name: str) -> torch.dtype:
        return torch.bfloat16

    def run(self, inputs: Bound, outputs: Bound, doing: str) -> None:
        for tensor, _ in (*inputs.values(), *outputs.values()):
            self.offsets.append(int(tensor.storage_offset()) * tensor.element_size())


def test_all_addresses_are_aligned_as_tensorrt_demands(nano_graphs: Path) -> None:
    """`setTensorAddress`: at least 256 bytes; what torch allocates on a GPU begins at a multiple of 512."""
    shapes, table = (
        read_engine_card(nano_graphs).shapes,
        token_table(nano_graphs, read_engine_card(nano_graphs)),
    )
    recorder = Recorder(OnnxGraph(nano_graphs / DECODER_FILE, CPU, 1))
    steps = GraphSteps(recorder, shapes, SIZES, CPU)
    logits_of_many_passes(GraphDecoder(recorder, table, shapes, CPU, sizes=SIZES, steps=steps))
    assert len(set(recorder.offsets)) > 50
    assert all(offset % 256 == 0 for offset in recorder.offsets)


def test_a_model_whose_keys_cannot_be_aligned_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiples of 256 bytes"):
        build_onnx(str(tiny_checkpoint), tmp_path / "no", Recipe(head_bits=32, standard=True), size=(56, 84))


def test_the_same_folder_runs_on_onnx_runtime_where_that_is_asked_for(nano_graphs: Path) -> None:
    engine = load_engine(str(nano_graphs), device="cpu", provider="onnx", threads=1)
    assert (engine.info.backend, engine.info.precision) == ("onnx", "fp32")
    engine.close()


def test_the_provider_is_given_the_ranges_of_the_decoder(nano_graphs: Path, tmp_path: Path) -> None:
    card = read_engine_card(nano_graphs)
    settings = tensorrt_settings(tmp_path, SIZES.ranges(card.shapes)[0], bf16=True)
    assert settings["trt_bf16_enable"] == "1"
    shapes = settings["trt_profile_max_shapes"].split(",")
    assert shapes[0] == f"embeddings:1x{SIZES.tokens}x{card.shapes.hidden}"
    assert len(shapes) == 4 + 2 * card.shapes.layers
    assert "trt_profile_max_shapes" not in tensorrt_settings(tmp_path, {}, bf16=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"head_bits": 8},
        {"precision": "int8", "head_bits": 32},
        {"precision": "int4", "head_bits": 32, "block": 32},
    ],
)
def test_recipes_that_tensorrt_cannot_read_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Recipe(standard=True, **wrong)
