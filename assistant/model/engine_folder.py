"""Engine folders: reads and writes `engine.json`, and verifies the files that it lists.

`egolive export` and `egolive quantize` write such folders, `egolive.assistant.load_local` opens them. Nothing
in a folder is trusted before its size and hash are those that were written down; only files that are listed
are opened, none of them through a link, and none of them can hold code for the processor (ONNX graphs,
safetensors, JSON; engines of TensorRT are programs of the GPU, and are built on the machine that runs them).

The files lie beside `engine.json`. While an engine is replaced, those of the new one lie in a folder of their
own beside it, which `engine.json` names: replacing that one file turns one engine into the other.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from egolive.assistant.model.checkpoint import read_files, small_files
from egolive.streaming.durable_files import replace_file
from egolive.streaming.errors import DataError, EngineError
from egolive.streaming.json_files import MOST_BYTES, JsonModel, json_bytes, parse_json, read_at_most
from egolive.streaming.paths import brief

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
    "SharedTable",
    "describe_files",
    "files_folder",
    "hash_checkpoint",
    "is_engine_folder",
    "listed_file",
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

_LOCATION = re.compile(rb"\n\x08location\x12([\x01-\x7f])(.{1,127})", re.DOTALL)
"""How a graph names a file of weights: a length and a name."""

_PLAIN = {".onnx", ".data", ".safetensors", ".json", ".jinja", ".txt", ".engine", ".cache"}
"""Kinds of files that a folder may list; none of them is a pickle."""


def _known_backend(value: object) -> object:
    if value not in get_args(Backend):
        raise ValueError(f"unknown backend {value!r:.40}")
    return value


def _all_parts(precision: dict[str, str]) -> dict[str, str]:
    missing = {"tower", "decoder", "head", "embeddings"} - set(precision)
    if missing:
        raise ValueError(f"the precision of {min(missing)} is missing")
    return precision


def _plain_files(files: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Refuse names outside the folder, kinds of files that can hold code, and facts that are not there."""
    for name, known in files.items():
        if Path(name).name != name or Path(name).suffix not in _PLAIN:
            raise ValueError(f"{name!r:.60} cannot be part of an engine")
        if type(known.get("bytes")) is not int or not isinstance(known.get("sha256"), str):
            raise ValueError(f"bytes and sha256 of {name!r:.60} are missing")
    return files


_Extent = Annotated[int, Field(ge=0, le=2**20)]
"""No size of a model is larger; memory is taken by these numbers."""


def _plain_name(name: str) -> str:
    if name and (Path(name).name != name or name in (".", "..") or "\0" in name):
        raise ValueError(f"{name!r:.60} is no folder inside the engine's own")
    return name


class Shapes(JsonModel, extra="forbid"):
    """Sizes that the backend needs before it can run anything."""

    height: _Extent
    """Pixels of the pictures that the tower takes; 0 where it takes any."""
    width: _Extent
    """As `height`."""
    hidden: _Extent
    """Width of embeddings and visual tokens."""
    layers: Annotated[int, Field(ge=0, le=1024)]
    """Of the decoder."""
    kv_heads: Annotated[int, Field(ge=0, le=1024)]
    head_width: Annotated[int, Field(ge=0, le=4096)]
    vocabulary: _Extent
    context: _Extent
    """Tokens that the model can hold."""


class SharedTable(JsonModel, extra="forbid"):
    """Where the token embeddings stand that are the weights of the last layer too."""

    file: Annotated[str, AfterValidator(_plain_name)]
    """Of the engine's files."""
    rows: _Extent
    """One a token."""
    width: _Extent
    bits: Annotated[int, Field(ge=4, le=32)]
    """Of a number: 32 is fp32, 16 bf16; 4 and 8 are whole numbers in blocks, zero in the middle."""
    offset: Annotated[int, Field(ge=0, le=2**48)]
    """Of the first row, in bytes."""
    block: Annotated[int, Field(ge=16, le=4096)] = 32
    """Numbers that share a scale."""
    scales_offset: Annotated[int, Field(ge=0, le=2**48)] = 0
    scales_dtype: Literal["fp32", "bf16"] = "fp32"


class EngineCard(JsonModel, extra="forbid"):
    """What `engine.json` says."""

    name: str
    backend: Annotated[Backend, BeforeValidator(_known_backend)]
    precision: Annotated[dict[str, str], AfterValidator(_all_parts)]
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
    files: Annotated[dict[str, dict[str, Any]], Field(min_length=1), AfterValidator(_plain_files)]
    """By name, bytes and sha256 of every file that may be opened."""
    inside: Annotated[str, AfterValidator(_plain_name)] = ""
    """Name of the folder beside `engine.json` in which the files lie; empty where they lie beside it too."""
    embeddings: SharedTable | None = None
    """Where the embeddings stand if not in `EMBEDDINGS_FILE`."""
    sizes: dict[str, int] = Field(default_factory=dict)
    """Limits of one pass, as `egolive.assistant.backends.onnx.graph_limits.Sizes` has them; empty where there
    are none."""
    made: dict[str, Any] = Field(default_factory=dict)
    """How: command, method, block, seconds, peak memory, parity."""
    loss: dict[str, Any] = Field(default_factory=dict)
    """What was measured against another engine; empty until then."""


