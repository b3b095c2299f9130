"""Writes all of an engine folder but its weights, and lets it take its place once it is complete.

A folder is never renamed: it may be a mount point, or be reached by a link. The new files are written into a
folder of their own inside it; `engine.json`, replaced in one step once they are on the disk, makes them the
engine. Only then are the old files deleted and the new ones moved up.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from secrets import token_hex
from typing import Any

import psutil
from safetensors import SafetensorError
from transformers import Qwen2VLConfig

from egolive.assistant.model.checkpoint import is_within
from egolive.assistant.model.engine_folder import (
    ENGINE_FILE,
    EngineCard,
    Shapes,
    files_folder,
    is_engine_folder,
    read_engine_card,
    write_engine_card,
)
from egolive.assistant.runtime.familiarity import FAMILIARITY_FILE
from egolive.assistant.schema.profiles import PROFILE_FILE
from egolive.streaming.durable_files import sync_folder, sync_tree
from egolive.streaming.errors import ConfigError, EngineError, SinkError

__all__ = [
    "DEFAULT_SIZE",
    "copy_small_files",
    "link_files",
    "model_shapes",
    "new_folder",
    "package_versions",
    "record_loss",
    "unfinished_about",
    "write_card",
]

DEFAULT_SIZE = (252, 448)
"""Height and width of the pictures that an engine takes, where neither caller nor profile says."""

_SMALL = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    FAMILIARITY_FILE,
)
_log = logging.getLogger(__name__)
_INSIDE = "files-"
"""Beginning of the name of a folder in which a new engine is written; its process follows."""
_KEY_FILE = "unfinished"
"""Holds the key of a new engine until it is whole, and a line about it."""
_MOST_TOLD = 1024
"""Bytes that are read of it."""
_writing: set[Path] = set()
"""Such folders that this process is writing."""
_PACKAGES = ("egolive", "torch", "transformers", "onnx", "onnxruntime", "nvidia-modelopt", "bitsandbytes")


@contextmanager
def new_folder(out: Path, key: str | None = None, about: str = "") -> Iterator[Path]:
    """A folder to write an engine into, its card included; it becomes `out` only if nothing goes wrong.

    An engine that is there already is replaced: it can be loaded until the new one is whole, and stays if
    writing fails. Other files in the folder are left alone.

    Args:
        out: The engine folder.
        key: Names what is written. Where a process that was killed or interrupted has left something of the
            same key, that is the folder; without a key nothing is taken over.
        about: One line about what is written that a later run asks for by `unfinished_about`.

    Raises:
        ConfigError: Something else is there.
        SinkError: The disk is full or gone; what was there stays.
    """
    # Of a link its target is written to, also where that is not there yet.
    folder = out.resolve()
    if folder.exists() and not is_engine_folder(folder) and not _is_free(folder):
        raise ConfigError(f"{out} is there already and is no engine folder; give another name with --out")
    made = not folder.exists()
    new = folder / f"{_INSIDE}{os.getpid()}-{token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _writing.add(new)
        left = _unfinished(folder, key)
        if left is not None:
            left.rename(new)
        _remove_unfinished(folder)
        if left is None:
            new.mkdir()
            if key is not None:
                (new / _KEY_FILE).write_text(f"{key}\n{about}\n", encoding="ascii")
        yield new
        (new / _KEY_FILE).unlink(missing_ok=True)
        sync_tree(new)
        old = _card_of(folder)
        card = read_engine_card(new).model_copy(update={"inside": new.name})
        (new / ENGINE_FILE).unlink()
        write_engine_card(folder, card)
    except BaseException as error:
        known = _card_of(folder)
        stopped = isinstance(error, KeyboardInterrupt | SystemExit) and (new / _KEY_FILE).is_file()
        if (known is None or known.inside != new.name) and not stopped:
            shutil.rmtree(new, ignore_errors=True)
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if isinstance(error, OSError):
            raise _unwritten(out, error.strerror or str(error)) from error
        if isinstance(error, SafetensorError) and "I/O error" in str(error):
            raise _unwritten(out, str(error).rpartition("I/O error: ")[2]) from error
        raise
    finally:
        _writing.discard(new)
    try:
        _remove_old(folder, old, card)
        _move_up(folder, card)
    except OSError as error:
        # The engine is whole where it lies.
        _log.warning("%s: the old engine's files are still there (%s)", out, error.strerror or error)


def link_files(source: Path, names: Iterable[str], out: Path) -> None:
    """Files of a folder in another one too, without a second copy where the disk can do that."""
    for name in names:
        try:
            os.link(source / name, out / name)
        except OSError:
            shutil.copyfile(source / name, out / name)


def copy_small_files(source: Path, out: Path) -> None:
    """Configuration and tokenizer files of a checkpoint; those that `out` has already stay."""
    for name in _SMALL:
        if (source / name).is_file() and not (out / name).exists():
            if not is_within(source, source / name):
                raise EngineError(
                    f"{source / name} leads out of its folder, and its target would become part of the "
                    "engine; copy the checkpoint with its files"
                )
            shutil.copyfile(source / name, out / name)


def model_shapes(config: Qwen2VLConfig, size: tuple[int, int]) -> Shapes:
    """Sizes of a model; `size` is the height and width of its pictures, zeros where it takes any."""
    text = config.text_config
    return Shapes(
        height=size[0],
        width=size[1],
        hidden=int(text.hidden_size),
        layers=int(text.num_hidden_layers),
        kv_heads=int(text.num_key_value_heads),
        head_width=int(text.hidden_size) // int(text.num_attention_heads),
        vocabulary=int(text.vocab_size),
        context=int(text.max_position_embeddings),
    )


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what is written."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_card(folder: Path, card: EngineCard) -> None:
    """Write a folder's engine.json, and README.md: what it is, how it was made, what it gains and loses."""
    write_engine_card(folder, card)
    size = sum(known["bytes"] for known in card.files.values()) / 1e6
    lines = [
        f"# {card.name}",
        "",
        f"An egolive engine folder for {card.backend}: `egolive run --engine {card.name}`.",
        "",
        f"- Made from {card.source['name']} (sha256 {card.source['sha256'][:16]}...) by "
        f"`{card.made.get('command', '')}`",
        "- Precision: " + ", ".join(f"{part} {kind}" for part, kind in card.precision.items()),
        f"- Size: {size:.1f} MB",
        "- Written with " + ", ".join(f"{name} {version}" for name, version in card.versions.items()),
    ]
    if card.shapes.height:
        lines.insert(6, f"- Pictures of {card.shapes.width} x {card.shapes.height} pixels, no other size")
    parity = card.made.get("parity", {})
    if parity:
        told = ", ".join(f"{key.replace('_', ' ')} {value:.1e}" for key, value in parity.items())
        lines.append(f"- Largest differences from torch, as shares of the largest value: {told}")
    if card.loss:
        lines += ["", f"## Against {card.loss['reference']}", "", *_loss_rows(card.loss)]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def record_loss(folder: Path, card: EngineCard, loss: dict[str, Any]) -> None:
    """Write what was measured into a folder's card."""
    card.loss.clear()
    card.loss.update(loss)
    write_card(folder, card)


