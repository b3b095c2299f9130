"""Engines that egolive has built for itself, in the user's cache folder: found, listed and removed.

An entry is a folder `<name>-<revision>-<form>` that holds `entry.json`, which says what it is of, and the
engine folder itself. Only folders with such a file are listed, and nothing else is ever removed. Entries are
built by `egolive.assistant.cli.model_choice` and listed by `egolive models`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import huggingface_hub
from pydantic import ConfigDict, TypeAdapter, ValidationError

from egolive.assistant.model.checkpoint import model_folder, resolve_model, small_files
from egolive.assistant.model.engine_folder import is_engine_folder, read_engine_card
from egolive.assistant.system.user_cache import cache_folder
from egolive.streaming.durable_files import replace_file
from egolive.streaming.errors import EngineError
from egolive.streaming.json_files import json_bytes
from egolive.streaming.paths import brief

__all__ = ["CachedModel", "cached_models", "config_of", "entry_for", "is_cached", "remove_model", "touch"]

_ENTRY = "entry.json"
_MOST = 65_536
"""Bytes of an entry's file."""
_REVISION = 12
"""Characters of a revision in the name of a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedModel:
    """One entry of the cache."""

    __pydantic_config__ = ConfigDict(strict=True, extra="ignore")

    model: str
    """What was given to `--model`."""
    revision: str
    """The hub's commit, or a hash over a folder's files, see `config_of`."""
    form: str
    """As `egolive quantize --to` has it."""
    used: float
    """When it was last taken, seconds since 1970."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{_plain(self.model)}-{self.revision[:_REVISION]}-{self.form}"

    @property
    def folder(self) -> Path:
        """Where it lies; it may not be there yet."""
        return models_folder() / self.name

    @property
    def engine(self) -> Path:
        """The engine folder, named for people."""
        return self.folder / f"{_plain(self.model)}-{self.form}"

    @property
    def built(self) -> bool:
        """Whether there is a complete engine: its card is written last. Loading verifies its files."""
        if not is_engine_folder(self.engine):
            return False
        try:
            read_engine_card(self.engine)
        except EngineError:
            return False
        return True

    @property
    def nbytes(self) -> int:
        """Bytes on the disk, what an interrupted build has left included."""
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if not path.is_dir())


_FILE = TypeAdapter(CachedModel)


def models_folder() -> Path:
    """Where all entries lie."""
    return cache_folder() / "models"


def config_of(model: str) -> tuple[Path, str]:
    """The `config.json` of a checkpoint and its revision, without its weights where they are not here yet.

    Args:
        model: A checkpoint folder or a hub id.

    Returns:
        The file, and the hub's commit, or a hash over a folder's small files and the names, sizes and times
        of its weights: another one wherever the weights may be others.

    Raises:
        EngineError: There is no such model, or the hub cannot be reached.
    """
    folder = model_folder(model)
    if folder is None:
        config = _hub_config(model)
        return config, config.parent.name
    whole = hashlib.sha256()
    for path in small_files(folder):
        whole.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    for path in sorted(folder.glob("*.safetensors")):
        facts = path.stat()
        whole.update(f"{path.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return folder / "config.json", whole.hexdigest()


def is_cached(model: str) -> bool:
    """Whether a hub model's configuration is here already, so that `config_of` asks no network."""
    return _cached_config(model) is not None


def _cached_config(model: str) -> Path | None:
    cached = huggingface_hub.try_to_load_from_cache(model, "config.json")
    return Path(cached) if isinstance(cached, str) else None


def _hub_config(model: str) -> Path:
    if (cached := _cached_config(model)) is not None:
        return cached
    try:
        return Path(huggingface_hub.hf_hub_download(model, "config.json", etag_timeout=10.0))
    except Exception:  # as for whole models, whose errors are told in words
        return resolve_model(model) / "config.json"


def entry_for(model: str, revision: str, form: str) -> CachedModel:
    """The entry of a form of a model, whether it is there or not."""
    name = str(Path(model).expanduser().resolve()) if model_folder(model) is not None else model
    return CachedModel(model=name, revision=revision, form=form, used=time.time())


def touch(entry: CachedModel) -> None:
    """Write an entry's file: before it is built, and whenever it is taken.

    Raises:
        OSError: It cannot be written.
    """
    entry.folder.mkdir(parents=True, exist_ok=True)
    replace_file(entry.folder / _ENTRY, json_bytes(asdict(entry)))


def cached_models() -> list[CachedModel]:
    """All entries, the last used first; folders that egolive did not make are left out."""
    folder = models_folder()
    found = [entry for path in folder.iterdir() if (entry := _read(path))] if folder.is_dir() else []
    return sorted(found, key=lambda entry: -entry.used)


def remove_model(name: str) -> int:
    """Remove an entry.

    Args:
        name: As `egolive models` lists it.

    Returns:
        Bytes that were freed.

    Raises:
        EngineError: There is no such entry, or it cannot be removed.
    """
    entry = next((entry for entry in cached_models() if entry.name == name), None)
    if entry is None:
        raise EngineError(
            f"{brief(name)} is no model that egolive has built; `egolive models` lists them, other folders "
            "are yours to remove"
        )
    size = entry.nbytes
    try:
        shutil.rmtree(entry.folder)
    except OSError as error:
        raise EngineError(f"{entry.folder} cannot be removed: {error.strerror or error}") from error
    return size


def _read(path: Path) -> CachedModel | None:
    """The entry in a folder; None where it is a link, has no file of ours, or one of another folder."""
    file = path / _ENTRY
    if path.is_symlink() or file.is_symlink() or not file.is_file() or file.stat().st_size > _MOST:
        return None
    try:
        entry = _FILE.validate_json(file.read_bytes())
    except (ValidationError, OSError):
        return None
    return entry if entry.name == path.name else None


def _plain(model: str) -> str:
    """The last part of a model's name, in characters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", model.rstrip("/").rpartition("/")[2]).strip("-.")[:60] or "model"
