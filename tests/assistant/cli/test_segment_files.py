"""Overlay and events in segments, and what a run that was cut off left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from egolive.assistant.cli.disk_limits import disk_limits
from egolive.assistant.cli.segment_files import BudgetSink, SegmentSink, put_aside
from egolive.assistant.live.sinks import Shown
from egolive.streaming.disk_budget import DiskBudget
from egolive.streaming.errors import UsageError
from egolive.streaming.frames import Frame


def shown(time: float) -> Shown:
    rng = np.random.default_rng(round(10 * time))
    return Shown(Frame(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), time, round(10 * time)), ())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def pictures(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time or 0.0) for frame in container.decode(video=0)]


def test_each_segment_is_whole_and_begins_at_0(tmp_path: Path) -> None:
    for _ in range(2):
        sink = SegmentSink(tmp_path, 2.0, video=True)
        for tenth in range(50):
            sink.emit(shown(tenth / 10))
        sink.note({"type": "gap"})
        sink.close()
    starts = [lines(path)[0] for path in sorted(tmp_path.glob("events-*.jsonl"))]
    assert [(one["number"], one["start"]) for one in starts] == [
        *((1, 0.0), (2, 2.0), (3, 4.0)),
        *((4, 0.0), (5, 2.0), (6, 4.0)),
    ]
    videos = [pictures(path) for path in sorted(tmp_path.glob("overlay-*.mp4"))]
    assert [len(times) for times in videos] == [20, 20, 10, 20, 20, 10]
    assert all(times[0] == pytest.approx(0.0, abs=0.01) for times in videos)
    assert lines(tmp_path / "events-000003.jsonl")[-1] == {"type": "gap"}


def test_what_is_removed_is_told_in_the_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budget = DiskBudget(tmp_path, 15_000)
    files = SegmentSink(tmp_path, 1.0, video=True, budget=budget)
    watcher = BudgetSink([budget], [files])
    for tenth in range(60):
        for sink in (files, watcher):
            sink.emit(shown(tenth / 10))
    files.close()
    told = [event for path in sorted(tmp_path.glob("events-*")) for event in lines(path)]
    removed = [event for event in told if event["type"] == "removed"]
    assert removed
    assert all(not (tmp_path / name).exists() for event in removed for name in event["files"])
    assert removed[-1]["files"][0] in capsys.readouterr().err
    assert (tmp_path / "overlay-000006.mp4").is_file()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["20GB"], dict.fromkeys(("out", "record", "memory"), 20_000_000_000)),
        (["record=1.5GiB", "out=500MB"], {"record": 1_610_612_736, "out": 500_000_000}),
        ([], {}),
    ],
)
def test_sizes(given: list[str], found: dict[str, int]) -> None:
    assert disk_limits(given) == found


@pytest.mark.parametrize("given", ["20", "GB", "evidence=1GB", "0.5MB", "-1GB", ""])
def test_sizes_that_are_none_are_refused(given: str) -> None:
    with pytest.raises(UsageError, match="--keep"):
        disk_limits([given])


@pytest.mark.parametrize(
    ("last", "moved"),
    [
        ('{"type": "metrics", "ended": "stop"}\n', False),
        ('{"type": "answ', True),
        ('{"type": "gap"}\n', True),
        ("", True),
    ],
)
def test_only_what_was_cut_off_is_put_aside(tmp_path: Path, last: str, *, moved: bool) -> None:
    (tmp_path / "events.jsonl").write_text(last and '{"type": "gap"}\n' + last)
    (tmp_path / "overlay.mp4").write_bytes(b"video")
    found = [path.name for path in put_aside(tmp_path)]
    assert found == (["events-000001.jsonl", "overlay-000001.mp4"] if moved else [])
    assert (tmp_path / "overlay.mp4").exists() is not moved
