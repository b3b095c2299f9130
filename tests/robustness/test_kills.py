"""`egolive run` killed at 200 random moments, and on 50 full disks: every file opens, little is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.robustness,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs fork and /proc"),
]


def ran(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """What the command found; its output says which runs went wrong."""
    found = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, "-m", "egolive.benchmarks.robustness.kills", "--json", str(found), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    values: dict[str, Any] = json.loads(found.read_text())
    return values


def test_killed_at_any_moment_a_run_leaves_files_that_open(tmp_path: Path) -> None:
    found = ran(tmp_path, "--kills", "200", "--disks", "0")["kills"]
    assert (found["runs"], found["wrong"]) == (200, 0)
    assert min(found["written"][name] for name in ("video", "events", "recorded", "bundles", "moments")) > 200
    assert found["worst_loss"]["video"] <= 1
    assert found["worst_loss"]["recorded"] <= 1
    assert [found["worst_loss"][name] for name in ("events", "bundles", "moments")] == [0, 0, 0]


def test_on_a_disk_of_any_size_a_run_ends_in_one_line_and_leaves_files_that_open(tmp_path: Path) -> None:
    found = ran(tmp_path, "--kills", "0", "--disks", "50")["disks"]
    assert (found["runs"], found["wrong"], found["torn_lines"]) == (50, 0, 0)
    assert found["slowest_end_s"] < 10
