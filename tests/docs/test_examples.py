"""The scripts in docs/examples run as their heads say, on the beginning of the bundled clip."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import av
import cv2
import pytest

import egolive

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SECONDS = 4.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    with av.open(egolive.example_clip()) as whole, av.open(path, "w") as part:
        stream = part.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is None or packet.dts * packet.time_base >= SECONDS:
                break
            packet.stream = stream
            part.mux(packet)
    return str(path)


def run(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_script_is_tried_here() -> None:
    told = Path(__file__).read_text(encoding="utf-8")
    scripts = [path.name for path in EXAMPLES.glob("*.py")]
    assert len(scripts) == 6
    assert [name for name in scripts if f'run("{name}"' not in told] == []


def test_webcam(
    clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("webcam.py", clip, tmp_path / "latest.jpg", monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= SECONDS
    assert all(re.fullmatch(r"\d\.\d s: .+; next: .+ \(\d\.\d s old\)", line) for line in lines)
    assert any("make coffee; next:" in line for line in lines)
    picture = cv2.imread(str(tmp_path / "latest.jpg"))
    assert picture is not None
    assert picture.shape == (252, 448, 3)


def test_clip(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("clip.py", egolive.example_clip(), monkeypatch=monkeypatch)
    intent, poured, *boxes = capsys.readouterr().out.splitlines()
    assert intent == "intent: make coffee"
    assert re.fullmatch(r"poured: \d\.\d+ to \d\.\d+ s", poured)
    assert all(re.fullmatch(r"right hand: \d+, \d+ to \d+, \d+", box) for box in boxes)


def test_hands_to_supervision(
    clip: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("supervision")
    run("hands_to_supervision.py", clip, monkeypatch=monkeypatch)
    told = re.fullmatch(r"a hand was in the left half for (\d\.\d) of (\d\.\d) s\n", capsys.readouterr().out)
    assert told is not None
    inside, length = map(float, told.groups())
    assert 0 < inside <= length
    assert length == pytest.approx(SECONDS, abs=0.5)


def test_alerts(clip: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("alerts.py", clip, "kettle", monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert any(re.fullmatch(r"\d\.\d s: .*right hand.* at the kettle", line) for line in lines)


def test_batch_of_clips(
    clip: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("batch_of_clips.py", clip, egolive.example_clip(), monkeypatch=monkeypatch)
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["clip"] for answer in answers] == [clip, str(egolive.example_clip())]
    assert [answer["text"] for answer in answers] == ["make coffee", "make coffee"]


@pytest.mark.robustness
@pytest.mark.slow
def test_fine_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("fine_tune.py", tmp_path, 2, monkeypatch=monkeypatch)
    steps = json.loads((tmp_path / "run" / "history.json").read_text(encoding="utf-8"))
    assert steps
    with egolive.load_model(tmp_path / "run" / "model") as model:
        assert model.info.name
