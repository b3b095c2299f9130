"""Checkpoints that other libraries have quantised: read without them, number for number.

What lies in `data` was made by those libraries, with the weights as they dequantise them; see the scripts
there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from checkpoints import make_tokenizer
from onnx import numpy_helper
from paths import ROOT
from quantizing import SIZE
from safetensors.torch import load_file, save_file

from egolive.assistant.load_local import load_engine
from egolive.quantize.build import Recipe, build_onnx
from egolive.quantize.methods.compressed_tensors import build_checkpoint
from egolive.quantize.onnx.block_int4 import Groups
from egolive.quantize.onnx.decoder_graph import linear_layers
from egolive.quantize.weights.lazy_model import open_model
from egolive.streaming.errors import ConfigError, EngineError

DATA = ROOT / "tests" / "quantize" / "data"
TAKEN = ("compressed-tensors-sym", "compressed-tensors-asym", "gptq-sym", "awq-gemm")
SYMMETRIC = ("compressed-tensors-sym", "gptq-sym")


@pytest.fixture(params=TAKEN)
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return checkpoint(str(request.param), tmp_path)


def checkpoint(name: str, folder: Path) -> Path:
    """A checkpoint of `data`, with a tokenizer."""
    out = Path(shutil.copytree(DATA / name, folder / name))
    make_tokenizer().save_pretrained(out)
    return out


def test_weights_are_those_that_the_library_itself_dequantises(published: Path) -> None:
    model, form = open_model(published)
    assert form is not None
    layers = linear_layers(model)
    theirs = load_file(published / "dequantised.safetensors")
    assert len(theirs) >= 2
    for name, expected in theirs.items():
        short = name[name.index("layers.") :].removesuffix(".weight")
        found = layers[short].stored.values()
        # They compute in fp16 or bf16, we in fp32.
        assert found.shape == expected.shape
        assert (found - expected.float()).abs().max() <= 4e-3 * expected.float().abs().max()
        assert len(set(found.flatten().tolist())) > 100


def test_a_published_checkpoint_becomes_an_engine_without_loss(published: Path, tmp_path: Path) -> None:
    card = build_onnx(str(published), tmp_path / "engine", Recipe(precision="int4"), size=SIZE)
    assert card.made["parity"]["decoder"] < 1e-4
    assert card.made["block"] == 128
    graph = onnx.load(tmp_path / "engine" / "decoder.onnx").graph
    weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    held = load_file(published / "model.safetensors")
    if published.name == "compressed-tensors-sym":
        parts = [
            next(held[name] for name in held if name.endswith(f"layers.1.mlp.{part}.weight_packed"))
            for part in ("gate_proj", "up_proj")
        ]
        expected = b"".join(part.numpy().tobytes() for part in parts)
        assert weights["layers.1.mlp.gate_up_proj.packed"].tobytes() == expected
    engine = load_engine(str(tmp_path / "engine"), device="cpu")
    assert engine.info.precision == "int4"


@pytest.mark.parametrize("name", SYMMETRIC)
def test_tensorrt_gets_the_same_numbers(name: str, tmp_path: Path) -> None:
    source = checkpoint(name, tmp_path)
    # bf16 would need two heads of keys for TensorRT's alignment.
    recipe = Recipe(precision="int4", head_bits=32, standard=True)
    build_onnx(str(source), tmp_path / "graphs", recipe, size=SIZE)
    graph = onnx.load(tmp_path / "graphs" / "decoder.onnx").graph
    weights = {weight.name: weight for weight in graph.initializer}
    layers = linear_layers(open_model(source)[0])
    for at in ("layers.0.self_attn.v_proj", "layers.1.mlp.down_proj"):
        packed, scales = weights[f"{at}.weight"], numpy_helper.to_array(weights[f"{at}.scales"])
        inputs, outputs = packed.dims
        flat = np.frombuffer(packed.raw_data, dtype=np.uint8).reshape(inputs, outputs // 2)
        found = Groups(flat, scales.astype(np.float32), 128).values()
        expected = layers[at].stored.values()
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["compressed-tensors-asym", "awq-gemm"])
def test_zero_points_are_refused_for_tensorrt(name: str, tmp_path: Path) -> None:
    recipe = Recipe(precision="int4", dtype="bf16", head_bits=32, standard=True)
    with pytest.raises(ConfigError, match="TensorRT reads symmetric int4"):
        build_onnx(str(checkpoint(name, tmp_path)), tmp_path / "graphs", recipe, size=SIZE)


def test_four_bits_are_not_rounded_to_eight(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"in 4 bits already \(gptq\); use --to int4"):
        build_onnx(str(checkpoint("gptq-sym", tmp_path)), tmp_path / "engine", Recipe(precision="int8"))


@pytest.mark.parametrize("name", ["compressed-tensors-actorder", "gptq-desc-act"])
def test_an_order_of_inputs_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"activation order.*egolive quantize") as caught:
        build_onnx(str(checkpoint(name, tmp_path)), tmp_path / "engine", Recipe(precision="int4"))
    assert "\n" not in str(caught.value)


def test_an_order_that_the_configuration_hides_is_found(tmp_path: Path) -> None:
    source = checkpoint("gptq-desc-act", tmp_path)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"]["desc_act"] = False
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match="activation order"):
        open_model(source)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("gptq-sym", {"bits": 8}, "to 8 bits"),
        ("gptq-sym", {"group_size": -1}, "in groups of -1"),
        ("gptq-sym", {"checkpoint_format": "marlin"}, "layout 'marlin'"),
        ("awq-gemm", {"version": "gemv"}, "layout 'gemv'"),
        ("compressed-tensors-sym", {"format": "marlin-24"}, "format 'marlin-24'"),
        ("compressed-tensors-sym", {"config_groups": {}}, "several ways"),
        ("compressed-tensors-sym", {"quant_method": "hqq"}, "hqq"),
    ],
)
def test_forms_that_cannot_be_taken_are_refused_with_what_to_do(
    name: str, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    source = checkpoint(name, tmp_path)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] |= changes
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match=told) as caught:
        open_model(source)
    assert "egolive quantize" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["compressed-tensors-sym", "gptq-sym", "awq-gemm"])
@pytest.mark.parametrize("spoil", ["missing", "shape"])
def test_a_spoilt_tensor_is_told_in_one_line(name: str, spoil: str, tmp_path: Path) -> None:
    source = checkpoint(name, tmp_path)
    tensors = load_file(source / "model.safetensors")
    key = next(key for key in tensors if key.endswith((".weight_scale", ".scales")))
    if spoil == "missing":
        del tensors[key]
    else:
        tensors[key] = torch.ones(3, 3)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match=key.rpartition(".")[2]) as caught:
        open_model(source)
    assert "\n" not in str(caught.value)


def test_one_checkpoint_gives_every_engine_the_same_numbers(tmp_path: Path) -> None:
    """Made once, and re-packed: the bytes are those that the original checkpoint gives."""
    build_checkpoint("nano", tmp_path / "packed")
    for source, out in (("nano", "direct"), (str(tmp_path / "packed"), "through")):
        build_onnx(source, tmp_path / out, Recipe(precision="int4", tower_bits=8))
        recipe = Recipe(precision="int4", dtype="bf16", block=128, head_bits=32, standard=True)
        build_onnx(source, tmp_path / f"{out}-graphs", recipe)
    for name in ("decoder.data", "tower.data"):
        for kind in ("", "-graphs"):
            direct, through = (tmp_path / f"{out}{kind}" / name for out in ("direct", "through"))
            assert direct.read_bytes() == through.read_bytes()
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    assert config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"] == 128
    assert not list((tmp_path / "packed").glob("unfinished*"))
    with pytest.raises(ConfigError, match="holds something else"):
        build_checkpoint("nano", tmp_path / "packed")


def test_a_checkpoint_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from egolive.quantize.methods import compressed_tensors
    from egolive.quantize.weights import tensor_file

    monkeypatch.setattr(compressed_tensors, "_FILE_BYTES", 2_000_000)
    write = tensor_file.write_tensors
    written: list[str] = []

    def stopped(path: Path, parts: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, parts)

    with monkeypatch.context() as patch:
        patch.setattr(compressed_tensors, "write_tensors", stopped)
        with pytest.raises(KeyboardInterrupt):
            build_checkpoint("nano", tmp_path / "packed")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "packed").glob("*.safetensors")}
    assert len(before) == 2
    build_checkpoint("nano", tmp_path / "packed")
    build_checkpoint("nano", tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "packed" / path.name).read_bytes() == path.read_bytes()
    assert all((tmp_path / "packed" / name).stat().st_mtime_ns == time for name, time in before.items())
