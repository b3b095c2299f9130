"""Engines are made one layer at a time: what comes out is what the whole model at once would give."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from checkpoints import TEXT, VISION, make_checkpoint
from onnx import numpy_helper
from quantizing import SIZE

from egolive.assistant.backends.torch.torch_decoder import TorchDecoder
from egolive.assistant.backends.torch.torch_engine import TorchTower
from egolive.assistant.load_local import load_transformers_model
from egolive.assistant.model.engine_folder import EngineCard, read_engine_card, verify_files
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.schema.profiles import load_profile
from egolive.assistant.schema.tokenizer import load_tokenizer
from egolive.quantize import quantize_commands
from egolive.quantize.build import Recipe, build_onnx
from egolive.quantize.methods import awq, awq_estimate
from egolive.quantize.methods.calibration import shown_windows, simulated_windows
from egolive.quantize.onnx.parity import Probe
from egolive.quantize.onnx.reference import StoredDecoder
from egolive.quantize.output_folder import new_folder, unfinished_about
from egolive.quantize.weights.lazy_model import open_model

CPU = torch.device("cpu")
LAYERS = 3


@pytest.fixture(scope="module")
def short_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In bf16, as the real ones are, in several files."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
    text = {
        **TEXT,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": LAYERS,
        "rope_parameters": rope,
    }
    folder = tmp_path_factory.mktemp("short")
    vision = {**VISION, "hidden_size": 128}
    return make_checkpoint(folder, text=text, vision=vision, dtype=torch.bfloat16, shard_size="300KB")


def probe_of(checkpoint: Path) -> Probe:
    from egolive.quantize.output_folder import model_shapes
    from egolive.quantize.weights.lazy_model import model_config

    config = model_config(checkpoint)
    tokenizer = load_tokenizer(
        checkpoint, image_token=config.image_token_id, video_token=config.video_token_id
    )
    return Probe(model_shapes(config, SIZE), tokenizer, Preprocessor.from_folder(checkpoint))


def test_a_model_that_stays_in_its_files_computes_what_the_loaded_one_does(short_checkpoint: Path) -> None:
    probe = probe_of(short_checkpoint)
    stored, form = open_model(short_checkpoint)
    assert form is None
    loaded = load_transformers_model(short_checkpoint, CPU, torch.float32)
    slices = probe.slices(TorchTower(loaded))
    for ours, theirs in zip(probe.slices(TorchTower(stored)), slices, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    expected = probe.logits(TorchDecoder(loaded), slices)
    for parts in (False, True):
        found = probe.logits(StoredDecoder(stored), slices, parts=parts)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    # None of its large weights is a parameter, in memory.
    held = sum(weight.numel() for weight in stored.parameters())
    assert held < 0.1 * sum(weight.numel() for weight in loaded.parameters())


def test_a_layer_that_is_wrong_is_named(
    short_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from egolive.quantize.weights.forms import Blocks
    from egolive.streaming.errors import EngineError

    values = Blocks.values

    def otherwise(blocks: Blocks, start: int = 0, stop: int | None = None) -> torch.Tensor:
        found = values(blocks, start, stop)
        # What the file holds of the gates and what goes up, 256 outputs, is not what torch is given.
        return found + 0.1 if blocks.rows == 256 else found

    monkeypatch.setattr(Blocks, "values", otherwise)
    with pytest.raises(EngineError, match="decoder's layer 0 differs"):
        build_onnx(str(short_checkpoint), tmp_path / "engine", Recipe(precision="int8"), size=SIZE)


@pytest.mark.robustness
def test_awq_finds_layer_by_layer_what_it_finds_in_the_whole_model(
    short_checkpoint: Path, tmp_path: Path
) -> None:
    mtq = pytest.importorskip("modelopt.torch.quantization")
    profile, preprocessor = load_profile(short_checkpoint), Preprocessor.from_folder(short_checkpoint)
    model, _ = open_model(short_checkpoint)
    config = model.config
    tokenizer = load_tokenizer(
        short_checkpoint, image_token=config.image_token_id, video_token=config.video_token_id
    )
    shown = shown_windows(simulated_windows(2, 2), profile, tokenizer, preprocessor)(model)
    samples = list(shown())
    whole: Any = load_transformers_model(short_checkpoint, CPU, torch.float32).model.language_model

    def show(module: Any) -> None:
        for embeddings, positions in samples:
            module(inputs_embeds=embeddings[None], position_ids=positions[:, None], use_cache=False)

    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        mtq.quantize(whole, mtq.INT4_AWQ_CFG, show)
    search = awq.LayerSearch(model, shown, tmp_path)
    compared, copies = 0, list[int]()
    # So that nothing goes by chance.
    gc.disable()
    for number in range(LAYERS):
        ours, theirs = search.layer(number), whole.layers[number]
        matrices = [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
        copies.append(sum(one.shape == theirs.mlp.down_proj.weight.shape for one in matrices))
        del matrices
        for name, module in theirs.named_modules():
            if not hasattr(module, "weight_quantizer"):
                continue
            mine = ours.get_submodule(name)
            assert torch.equal(mine.weight, module.weight)
            assert torch.equal(mine.weight_quantizer.amax, module.weight_quantizer.amax)
            assert torch.equal(mine.input_quantizer.pre_quant_scale, module.input_quantizer.pre_quant_scale)
            compared += 1
        del ours, mine
    gc.enable()
    assert compared == 7 * LAYERS
    # One layer alone is in memory, not those before it.
    assert len(set(copies[1:])) == 1, copies
    # Going on from what the disk holds, and from the beginning, finds the same.
    for again in (awq.LayerSearch(model, shown, tmp_path), awq.LayerSearch(model, shown, tmp_path / "none")):
        (tmp_path / "none").mkdir(exist_ok=True)
        mine = again.layer(LAYERS - 1).mlp.down_proj
        assert torch.equal(mine.weight, whole.layers[LAYERS - 1].mlp.down_proj.weight)


@contextmanager
def stopping_after(layers: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends the writing of a decoder after some layers, as Ctrl-C does."""
    from egolive.quantize.onnx.onnx_graph import Graph

    keep = Graph.keep
    count = 0

    def counted(graph: Graph) -> None:
        nonlocal count
        keep(graph)
        count += graph.path.name == "decoder.onnx"
        if count == layers:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Graph, "keep", counted)
        with pytest.raises(KeyboardInterrupt):
            yield


