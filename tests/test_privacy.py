"""What a run tells nobody: no network, no file that was not asked for, nothing seen or said in a log."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine

from egolive.assistant.cli import main as cli
from egolive.assistant.cli.options import ModelOptions
from egolive.assistant.schema.profiles import NANO
from egolive.streaming.video_writer import VideoWriter

SECRET = "zebra-striped teapot"
WATCHED = """
import json, os, sys

told = []
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate",
           "os.utime", "os.chmod", "tempfile.mkstemp", "tempfile.mkdtemp", "sqlite3.connect", "os.system",
           "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC

def watch(event, arguments):
    if event.startswith("socket."):
        told.append([event, repr(arguments[1:])])
    elif event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
        told.append([event, str(arguments[0])])

sys.addaudithook(watch)
from egolive.assistant.cli import main as cli
code = cli.call(sys.argv[1:])
if os.path.isdir("/proc/self/fd"):
    # Native code is not audited, but what it leaves open is seen.
    handles = ("/proc/self/fd/" + one for one in os.listdir("/proc/self/fd"))
    links = [os.readlink(one) for one in handles if os.path.lexists(one)]
    told += [["handle", link] for link in links if link.startswith("socket:")]
print(json.dumps(told))
sys.exit(code)
"""
"""The command under an audit hook; what changes anything outside of the process is told at the end."""


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
def run(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`egolive run` with nano, watched by an audit hook, in a home of its own that is empty."""
    root = tmp_path_factory.mktemp("run")
    homes = {name: root / name for name in ("home", "temporary", "here")}
    for home in homes.values():
        home.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_", "TORCH"))}
    kept |= {"HOME": str(homes["home"]), "TMPDIR": str(homes["temporary"])}
    options = ["--out", str(root / "out"), "--no-view", "--phrase", SECRET, "--log-level", "debug"]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "run", str(clip), *options],
        cwd=homes["here"],
        env=kept | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (root / "out" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "told": json.loads(done.stdout.splitlines()[-1]),
        "stderr": done.stderr,
        "out": root / "out",
        "temporary": homes["temporary"],
        "left": [path for home in homes.values() for path in home.rglob("*")],
        "answers": [event for event in map(json.loads, lines) if event["type"] == "answer"],
    }


def test_a_run_does_not_touch_the_network(run: dict[str, Any]) -> None:
    assert [one for one in run["told"] if one[0] == "handle" or one[0].startswith("socket.")] == []


def test_a_run_writes_only_what_was_asked_for(run: dict[str, Any]) -> None:
    out, temporary = run["out"], run["temporary"]
    asked = {str(out), str(out / "events.jsonl"), str(out / "overlay.mp4"), os.devnull}
    strange = []
    for event, what in run["told"]:
        if event.startswith("socket.") or what in asked:
            continue
        # Python tries whether it can write there; torch makes an empty folder; ctypes asks the system where
        # its own library is.
        tried = Path(what).parent == temporary and (event in ("open", "os.remove") or "torch" in what)
        if not tried and not (event == "subprocess.Popen" and Path(what).name == "ldconfig"):
            strange.append((event, what))
    assert strange == []
    assert sorted(path.name for path in out.iterdir()) == ["events.jsonl", "overlay.mp4"]
    assert [path for path in run["left"] if not path.name.startswith("torchinductor")] == []


def test_the_log_of_a_run_holds_nothing_that_was_seen_or_said(run: dict[str, Any]) -> None:
    assert '"level": "info"' in run["stderr"]
    said = {answer["text"] for answer in run["answers"]} - {"", "none"}
    assert said
    for secret in (SECRET, "<|", *said, *map(str, asdict(NANO.prompts).values())):
        assert secret not in run["stderr"]


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
