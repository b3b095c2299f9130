"""A recording that no run wrote is refused, with the line that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from egolive.streaming.errors import DataError
from egolive.streaming.recording.recording import Recording

HEAD: dict[str, Any] = {
    "format": 1,
    "fps": 2.0,
    "slices": 2,
    "seconds": None,
    "source": {"name": "x", "live": False, "fps": 2.0},
    "settings": {"model": "nano", "questions": [{"task": "intent"}], "fps": 2.0, "slices": 2},
}
WORK = {"work": 0, "t": 0.0, "slices": 0, "tasks": [{"task": "intent"}], "outcomes": [[0, "ok", {}]]}
FRAME = {"frame": 0, "t": 0.0, "gap": False}


def recording(folder: Path, head: object = HEAD, lines: tuple[object, ...] = ()) -> Recording:
    (folder / "recording.json").write_text(json.dumps(head))
    (folder / "recording.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in (*lines, FRAME, FRAME | {"frame": 1}))
    )
    return Recording(folder)


def test_a_recording_that_is_whole_is_read(tmp_path: Path) -> None:
    assert len(recording(tmp_path, lines=(WORK,)).works) == 1


@pytest.mark.parametrize(
    "head",
    [
        7,
        [],
        {name: value for name, value in HEAD.items() if name != "source"},
        HEAD | {"fps": 0},
        HEAD | {"fps": "2"},
        HEAD | {"slices": None},
        HEAD | {"slices": True},
        HEAD | {"seconds": float("inf")},
        HEAD | {"source": {"name": "x", "fps": None}},
    ],
    ids=str,
)
def test_a_head_that_no_run_wrote_is_refused(tmp_path: Path, head: object) -> None:
    with pytest.raises(DataError):
        recording(tmp_path, head)


@pytest.mark.parametrize(
    "line",
    [
        [],
        WORK | {"t": [0]},
        WORK | {"outcomes": [[1, "ok", {}]]},
        WORK | {"outcomes": [[0, "fine", {}]]},
        WORK | {"outcomes": [[0, "ok", None]]},
        FRAME | {"frame": 5},
        FRAME | {"t": 2**70},
        {"shown": 0, "now": 0.0, "new": -1},
        {"end": {"captured": "x"}},
        {"end": {"ended": "never"}},
        {"end": {"drops": {"busy": None}}},
    ],
    ids=str,
)
def test_a_line_that_no_run_wrote_is_refused(tmp_path: Path, line: object) -> None:
    with pytest.raises(DataError, match="line"):
        recording(tmp_path, lines=(line,))
