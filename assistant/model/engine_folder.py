"""An engine folder: what `engine.json` says, and whether the files beside it are still what it says.

`egolive export` and `egolive quantize` write such folders, `egolive.assistant.load_local` opens them. Nothing
in a folder is trusted before its size and hash are those that were written down; only files that are listed
are opened, and none of them can hold code for the processor (ONNX graphs, safetensors, JSON; engines of
TensorRT are programs of the GPU, and are built on the machine that runs them).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from egolive.assistant.model.checkpoint import inspect_checkpoint
from egolive.streaming.errors import EngineError, one_line

__all__ = [
    "CACHE_FILE",
    "DECODER_FILE",
    "DECODE_FILE",
    "EMBEDDINGS_FILE",
    "ENGINE_FILE",
    "FORMAT",
    "TOWER_FILE",
    "Backend",
    "EngineCard",
    "Shapes",
    "describe_files",
    "hash_checkpoint",
    "is_engine_folder",
    "read_engine_card",
    "verify_files",
    "write_engine_card",
]

ENGINE_FILE = "engine.json"
FORMAT = 1
"""Raised whenever an older egolive could misread a folder."""
TOWER_FILE = "tower.onnx"
DECODER_FILE = "decoder.onnx"
DECODE_FILE = "decode.onnx"
"""The decoder once more, with fixed sizes, for decode steps; its weights are those of `DECODER_FILE`."""
CACHE_FILE = "timing.cache"
"""What TensorRT has measured on this device, so that the next build takes less time."""
EMBEDDINGS_FILE = "embeddings.safetensors"
"""The token embeddings, which stay outside the decoder: one row of the table is read for a token."""

Backend = Literal["torch", "onnx", "tensorrt"]

_PLAIN = {".onnx", ".data", ".safetensors", ".json", ".jinja", ".txt", ".engine", ".cache"}
"""Kinds of files that a folder may list; none of them is a pickle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Sizes that the backend needs before it can run anything."""

    height: int
    """Pixels of the pictures that the tower takes; 0 where it takes any."""
    width: int
    """As `height`."""
    hidden: int
    """Width of embeddings and visual tokens."""
    layers: int
    """Of the decoder."""
    kv_heads: int
    head_width: int
    vocabulary: int
    context: int
    """Tokens that the model can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCard:
    """What `engine.json` says."""

    name: str
    backend: Backend
    precision: dict[str, str]
    """By part: tower, decoder, head, embeddings."""
    shapes: Shapes
    image_token: int
    video_token: int
    profile: str
    """Name of the profile, which stands in `egolive.json`."""
    source: dict[str, str]
    """name and sha256 of the checkpoint that it was made from."""
    versions: dict[str, str]
    """Of the packages that wrote it."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name, bytes and sha256 of every file that may be opened."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Limits of one pass, as `egolive.assistant.backends.onnx.graph_limits.Sizes` has them; empty where there
    are none."""
    made: dict[str, Any] = field(default_factory=dict)
    """How: command, method, block, seconds, peak memory, parity."""
    loss: dict[str, Any] = field(default_factory=dict)
    """What was measured against another engine; empty until then."""


def is_engine_folder(folder: Path) -> bool:
    """Whether it says of itself that it is one."""
    return (folder / ENGINE_FILE).is_file()


def read_engine_card(folder: Path) -> EngineCard:
    """Read `engine.json`; the files beside it are not looked at, see `verify_files`.

    Raises:
        EngineError: It cannot be read, or another version of egolive wrote it.
    """
    path = folder / ENGINE_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} cannot be read ({one_line(error)}); export the engine again") from error
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT:
        raise EngineError(
            f"{folder} is an engine folder of format {version!r}, this egolive reads format {FORMAT}: "
            "export the checkpoint again with the egolive that shall run it"
        )
    try:
        del values["format"]
        card = EngineCard(**(values | {"shapes": Shapes(**values["shapes"])}))
        _check(card)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise EngineError(f"{path} is incomplete ({one_line(error)}); export the engine again") from error
    return card


def verify_files(folder: Path, card: EngineCard) -> None:
    """Compare every file with what was written down when the folder was made.

    Raises:
        EngineError: One is missing, cut off or changed.
    """
    for name, known in card.files.items():
        path = folder / name
        if not path.is_file():
            raise EngineError(f"{folder} is incomplete: {name} is missing; copy it again")
        size = path.stat().st_size
        if size != known["bytes"]:
            raise EngineError(
                f"{path} has {size} bytes in place of {known['bytes']}: it is cut off or was changed; "
                "copy it again"
            )
        if _sha256(path) != known["sha256"]:
            raise EngineError(f"{path} is not the file that was exported (its hash differs); copy it again")


def write_engine_card(folder: Path, card: EngineCard) -> None:
    """Write `engine.json`, whole or not at all."""
    values = {"format": FORMAT} | asdict(card)
    partial = folder / f"{ENGINE_FILE}.part"
    partial.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(folder / ENGINE_FILE)


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes and hash of all files in a folder that the card has to vouch for.

    The profile and the human card are left out: `egolive doctor` and people may change them.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix in _PLAIN)
    paths = [folder / name for name in names if name not in (ENGINE_FILE, "egolive.json")]
    return {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths}


def hash_checkpoint(folder: Path) -> str:
    """One hash over a checkpoint's configuration and weights.

    Raises:
        EngineError: It is no checkpoint.
    """
    whole = hashlib.sha256()
    for path in (folder / "config.json", *inspect_checkpoint(folder).weights):
        whole.update(f"{path.name} {_sha256(path)}\n".encode())
    return whole.hexdigest()


def _check(card: EngineCard) -> None:
    """What the types of JSON values do not tell; raises the plain errors that a caller turns into one."""
    if card.backend not in get_args(Backend):
        raise ValueError(f"unknown backend {card.backend!r}")
    if not card.files or not isinstance(card.files, Mapping):
        raise ValueError("no files are listed")
    numbers = (card.image_token, card.video_token, *asdict(card.shapes).values(), *card.sizes.values())
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError("a size is not a whole number")
    missing = {"tower", "decoder", "head", "embeddings"} - set(card.precision)
    if missing:
        raise KeyError(f"the precision of {min(missing)}")
    for name, known in card.files.items():
        if Path(name).name != name or Path(name).suffix not in _PLAIN:
            raise ValueError(f"{name!r} cannot be part of an engine")
        if not isinstance(known["bytes"], int) or not isinstance(known["sha256"], str):
            raise TypeError(f"what is known of {name}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