def held(folder: Path) -> dict[str, bytes]:
    """All weights of the two graphs."""
    found: dict[str, bytes] = {}
    for name in ("tower.onnx", "decoder.onnx"):
        graph = onnx.load(folder / name).graph
        found |= {f"{name} {w.name}": numpy_helper.to_array(w).tobytes() for w in graph.initializer}
    return found


@pytest.mark.parametrize("precision", ["int4", "int8", "full"])
def test_an_interrupted_build_goes_on_and_gives_the_same_bytes(
    short_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    from egolive.quantize.onnx import weights

    recipe = Recipe(precision=precision, tower_bits=8)
    whole = build_onnx(str(short_checkpoint), tmp_path / "whole", recipe, size=SIZE)
    out = tmp_path / "engine"
    with stopping_after(2, monkeypatch):
        build_onnx(str(short_checkpoint), out, recipe, size=SIZE)
    assert [path.name[:6] for path in out.iterdir()] == ["files-"]
    rounded: list[int] = []

    def counting(real: Any) -> Any:
        def count(weight: torch.Tensor, block: int) -> Any:
            rounded.append(block)
            return real(weight, block)

        return count

    for name in ("round_to_int4", "round_to_int8"):
        monkeypatch.setattr(weights, name, counting(getattr(weights, name)))
    card = build_onnx(str(short_checkpoint), out, recipe, size=SIZE)
    if precision != "full":
        # The last layer of the decoder and the head alone were still to do.
        assert len(rounded) == 7 + 1
    assert held(out) == held(tmp_path / "whole")
    assert card.files == whole.files
    verify_files(out, read_engine_card(out))
    assert not [path.name for path in out.iterdir() if path.name.startswith(("files-", "unfinished"))]
    assert not list(out.glob("*.journal"))


def test_another_recipe_takes_nothing_over(
    short_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "engine"
    with stopping_after(1, monkeypatch):
        build_onnx(str(short_checkpoint), out, Recipe(precision="int4"), size=SIZE)
    card: EngineCard = build_onnx(str(short_checkpoint), out, Recipe(precision="int8"), size=SIZE)
    assert card.precision["decoder"] == "int8"
    assert not list(out.glob("files-*"))


def test_awq_goes_on_with_the_number_of_windows_that_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine may be faster or slower by then, and another number would begin anew."""
    out = tmp_path / "engine"
    monkeypatch.setattr(awq_estimate, "windows_within_an_hour", lambda *_: 3)
    assert len(quantize_commands._shown("nano", out, "sim", None, 1)) == 3
    with pytest.raises(KeyboardInterrupt), new_folder(out, "key", about="2"):
        raise KeyboardInterrupt
    assert len(quantize_commands._shown("nano", out, "sim", None, 1)) == 2
    assert len(quantize_commands._shown("nano", out, "sim", 1, 1)) == 1
    assert unfinished_about(tmp_path / "none") == []


def test_a_journal_that_was_cut_off_counts_as_far_as_it_is_whole(
    short_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(precision="int4")
    out = tmp_path / "engine"
    with stopping_after(2, monkeypatch):
        build_onnx(str(short_checkpoint), out, recipe, size=SIZE)
    (inside,) = out.glob("files-*")
    journal = inside / "decoder.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    journal.write_bytes(lines[0] + lines[1][:-20])
    # What the journal does not tell of may be anything.
    with (inside / "decoder.data").open("r+b") as data:
        data.seek(-100, os.SEEK_END)
        data.write(b"\xff" * 300)
    build_onnx(str(short_checkpoint), out, recipe, size=SIZE)
    build_onnx(str(short_checkpoint), tmp_path / "whole", recipe, size=SIZE)
    assert held(out) == held(tmp_path / "whole")


@pytest.mark.robustness
@pytest.mark.parametrize("precision", ["int4", "awq-int4"])
def test_a_killed_command_goes_on(tmp_path: Path, precision: str) -> None:
    def command(out: Path) -> list[str]:
        shown = ["--windows", "2", "--slices", "2"] if precision == "awq-int4" else []
        return [
            *(sys.executable, "-m", "egolive.assistant.cli.main", "quantize", "nano"),
            *("--to", precision, "--out", str(out), *shown),
        ]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    out = tmp_path / "engine"
    kills = 0
    while True:
        child = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ends = time.monotonic() + 120
        seen = len(list(out.glob("files-*/decoder.journal")))
        lines = _lines(out)
        while child.poll() is None and time.monotonic() < ends and _lines(out) < lines + 1 + seen:
            time.sleep(0.01)
        if child.poll() is not None:
            break
        child.send_signal(signal.SIGKILL)
        child.wait()
        kills += 1
        assert kills < 20
    assert kills >= 2
    assert held(out) == held(tmp_path / "whole")


def _lines(out: Path) -> int:
    """Layers that the journal of an unfinished decoder tells of."""
    return sum(
        len(path.read_bytes().splitlines()) for path in out.glob("files-*/decoder.journal") if path.is_file()
    )


def test_a_last_layer_that_is_stored_is_not_the_embeddings_whatever_the_configuration_says(
    short_checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(short_checkpoint, tmp_path / "says-tied"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    build_onnx(str(folder), tmp_path / "engine", Recipe(precision="int8"), size=SIZE)
    assert (tmp_path / "engine" / "embeddings.safetensors").is_file()
