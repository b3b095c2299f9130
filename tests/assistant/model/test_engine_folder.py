"""Engine folders: what answers as its checkpoint does, and what is refused before anything of it is used."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quantizing import SIZE, answers
from trap import Trap

from egolive.assistant.backends.onnx.onnx_runtime import open_session
from egolive.assistant.load_local import load_engine
from egolive.quantize.build import Recipe, build_onnx
from egolive.quantize.onnx import decoder_graph
from egolive.streaming.errors import ConfigError, EngineError


@pytest.fixture(scope="module")
def engine_folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engines") / "onnx-fp32"
    build_onnx(str(tiny_checkpoint), out, Recipe(), size=SIZE)
    return out


@pytest.fixture
def copied(engine_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(engine_folder, tmp_path / "engine"))


def change(folder: Path, **values: Any) -> None:
    """Change entries of a folder's `engine.json`."""
    path = folder / "engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_files(folder: Path, name: str) -> None:
    """List one more file."""
    files = json.loads((folder / "engine.json").read_text())["files"]
    change(folder, files=files | {name: {"bytes": 0, "sha256": ""}})


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_an_engine_answers_as_its_checkpoint_does(engine_folder: Path, tiny_checkpoint: Path) -> None:
    ours, torchs = answers(str(engine_folder)), answers(str(tiny_checkpoint))
    assert ours == torchs
    assert len({token for answer in torchs for token in answer}) >= 8


def test_the_card_tells_where_an_engine_comes_from(engine_folder: Path) -> None:
    card = json.loads((engine_folder / "engine.json").read_text())
    assert card["backend"] == "onnx"
    assert card["precision"] == {"tower": "fp32", "decoder": "fp32", "head": "fp32", "embeddings": "fp32"}
    assert len(card["source"]["sha256"]) == 64
    assert {"torch", "onnxruntime"} <= set(card["versions"])
    assert 0 < card["made"]["parity"]["decoder"] < 1e-4
    assert {"tower.onnx", "decoder.data", "embeddings.safetensors", "tokenizer.json"} <= set(card["files"])
    info = load_engine(str(engine_folder), device="cpu").info
    assert (info.backend, info.precision, info.name) == ("onnx", "fp32", "onnx-fp32")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: flip(folder / "decoder.data"), "decoder.data is not the file that was exported"),
        (lambda folder: flip(folder / "tokenizer.json"), "tokenizer.json is not the file"),
        (lambda folder: cut(folder / "tower.data"), "cut off"),
        (lambda folder: (folder / "embeddings.safetensors").unlink(), "incomplete"),
        (lambda folder: change(folder, format=2), "format 2"),
        (lambda folder: change(folder, format=None), "format None"),
        (lambda folder: cut(folder / "engine.json"), "cannot be read"),
        (lambda folder: change(folder, files={}), "incomplete"),
        (lambda folder: change(folder, shapes={}), "incomplete"),
        (lambda folder: change(folder, precision={}), "incomplete"),
        (lambda folder: change(folder, backend="pickle"), "unknown backend"),
        (lambda folder: change_files(folder, "../outside.onnx"), "cannot be part of an engine"),
        (lambda folder: change_files(folder, "weights.pkl"), "cannot be part of an engine"),
    ],
    ids=[
        "tampered weights",
        "tampered tokenizer",
        "truncated weights",
        "missing file",
        "newer version",
        "no version",
        "truncated card",
        "no files",
        "no shapes",
        "no precision",
        "unknown backend",
        "file outside",
        "pickle listed",
    ],
)
def test_a_folder_that_is_not_what_was_exported_is_refused_in_one_line(
    copied: Path, damage: Callable[[Path], None], told: str
) -> None:
    damage(copied)
    with pytest.raises(EngineError, match=told) as caught:
        load_engine(str(copied), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_pickle_in_the_folder_is_never_loaded(copied: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for name in ("pytorch_model.bin", "model.pt", "decoder.pkl", "model.safetensors"):
        (copied / name).write_bytes(pickle.dumps(Trap(sprung)))
    load_engine(str(copied), device="cpu").close()
    assert not sprung.exists()
    pickle.loads((copied / "model.pt").read_bytes())
    assert sprung.exists()


def test_an_engine_folder_has_its_own_precision(engine_folder: Path) -> None:
    with pytest.raises(ConfigError, match="its own precision"):
        load_engine(str(engine_folder), device="cpu", dtype="bf16")


def test_a_provider_that_is_not_there_is_not_replaced(
    engine_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match="has no CUDAExecutionProvider"):
        open_session(engine_folder / "tower.onnx", torch.device("cuda", 0), None)
    session = "egolive.assistant.backends.onnx.onnx_runtime.onnxruntime.InferenceSession"
    monkeypatch.setattr(f"{session}.get_providers", lambda self: ["OtherExecutionProvider"])
    with pytest.raises(EngineError, match="was to run on CPUExecutionProvider and got Other"):
        open_session(engine_folder / "tower.onnx", torch.device("cpu"), None)


def test_an_export_that_is_wrong_is_not_written(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = decoder_graph._turns

    def turned_the_other_way(*args: Any) -> tuple[str, str]:
        cos, sin = turns(*args)
        return cos, args[0].op("Neg", sin, name="wrong")

    monkeypatch.setattr(decoder_graph, "_turns", turned_the_other_way)
    with pytest.raises(EngineError, match="decoder's layer 0 differs from torch"):
        build_onnx(str(tiny_checkpoint), tmp_path / "wrong", Recipe(), size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_engine_is_not_overwritten(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("kept")
    with pytest.raises(ConfigError, match="is no engine folder"):
        build_onnx(str(tiny_checkpoint), tmp_path, Recipe(), size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
