"""Files that grow end with what is whole, and are brought to the disk each second."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from disks import files_end_at

from egolive.streaming import VideoWriter, durable_files, open_source
from egolive.streaming.durable_files import CheckedFile, LineFile, replace_file, sync_later
from egolive.streaming.errors import DataError, SinkError
from egolive.streaming.frames import Image
from egolive.streaming.recording.pictures import PictureFiles, read_pictures


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    replace_file(path, b"old")
    with files_end_at(5000), pytest.raises(OSError, match="large"):
        replace_file(path, bytes(10_000))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("card.json", b"old")]
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_file_of_lines_ends_with_a_whole_one_where_the_disk_is_full(tmp_path: Path) -> None:
    lines = LineFile(tmp_path / "lines")

    def fill() -> None:
        for number in range(10_000):
            lines.write(b"%06d\n" % number)

    with files_end_at(5000), pytest.raises(OSError, match="large"):
        fill()
    # Nor does anything come back when it is closed, or when there is room again.
    lines.write(b"later.\n")
    lines.close()
    lines.close()
    written = (tmp_path / "lines").read_bytes().splitlines()
    assert written == [b"%06d" % number for number in range(714)] + [b"later."]


def test_a_failure_that_a_library_keeps_to_itself_is_told(tmp_path: Path) -> None:
    file = CheckedFile(tmp_path / "file")
    with files_end_at(5000):
        assert file.write(bytes(4000)) == 4000
        assert file.write(bytes(4000)) == -errno.EFBIG
    # Nothing is put behind what is torn.
    assert file.write(b"more") < 0
    with pytest.raises(OSError, match="large"):
        file.check()
    with pytest.raises(OSError, match="large"):
        file.close()
    assert (tmp_path / "file").stat().st_size == 5000
    assert file.closed


def until(there: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not there() and time.monotonic() < end:
        time.sleep(0.005)
    return there()


def test_growing_files_are_brought_to_the_disk_by_a_thread_that_ends_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(durable_files, "_EVERY", 0.01)

    def sync(number: int) -> None:
        synced.append(os.fstat(number).st_ino)
        real(number)

    monkeypatch.setattr(os, "fsync", sync)
    first, second = LineFile(tmp_path / "first"), CheckedFile(tmp_path / "second")
    nodes = {path.stat().st_ino for path in tmp_path.iterdir()}
    first.write(b"line\n")
    assert until(lambda: nodes <= set(synced))
    first.close()
    second.close()
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    sync_later(folder)
    assert until(lambda: (folder / "file").stat().st_ino in synced)
    assert until(lambda: not [thread for thread in threading.enumerate() if thread.name == "disk"])


def test_a_disk_that_does_not_keep_what_it_took_is_told_with_the_next_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(durable_files, "_EVERY", 0.01)
    monkeypatch.setattr(os, "fsync", fails)
    lines = LineFile(tmp_path / "lines")

    def write() -> None:
        for _ in range(1000):
            lines.write(b"line\n")
            time.sleep(0.005)

    with pytest.raises(OSError, match="Input/output"):
        write()
    with pytest.raises(OSError, match="Input/output"):
        lines.close()


def noise(number: int) -> Image:
    """A picture that does not get small, its number in its corner."""
    image = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    image[:16, :16] = number
    return image


@pytest.mark.parametrize("size", [300, 3_000, 40_000, 110_000])
def test_a_video_on_a_full_disk_ends_with_its_last_whole_fragment(tmp_path: Path, size: int) -> None:
    path = tmp_path / "clip.mp4"
    written = 0
    writer = VideoWriter(path)

    def fill() -> None:
        nonlocal written
        for number in range(200):
            writer.write(noise(number), number / 30)
            written += 1

    with files_end_at(size):
        with pytest.raises(SinkError, match="large") as caught:
            fill()
        writer.close()
    assert "\n" not in str(caught.value)
    if size < 3_500:
        assert not path.exists()
        return
    with open_source(path) as source:
        frames = list(source)
    assert written - 10 <= len(frames) <= written
    assert [round(int(f.image[8, 8, 0]) / 4) for f in frames] == pytest.approx(
        [number / 4 for number in range(len(frames))], abs=1.5
    )


def test_a_disk_that_is_full_when_the_video_is_finished_is_told(tmp_path: Path) -> None:
    """FFmpeg writes the last second then, and does not tell that it could not."""
    writer = VideoWriter(tmp_path / "clip.mp4")
    for number in range(25):
        writer.write(noise(number), number / 30)
    with files_end_at((tmp_path / "clip.mp4").stat().st_size + 5000), pytest.raises(SinkError, match="large"):
        writer.close()
    with open_source(writer.path) as source:
        assert len(list(source)) >= 16


@pytest.mark.parametrize("size", [500, 20_000, 100_000])
def test_recorded_pictures_on_a_full_disk_end_with_the_last_whole_one(tmp_path: Path, size: int) -> None:
    files = PictureFiles(tmp_path)
    written = 0

    def fill() -> None:
        nonlocal written
        for number in range(200):
            files.write(noise(number))
            written += 1

    with files_end_at(size):
        with pytest.raises(SinkError, match="large"):
            fill()
        files.close()
    try:
        kept = list(read_pictures(tmp_path))
    except DataError:
        assert written == 0
        kept = []
    assert written - 1 <= len(kept) <= written
    assert [int(image[0, 0, 0]) for image in kept] == list(range(len(kept)))


def test_recorded_pictures_are_on_the_disk_one_picture_later_at_the_latest(tmp_path: Path) -> None:
    """Without being finished, as a kill leaves them; a cluster of five seconds waited in memory."""
    files = PictureFiles(tmp_path)
    for number in range(40):
        files.write(noise(number))
        if number:
            assert len(list(read_pictures(tmp_path))) >= number
    files.close()
