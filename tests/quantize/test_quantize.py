"""What quantisation changes and what it leaves alone, counted in the files that are written."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from checkpoints import TEXT, VISION, make_checkpoint
from onnx import TensorProto, numpy_helper
from quantizing import SIZE, answers
from safetensors.torch import load_file

from egolive.assistant.backends.onnx.token_table import token_table
from egolive.assistant.cli.main import call
from egolive.assistant.load_local import compute_in, load_engine, load_transformers_model
from egolive.assistant.model.engine_folder import read_engine_card
from egolive.assistant.runtime.backend import ForwardInput
from egolive.quantize import build
from egolive.quantize.build import Recipe, build_onnx
from egolive.quantize.methods.awq import rounded, scales_of
from egolive.quantize.methods.calibration import simulated_windows
from egolive.quantize.onnx.decoder_graph import apart
from egolive.quantize.weights.forms import DenseWeight
from egolive.quantize.weights.rounding import blocks_of
from egolive.streaming.errors import ConfigError, EngineError

LAYERS = 2
WIDE = {**TEXT, "hidden_size": 128, "intermediate_size": 256}
"""Widths in multiples of 128, as groups of AWQ need."""


@pytest.fixture(scope="module")
def wide_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
    text = {**WIDE, "rope_parameters": rope}
    return make_checkpoint(folder, text=text, vision={**VISION, "hidden_size": 128}, tied=True)


def graph(folder: Path, name: str) -> onnx.GraphProto:
    return onnx.load(folder / name).graph


def kinds(graph: onnx.GraphProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.node)


def assert_tower_is_kept(folder: Path, checkpoint: Path) -> None:
    """Every weight of the checkpoint's tower stands in the file, bit for bit."""
    tower = graph(folder, "tower.onnx")
    assert not kinds(tower) & Counter({"MatMulNBits": 1, "DequantizeLinear": 1})
    held = {numpy_helper.to_array(weight).tobytes() for weight in tower.initializer}
    visual = load_transformers_model(checkpoint, torch.device("cpu"), torch.float32).model.visual
    for weight in visual.parameters():
        flat = weight.detach().flatten(1) if weight.ndim > 1 else weight.detach()
        assert np.ascontiguousarray(flat.numpy().T).tobytes() in held


