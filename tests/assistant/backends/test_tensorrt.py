"""TensorRT's calls and complaints, seen with a fake of its package; see `fake_tensorrt`."""

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
import pytest
import torch
from quantizing import logits_of_many_passes
from tensorrt_graphs import CLOSE, CPU, SIZES, decoder_of

from egolive.assistant.backends.onnx.graph_backend import GraphDecoder, GraphTower
from egolive.assistant.backends.onnx.graph_steps import GraphSteps
from egolive.assistant.backends.onnx.onnx_runtime import OnnxGraph
from egolive.assistant.backends.onnx.token_table import token_table
from egolive.assistant.backends.tensorrt.tensorrt_engine import DECODE_ENGINE, DECODER_ENGINE, TOWER_ENGINE
from egolive.assistant.backends.tensorrt.tensorrt_runtime import TensorRtGraph
from egolive.assistant.cli.main import call
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.engine_folder import (
    DECODE_FILE,
    DECODER_FILE,
    TOWER_FILE,
    read_engine_card,
)
from egolive.assistant.runtime.backend import ForwardInput
from egolive.quantize import tensorrt_build
from egolive.quantize.build import Recipe, build_onnx
from egolive.quantize.tensorrt_build import build_engines
from egolive.streaming.errors import ConfigError, EngineError


@pytest.fixture
def copied(nano_graphs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(nano_graphs, tmp_path / "engine"))


@pytest.fixture(params=["10.16.2.10", "11.4.1.1"])
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    return fake_tensorrt.install(monkeypatch, request.param)


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


def test_a_build_that_fails_leaves_the_engines_that_were_there(
    trt: ModuleType, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = build_engines(copied, device=CPU)
    before = {name: (copied / name).read_bytes() for name in card.files}
    built = 0
    inner = tensorrt_build._build

    def fails(*arguments: Any) -> None:
        nonlocal built
        built += 1
        if built == 2:
            raise EngineError("out of memory")
        inner(*arguments)

    monkeypatch.setattr(tensorrt_build, "_build", fails)
    with pytest.raises(EngineError, match="out of memory"):
        build_engines(copied, device=CPU)
    assert {name: (copied / name).read_bytes() for name in card.files} == before
    monkeypatch.setattr(tensorrt_build, "_build", inner)
    # Nor does an engine that was damaged stand in the way of a new one.
    (copied / DECODER_ENGINE).write_bytes(b"cut off")
    assert set(build_engines(copied, device=CPU).files) == set(before)
    assert not list(copied.glob("*.part"))


def test_a_folder_that_is_written_anew_keeps_its_timings(copied: Path) -> None:
    (copied / "timing.cache").write_bytes(b"timings")
    sizes = replace(SIZES, step=4)
    card = build_onnx("nano", copied, Recipe(head_bits=32, standard=True, dtype="bf16"), sizes=sizes)
    assert card.sizes == asdict(sizes)
    assert card.files["timing.cache"]["bytes"] == 7


def test_the_runtime_reads_and_writes_torchs_memory_at_the_addresses_it_binds(
    trt: ModuleType, copied: Path
) -> None:
    """The fake computes with ONNX Runtime on the addresses alone: a wrong one would give other numbers."""
    build_engines(copied, device=CPU)
    shapes, table = read_engine_card(copied).shapes, token_table(copied, read_engine_card(copied))
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
    table = token_table(copied, read_engine_card(copied))
    decoder = GraphDecoder(graph, table, card.shapes, CPU, sizes=replace(SIZES, tokens=30))
    with pytest.raises(EngineError, match=r"was built for other shapes than .*embeddings") as caught:
        decoder.forward(
            [ForwardInput(decoder.new_cache(), decoder.embed(range(30)), np.tile(np.arange(30), (3, 1)))]
        )
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
    # A command that loads a model says so first.
    lines = capsys.readouterr().err.splitlines()
    [error] = [line for line in lines if not line.startswith("loading ")]
    return error


def test_without_tensorrt_every_way_to_it_ends_in_one_line(
    nano_graphs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    export = ["export", "nano", "--to", "tensorrt", "--out", str(tmp_path / "engine")]
    assert "TensorRT's Python package cannot be imported" in one_line(export, capsys)
    assert list(tmp_path.iterdir()) == []
    built = one_line(["export", str(nano_graphs), "--to", "tensorrt"], capsys)
    assert "python3-libnvinfer" in built
    for folder, told in ((nano_graphs, "has not built yet: egolive export"),):
        assert told in one_line(["run", "test:", "--engine", str(folder)], capsys)
    named = one_line(["export", "nano", "--out", str(tmp_path / "x"), "--weights", "int4"], capsys)
    assert "--to tensorrt" in named


def test_a_provider_that_is_asked_for_and_not_there_is_told(
    nano_graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EngineError, match="has no TensorrtExecutionProvider"):
        load_engine(str(nano_graphs), device="cpu", provider="tensorrt")
    with pytest.raises(ConfigError, match="leave --provider away"):
        load_engine("nano", device="cpu", provider="tensorrt")
    own = Path(shutil.copytree(nano_graphs, tmp_path / "own"))
    card = json.loads((own / "engine.json").read_text())
    card |= {"backend": "onnx", "precision": card["precision"] | {"head": "int8"}}
    (own / "engine.json").write_text(json.dumps(card))
    with pytest.raises(EngineError, match="ONNX Runtime's own format"):
        load_engine(str(own), device="cpu", provider="tensorrt")
