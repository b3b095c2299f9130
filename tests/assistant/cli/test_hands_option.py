"""`--hands` and `--hands-model` of the commands, with the detector itself where it is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import FakeEngine
from paths import REAL, needs_real
from PIL import Image as PillowImage
from seen_hands import bright

from egolive.assistant.cli import main as cli
from egolive.assistant.cli.options import ModelOptions
from egolive.assistant.hands import hand_choice
from egolive.assistant.hands.model_file import find_model, has_runtime

needs_hands = pytest.mark.skipif(
    not has_runtime() or find_model() is None, reason="the hand detector or its model is not installed"
)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(ModelOptions, "load", lambda self: fake)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of four pictures without a hand, two a second."""
    for index in range(4):
        PillowImage.fromarray(bright(0.0, 20 + index).image).save(tmp_path / f"{index}.png")
    return tmp_path


def types(out: str) -> set[str]:
    return {json.loads(line)["type"] for line in out.splitlines()}


@needs_hands
def test_the_detector_looks_unless_it_is_told_not_to(
    engine: FakeEngine, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["run", str(folder), "--json"]) == 0
    assert "hands" in types(capsys.readouterr().out)
    for hands in ("model", "off"):
        assert cli.call(["run", str(folder), "--json", "--hands", hands]) == 0
        captured = capsys.readouterr()
        assert types(captured.out) == {"answer", "metrics"}
        assert "hand detector" not in captured.err
    assert engine.closed


@needs_hands
def test_off_asks_nothing_about_hands(
    engine: FakeEngine, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["run", str(folder), "--json", "--hands", "off", "--phrase", "red mug"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event.get("phrase") for event in events if event.get("task") == "ground"} == {"red mug"}
    assert cli.call(["run", str(folder), "--hands", "off", "--tasks", "ground"]) == 2
    assert "nothing is asked" in capsys.readouterr().err


def test_a_detector_that_is_missing_is_told_once_and_the_run_goes_on(
    engine: FakeEngine,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hand_choice, "has_runtime", lambda: False)
    assert cli.call(["run", str(folder), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("no hand detector") == 1
    assert types(captured.out) == {"answer", "metrics"}
    assert cli.call(["run", str(folder), "--hands", "detector"]) == 2
    assert "ai-edge-litert" in capsys.readouterr().err
    # Nothing is to be told where no hand is asked for.
    assert cli.call(["run", str(folder), "--json", "--tasks", "intent"]) == 0
    assert "no hand detector" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--hands-model", "missing.task"], "there is no such file"),
        (["--hands", "model", "--hands-model", "x"], "has no effect"),
        (["--hands", "both"], "both"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(
    engine: FakeEngine, folder: Path, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["run", str(folder), *options]) == 2
    assert told in capsys.readouterr().err
    assert engine.asked == []


def test_ask_takes_it_for_boxes_alone(
    engine: FakeEngine, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["ask", str(folder / "0.png"), "What is this?", "--hands", "model"]) == 2
    assert "--hands is about the task ground" in capsys.readouterr().err
    assert cli.call(["ask", str(folder / "0.png"), "right hand", "--task", "ground", "--hands", "model"]) == 0
    assert capsys.readouterr().out == "[80, 45, 120, 90]\n"


@needs_hands
@needs_real
def test_ask_says_where_a_real_hand_is_and_what_is_not_known(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(REAL / "images" / "roboflow_hand_fist.png")
    assert cli.call(["ask", picture, "right hand", "--task", "ground", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (box,) = answer["boxes"]
    assert (answer["found"], box["by"], box["supported"]) == ("yes", "detector", True)
    assert cli.call(["ask", picture, "left hand", "--task", "ground"]) == 0
    assert capsys.readouterr().out == "none\n"
    assert cli.call(["ask", picture, "object in the left hand", "--task", "ground"]) == 0
    assert capsys.readouterr().out == "unknown (no left hand in sight)\n"
