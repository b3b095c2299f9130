"""What goes to standard output and what to standard error, and text that no encoding holds."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from cyclopts.completion.detect import ShellDetectionError
from fakes import FakeEngine, text_of
from huggingface_hub import HfApi

from egolive.assistant.cli import main as cli
from egolive.assistant.cli.options import ModelOptions
from egolive.assistant.cli.printing import printable, readable
from egolive.streaming.errors import DataError
from egolive.streaming.paths import existing_path
from egolive.streaming.video_writer import VideoWriter
from egolive.train.common import hub


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Stands in for whatever model is asked for."""
    fake = FakeEngine()
    monkeypatch.setattr(ModelOptions, "load", lambda self: fake)
    monkeypatch.setattr(ModelOptions, "profile", lambda self: fake.profile)
    return fake


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two seconds of pictures, 10 a second."""
    path = tmp_path / "clip.mp4"
    with VideoWriter(path) as writer:
        for index in range(20):
            writer.write(np.full((90, 160, 3), 5 * index, np.uint8), index / 10)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A grey picture."""
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.full((60, 80, 3), 90, np.uint8))
    return path


def test_events_are_streamed_to_stdout_and_nothing_else(
    engine: FakeEngine, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["run", str(clip), "--json", "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    written = (tmp_path / "out" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert events == [json.loads(line) for line in written]
    # Looks of a hand detector, where one is installed.
    assert {event["type"] for event in events} - {"hands"} == {"answer", "metrics"}
    assert "picture " in captured.err
    assert f"wrote {tmp_path / 'out' / 'overlay.mp4'}, {tmp_path / 'out' / 'events.jsonl'}\n" in captured.err


@pytest.mark.parametrize(
    ("options", "live", "governed"),
    [((), False, False), ((), True, True), (("--fixed",), True, False), (("--on-contact",), True, True)],
    ids=["recording", "live", "fixed", "on contact"],
)
def test_live_sources_are_governed_unless_they_are_fixed(
    engine: FakeEngine,
    clip: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    *,
    live: bool,
    governed: bool,
) -> None:
    realtime = ["--realtime"] if live else []
    assert (
        cli.call(["run", str(clip), "--json", "--every", "3", "--seconds", "0.5", *realtime, *options]) == 0
    )
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    chosen = [event["choice"] for event in events if event["type"] == "governor"]
    assert bool(chosen) is governed
    # What is given is held.
    assert {choice["every"] for choice in chosen} <= {3}
    assert {choice["contact_since"] for choice in chosen} <= ({0.0} if "--on-contact" in options else {None})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--on-contact"], "--on-contact is for live sources; play a file as one with --realtime"),
        (["--on-contact", "--fixed", "--realtime"], "--on-contact is the governor's work: leave out --fixed"),
    ],
)
def test_asking_on_contact_wants_a_governed_live_source(
    clip: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    assert cli.call(["run", str(clip), *options]) != 0
    assert capsys.readouterr().err == f"egolive: {told}\n"


def test_nothing_is_on_stdout_without_a_view(
    engine: FakeEngine, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["run", str(clip), "--no-view"]) == 0
    assert capsys.readouterr().out == ""


def test_loading_is_told_at_once_in_one_plain_line(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["ask", str(picture), "left hand", "--task", "ground", "--json", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "loading nano ...\n"
    assert json.loads(captured.out)["task"] == "ground"


@pytest.mark.parametrize("task", ["ask", "ground"])
def test_a_long_question_may_stand_before_the_picture(
    engine: FakeEngine, picture: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    question = ("what is that in front of me " * 10)[:265]
    assert cli.call(["ask", question, str(picture), "--task", task, "--json"]) == 0
    first = capsys.readouterr().out
    assert cli.call(["ask", str(picture), question, "--task", task, "--json"]) == 0
    left_out = {"timing"}
    one, other = (
        {name: value for name, value in json.loads(out).items() if name not in left_out}
        for out in (first, capsys.readouterr().out)
    )
    assert one == other
    assert question.strip() in text_of(engine.asked[-1][0].prompt)


def test_base64_of_a_picture_is_a_picture(
    engine: FakeEngine, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    cv2.imwrite(str(picture), rng.integers(0, 255, (60, 80, 3), np.uint8))
    text = base64.b64encode(picture.read_bytes()).decode()
    assert len(text) > 10_000
    assert cli.call(["ask", text, "what is it?"]) == 0
    assert cli.call(["ask", str(picture), text]) in (0, 1)
    assert "unexpected" not in capsys.readouterr().err


@pytest.mark.parametrize("words", ["caf\udce9 noir", "\ud800", "a\x00b", "\udcff\udcfe"])
def test_text_that_is_not_utf_8_is_understood_or_one_line(
    engine: FakeEngine,
    clip: Path,
    picture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: str,
) -> None:
    out = ["--out", str(tmp_path / "out")]
    for command in (
        ["ask", str(picture), words],
        ["ask", str(picture), words, "--task", "ground", "--json"],
        ["ask", words, str(picture)],
        ["run", str(clip), "--tasks", "intent", "--phrase", words, *out],
    ):
        assert cli.call(command) == 0, command
    for command in (["ask", words, "what?"], ["run", words], ["replay", words], ["recall", words, words]):
        assert cli.call(command) == 1, command
    told = capsys.readouterr()
    assert "unexpected" not in told.err
    (told.out + told.err).encode()


def test_what_is_typed_in_latin_1_is_read_as_such() -> None:
    assert readable("caf\udce9") == "café"
    assert readable("café") == "café"
    assert readable("a\ud800") == "a?"
    assert printable("a\ud800") == "a\\ud800"


@pytest.mark.parametrize("text", ["x" * 5000, "x" * 300, "a\0b", "\ud800", "~nobody-there/x", ""])
def test_text_that_is_no_path_names_nothing(text: str) -> None:
    assert existing_path(text) is None


def test_an_unforeseen_error_is_one_line_and_its_traceback_is_logged_for_debugging(
    engine: FakeEngine,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(self: ModelOptions) -> FakeEngine:
        raise KeyError("what")

    monkeypatch.setattr(ModelOptions, "load", broken)
    command = ["ask", str(picture), "what?"]
    assert cli.call(command) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "unexpected KeyError in test_streams.py" in told
    assert "report" in told
    assert cli.call(["--log-level", "debug", *command]) == 1
    logged, told = capsys.readouterr().err.splitlines()
    assert "Traceback" in json.loads(logged)["error"]
    assert "unexpected KeyError" in told
    logging.getLogger("egolive").setLevel(logging.WARNING)


def test_output_that_a_terminal_cannot_show_is_escaped(picture: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "from fakes import FakeEngine\n"
        "from egolive.assistant.cli import main as cli\n"
        "from egolive.assistant.cli.options import ModelOptions\n"
        "engine = FakeEngine(); engine.script = lambda prompt: 'caf\\u00e9 \\u6c34'\n"
        "ModelOptions.load = lambda self: engine\n"
        "ModelOptions.profile = lambda self: engine.profile\n"
        "cli.main()\n"
    )
    support = Path(__file__).parents[2] / "support"
    env = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
    for more, expected in (([], b"caf\\xe9 \\u6c34\n"), (["--json"], b'"caf\\u00e9 \\u6c34"')):
        done = subprocess.run(
            [sys.executable, "-c", code, str(support), "ask", str(picture), b"caf\xe9?", *more],
            capture_output=True,
            env=env,
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
        if more:
            assert json.loads(done.stdout)["phrase"] == "café?"


def test_completion_is_installed_for_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("ZSH_VERSION", "BASH_VERSION", "FISH_VERSION", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BASH_VERSION", "5")
    assert cli.call(["--install-completion"]) == 0
    [script] = (tmp_path / ".local").rglob("egolive")
    text = script.read_text()
    assert "reconnect-timeout" in text
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    told = subprocess.run(
        ["bash", "-c", 'source "$1" && complete -p egolive', "bash", str(script)],
        capture_output=True,
        text=True,
    )
    # Files are completed where nothing else is.
    assert told.stdout == "complete -o default -F _egolive egolive\n"


def test_a_shell_that_cannot_be_told_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown() -> str:
        raise ShellDetectionError

    monkeypatch.setattr(cli, "detect_shell", unknown)
    assert cli.call(["--install-completion"]) == 1
    told = "egolive: which shell this is cannot be told; give --shell bash, zsh or fish\n"
    assert capsys.readouterr() == ("", told)


def test_push_to_hub_is_checked_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: "hf_x")

    def refuse(self: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "whoami", refuse)
    command = ["train", "sft", "nano-sft", "--out", str(tmp_path / "run"), "--push-to-hub", "me/model"]
    assert cli.call(command) == 1
    told = capsys.readouterr().err
    assert "the hub cannot be reached (no route)" in told
    assert not (tmp_path / "run").exists()

    monkeypatch.setattr(hub, "_LOGIN_SECONDS", 0.05)
    monkeypatch.setattr(HfApi, "whoami", lambda self: __import__("time").sleep(1))
    assert cli.call(command) == 1
    assert "did not answer" in capsys.readouterr().err


def test_a_failed_upload_says_where_the_model_is_and_how_to_upload_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, *_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(DataError, match=rf"saved in {tmp_path}.*hf upload me/model {tmp_path}"):
        hub.upload(tmp_path, "me/model")
