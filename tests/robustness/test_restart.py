"""A run that is killed, as a loss of power does, and the same command again: nothing asked, nothing lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from egolive.streaming.recording.recording import Recording

RUN = "from egolive.assistant.cli.main import main; main()"


def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-c",
        RUN,
        "run",
        "--realtime",
        "--threads",
        "1",
        "--tasks",
        "intent",
        *options,
    ]
    return subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def kill_once_there(run: subprocess.Popen[bytes], path: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and not (path.is_file() and path.stat().st_size > 100_000):
        assert run.poll() is None
        time.sleep(0.2)
    run.send_signal(signal.SIGKILL)
    run.wait()


def pictures(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.robustness
@pytest.mark.parametrize("segment", [(), ("--segment", "0.05")], ids=["one file", "segments"])
def test_a_killed_run_starts_again_and_loses_nothing(tmp_path: Path, segment: tuple[str, ...]) -> None:
    out, session = tmp_path / "out", tmp_path / "session"
    options = ("--out", "out", "--record", "session", *segment)
    run = start(tmp_path, *options)
    first = out / ("overlay-000001.mp4" if segment else "overlay.mp4")
    kill_once_there(run, first)
    left = pictures(first)
    assert left
    held = {path.name: path.stat().st_size for path in session.rglob("pictures-*")}
    # The same once more, to its end.
    assert start(tmp_path, *options, "--seconds", "3").wait(timeout=200) == 0
    assert pictures(out / "overlay-000001.mp4") == left
    for path in (session / "run-000001" if segment else session).glob("pictures-*"):
        assert path.stat().st_size == held[path.name]
    runs = sorted(session.glob("run-*"))
    assert len(runs) == (2 if segment else 1)
    assert Recording(runs[-1]).report is not None
    assert list(Recording(runs[0] if segment else session).frames())
    events = [path.read_text().splitlines() for path in sorted(out.glob("events*.jsonl"))]
    assert any("ended" in json.loads(lines[-1]) for lines in events)


@pytest.mark.robustness
def test_a_killed_memory_goes_on(tmp_path: Path) -> None:
    run = start(tmp_path, "--memory", "mine", "--out", "out")
    kill_once_there(run, tmp_path / "out" / "overlay.mp4")
    assert start(tmp_path, "--memory", "mine", "--seconds", "3").wait(timeout=200) == 0
