"""Which sources are known to be the simulator's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from egolive.assistant.model.media import bundled_clip
from egolive.assistant.model.simulated_source import from_simulator


def test_the_bundled_clip_and_its_copies_are_simulated(tmp_path: Path) -> None:
    copy = tmp_path / "mine.mp4"
    shutil.copy(bundled_clip(), copy)
    assert from_simulator(bundled_clip())
    assert from_simulator(str(bundled_clip()))
    assert from_simulator(copy)
    with copy.open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\1\2\3")
    assert not from_simulator(copy)


def test_episodes_of_the_simulator_are_simulated(tmp_path: Path) -> None:
    for name in ("00007.mp4", "other.mp4", "00008.mp4"):
        (tmp_path / name).write_bytes(b"video")
    (tmp_path / "00007.json").write_text("{}", encoding="utf-8")
    assert not from_simulator(tmp_path / "00007.mp4")
    # Somebody else's folder may have such names too.
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    assert not from_simulator(tmp_path / "00007.mp4")
    told = {"split": "test", "seed": 0, "look": "test"}
    (tmp_path / "manifest.json").write_text(json.dumps(told), encoding="utf-8")
    assert from_simulator(tmp_path / "00007.mp4")
    assert not from_simulator(tmp_path / "00008.mp4")
    assert not from_simulator(tmp_path / "other.mp4")


@pytest.mark.parametrize("source", [0, "0", "rtsp://camera/stream", "test:", None, b"bytes", "x" * 5000])
def test_cameras_and_addresses_are_real(source: object) -> None:
    assert not from_simulator(source)
