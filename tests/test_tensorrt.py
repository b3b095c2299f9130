"""What of TensorRT can be checked without it: graphs, shapes, and, with a fake of its package, the calls."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_tensorrt
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from quantizing import logits_of_many_passes
from test_reuse import STREAM, ask

from egolive.assistant.cli import call
from egolive.assistant.engine_folder import (
    DECODE_FILE,
    DECODER_FILE,
    EMBEDDINGS_FILE,
    TOWER_FILE,
    read_engine_card,
)
from egolive.assistant.graph_engine import graph_engine
from egolive.assistant.graph_halves import Bound, GraphDecoder, GraphTower, embedding_table
from egolive.assistant.graph_sizes import Sizes
from egolive.assistant.graph_steps import GraphSteps
from egolive.assistant.halves import Chunk
from egolive.assistant.loading import load_engine
from egolive.assistant.onnx_runtime import OnnxGraph, tensorrt_settings
from egolive.assistant.tensorrt_engine import DECODE_ENGINE, DECODER_ENGINE, TOWER_ENGINE
from egolive.assistant.tensorrt_runtime import TensorRtGraph
from egolive.quantize.build import Recipe, build_onnx
from egolive.quantize.tensorrt_build import build_engines
from egolive.streaming.errors import ConfigError, EngineError

CPU = torch.device("cpu")
CLOSE = 1e-4
"""Of logits up to 11; other orders of fp32 sums."""
SIZES = Sizes(tokens=24, columns=512, kept=4, step=8)
"""Small, so that passes are cut and steps are quick."""

# TensorRT 10.15, https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md: the types that it takes
# of the operators that stand in our graphs, which are all of opset 21 (it takes 9 to 24).
FLOATS = {"FLOAT", "BFLOAT16"}
OPERATORS = {
    **dict.fromkeys(("Cos", "Sin", "Sqrt", "Sigmoid", "Gelu", "Softmax", "LayerNormalization"), FLOATS),
    **dict.fromkeys(("Add", "Mul", "Div", "Neg", "Pow"), FLOATS),
    **dict.fromkeys(("Cast", "Concat", "Gather", "Identity", "Reshape"), FLOATS | {"INT64"}),
    **dict.fromkeys(("Slice", "Split", "Tile", "Transpose"), FLOATS | {"INT64"}),
    "MatMul": FLOATS,
    # `axes` must be an initializer.
    "ReduceMean": FLOATS,
    # `x_zero_point` must be zero; ours has none.
    "DequantizeLinear": {"INT4"},
}
SAME_TYPES = ("Add", "Mul", "Div", "Pow", "MatMul", "Concat", "LayerNormalization")
"""Operators that a strongly typed network gives inputs of one type."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs as they are meant for a GPU: nano's in bf16 with int4 weights."""
    out = tmp_path_factory.mktemp("engines") / "tensorrt"
    recipe = Recipe(precision="int4", dtype="bf16", block=64, head_bits=32, standard=True)
    build_onnx("nano", out, recipe, sizes=SIZES)
    return out


@pytest.fixture(scope="module")
def full_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in full precision, which a CPU can run."""
    out = tmp_path_factory.mktemp("engines") / "tensorrt-full"
    build_onnx("nano", out, Recipe(head_bits=32, standard=True), sizes=SIZES, size=(56, 84))
    return out


@pytest.fixture
def copied(full_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(full_folder, tmp_path / "engine"))


@pytest.fixture(params=["10.16.2.10", "11.4.1.1"])
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    return fake_tensorrt.install(monkeypatch, request.param)


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
    from egolive.quantize.block_int4 import scales_of

    assert scales_of(torch.tensor([0.0, 7.0, 14.0])).tolist() == [1.0, 1.0, 2.0]


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


def decoder_of(folder: Path, *, steps: bool = True, limited: bool = True) -> GraphDecoder:
    """The decoder of a folder, by ONNX Runtime on the CPU."""
    shapes, table = read_engine_card(folder).shapes, embedding_table(folder / EMBEDDINGS_FILE)
    fixed = GraphSteps(OnnxGraph(folder / DECODE_FILE, CPU, 1), shapes, SIZES, CPU) if steps else None
    graph = OnnxGraph(folder / DECODER_FILE, CPU, 1)
    return GraphDecoder(graph, table, shapes, CPU, sizes=SIZES if limited else None, steps=fixed)


def test_limited_passes_and_fixed_steps_give_the_logits_of_one_pass(full_folder: Path) -> None:
    """With nano's weights: rows and branches read together, taken back, pruned and forked."""
    expected = logits_of_many_passes(decoder_of(full_folder, steps=False, limited=False))
    limited = logits_of_many_passes(decoder_of(full_folder, steps=False))
    decoder = decoder_of(full_folder)
    stepped = logits_of_many_passes(decoder)
    assert decoder.steps is not None
    assert decoder.steps.static.sizes == [(SIZES.step, SIZES.columns)], "no pass was a step"
    for one, other, third in zip(expected, limited, stepped, strict=True):
        assert one.shape == other.shape == third.shape
        assert torch.allclose(one, other, atol=CLOSE)
        assert torch.allclose(one, third, atol=CLOSE)