def _is_free(folder: Path) -> bool:
    """Whether a folder holds nothing but what an export that was killed left, and what a file system has."""
    return folder.is_dir() and all(
        _is_unfinished(path) or path.name == "lost+found" for path in folder.iterdir()
    )


def _is_unfinished(path: Path) -> bool:
    return path.name.startswith(_INSIDE) or path.name == f"{ENGINE_FILE}.part"


def _card_of(folder: Path) -> EngineCard | None:
    """The card of the engine that is there; None where there is none that can be read."""
    try:
        return read_engine_card(folder) if is_engine_folder(folder) else None
    except EngineError:
        return None


def _left_over(folder: Path) -> Iterator[Path]:
    """What exports left that were killed; not what others are writing, and not the engine itself."""
    card = _card_of(folder)
    for path in sorted(folder.glob(f"{_INSIDE}*")):
        process = path.name.removeprefix(_INSIDE).partition("-")[0]
        other = process.isdecimal() and int(process) != os.getpid() and psutil.pid_exists(int(process))
        at_work = other or path in _writing
        if not at_work and (card is None or path.name != card.inside):
            yield path


def _unfinished(folder: Path, key: str | None) -> Path | None:
    """What an export with the same key has left."""
    if key is None:
        return None
    for path in _left_over(folder):
        if _told(path)[:1] == [key]:
            return path
    return None


def unfinished_about(out: Path) -> list[str]:
    """What exports that were cut off have told about themselves; see `new_folder`."""
    folder = out.resolve()
    return [told[1] for path in _left_over(folder) if len(told := _told(path)) > 1] if folder.is_dir() else []


def _told(path: Path) -> list[str]:
    """Key and further lines of what was cut off; empty where there are none."""
    told = path / _KEY_FILE
    if path.is_symlink() or told.is_symlink() or not told.is_file():
        return []
    with told.open("rb") as file:
        return file.read(_MOST_TOLD).decode("ascii", errors="replace").splitlines()


def _remove_unfinished(folder: Path) -> None:
    """Remove what exports left that were killed."""
    for path in _left_over(folder):
        shutil.rmtree(path, ignore_errors=True)


def _remove_old(folder: Path, old: EngineCard | None, card: EngineCard) -> None:
    """Remove the files of the engine that was replaced."""
    if old is None:
        return
    if old.inside and old.inside != card.inside:
        shutil.rmtree(files_folder(folder, old))
    # Beside the card too where it lay inside: moving up may not have come to its end.
    for name in (*old.files, PROFILE_FILE, "README.md"):
        (folder / name).unlink(missing_ok=True)


def _move_up(folder: Path, card: EngineCard) -> None:
    """Let an engine's files lie beside its card; at any moment they are where the card says.

    Where the file system has no second names for a file, they stay where they are.
    """
    inside = files_folder(folder, card)
    done = []
    try:
        for path in sorted(inside.iterdir()):
            (folder / path.name).unlink(missing_ok=True)
            os.link(path, folder / path.name)
            done.append(folder / path.name)
    except OSError:
        for path in done:
            path.unlink(missing_ok=True)
        shutil.copyfile(inside / "README.md", folder / "README.md")
        return
    sync_folder(folder)
    write_engine_card(folder, card.model_copy(update={"inside": ""}))
    shutil.rmtree(inside)


def _unwritten(out: Path, reason: str) -> SinkError:
    return SinkError(
        f"{out}: the engine cannot be written ({reason}), what was there before is unchanged; "
        "make room, or give another folder with --out"
    )


def _loss_rows(loss: dict[str, Any]) -> list[str]:
    shown = {key: value for key, value in loss.items() if key not in ("reference", "machine", "versions")}
    return [f"- {key}: {value}" for key, value in shown.items()]
