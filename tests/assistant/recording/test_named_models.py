"""Recordings and bundles of others do not decide who gets the pictures, nor what is downloaded."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from fakes import FakeEngine

from egolive.assistant.cli import main as cli
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.model.checkpoint import model_folder
from egolive.assistant.recording.evidence import EvidenceWriter, weights_hash
from egolive.assistant.recording.run_replay import RunSettings, record_into
from egolive.assistant.schema.answers import Question
from egolive.streaming.frames import Frame
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.run_report import Report
from egolive.streaming.sources.source import Source

QUESTION = Question("ground", "right hand")


class Camera(Source):
    """One grey picture."""

    live, name, fps, broken, size = False, "camera", 2.0, 0, (56, 56)

    def __iter__(self) -> Any:
        yield Frame(np.full((56, 56, 3), 127, np.uint8), 0.0, 0)

    def close(self) -> None: ...


def recording(folder: Path, model: str, sha256: str = "") -> Path:
    settings = RunSettings(model=model, questions=(QUESTION,), fps=2.0, slices=2)
    recorder = record_into(folder, settings, FakeEngine(), sha256=sha256)
    list(recorder.source(Camera()))
    recorder.close(Report(captured=1))
    return folder


def bundle(folder: Path, model: str, sha256: str = "abc") -> Path:
    engine = FakeEngine()
    keeper = EvidenceWriter(folder, model=model, info=engine.info, sha256=sha256, profile=engine.profile)
    with Assistant(engine, observer=keeper, metrics=Metrics()) as assistant:
        list(assistant.answer([QUESTION], picture=next(iter(Camera()))))
    return keeper.bundles[0]


@pytest.fixture
def listener() -> Any:
    """A server's socket; whether somebody connected is asked at the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        yield server
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("make", [recording, bundle])
def test_a_server_that_only_the_folder_names_is_not_connected_to(
    tmp_path: Path, listener: socket.socket, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}/v1"
    folder = make(tmp_path / "x", address)
    assert cli.call(["replay", str(folder)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "--model" in line
    assert "127.0.0.1" in line
    assert "secret" not in line


@pytest.mark.parametrize("make", [recording, bundle])
@pytest.mark.parametrize("name", ["evil/model", "//evil.example/share", "\\\\evil.example\\share"])
def test_what_is_elsewhere_is_not_loaded_because_a_folder_names_it(
    tmp_path: Path, make: Any, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []

    def download(*names: object, **_: object) -> str:
        asked.append(names)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert cli.call(["replay", str(make(tmp_path / "x", name))]) == 1
    assert not asked
    [line] = capsys.readouterr().err.splitlines()
    assert "--model" in line


def test_a_local_folder_answers_again_only_with_the_weights_that_answered_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nano = model_folder("nano")
    assert nano is not None
    shutil.copytree(nano, tmp_path / "model")
    known = weights_hash(model := str(tmp_path / "model"))
    assert cli.call(["replay", str(recording(tmp_path / "told", model, known))]) == 0
    untold = str(recording(tmp_path / "untold", model))
    capsys.readouterr()
    assert cli.call(["replay", untold]) == 1
    assert "hash" in capsys.readouterr().err
    assert cli.call(["replay", untold, "--model", model]) == 0
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"note": 1}))
    capsys.readouterr()
    assert cli.call(["replay", str(tmp_path / "told")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "has others; name the model" in line