def test_sessions_over_limited_passes_and_fixed_steps_say_what_torch_says(full_folder: Path) -> None:
    """Three questions at once on windows that follow each other, with drafts, caches and their handover."""
    tower = GraphTower(OnnxGraph(full_folder / TOWER_FILE, CPU, 1), read_engine_card(full_folder).shapes, CPU)
    card, decoder = read_engine_card(full_folder), decoder_of(full_folder)
    engine = graph_engine(full_folder, card, tower, decoder, backend="tensorrt", device=CPU)
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
    full_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the comparison above rests on."""
    decoder = decoder_of(full_folder)
    expected = logits_of_many_passes(decoder)
    filled = torch.Tensor.index_fill
    monkeypatch.setattr(torch.Tensor, "index_fill", lambda mask, *_: filled(mask, 1, torch.tensor([3]), 0.0))
    found = logits_of_many_passes(decoder_of(full_folder))
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


def test_all_addresses_are_aligned_as_tensorrt_demands(full_folder: Path) -> None:
    """`setTensorAddress`: at least 256 bytes; what torch allocates on a GPU begins at a multiple of 512."""
    shapes, table = read_engine_card(full_folder).shapes, embedding_table(full_folder / EMBEDDINGS_FILE)
    recorder = Recorder(OnnxGraph(full_folder / DECODER_FILE, CPU, 1))
    steps = GraphSteps(recorder, shapes, SIZES, CPU)
    logits_of_many_passes(GraphDecoder(recorder, table, shapes, CPU, sizes=SIZES, steps=steps))
    assert len(set(recorder.offsets)) > 50
    assert all(offset % 256 == 0 for offset in recorder.offsets)


def test_a_model_whose_keys_cannot_be_aligned_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiples of 256 bytes"):
        build_onnx(str(tiny_checkpoint), tmp_path / "no", Recipe(head_bits=32, standard=True), size=(56, 84))


def test_engines_are_built_by_the_documented_calls(trt: ModuleType, copied: Path) -> None:
    card = build_engines(copied, device=CPU)
    flags = [call[1] for call in fake_tensorrt.CALLS if call[0] == "create_network"]
    # TensorRT 10 has to be told that the graph's types are meant; 11 knows nothing else.
    assert flags == ([2] * 3 if trt.__version__.startswith("10.") else [0] * 3)
    built = [call[1:] for call in fake_tensorrt.CALLS if call[0] == "build"]
    assert built == [(TOWER_FILE, 0), (DECODER_FILE, 2), (DECODE_FILE, 0)]
    assert fake_tensorrt.CALLS.count(("clear_flag", "TF32")) == 3
    assert {TOWER_ENGINE, DECODER_ENGINE, DECODE_ENGINE, "timing.cache"} <= set(card.files)
    assert card.made["built"] == {"tensorrt": trt.__version__, "gpu": "Orin", "capability": "8.7"}
    assert read_engine_card(copied) == card


def test_timings_are_kept_for_the_next_build_and_those_of_others_are_not_used(
    trt: ModuleType, copied: Path
) -> None:
    build_engines(copied, device=CPU)
    kept = (copied / "timing.cache").read_bytes()
    fake_tensorrt.CALLS.clear()
    build_engines(copied, device=CPU)
    assert fake_tensorrt.CALLS[1:3] == [("clear_flag", "TF32"), ("create_timing_cache", kept)]
    (copied / "timing.cache").write_bytes(b"other GPU")
    card = json.loads((copied / "engine.json").read_text())
    card["files"].pop("timing.cache")
    (copied / "engine.json").write_text(json.dumps(card))
    build_engines(copied, device=CPU)
    assert b"other" not in (copied / "timing.cache").read_bytes()


def test_the_runtime_reads_and_writes_torchs_memory_at_the_addresses_it_binds(
    trt: ModuleType, copied: Path
) -> None:
    """The fake computes with ONNX Runtime on the addresses alone: a wrong one would give other numbers."""
    build_engines(copied, device=CPU)
    shapes, table = read_engine_card(copied).shapes, embedding_table(copied / EMBEDDINGS_FILE)
    expected = logits_of_many_passes(decoder_of(copied, steps=False, limited=False))
    steps = GraphSteps(TensorRtGraph(trt, copied / DECODE_ENGINE, CPU), shapes, SIZES, CPU)
    graph = TensorRtGraph(trt, copied / DECODER_ENGINE, CPU)
    fake_tensorrt.CALLS.clear()
    decoder = GraphDecoder(graph, table, shapes, CPU, sizes=SIZES, steps=steps)
    for one, other in zip(expected, logits_of_many_passes(decoder), strict=True):
        assert torch.allclose(one, other, atol=CLOSE)
    ran = {call[1:] for call in fake_tensorrt.CALLS if call[0] == "execute"}
    # Prompts and short rows each in their own range, branches in the engine of one shape.
    assert ran == {(DECODER_FILE, 0), (DECODER_FILE, 1), (DECODE_FILE, 0)}
    tower = GraphTower(TensorRtGraph(trt, copied / TOWER_ENGINE, CPU), shapes, CPU)
    count = shapes.height * shapes.width // 196
    patches = np.random.default_rng(0).standard_normal((count, 1176), dtype=np.float32)
    grid = (1, shapes.height // 14, shapes.width // 14)
    plain = GraphTower(OnnxGraph(copied / TOWER_FILE, CPU, 1), shapes, CPU)
    assert torch.allclose(tower.encode(patches, grid), plain.encode(patches, grid), atol=1e-4)


def test_shapes_outside_of_all_ranges_are_told_in_one_line(trt: ModuleType, copied: Path) -> None:
    build_engines(copied, device=CPU)
    card = read_engine_card(copied)
    graph = TensorRtGraph(trt, copied / DECODER_ENGINE, CPU)
    table = embedding_table(copied / EMBEDDINGS_FILE)
    decoder = GraphDecoder(graph, table, card.shapes, CPU, sizes=replace(SIZES, tokens=30))
    with pytest.raises(EngineError, match=r"was built for other shapes than .*embeddings") as caught:
        decoder.read([Chunk(decoder.row(), decoder.embed(range(30)), np.tile(np.arange(30), (3, 1)))])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / TOWER_FILE).write_bytes(b""), "TensorRT does not take .*nothing is there"),
        (lambda folder: shutil.copyfile(folder / DECODER_FILE, folder / TOWER_FILE), "without a profile"),
    ],
    ids=["unreadable", "cannot be built"],
)
def test_what_tensorrt_refuses_is_told_in_its_words_in_one_line(
    trt: ModuleType, copied: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, told: str
) -> None:
    monkeypatch.setattr("egolive.quantize.tensorrt_build.verify_files", lambda *_: None)
    damage(copied)
    with pytest.raises(EngineError, match=told) as caught:
        build_engines(copied, device=CPU)
    assert "\n" not in str(caught.value)


def test_an_engine_that_cannot_be_loaded_is_told_in_one_line(trt: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "x.engine").write_bytes(b"no engine")
    with pytest.raises(EngineError, match="cannot be loaded: Serialization assertion failed"):
        TensorRtGraph(trt, tmp_path / "x.engine", CPU)


def test_versions_that_nobody_has_written_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tensorrt.install(monkeypatch, "12.0.0")
    with pytest.raises(EngineError, match=r"TensorRT 12\.0\.0 is here, egolive is written for 10 and 11"):
        build_engines(Path("nowhere"))
    fake_tensorrt.install(monkeypatch, "10.16.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="needs a CUDA device"):
        build_engines(Path("nowhere"))


def test_an_engine_of_another_gpu_or_version_is_refused_before_it_is_loaded(
    trt: ModuleType, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engines(copied, device=CPU)
    vars(trt)["__version__"] = trt.__version__ + ".9"
    with pytest.raises(EngineError, match=r"was built for Orin \(capability 8.7\) and TensorRT") as caught:
        load_engine(str(copied), device="cuda")
    assert "egolive export" in str(caught.value)
    with pytest.raises(EngineError, match="runs on a GPU alone"):
        load_engine(str(copied), device="cpu")


def test_a_package_without_its_libraries_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=r"cannot be imported \(libnvinfer.so.10: cannot open"):
        build_engines(Path("nowhere"))


def one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert call(arguments) in (1, 2)
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    return error


def test_without_tensorrt_every_way_to_it_ends_in_one_line(
    full_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    export = ["export", "nano", "--to", "tensorrt", "--out", str(tmp_path / "engine")]
    assert "TensorRT's Python package cannot be imported" in one_line(export, capsys)
    assert list(tmp_path.iterdir()) == []
    built = one_line(["export", str(full_folder), "--to", "tensorrt"], capsys)
    assert "python3-libnvinfer" in built
    for folder, told in ((full_folder, "has not built yet: egolive export"),):
        assert told in one_line(["run", "test:", "--engine", str(folder)], capsys)
    named = one_line(["export", "nano", "--out", str(tmp_path / "x"), "--weights", "int4"], capsys)
    assert "--to tensorrt" in named


def test_the_same_folder_runs_on_onnx_runtime_where_that_is_asked_for(full_folder: Path) -> None:
    engine = load_engine(str(full_folder), device="cpu", provider="onnx", threads=1)
    assert (engine.info.backend, engine.info.precision) == ("onnx", "fp32")
    engine.close()


def test_a_provider_that_is_asked_for_and_not_there_is_told(
    full_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EngineError, match="has no TensorrtExecutionProvider"):
        load_engine(str(full_folder), device="cpu", provider="tensorrt")
    with pytest.raises(ConfigError, match="leave --provider away"):
        load_engine("nano", device="cpu", provider="tensorrt")
    own = Path(shutil.copytree(full_folder, tmp_path / "own"))
    card = json.loads((own / "engine.json").read_text())
    card |= {"backend": "onnx", "precision": card["precision"] | {"head": "int8"}}
    (own / "engine.json").write_text(json.dumps(card))
    with pytest.raises(EngineError, match="ONNX Runtime's own format"):
        load_engine(str(own), device="cpu", provider="tensorrt")


def test_the_provider_is_given_the_ranges_of_the_decoder(full_folder: Path, tmp_path: Path) -> None:
    card = read_engine_card(full_folder)
    settings = tensorrt_settings(tmp_path, SIZES.ranges(card.shapes)[0], bf16=True)
    assert settings["trt_bf16_enable"] == "1"
    shapes = settings["trt_profile_max_shapes"].split(",")
    assert shapes[0] == f"embeddings:1x{SIZES.tokens}x{card.shapes.hidden}"
    assert len(shapes) == 4 + 2 * card.shapes.layers
    assert "trt_profile_max_shapes" not in tensorrt_settings(tmp_path, {}, bf16=True)


def test_a_folder_that_is_written_anew_keeps_its_timings(copied: Path) -> None:
    (copied / "timing.cache").write_bytes(b"timings")
    sizes = replace(SIZES, step=4)
    card = build_onnx("nano", copied, Recipe(head_bits=32, standard=True, dtype="bf16"), sizes=sizes)
    assert card.sizes == asdict(sizes)
    assert card.files["timing.cache"]["bytes"] == 7


@pytest.mark.parametrize(
    "wrong",
    [{"head_bits": 8}, {"precision": "int8", "head_bits": 32}, {"precision": "int4", "head_bits": 32}],
)
def test_recipes_that_tensorrt_cannot_read_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Recipe(standard=True, **wrong)
