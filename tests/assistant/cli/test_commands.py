"""The command as its user meets it: outputs, exit codes, and one line for everything that goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from fakes import FakeEngine
from paths import SUPPORT, needs_real, real_files

from egolive.assistant.cli import main as cli
from egolive.assistant.cli.options import ModelOptions
from egolive.streaming.errors import EngineError
from egolive.streaming.video_writer import VideoWriter

CODECS = real_files("video/codec")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Stands in for whatever model is asked for."""
    fake = FakeEngine()
    monkeypatch.setattr(ModelOptions, "load", lambda self: fake)
    monkeypatch.setattr(ModelOptions, "profile", lambda self: fake.profile)
    return fake


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of a moving square, 10 pictures a second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path) as writer:
        for index in range(40):
            image = np.full((90, 160, 3), 60, np.uint8)
            image[30:60, 2 * index : 2 * index + 30] = 200
            writer.write(image, index / 10)
    return path


def events(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def pictures(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_run_writes_overlay_and_events_and_tells_both_rates(
    engine: FakeEngine, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["run", str(clip), "--out", str(tmp_path)]) == 0
    assert pictures(tmp_path / "overlay.mp4") == 40
    found = events(tmp_path)
    tasks = [event.get("task") for event in found if event["type"] == "answer"]
    # 8 sampled pictures with four boxes each, 4 windows with two questions each.
    assert tasks.count("ground") == 32
    assert (tasks.count("intent"), tasks.count("next")) == (4, 4)
    assert found[-1]["type"] == "metrics"
    captured = capsys.readouterr()
    for expected in (
        "40 of 40 pictures",
        "/s from the source",
        "answers a second",
        "overlay.mp4",
        "events.jsonl",
    ):
        assert expected in captured.err
    lines = captured.out.splitlines()
    # A hand detector, where one is installed, sees none here and says so once.
    answers = [line for line in lines if "hands seen:" not in line]
    assert len(lines) - len(answers) <= 1
    assert len(answers) == 40
    assert all(re.match(r" *\d+\.\d\d s  (ground|intent|next)", line) for line in answers)
    assert engine.closed
    assert engine.open_sessions == 0


def test_boxes_of_a_recording_are_shown_with_the_picture_they_were_found_in(
    engine: FakeEngine, clip: Path, tmp_path: Path
) -> None:
    assert cli.call(["run", str(clip), "--out", str(tmp_path), "--no-video"]) == 0
    ages = [event["age"] for event in events(tmp_path) if event["type"] == "answer"]
    assert set(ages) == {0.0}
    assert not (tmp_path / "overlay.mp4").exists()


@pytest.mark.parametrize(("options", "told"), [([], True), (["--no-video"], False)])
def test_how_late_the_overlay_was_is_told_where_one_was_drawn(
    engine: FakeEngine,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    told: bool,
) -> None:
    command = ["run", str(clip), "--realtime", "--seconds", "1", "--out", str(tmp_path), *options]
    assert cli.call(command) == 0
    assert ("overlay  " in capsys.readouterr().err) is told


def test_nothing_is_written_without_out(
    engine: FakeEngine, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.call(["run", str(clip)]) == 0
    assert list(tmp_path.iterdir()) == []


def test_tasks_phrases_rate_and_length_are_the_users(engine: FakeEngine, clip: Path, tmp_path: Path) -> None:
    options = ["--tasks", "intent", "--phrase", "red mug", "--phrase", "knife", "--fps", "5", "--slices", "2"]
    assert cli.call(["run", str(clip), "--out", str(tmp_path), "--seconds", "2", *options]) == 0
    answers = [event for event in events(tmp_path) if event["type"] == "answer"]
    assert {answer["phrase"] for answer in answers} == {"", "red mug", "knife"}
    windows = [answer["window"] for answer in answers if isinstance(answer["window"], list)]
    longest = max(end - start for start, end in windows)
    # Windows hand over when the younger one has two slices: three at most, six frames.
    assert longest == pytest.approx(1.0)
    assert pictures(tmp_path / "overlay.mp4") == 20


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "--fps", "0"], "--fps"),
        (["run", "--seconds", "nan"], "--seconds"),
        (["run", "--slices", "0"], "--slices"),
        (["run", "--max-tokens", "0"], "--max-tokens"),
        (["run", "--phrase", " "], "--phrase"),
        (["run", "--tasks", "when"], "tasks"),
        (["run", "--bogus"], "--bogus"),
        (["bogus"], "bogus"),
        (["ask"], "something to look at"),
        (["ask", "What is this?"], "something to look at"),
        (["ask", "--task", "intent"], "something to look at"),
        (["ask", "--task", "ground", "left hand"], "something to look at"),
        (["ask", "CLIP"], "what is the question"),
        (["ask", "CLIP", " "], "question is empty"),
        (["ask", "CLIP", "x", "--height", "100"], "--width"),
        (["ask", "CLIP", "x", "--min-pixels", "9", "--max-pixels", "8"], "--min-pixels"),
        (["ask", "CLIP", "CLIP", "--task", "when", "x"], "needs one video"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    engine: FakeEngine,
    clip: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    assert cli.call([str(clip) if word == "CLIP" else word for word in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert expected in captured.err


def bad_files(folder: Path, clip: Path) -> dict[str, Path]:
    whole = clip.read_bytes()
    plain = folder / "plain.mp4"
    with av.open(str(plain), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(stream.encode(None))
    contents = {
        "missing.mp4": None,
        "empty.mp4": b"",
        "text.mp4": b"this is no video\n" * 100,
        "noise.mp4": np.random.default_rng(0).bytes(20_000),
        "header only.mp4": whole[:600],
        "without index.mp4": plain.read_bytes()[: plain.stat().st_size // 2],
    }
    for name, content in contents.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


@pytest.mark.parametrize(
    "name",
    ["missing.mp4", "empty.mp4", "text.mp4", "noise.mp4", "header only.mp4", "without index.mp4"],
)
@pytest.mark.parametrize("command", ["run", "ask"])
def test_a_video_that_cannot_be_read_is_one_line_and_exit_code_1(
    engine: FakeEngine,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
) -> None:
    path = bad_files(tmp_path, clip)[name]
    question = ["--task", "intent"] if command == "ask" else []
    assert cli.call([command, str(path), *question]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert name in captured.err


def test_a_truncated_video_is_played_as_far_as_it_goes(
    engine: FakeEngine, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[: int(clip.stat().st_size * 0.8)])
    assert cli.call(["run", str(cut), "--out", str(tmp_path)]) == 0
    assert 5 < pictures(tmp_path / "overlay.mp4") < 40


@pytest.mark.parametrize(
    "source", ["57", "/dev/video57", "rtsp://127.0.0.1:1/x", "http://127.0.0.1:1/x.mp4", "http://[x"]
)
def test_a_camera_or_address_that_is_not_there_is_one_line_and_exit_code_1(
    engine: FakeEngine, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["run", source]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "expected"),
    [("FOLDER", "config.json"), ("FOLDER/none", "no folder"), ("egolive-tests/not-there", "not-there")],
    ids=["folder without checkpoint", "missing folder", "hub id without network"],
)
def test_a_model_that_is_not_there_is_one_line_and_exit_code_1(
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str,
    expected: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = model.replace("FOLDER", str(tmp_path))
    for command in (["run", str(clip)], ["ask", str(clip), "--task", "intent"]):
        assert cli.call([*command, "--model", name]) == 1
        *before, told = capsys.readouterr().err.splitlines()
        # A hub id is looked for on the hub, which takes time and is told.
        assert before == ([f"loading {name} ..."] if model == "egolive-tests/not-there" else [])
        assert expected in told


def test_an_output_folder_that_cannot_be_made_is_one_line_and_exit_code_1(
    engine: FakeEngine, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.call(["run", str(clip), "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_what_was_written_before_an_engine_fails_stays_playable(
    engine: FakeEngine, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(prompt: str) -> str:
        if len(engine.asked) > 7:
            raise EngineError("the device failed; see `egolive doctor`")
        return "none"

    engine.script = failing
    assert cli.call(["run", str(clip), "--out", str(tmp_path)]) == 1
    assert "the device failed" in capsys.readouterr().err
    assert pictures(tmp_path / "overlay.mp4") >= 1
    assert events(tmp_path)


def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ImportError("cannot import") from ModuleNotFoundError("no", name="trl.trainer")

    monkeypatch.setattr(cli, "app", type("App", (), {"meta": staticmethod(absent)}))
    assert cli.call(["train", "sft"]) == 1
    assert "needs the package trl" in capsys.readouterr().err


def test_version_and_help_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["--version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdigit()
    assert cli.call(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("run", "ask", "doctor", "simulate", "train", "evaluate"):
        assert command in text


@needs_real
@pytest.mark.parametrize("path", CODECS, ids=lambda path: path.name)
@pytest.mark.timeout(30)
def test_every_real_file_plays_or_ends_with_one_line(
    engine: FakeEngine, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.call(["run", str(path), "--out", str(tmp_path), "--no-view", "--seconds", "1"])
    captured = capsys.readouterr()
    if code == 0:
        assert captured.err.startswith("picture ")
        assert pictures(tmp_path / "overlay.mp4") > 0
    else:
        assert code == 1
        assert captured.err.count("\n") == 1
        assert path.name in captured.err


@pytest.fixture
def live_run(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The command on the endless test picture, with a fake engine, once it has written some pictures."""
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "from fakes import FakeEngine\n"
        "from egolive.assistant.cli import main as cli\n"
        "from egolive.assistant.cli.options import ModelOptions\n"
        "ModelOptions.load = lambda self: FakeEngine()\n"
        "cli.main()\n"
    )
    run = ["run", "test:160x90@30", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(SUPPORT), *run],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 60
    video = tmp_path / "overlay.mp4"
    while not (video.exists() and video.stat().st_size > 6_000) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "TERM"]
)
def test_a_signal_ends_the_run_cleanly_with_finished_files(
    live_run: subprocess.Popen[str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    live_run.send_signal(number)
    _, err = live_run.communicate(timeout=30)
    assert live_run.returncode == code
    assert f"wrote {tmp_path / 'overlay.mp4'}, {tmp_path / 'events.jsonl'}" in err
    assert pictures(tmp_path / "overlay.mp4") > 0
    assert events(tmp_path)[-1]["type"] == "metrics"


def test_a_kill_leaves_playable_files(live_run: subprocess.Popen[str], tmp_path: Path) -> None:
    live_run.kill()
    live_run.wait(timeout=30)
    assert pictures(tmp_path / "overlay.mp4") > 0
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    # The last line may be cut off.
    assert {json.loads(line)["type"] for line in lines[:-1]} >= {"answer", "governor"}
