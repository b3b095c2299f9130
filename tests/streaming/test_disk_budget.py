"""Segments that are removed, the oldest first, and what is never touched."""

from __future__ import annotations

from pathlib import Path

from disks import small_disk

from egolive.streaming.disk_budget import DiskBudget, next_number, room_maker, segments_in
from egolive.streaming.durable_files import LineFile


def put(folder: Path, name: str, size: int = 1000) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def test_the_oldest_segments_go_with_all_their_files(tmp_path: Path) -> None:
    for number in (2, 9, 10):
        put(tmp_path, f"overlay-{number:06d}.mp4")
        put(tmp_path, f"events-{number:06d}.jsonl", 10)
    put(tmp_path, "overlay.mp4", 10_000)
    put(tmp_path, "mine-000001.mp4", 10_000)
    budget = DiskBudget(tmp_path, 2_100)
    budget.writing((0, 10))
    assert [segment.place for segment in segments_in(tmp_path)] == [(0, 9), (0, 10)]
    (removed,) = budget.removed()
    assert (removed.names, removed.bytes) == (("events-000002.jsonl", "overlay-000002.mp4"), 1010)
    assert removed.why == "budget"
    assert not budget.removed()
    assert {"overlay.mp4", "mine-000001.mp4"} <= {path.name for path in tmp_path.iterdir()}
    assert next_number(tmp_path, "segment") == 11


def test_what_is_open_stays_whatever_it_takes(tmp_path: Path) -> None:
    for number in (1, 2):
        put(tmp_path, f"overlay-{number:06d}.mp4")
    budget = DiskBudget(tmp_path, 10)
    budget.writing((0, 2))
    assert [segment.place for segment in segments_in(tmp_path)] == [(0, 2)]
    assert not budget.make_room()


def test_a_run_without_segments_goes_with_its_folder(tmp_path: Path) -> None:
    put(tmp_path, "run-000001/recording-000003.jsonl")
    put(tmp_path, "run-000001/pictures-000003-000.mkv")
    put(tmp_path, "run-000001/recording.json", 5)
    put(tmp_path, "run-000002/recording-000001.jsonl")
    budget = DiskBudget(tmp_path, 1_500)
    budget.writing((2, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["run-000002"]


def test_links_are_neither_counted_nor_followed(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/overlay-000001.mp4")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "overlay-000001.mp4").symlink_to(tmp_path / "elsewhere" / "overlay-000001.mp4")
    (folder / "run-000001").symlink_to(tmp_path / "elsewhere")
    assert not DiskBudget(folder, 1).make_room()
    assert (tmp_path / "elsewhere" / "overlay-000001.mp4").is_file()


def test_a_full_disk_gets_room_before_writing_fails(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 200_000) as disk:
        for number in (1, 2):
            put(disk, f"overlay-{number:06d}.mp4", 80_000)
        budget = DiskBudget(disk, 10_000_000)
        file = LineFile(disk / "events-000003.jsonl", make_room=room_maker(disk, [budget]))
        budget.writing((0, 3))
        for _ in range(150):
            file.write(b"y" * 999 + b"\n")
        file.close()
        assert (disk / "events-000003.jsonl").stat().st_size == 150_000
        assert [removed.why for removed in budget.removed()] == ["disk full", "disk full"]