class _CardFile(EngineCard):
    """`engine.json`."""

    format: Literal[1]


def is_engine_folder(folder: Path) -> bool:
    """Whether it says of itself that it is one."""
    return (folder / ENGINE_FILE).is_file()


def read_engine_card(folder: Path) -> EngineCard:
    """Read `engine.json`; the files beside it are not looked at, see `verify_files`.

    Raises:
        EngineError: It cannot be read, or another version of egolive wrote it.
    """
    path, remedy = folder / ENGINE_FILE, "export the engine again"
    data = read_at_most(path, MOST_BYTES, where=f"{path} cannot be read", remedy=remedy, error=EngineError)
    try:
        return parse_json(_CardFile, data, where=f"{path} cannot be read or is incomplete", remedy=remedy)
    except DataError as error:
        raise EngineError(str(error)) from None


def files_folder(folder: Path, card: EngineCard) -> Path:
    """Where an engine's files lie: its own folder, or the one inside it that its card names."""
    return folder / card.inside if card.inside else folder


def verify_files(folder: Path, card: EngineCard) -> None:
    """Compare every file with what was written down when the folder was made.

    Raises:
        EngineError: One is missing, cut off, changed or a link, or one would be read that is not listed.
    """
    files = files_folder(folder, card)
    # The folder itself may be one: the user named it.
    if card.inside and files.is_symlink():
        raise EngineError(f"{files} is a symbolic link; copy the engine with its files")
    # transformers takes more than it needs, such as special tokens or an adapter put beside the rest.
    there = read_files(files) if card.backend == "torch" else small_files(files)
    for path in there:
        if str(path.relative_to(files)) not in card.files:
            raise EngineError(
                f"{path} would be read, and is not among the files that were exported; remove it"
            )
    for name, known in card.files.items():
        path = files / name
        if path.is_symlink():
            raise EngineError(f"{path} is a symbolic link; copy the engine with its files")
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
        if path.suffix == ".onnx":
            _check_weight_files(path, card)


def listed_file(folder: Path, card: EngineCard, name: str) -> Path:
    """A file of an engine folder, if the card lists it, so that `verify_files` has compared it.

    Raises:
        EngineError: It does not.
    """
    if name not in card.files:
        raise EngineError(f"{folder / ENGINE_FILE} does not list {name}; export the engine again")
    return files_folder(folder, card) / name


def _check_weight_files(path: Path, card: EngineCard) -> None:
    """Refuse a graph whose weights are in a file that the card does not list.

    A graph names such a file as a pair of texts in protobuf: field 1 is "location", field 2 the name.

    Raises:
        EngineError: It does, or the pair is written in another way than by every writer of protobuf.
    """
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as graph:
        for key in re.finditer(b"location", graph):
            told = _LOCATION.match(graph, key.start() - 2) if key.start() >= 2 else None
            name = told[2][: told[1][0]].decode(errors="replace") if told else ""
            if name not in card.files:
                raise EngineError(
                    f"{path} takes weights from {brief(name) or 'a file without a name'}, which is not among "
                    "the files that were exported; export the engine again"
                )


def write_engine_card(folder: Path, card: EngineCard) -> None:
    """Write `engine.json`, whole or not at all.

    Raises:
        OSError: It cannot be written; the one that was there stays.
    """
    # Left out where they say nothing: versions that do not know them read the folder too.
    silent = {name for name in ("inside", "embeddings") if not getattr(card, name)}
    values = card.model_dump(exclude=silent)
    replace_file(folder / ENGINE_FILE, json_bytes({"format": FORMAT} | values))


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes and hash of all files in a folder that the card has to vouch for.

    The profile and the human card are left out: `egolive doctor` and people may change them.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix in _PLAIN)
    paths = [folder / name for name in names if name not in (ENGINE_FILE, "egolive.json")]
    return {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths}


def hash_checkpoint(folder: Path) -> str:
    """One hash over every file of a checkpoint that is read: configurations, tokenizer, index and weights.

    Its profile is left out: `egolive doctor` and people may change it, and bundles hold their own.

    Raises:
        EngineError: It is no checkpoint.
    """
    whole = hashlib.sha256()
    for path in read_files(folder):
        whole.update(f"{path.name} {_sha256(path)}\n".encode())
    return whole.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
