"""Comparisons of engines: what is paired, what counts as the same, and what is written where."""

from __future__ import annotations

import json
import math
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

from egolive.assistant.schema.engine import EngineInfo
from egolive.quantize.build import Recipe, build_onnx
from egolive.quantize.measure import compare_engines as compare_module
from egolive.quantize.measure.answer_quality import Given, Kind, agreement, loss, same_box
from egolive.quantize.measure.compare_engines import compare
from egolive.quantize.measure.token_agreement import Spoken, compare_tokens
from egolive.streaming.errors import ConfigError, DataError, EngineError
from egolive.streaming.frames import Box

NANO = Path(str(resources.files("egolive.assistant"))) / "nano"


def given(scores: list[float], kind: Kind = "box", per_episode: int = 2, text: str = "") -> list[Given]:
    return [Given(place // per_episode, kind, score, text, None) for place, score in enumerate(scores)]


def test_a_loss_is_told_question_by_question() -> None:
    before, after = given([1.0, 0.5, 0.8, 0.4]), given([0.5, 0.5, 0.7, 0.4])
    middle, low, high = loss(before, after, "box")
    assert middle == pytest.approx(0.15)
    # Two episodes: the interval's ends are those of one drawn twice.
    assert [low, high] == pytest.approx([0.05, 0.25])
    assert loss(before, before, "box") == (0.0, 0.0, 0.0)
    assert all(math.isnan(value) for value in loss(before, after, "intent"))


def test_an_engine_that_is_better_has_a_loss_below_zero() -> None:
    assert loss(given([0.0, 0.0]), given([1.0, 1.0]), "box")[0] == -1.0


def test_boxes_are_compared_by_their_corners() -> None:
    def one(*boxes: Box | None) -> list[Given]:
        return [Given(0, "box", 0.0, "", box) for box in boxes]

    box, scored, half = Box(0, 0, 10, 10), Box(0, 0, 10, 10, score=0.5), Box(0, 0, 10, 5)
    assert agreement(one(box, box, None), one(scored, half, None)) == pytest.approx(2 / 3)
    assert same_box(one(box, box, None, None), one(scored, half, box, None)) == pytest.approx(1.5 / 3)


def test_what_was_not_asked_is_unknown_and_the_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = compare_module._quality(given([1.0, 0.5]), given([0.5, 0.5]))
    assert (found["miou"], found["miou_loss"]) == (0.5, 0.25)
    assert (found["intent_acc"], found["intent_acc_loss"], found["intent_acc_loss_ci"]) == (
        None,
        None,
        [None, None],
    )
    assert json.dumps(found, allow_nan=False)
    row = dict.fromkeys(compare_module._COLUMNS, 1.0) | found | {"name": "a", "kl": None}
    assert compare_module.markdown([row]).count("unknown") == 3


def spoken(tokens: list[int], margins: list[float], likely: float = 0.9) -> Spoken:
    row = torch.tensor([likely, 1 - likely]).log()
    # Probabilities are read along the first engine's answer, three tokens here.
    return Spoken(tuple(tokens), tuple(margins), row.expand(3, -1).half())


@pytest.mark.parametrize(
    ("tokens", "margin", "found"),
    [
        ([1, 2, 3], 5.0, (1, 0, 0)),
        ([1, 5, 3], 5e-4, (0, 1, 0)),
        ([1, 5, 3], 5.0, (0, 0, 1)),
        ([1, 2], 5.0, (0, 0, 1)),
    ],
    ids=["same", "tie", "other", "shorter"],
)
def test_answers_are_the_same_or_part_at_a_tie_or_are_others(
    tokens: list[int], margin: float, found: tuple[int, int, int]
) -> None:
    first = spoken([1, 2, 3], [5.0, margin, 5.0])
    figures = compare_tokens([first], [spoken(tokens, [5.0] * len(tokens))], tie=1e-3)
    assert (figures["answers_same"], figures["answers_tied"], figures["answers_other"]) == found


def test_divergence_is_that_of_the_probabilities() -> None:
    first, second = spoken([1, 2, 3], [1, 1, 1], 0.9), spoken([1, 2, 3], [1, 1, 1], 0.5)
    assert compare_tokens([first], [first], tie=1e-3)["kl"] == 0
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert compare_tokens([first], [second], tie=1e-3)["kl"] == pytest.approx(expected, abs=1e-3)
    assert compare_tokens([first], [second], tie=1e-3)["kl_tokens"] == 3


def test_engines_of_different_checkpoints_are_not_compared(tiny_checkpoint: Path, tmp_path: Path) -> None:
    build_onnx(str(tiny_checkpoint), tmp_path / "engine", Recipe(), size=(56, 84))
    with pytest.raises(DataError, match="different checkpoints"):
        compare(["nano", str(tmp_path / "engine")], episodes=1, windows=1)


@pytest.mark.slow
def test_a_comparison_fills_table_file_plot_and_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (NANO / "model.safetensors").is_file():
        pytest.skip("the bundled model has not been trained yet")
    keys = ("peak_mb", "load_s", "encode_ms", "prefill_tok_s", "tok_s")
    speed: dict[str, Any] = dict.fromkeys(keys, 1.0)
    monkeypatch.setattr(compare_module, "measure_apart", lambda model, device, threads: speed)
    monkeypatch.setattr("egolive.quantize.measure.answer_quality._HOP", 8)
    engine = tmp_path / "onnx-fp32"
    build_onnx("nano", engine, Recipe())
    json_file, plot = tmp_path / "out.json", tmp_path / "out.png"
    compare(["nano", str(engine)], episodes=1, windows=3, json_file=json_file, plot=plot)
    told = capsys.readouterr()
    assert "| onnx-fp32 |" in told.err
    found = json.loads(json_file.read_text())
    assert json.loads(told.out) == found
    first, second = found["engines"]
    assert [first["name"], second["name"]] == ["torch-fp32", "onnx-fp32"]
    assert second["answers_same"] + second["answers_tied"] == second["answers"] == 3
    assert abs(second["kl"]) < 1e-5
    assert (second["agreement"], second["miou_loss"]) == (1.0, 0.0)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert json.loads((engine / "engine.json").read_text())["loss"]["reference"] == "torch-fp32"
    assert "Against torch-fp32" in (engine / "README.md").read_text()


def test_a_training_folder_is_compared_as_the_checkpoint_in_it(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "run" / "model")
    asked: list[str] = []

    def measured(model: str, **_: Any) -> dict[str, Any]:
        asked.append(model)
        raise EngineError("far enough")

    monkeypatch.setattr(compare_module, "measure_apart", measured)
    with pytest.raises(EngineError, match="far enough"):
        compare([str(tmp_path / "run"), str(tmp_path / "run" / "model")], episodes=1, windows=1)
    assert asked == [str(tmp_path / "run" / "model")]


def test_engines_on_different_devices_are_not_compared(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = iter(("cuda:0", "cpu"))

    class Loaded:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.info = EngineInfo("x", "torch", "bf16", next(devices), "small", 1)

        def close(self) -> None:
            """Nothing is open."""

    monkeypatch.setattr(compare_module, "measure_apart", lambda *_, **__: {})
    monkeypatch.setattr(compare_module, "load_engine", Loaded)
    monkeypatch.setattr(compare_module, "ask_episodes", lambda *_, **__: [])
    monkeypatch.setattr(compare_module, "speak", lambda *_: [])
    monkeypatch.setattr(compare_module, "_quality", lambda *_: {})
    monkeypatch.setattr(compare_module, "_tokens", lambda *_: {})
    with pytest.raises(ConfigError, match=r"runs on cpu and .* on cuda:0: say --device cpu"):
        compare([str(tiny_checkpoint)] * 2, episodes=1, windows=1)
