"""The cache of built engines: what is listed, and that nothing else is ever removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from measured import config_folder

from egolive.assistant.cli import main as cli
from egolive.assistant.model.model_cache import cached_models, config_of, entry_for, models_folder, touch
from egolive.assistant.system.user_cache import cache_folder
from egolive.streaming.errors import EngineError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "egolive" / "models"


def made(cache: Path, name: str = "model", form: str = "int4") -> str:
    """An entry with a build that was interrupted."""
    entry = entry_for(f"owner/{name}", "0123456789abcdef", form)
    touch(entry)
    (entry.engine / "files-1").mkdir(parents=True)
    (entry.engine / "files-1" / "decoder.data").write_bytes(b"x" * 1000)
    assert entry.folder.parent == cache
    return entry.name


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache" / "egolive"
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_folder() == Path.home() / ".cache" / "egolive"


def test_entries_are_listed_with_what_they_are_of(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    name = made(cache)
    assert name == "model-0123456789ab-int4"
    (entry,) = cached_models()
    assert (entry.model, entry.form, entry.built) == ("owner/model", "int4", False)
    assert entry.nbytes > 1000
    report = cache / "list.json"
    assert cli.call(["models", "--json", str(report)]) == 0
    (told,) = json.loads(report.read_text())["models"]
    assert (told["name"], told["complete"], told["bytes"]) == (name, False, entry.nbytes)
    assert "not complete" in capsys.readouterr().out


def test_an_empty_cache_is_said_to_be_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["models"]) == 0
    assert "nothing has been built" in capsys.readouterr().err


def test_entries_are_removed_by_name_or_all(cache: Path) -> None:
    first, second = made(cache), made(cache, "other")
    assert cli.call(["models", "remove", first]) == 0
    assert [entry.name for entry in cached_models()] == [second]
    made(cache)
    assert cli.call(["models", "remove", "--all"]) == 0
    assert not list(cache.iterdir())


def test_what_egolive_did_not_make_is_neither_listed_nor_removed(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = made(cache)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "weights").write_text("mine")
    (cache / "link").symlink_to(mine)
    (cache / "foreign").mkdir()
    (cache / "foreign" / "weights").write_text("mine")
    # A copy under another name, which may by now be something else.
    (cache / "renamed").mkdir()
    (cache / "renamed" / "entry.json").write_bytes((cache / name / "entry.json").read_bytes())
    (cache / "spoilt").mkdir()
    (cache / "spoilt" / "entry.json").write_text("{")
    assert [entry.name for entry in cached_models()] == [name]
    for other in ("link", "foreign", "renamed", "spoilt", "..", f"../models/{name}", str(mine), "absent"):
        assert cli.call(["models", "remove", other]) == 1
        assert "no model that egolive has built" in capsys.readouterr().err
    assert cli.call(["models", "remove", "--all"]) == 0
    assert (mine / "weights").read_text() == (cache / "foreign" / "weights").read_text() == "mine"
    assert {path.name for path in models_folder().iterdir()} == {"link", "foreign", "renamed", "spoilt"}


@pytest.mark.parametrize("words", [[], ["name", "--all"]])
def test_remove_wants_names_or_all(words: list[str]) -> None:
    assert cli.call(["models", "remove", *words]) == 2


def test_a_folders_revision_changes_with_its_files(tmp_path: Path) -> None:
    folder = config_folder(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(b"one")
    found = [config_of(str(folder))[1]]
    os.utime(weights, ns=(1, 1))
    found.append(config_of(str(folder))[1])
    config_folder(folder, vocab_size=7)
    found.append(config_of(str(folder))[1])
    assert len(set(found)) == 3
    assert config_of(str(folder)) == (folder / "config.json", found[-1])


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="there is no folder"):
        config_of(str(tmp_path / "absent"))
