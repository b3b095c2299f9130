"""`egolive bench fuzz` was removed: its name and options stay, and say what replaces it."""

from __future__ import annotations

import pytest

from egolive.assistant.cli import main as cli


def test_the_removed_command_names_what_replaces_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["bench", "fuzz", "--inputs", "5", "--seed", "1"]) == 2
    told = capsys.readouterr()
    assert "make robustness" in told.err
    assert told.out == ""
