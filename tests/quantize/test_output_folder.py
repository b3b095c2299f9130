"""An engine that is replaced is the old one or the new one at any moment, wherever its folder lies."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disks import small_disk
from paths import ROOT, SUPPORT

from egolive.assistant.model.engine_folder import (
    EngineCard,
    Shapes,
    describe_files,
    files_folder,
    read_engine_card,
    verify_files,
)
from egolive.assistant.schema.profiles import NANO, load_profile, save_profile
from egolive.quantize.output_folder import new_folder, write_card
from egolive.streaming.errors import ConfigError, SinkError

STEPS = ("replace", "fsync", "link", "unlink", "rmdir", "mkdir")
"""Calls of the operating system by which an engine is put in place."""


def write(out: Path, word: str, *, more: tuple[str, ...] = ()) -> None:
    """Write an engine whose files hold a word."""
    with new_folder(out) as folder:
        for name in ("decoder.onnx", "config.json", *more):
            (folder / name).write_text(f"{word} {name}")
        save_profile(NANO, folder)
        shapes = Shapes(**dict.fromkeys(Shapes.model_fields, 1))
        parts = dict.fromkeys(("tower", "decoder", "head", "embeddings"), "fp32")
        about: dict[str, Any] = {"image_token": 1, "video_token": 2, "profile": "nano", "versions": {}}
        card = EngineCard(
            name=word,
            backend="onnx",
            precision=parts,
            shapes=shapes,
            source={"name": word, "sha256": "0" * 16},
            files=describe_files(folder),
            **about,
        )
        write_card(folder, card)


def word_of(out: Path) -> str:
    """Which engine is there, once all of its files are what its card says."""
    card = read_engine_card(out)
    verify_files(out, card)
    assert load_profile(files_folder(out, card)) == NANO
    words = {(files_folder(out, card) / name).read_text().partition(" ")[0] for name in card.files}
    assert words == {card.name}
    return card.name


def names_in(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


FLAT = {"engine.json", "README.md", "egolive.json", "decoder.onnx", "config.json"}


def test_a_new_engine_takes_the_place_of_an_old_one_and_of_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "engine"
    write(out, "old", more=("decoder.data",))
    assert names_in(out) == FLAT | {"decoder.data"}
    (out / "notes.md").write_text("mine")
    write(out, "new")
    assert word_of(out) == "new"
    assert names_in(out) == FLAT | {"notes.md"}
    assert names_in(tmp_path) == {"engine"}


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link_and_its_target_gets_the_engine(tmp_path: Path, *, there: bool) -> None:
    target, link = tmp_path / "disk" / "target", tmp_path / "engine"
    target.parent.mkdir()
    link.symlink_to(target)
    if there:
        write(target, "old")
    write(link, "new")
    write(link, "newer")
    assert link.is_symlink()
    assert word_of(link) == word_of(target) == "newer"
    assert names_in(target) == FLAT


@pytest.mark.parametrize("before", [None, "old"])
def test_a_folder_that_cannot_be_renamed_or_removed_gets_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    out = tmp_path / "engine"
    out.mkdir()
    (out / "lost+found").mkdir()
    if before:
        write(out, before)

    def busy(name: str) -> None:
        call = getattr(os, name)

        def refuse(*paths: Any, **options: Any) -> Any:
            if out in [Path(path) for path in paths]:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            return call(*paths, **options)

        monkeypatch.setattr(os, name, refuse)

    for name in ("rename", "replace", "rmdir"):
        busy(name)
    write(out, "new")
    assert word_of(out) == "new"
    assert names_in(out) == FLAT | {"lost+found"}


def test_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no engine folder"):
        write(tmp_path, "new")
    assert names_in(tmp_path) == {"mine.txt"}


@pytest.mark.parametrize("before", [None, "old"])
def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path, before: str | None) -> None:
    out = tmp_path / "engine"
    if before:
        write(out, before)

    def fails() -> None:
        with new_folder(out) as folder:
            (folder / "decoder.onnx").write_text("half of")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SinkError, match=r"No space left on device.*unchanged") as caught:
        fails()
    assert "\n" not in str(caught.value)
    if before is None:
        assert not out.exists()
    else:
        assert word_of(out) == before
        assert names_in(out) == FLAT


@pytest.mark.parametrize("step", STEPS)
def test_whichever_step_fails_an_engine_is_there_and_the_next_export_tidies_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    out = tmp_path / "engine"
    failed = 0
    for number in range(100):
        write(out, "old", more=("decoder.data",))
        calls = iter(range(100))
        call: Callable[..., Any] = getattr(os, step)

        def fails(*paths: Any, **options: Any) -> Any:
            if next(calls) == number:  # noqa: B023 (called before the next number)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(*paths, **options)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(os, step, fails)
            try:
                write(out, "new")
            except SinkError:
                failed += 1
        if next(calls) <= number:
            break
        assert word_of(out) in ("old", "new")
    assert failed or step in ("link", "unlink", "rmdir")
    write(out, "newer")
    assert word_of(out) == "newer"
    assert names_in(out) == FLAT


def test_a_disk_without_second_names_keeps_the_files_where_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "engine"

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    for word in ("old", "new", "newer"):
        write(out, word)
        assert word_of(out) == word
    (inside,) = names_in(out) - {"engine.json", "README.md"}
    assert names_in(out / inside) == FLAT - {"engine.json"}


def test_what_a_killed_export_left_goes_and_what_another_writes_stays(tmp_path: Path) -> None:
    out = tmp_path / "engine"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for process in (ended.pid, os.getpid(), os.getppid()):
        (out / f"files-{process}-0badcafe").mkdir(parents=True)
    write(out, "new")
    assert names_in(out) == FLAT | {f"files-{os.getppid()}-0badcafe"}


@pytest.mark.robustness
def test_a_mount_point_gets_the_engine_and_a_full_one_keeps_the_old(tmp_path: Path) -> None:
    with small_disk(tmp_path / "engine", 200_000) as out:
        write(out, "old")
        assert word_of(out) == "old"
        with pytest.raises(SinkError, match="No space left"), new_folder(out) as folder:
            (folder / "decoder.onnx").write_bytes(bytes(300_000))
        assert word_of(out) == "old"
        assert names_in(out) == FLAT
        write(out, "new")
        assert word_of(out) == "new"
        assert names_in(out) == FLAT


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
import test_output_folder as tests

out = Path(sys.argv[1])
killed = 0
for step in tests.STEPS:
    for number in itertools.count():
        tests.write(out, "old", more=("decoder.data",))
        if not (child := os.fork()):
            calls, call = itertools.count(), getattr(os, step)
            def dies(*paths, **options):
                if next(calls) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*paths, **options)
            setattr(os, step, dies)
            tests.write(out, "new")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert tests.word_of(out) in ("old", "new"), (step, number)
        if not os.WIFSIGNALED(status):
            break
        killed += 1
tests.write(out, "newer")
assert tests.word_of(out) == "newer"
assert tests.names_in(out) == tests.FLAT, tests.names_in(out)
print(killed)
"""


@pytest.mark.robustness
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_step_an_engine_is_there(tmp_path: Path) -> None:
    place = os.pathsep.join(map(str, (SUPPORT, ROOT / "tests" / "quantize")))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "engine")],
        env=os.environ | {"PYTHONPATH": place},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20
