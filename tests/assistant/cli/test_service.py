"""The systemd unit that `egolive service` makes of a run's options."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from egolive.assistant.cli.main import call


def test_the_unit_holds_the_run_word_by_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(["service", "--user", "0", "--out", 'my "out" 100%', "--segment", "10", "--no-ask"]) == 0
    unit = capsys.readouterr().out
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert command.endswith(r'"run" "0" "--out" "my \"out\" 100%%" "--segment" "10" "--no-ask" "--no-view"')
    assert f"WorkingDirectory={tmp_path}" in unit
    assert {"Restart=on-failure", "StandardInput=null", "WantedBy=default.target"} <= set(unit.splitlines())
    assert "User=" not in unit


def test_options_that_run_does_not_know_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["service", "0", "--outt", "x"]) == 2
    assert "--outt" in capsys.readouterr().err


def test_a_unit_of_the_user_is_written_to_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call(["service", "--user", "--install", "--name", "glasses", "0"]) == 0
    path = tmp_path / ".config" / "systemd" / "user" / "glasses.service"
    assert '"run" "0"' in path.read_text()
    assert "enable --now glasses" in capsys.readouterr().err


@pytest.mark.parametrize("scope", ["--user", "--system"])
def test_systemd_finds_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str], scope: str) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    options = ["--user"] if scope == "--user" else []
    assert call(["service", *options, "0", "--out", "a folder", "--keep", "20GB"]) == 0
    unit = tmp_path / "egolive.service"
    unit.write_text(capsys.readouterr().out)
    found = subprocess.run(
        [analyze, scope, "--man=no", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    # Versions differ in what they know; what they cannot run here is not about this file.
    told = [line for line in found.stderr.splitlines() if "egolive.service" in line]
    assert not [line for line in told if "Unknown key" not in line]