@pytest.mark.parametrize(("bits", "block"), [(4, 32), (4, 128), (8, 32), (8, 128)])
def test_no_weight_moves_by_more_than_half_a_step(bits: int, block: int) -> None:
    weight = np.random.default_rng(0).standard_normal((256, 24)).astype(np.float32)
    blocks = blocks_of(DenseWeight(torch.from_numpy(weight.T.copy())), bits, block)
    assert blocks.packed.shape == (24, 256 // block, block * bits // 8)
    step = np.repeat(np.abs(blocks.scales), block, axis=1)
    moved = np.abs(blocks.values().numpy() - weight.T)
    assert (moved <= 0.5 * step * 1.02 + 1e-6).mean() > 0.98
    # The largest weight of a block may be clipped, by two steps at most.
    assert (moved <= 2.1 * step + 1e-6).all()
    # TensorRT takes no other scales.
    assert bits == 8 or (blocks.scales > 0).all()
    # Any rows of it can be read alone.
    assert torch.equal(blocks.values(5, 9), blocks.values()[5:9])


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_all_text_layers_are_quantised_and_nothing_else(
    tiny_checkpoint: Path, tmp_path: Path, precision: str
) -> None:
    out = tmp_path / precision
    card = build_onnx(str(tiny_checkpoint), out, Recipe(precision=precision, block=32), size=SIZE)  # type: ignore[arg-type]
    decoder = graph(out, "decoder.onnx")
    found = [node for node in decoder.node if node.op_type == "MatMulNBits"]
    # Queries, keys and values are one product, and so are the two first of the MLP.
    assert len(found) == 4 * LAYERS + 1
    bits = {node.name.split("/")[0]: next(a.i for a in node.attribute if a.name == "bits") for node in found}
    assert bits.pop("lm_head") == 8
    assert set(bits.values()) == {int(precision[3:])}
    # What is left of MatMul are the two products of each attention.
    assert kinds(decoder)["MatMul"] == 2 * LAYERS
    assert_tower_is_kept(out, tiny_checkpoint)
    assert card.precision == {"tower": "fp32", "decoder": precision, "head": "int8", "embeddings": "fp32"}
    assert card.made["parity"]["decoder"] < 1e-4 < card.made["parity"]["decoder_as_it_runs"]


def test_layers_of_one_input_are_one_product_with_the_same_results(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(precision="int4", block=32)
    build_onnx(str(tiny_checkpoint), tmp_path / "joined", recipe, size=SIZE)
    monkeypatch.setattr(build, "block_joiner", lambda *_: apart)
    build_onnx(str(tiny_checkpoint), tmp_path / "apart", recipe, size=SIZE)
    products = [
        [node for node in graph(tmp_path / name, "decoder.onnx").node if node.op_type == "MatMulNBits"]
        for name in ("joined", "apart")
    ]
    assert [len(found) for found in products] == [4 * LAYERS + 1, 7 * LAYERS + 1]
    logits = []
    for name in ("joined", "apart"):
        with closing(load_engine(str(tmp_path / name), device="cpu")) as engine:
            _, decoder = engine.backend()
            given = decoder.embed([3, 1, 4, 1, 5, 9, 2, 6])
            places = np.tile(np.arange(8), (3, 1))
            logits += decoder.forward([ForwardInput(decoder.new_cache(), given, places, keep=8)])
    joined, separate = logits
    assert torch.allclose(joined, separate, rtol=0, atol=1e-6 * float(separate.abs().max()))


@pytest.mark.parametrize(("head_bits", "dtype"), [(8, "fp32"), (4, "fp32"), (32, "fp32"), (8, "bf16")])
def test_embeddings_that_are_the_last_layer_are_stored_once(
    wide_checkpoint: Path, tmp_path: Path, head_bits: int, dtype: Literal["fp32", "bf16"]
) -> None:
    out = tmp_path / "engine"
    recipe = Recipe(precision="int4", head_bits=head_bits, head_block=32, dtype=dtype)
    card = build_onnx(str(wide_checkpoint), out, recipe, size=SIZE)
    assert not (out / "embeddings.safetensors").exists()
    assert card.precision["embeddings"] == card.precision["head"]
    table = token_table(out, read_engine_card(out))
    model = load_transformers_model(wide_checkpoint, torch.device("cpu"), torch.float32)
    weight = model.lm_head.weight
    found = table.rows(range(len(weight))).float()
    few = {4: 0.2, 8: 0.01, 32: 0.0}[head_bits] if dtype == "fp32" else 0.01
    assert (found - weight).norm() <= few * weight.norm()
    assert found.shape == weight.shape


def test_a_last_layer_at_full_precision_is_an_option(tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe(precision="int4", block=32, head_bits=32)
    build_onnx(str(tiny_checkpoint), tmp_path / "int4", recipe, size=SIZE)
    assert kinds(graph(tmp_path / "int4", "decoder.onnx"))["MatMulNBits"] == 4 * LAYERS


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_awq_is_written_in_standard_nodes_with_its_scales(
    wide_checkpoint: Path, tmp_path: Path, dtype: Literal["fp32", "bf16"]
) -> None:
    out = tmp_path / "awq"
    windows = simulated_windows(1, 2)
    recipe = Recipe(precision="awq-int4", dtype=dtype)
    card = build_onnx(str(wide_checkpoint), out, recipe, size=SIZE, windows=windows)
    decoder = graph(out, "decoder.onnx")
    found = [node for node in decoder.node if node.op_type == "DequantizeLinear"]
    assert len(found) == 7 * LAYERS
    assert {node.domain for node in decoder.node if node.op_type != "MatMulNBits"} == {""}
    assert [node.name for node in decoder.node if node.op_type == "MatMulNBits"] == ["lm_head/matmul"]
    types = {weight.name: weight.data_type for weight in decoder.initializer}
    for node in found:
        assert types[node.input[0]] == TensorProto.INT4
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        assert attributes == {"axis": 0, "block_size": 128}
    scaled = [node for node in decoder.node if node.name.endswith("/input_scale")]
    assert len(scaled) == 7 * LAYERS
    # The graph against modelopt's own fake quantisation.
    assert card.made["parity"]["decoder"] <= 1e-3
    if dtype == "fp32":
        assert_tower_is_kept(out, wide_checkpoint)
    else:
        scales = [types[node.input[1]] for node in found]
        assert set(scales) == {TensorProto.BFLOAT16}


def test_awq_refuses_widths_that_its_groups_do_not_fit(tiny_checkpoint: Path, tmp_path: Path) -> None:
    windows = simulated_windows(1, 1)
    with pytest.raises(ConfigError, match="multiples of 128"):
        build_onnx(
            str(tiny_checkpoint), tmp_path / "awq", Recipe(precision="awq-int4"), size=SIZE, windows=windows
        )
    assert list(tmp_path.iterdir()) == []


def test_bf16_is_written_as_bf16_and_checked(tiny_checkpoint: Path, tmp_path: Path) -> None:
    card = build_onnx(str(tiny_checkpoint), tmp_path / "bf16", Recipe(dtype="bf16"), size=SIZE)
    for name in ("tower.onnx", "decoder.onnx"):
        found = graph(tmp_path / "bf16", name)
        wide = [w.name for w in found.initializer if w.data_type == TensorProto.FLOAT]
        # Positions and the few numbers of the softmax and the norms are computed in fp32.
        assert all(text.startswith(("rope.", "number_")) for text in wide)
    assert set(card.precision.values()) == {"bf16"}
    assert card.made["parity"]["decoder"] < 1e-4
    # Positions turn by what the configuration says, not by its nearest bf16.
    text = json.loads((tiny_checkpoint / "config.json").read_text())["text_config"]
    width = text["hidden_size"] // text["num_attention_heads"]
    theta = text["rope_parameters"]["rope_theta"]
    frequencies = {w.name: w for w in graph(tmp_path / "bf16", "decoder.onnx").initializer}[
        "rope.frequencies"
    ]
    expected = theta ** (-np.arange(0, width, 2) / width)
    assert numpy_helper.to_array(frequencies).ravel() == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_nf4_takes_the_text_layers_alone_and_loads_again(tiny_checkpoint: Path, tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from egolive.quantize.methods.bnb import build_torch

    out = tmp_path / "nf4"
    card = build_torch(str(tiny_checkpoint), out, "nf4")
    assert (card.backend, card.precision["decoder"], card.precision["tower"]) == ("torch", "nf4", "fp32")
    model = load_transformers_model(out, torch.device("cpu"), None)
    quantised = [name for name, m in model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(quantised) == 7 * LAYERS
    assert all(".language_model." in name for name in quantised)
    before = load_transformers_model(
        tiny_checkpoint, torch.device("cpu"), torch.float32
    ).model.visual.state_dict()
    assert all(torch.equal(before[name], weight) for name, weight in model.model.visual.state_dict().items())
    assert load_engine(str(out), device="cpu").info.precision == "nf4"
    assert answers(str(out)) == answers(str(out))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["nf4", "bnb-int8"])
def test_what_bitsandbytes_leaves_alone_is_stored_as_it_was_and_gives_the_same_answers(
    precision: Literal["nf4", "bnb-int8"], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    from egolive.quantize.methods.bnb import build_torch

    short = make_checkpoint(tmp_path / "bf16", text=TEXT, vision=VISION, dtype=torch.bfloat16)
    load_transformers_model(short, torch.device("cpu"), torch.float32).save_pretrained(tmp_path / "fp32")
    for path in short.glob("*token*"):
        shutil.copy(path, tmp_path / "fp32")
    found = []
    for kind in ("bf16", "fp32"):
        out = tmp_path / f"{kind}-quantised"
        card = build_torch(str(tmp_path / kind), out, precision)
        assert (card.precision["tower"], card.precision["head"]) == (kind, kind)
        assert (
            load_file(out / "model.safetensors")["lm_head.weight"].dtype
            == {
                "bf16": torch.bfloat16,
                "fp32": torch.float32,
            }[kind]
        )
        found.append(answers(str(out)))
    assert found[0] == found[1]


@pytest.mark.slow
def test_nf4_computes_in_the_type_that_it_is_told_to(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from egolive.quantize.methods.bnb import build_torch

    build_torch(str(tiny_checkpoint), tmp_path / "nf4", "nf4")
    multiply = bitsandbytes.matmul_4bit
    computed: Counter[torch.dtype] = Counter()

    def spied(left: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        computed[left.dtype] += 1
        product: torch.Tensor = multiply(left, *args, **kwargs)
        return product

    monkeypatch.setattr(bitsandbytes, "matmul_4bit", spied)
    logits = []
    for dtype in (torch.float32, torch.bfloat16):
        model = load_transformers_model(tmp_path / "nf4", torch.device("cpu"), dtype)
        compute_in(model, dtype)
        assert {weights.dtype for weights in model.parameters()} == {dtype, torch.uint8}
        with torch.inference_mode():
            logits.append(model(input_ids=torch.arange(20)[None]).logits.float())
            model.model.visual(torch.zeros(4, 1176, dtype=dtype), torch.tensor([[1, 2, 2]]))
        assert computed == {dtype: 7 * LAYERS}
        computed.clear()
    exact, rounded_off = logits
    # These weights are wide, so single logits differ by more.
    assert (exact - rounded_off).norm() < 0.05 * exact.norm()


def test_a_training_folder_becomes_an_engine(tiny_checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(tiny_checkpoint)
    card = build_onnx(str(run), tmp_path / "engine", Recipe(), size=SIZE)
    assert card.source["name"] == str(run)
    assert answers(str(tmp_path / "engine")) == answers(str(tiny_checkpoint))


@pytest.mark.slow
def test_lora_weights_are_merged_into_their_base(tiny_checkpoint: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = load_transformers_model(tiny_checkpoint, torch.device("cpu"), torch.float32)
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, settings)
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_checkpoint)
    adapted.save_pretrained(tmp_path / "lora")
    build_onnx(str(tmp_path / "lora"), tmp_path / "engine", Recipe(), size=SIZE)
    found = answers(str(tmp_path / "engine"))
    assert found != answers(str(tiny_checkpoint))
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    for path in tiny_checkpoint.glob("tokenizer*"):
        (tmp_path / "merged" / path.name).write_bytes(path.read_bytes())
    assert found == answers(str(tmp_path / "merged"))


def test_an_adapter_without_its_base_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(EngineError, match="does not name the model"):
        build_onnx(str(tmp_path / "lora"), tmp_path / "engine", Recipe())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["quantize", "nano"], "--out"),
        (["quantize", "--compare", "nano"], "at least two engines"),
        (["export", "nano", "--out", "{}", "--height", "140"], "--height and --width"),
        (["quantize", "nano", "--out", "{}", "--to", "nf4", "--dtype", "bf16"], "are not for nf4"),
        (["quantize", "nano", "--out", "{}", "--to", "fp16"], "int4"),
        (["export", "/nowhere", "--out", "{}"], "there is no folder"),
    ],
)
def test_a_wrong_call_is_told_in_one_line(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([text.format(tmp_path / "engine") for text in arguments]) in (1, 2)
    error = capsys.readouterr().err.strip()
    assert told in error
    assert error.count("\n") == 0


def test_a_quantised_checkpoint_that_is_loaded_as_it_is_tells_what_to_do(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "awq"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match=r"egolive quantize .* --to int4") as caught:
        load_engine(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


def test_weights_half_a_step_from_both_go_where_modelopt_sends_them() -> None:
    modelopt = pytest.importorskip("modelopt.torch.quantization.tensor_quant")
    torch.manual_seed(0)
    largest = torch.rand(4096, 1) + 0.1
    steps = scales_of(largest)
    halves = torch.arange(-7, 7) + 0.5
    weight = halves * steps
    theirs = modelopt.fake_tensor_quant(weight, steps * 7, None, 4, False, False)
    assert torch.equal(torch.round(theirs / steps), rounded(weight, steps))
    # The case is a real one: rounding the quotient differs.
    assert not torch.equal(torch.round(weight / steps), rounded(weight, steps))
