"""What a full disk or a kill leaves of a training run is found again, and only what is whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from disks import files_end_at
from safetensors.torch import save_file

from egolive.streaming.errors import SinkError
from egolive.train.common.run_files import last_checkpoint, partial_of, put_in_place, writing_into


def no_room(_: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


WRITERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda out: save_file({"weights": torch.zeros(10_000)}, out / "model.safetensors"),
    "torch": lambda out: torch.save({"weights": torch.zeros(10_000)}, out / "optimizer.pt"),
    "text": lambda out: (out / "history.json").write_text("x" * 40_000),
    "no room": no_room,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_told_in_one_line_whoever_writes(tmp_path: Path, kind: str) -> None:
    with files_end_at(20_000), pytest.raises(SinkError, match="make room") as caught, writing_into(tmp_path):
        WRITERS[kind](tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    if kind != "no room":
        with writing_into(tmp_path):
            WRITERS[kind](tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), FileNotFoundError(errno.ENOENT, "no data")])
def test_what_is_no_matter_of_the_disk_is_told_as_it_is(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, writing_into(tmp_path):
        raise error
    assert caught.value is error


def test_a_checkpoint_whose_state_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    states = {9: '{"global_step": 9}', 10: '{"global_step": 10}', 100: '{"global_st', 101: "", 102: None}
    for step, state in states.items():
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_a_model_takes_the_place_of_another_once_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    old = {"config.json": b"old", "model-00001-of-00002.safetensors": b"old", "notes.md": b"mine"}
    for name, data in old.items():
        (folder / name).write_bytes(data)
    new = partial_of(folder)
    new.mkdir()
    (new / "config.json").write_bytes(b"new")
    (new / "model.safetensors").write_bytes(b"new")

    def fails(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="No space"):
            put_in_place(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == old
    put_in_place(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "config.json": b"new",
        "model.safetensors": b"new",
        "notes.md": b"mine",
    }
    assert not new.exists()
