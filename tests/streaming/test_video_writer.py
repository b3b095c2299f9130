"""The video file that a run leaves behind: playable, also after a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from egolive.streaming import VideoWriter, open_source
from egolive.streaming.errors import SinkError
from egolive.streaming.frames import Image

KILLED = """
import os, signal, sys
import numpy as np
from egolive.streaming import VideoWriter
writer = VideoWriter(sys.argv[1])
for number in range(100):
    writer.write(np.full((64, 96, 3), number, np.uint8), number / 25)
os.kill(os.getpid(), signal.SIGKILL)
"""


def picture(height: int, width: int) -> Image:
    image = np.full((height, width, 3), (30, 90, 200), np.uint8)
    image[:, : width // 2] = (220, 60, 40)
    return image


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_killed_writer_leaves_a_file_that_plays_to_the_last_second(tmp_path: Path) -> None:
    path = tmp_path / "killed.mp4"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    with open_source(path) as source:
        frames = list(source)
    assert 75 <= len(frames) < 100
    assert abs(int(frames[50].image[5, 5, 0]) - 50) <= 3


def test_times_sizes_and_colours_come_back(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.51, 3.0]
    with VideoWriter(tmp_path / "new" / "folder" / "clip.mp4") as writer:
        for time in times:
            writer.write(picture(48, 64), time)
    with open_source(writer.path) as source:
        frames = list(source)
    assert [f.time for f in frames] == pytest.approx(times, abs=1e-4)
    for f in frames:
        assert f.image.shape == (48, 64, 3)
        assert f.image[20, 10].tolist() == pytest.approx([220, 60, 40], abs=6)
        assert f.image[20, 50].tolist() == pytest.approx([30, 90, 200], abs=6)


@pytest.mark.parametrize("preset", ["ultrafast", "veryfast"])
def test_odd_sizes_are_rounded_up(tmp_path: Path, preset: str) -> None:
    with VideoWriter(tmp_path / "odd.mp4", preset=preset) as writer:  # type: ignore[arg-type]
        writer.write(picture(33, 51), 0.0)
        writer.write(picture(33, 51), 0.1)
    with open_source(writer.path) as source:
        assert source.size == (52, 34)
        assert len(list(source)) == 2


def test_a_picture_of_another_size_is_stretched_to_the_first(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        writer.write(picture(32, 48), 0.0)
        writer.write(picture(100, 200)[:, ::-1], 0.1)
    with open_source(writer.path) as source:
        frames = list(source)
    assert [(f.width, f.height) for f in frames] == [(48, 32), (48, 32)]
    assert frames[1].image[16, 40].tolist() == pytest.approx([220, 60, 40], abs=8)


def test_times_that_stand_still_are_moved_on(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        for time in (0.0, 1.0, 1.0, 0.9, 2.0):
            writer.write(picture(32, 32), time)
    with open_source(writer.path) as source:
        assert [f.time for f in source] == pytest.approx([0, 1, 1, 1, 2], abs=1e-3)


def test_nothing_written_leaves_nothing_behind(tmp_path: Path) -> None:
    VideoWriter(tmp_path / "empty.mp4").close()
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_told_before_the_first_picture(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "clip.mp4"):
        with pytest.raises(SinkError, match="cannot be written") as caught:
            VideoWriter(path)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="no full device here")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    def fill(writer: VideoWriter) -> None:
        for number in range(100):
            writer.write(picture(64, 64), number / 2)

    with pytest.raises(SinkError, match="No space left"):
        fill(VideoWriter("/dev/full"))


def test_writing_after_closing_is_refused(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "clip.mp4")
    writer.write(picture(32, 32), 0.0)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(picture(32, 32), 1.0)
