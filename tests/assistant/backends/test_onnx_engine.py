"""The ONNX Runtime engine against the torch engine: the same passes, the same reuse, the same answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantizing import SIZE, logits_of_many_passes

from egolive.assistant.backends.onnx.token_table import token_table
from egolive.assistant.generation.audit import Audit
from egolive.assistant.generation.generate import Sampling
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.engine_folder import EMBEDDINGS_FILE, read_engine_card
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import NANO
from egolive.quantize.build import Precision, Recipe, build_onnx
from egolive.streaming.errors import EngineError
from egolive.streaming.frames import Frame, Slice
from egolive.streaming.pipeline.windowing import Windows


@pytest.fixture(scope="module", params=["full", "int8", "int4"])
def engine_folder(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    precision: Precision = request.param
    out = tmp_path_factory.mktemp("engines") / f"onnx-{precision}"
    build_onnx(str(tiny_checkpoint), out, Recipe(precision=precision, block=32), size=SIZE)
    return out


@pytest.fixture(scope="module")
def fp32_folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engines") / "onnx-fp32"
    build_onnx(str(tiny_checkpoint), out, Recipe(), size=SIZE)
    return out


def test_every_way_of_reading_gives_torchs_logits(fp32_folder: Path, tiny_checkpoint: Path) -> None:
    """Two rows in one pass, three branches side by side, a rewind, a prune, a fork."""
    _, ours = load_engine(str(fp32_folder), device="cpu").backend()
    _, torchs = load_engine(str(tiny_checkpoint), device="cpu").backend()
    for found, expected in zip(logits_of_many_passes(ours), logits_of_many_passes(torchs), strict=True):
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-4)


def test_a_token_out_of_place_would_be_noticed(fp32_folder: Path) -> None:
    """What the comparison above rests on: a position off by one changes the logits by far more."""
    _, decoder = load_engine(str(fp32_folder), device="cpu").backend()
    embed = decoder.embed

    def shifted(tokens: list[int]) -> torch.Tensor:
        return embed([token + 1 for token in tokens])

    expected = logits_of_many_passes(decoder)
    decoder.embed = shifted  # type: ignore[method-assign,assignment]
    found = logits_of_many_passes(decoder)
    assert float((found[0] - expected[0]).abs().max()) > 1e-2


def test_answers_with_all_reuse_pass_a_whole_audit(engine_folder: Path) -> None:
    engine = load_engine(str(engine_folder), device="cpu", threads=1)
    audit = Audit(engine, 1.0)
    rng = np.random.default_rng(0)
    windows = Windows(2)
    profile = replace(NANO, picture=SIZE)
    questions = [Question("intent"), Question("ground", "left hand"), Question("ground", "right hand")]
    with Assistant(engine, profile, sampling=Sampling(max_tokens=8), audit=audit) as assistant:
        for number in range(6):
            first, second = (
                Frame(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8), index * 0.5, index)
                for index in (2 * number, 2 * number + 1)
            )
            window = windows.push(Slice(first, second, number))
            answers = list(assistant.answer(questions, window=window))
            assert len(answers) == 3
    assert (audit.counts.checked, audit.counts.errors) == (18, 0)
    if engine.info.precision == "fp32":
        assert audit.counts.ties == 0


def test_pictures_of_another_size_are_refused_in_one_line(fp32_folder: Path) -> None:
    engine = load_engine(str(fp32_folder), device="cpu")
    tower, _ = engine.backend()
    frame = np.zeros((84, 84, 3), dtype=np.uint8)
    with pytest.raises(EngineError, match="exported for pictures of 84x56, got 84x84"):
        tower.encode(*engine.preprocessor.patches([frame], 84, 84))


def test_embeddings_are_read_from_the_file_as_they_are_needed(fp32_folder: Path) -> None:
    table = token_table(fp32_folder, read_engine_card(fp32_folder))
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert EMBEDDINGS_FILE in mapped.read_text()
    _, decoder = load_engine(str(fp32_folder), device="cpu").backend()
    assert torch.equal(decoder.embed([3, 5]), table.rows([3, 5]))


def test_keys_and_values_are_appended_in_place(fp32_folder: Path) -> None:
    """One row grows in its own buffer: nothing of what it has read is copied from step to step."""
    _, decoder = load_engine(str(fp32_folder), device="cpu").backend()
    from egolive.assistant.runtime.backend import ForwardInput

    row = decoder.new_cache()
    places = np.tile(np.arange(8), (3, 1))
    decoder.forward([ForwardInput(row, decoder.embed([1, 2, 3]), places[:, :3])])
    buffer = row.room(0)  # type: ignore[attr-defined]
    before = buffer[..., :3, :].clone()
    decoder.forward([ForwardInput(row, decoder.embed([4]), places[:, 3:4])])
    assert row.room(0).data_ptr() == buffer.data_ptr()  # type: ignore[attr-defined]
    assert torch.equal(buffer[..., :3, :], before)


def test_a_long_prompt_is_read_in_chunks(fp32_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from egolive.assistant.runtime.backend import ForwardInput

    whole: Any = load_engine(str(fp32_folder), device="cpu").backend()[1]
    monkeypatch.setattr("egolive.assistant.backends.onnx.onnx_engine._CHUNK", 5)
    chunked: Any = load_engine(str(fp32_folder), device="cpu").backend()[1]
    passes: list[int] = []
    run = chunked._graph.run

    def counted(inputs: Any, *rest: Any) -> None:
        passes.append(inputs["embeddings"][1][1])
        run(inputs, *rest)

    monkeypatch.setattr(chunked._graph, "run", counted)
    embeddings, places = whole.embed(range(13)), np.tile(np.arange(13), (3, 1))
    found = [
        decoder.forward([ForwardInput(decoder.new_cache(), embeddings, places, keep=9)])[0]
        for decoder in (whole, chunked)
    ]
    assert passes == [5, 5, 3]
    assert (found[0] - found[1]).abs().max() <= 1e-5 * found[0].abs().max()
