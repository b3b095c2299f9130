"""What a run tells nobody: no network, no file that was not asked for, nothing seen or said in a log."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fakes import FakeEngine
from paths import SUPPORT
from PIL import Image as PillowImage

from egolive.assistant.cli import main as cli
from egolive.assistant.cli.options import ModelOptions
from egolive.assistant.schema.profiles import NANO
from egolive.streaming.errors import SourceError
from egolive.streaming.sources.opening import open_source
from egolive.streaming.video_writer import VideoWriter

SECRET = "zebra-striped teapot"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path) as writer:
        for index in range(15):
            image = np.full((90, 160, 3), 60, np.uint8)
            image[30:60, 4 * index : 4 * index + 30] = 200
            writer.write(image, index / 10)
    return path


@pytest.fixture(scope="module")
def watched(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All that answers, one after the other in a process with an audit hook and a home that is empty."""
    root = tmp_path_factory.mktemp("run")
    homes = {name: root / name for name in ("home", "temporary", "here")}
    for home in homes.values():
        home.mkdir()
    PillowImage.fromarray(np.full((90, 160, 3), 60, np.uint8)).save(root / "a.png")
    row = {"path": "a.png", "object": SECRET, "box": [10, 10, 50, 50], "size": [160, 90]}
    (root / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    debug = ["--log-level", "debug"]
    steps = {
        "run": ["run", str(clip), "--out", str(root / "out"), "--no-view", "--phrase", SECRET, *debug],
        "ask": [*debug, "ask", str(root / "a.png"), SECRET, "--task", "ground", "--max-tokens", "20"],
        "evaluate": [*debug, "evaluate", "--data", str(root / "rows.jsonl")],
        "onnx": "onnx",
        "page": "page",
        "break out": "break out",
    }
    # Some report nothing where they believe to be in a test.
    unset = ("HF_", "XDG_", "TORCH", "ORT_", "GRADIO_", "CI", "DO_NOT_TRACK", "PYTEST_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(unset)}
    kept |= {"HOME": str(homes["home"]), "TMPDIR": str(homes["temporary"]), "SECRET": SECRET}
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "watched_child.py"), json.dumps(list(steps.values()))],
        cwd=homes["here"],
        env=kept | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = dict(zip(steps, json.loads(done.stdout.splitlines()[-1]), strict=True))
    assert [found[name]["code"] for name in ("run", "ask", "evaluate")] == [0, 0, 0], done.stderr
    assert (found["page"]["error"], found["page"]["code"]) == ("", 130), done.stderr
    lines = (root / "out" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return found | {
        "stderr": done.stderr,
        "out": root / "out",
        "temporary": homes["temporary"],
        "home": homes["home"],
        "left": [path for home in homes.values() for path in home.rglob("*")],
        "answers": [event for event in map(json.loads, lines) if event["type"] == "answer"],
    }


@pytest.mark.parametrize("step", ["run", "ask", "evaluate", "onnx"])
def test_what_answers_does_not_touch_the_network(watched: dict[str, Any], step: str) -> None:
    told = watched[step]["told"]
    assert [one for one in told if one[0] == "handle" or one[0].startswith("socket.")] == []


def test_the_page_reaches_this_machine_alone_and_names_no_other(watched: dict[str, Any]) -> None:
    page = watched["page"]
    assert page["outside"] == []
    assert len(page["links"]) >= 3
    assert [link for link in page["links"] if "//" in link] == []
    # It was used: a server listened, and two questions were answered.
    assert "socket.bind" in {event for event, _ in page["told"]}
    assert len(page["answers"]) >= 2


def test_the_guard_sees_and_refuses_what_reaches_out(watched: dict[str, Any]) -> None:
    tried = watched["break out"]
    assert tried["refused"] == len(tried["outside"]) == 5
    for host in ("192.0.2.1", "example.invalid", "0.0.0.0"):
        assert host in str(tried["outside"])


def test_a_run_writes_only_what_was_asked_for(watched: dict[str, Any]) -> None:
    out, temporary = watched["out"], watched["temporary"]
    asked = {str(out), str(out / "events.jsonl"), str(out / "overlay.mp4"), os.devnull}
    strange = []
    for event, what in watched["run"]["told"]:
        if event.startswith("socket.") or what in asked:
            continue
        # Python tries whether it can write there; torch makes an empty folder; ctypes asks the system where
        # its own library is.
        tried = Path(what).parent == temporary and (event in ("open", "os.remove") or "torch" in what)
        if not tried and not (event == "subprocess.Popen" and Path(what).name == "ldconfig"):
            strange.append((event, what))
    assert strange == []
    assert sorted(path.name for path in out.iterdir()) == ["events.jsonl", "overlay.mp4"]


def test_nothing_is_left_in_the_home_folder_nor_beside_it(watched: dict[str, Any]) -> None:
    """ONNX Runtime would keep a number of this machine and events for its maker there."""
    assert watched["onnx"]["answer"] == [-1.0, -1.0]
    assert list(watched["home"].iterdir()) == []
    # Empty folders that torch and Gradio make when they are imported.
    assert [path for path in watched["left"] if path.is_file()] == []
    names = {path.name for path in watched["left"] if not path.name.startswith("torchinductor")}
    assert names <= {"gradio", "vibe_edit_history"}


def test_no_log_holds_what_was_seen_or_said(watched: dict[str, Any]) -> None:
    """At the level debug of every library."""
    log = watched["stderr"]
    assert '"level": "info"' in log
    assert "DEBUG:asyncio:" in log
    said = {answer["text"] for answer in watched["answers"]} | set(watched["page"]["answers"])
    said |= {watched["ask"]["said"].strip(), watched["ask"]["said"].strip(" \n…")}
    said -= {"", "none"}
    assert len(said) >= 3
    for secret in (SECRET, "<|", *said, *map(str, asdict(NANO.prompts).values())):
        assert secret not in log


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--audit", "100"],
        ["--evidence", "FOLDER/evidence"],
        ["--memory", "FOLDER/memory"],
        ["--record", "FOLDER/kept"],
    ],
    ids=["plain", "audit", "evidence", "memory", "record"],
)
def test_no_logger_gets_a_prompt_or_an_answer(
    options: list[str],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = "polish the ruby slippers"
    monkeypatch.setattr(ModelOptions, "load", lambda self: FakeEngine(lambda prompt: answer))
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("egolive")
    monkeypatch.setattr(logger, "propagate", True)
    options = [word.replace("FOLDER", str(tmp_path)) for word in options]
    with caplog.at_level(logging.DEBUG):
        code = cli.call(["run", str(clip), "--no-view", "--phrase", SECRET, *options, "--log-level", "debug"])
    assert code == 0
    assert caplog.records
    for record in caplog.records:
        text = record.getMessage() + str(record.exc_info or "")
        assert answer not in text
        assert SECRET not in text
        assert not any(isinstance(value, np.ndarray) for value in (record.args or ()))


@pytest.mark.parametrize("scheme", ["rtsp", "http", "rtmp", "tcp"])
def test_no_message_of_ffmpeg_or_another_library_tells_a_password(
    scheme: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """FFmpeg's messages hold whole addresses, and go to standard error unless they are caught."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Not as it is looked for: a traceback shows lines of this test.
    password = "".join(reversed("emasesnep"))
    with caplog.at_level(logging.DEBUG), pytest.raises(SourceError) as error:
        open_source(f"{scheme}://wearer:%6F{password}@127.0.0.1:{port}/live")
    assert f"127.0.0.1:{port}" in str(error.value)
    # Of what caused it as well: a program that embeds this logs whole tracebacks.
    whole = "".join(traceback.format_exception(error.value))
    said = capfd.readouterr()
    for text in (whole, said.out, said.err, caplog.text):
        assert password not in text
    assert said.err == ""


def test_ffmpegs_own_messages_are_off() -> None:
    assert av.logging.get_level() is None
