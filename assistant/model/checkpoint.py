"""Finds a checkpoint (folder, bundled or from the hub) and checks it before its weights are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from textwrap import shorten

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open

from egolive.streaming.errors import EngineError, one_line
from egolive.streaming.json_files import read_json_object
from egolive.streaming.paths import existing_path

__all__ = ["BUNDLED", "Checkpoint", "inspect_checkpoint", "model_folder", "resolve_model"]

BUNDLED = "nano"
"""Name of the model that comes with the package."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = ["*.json", "*.safetensors", "merges.txt"]
_CONNECT_SECONDS = 10.0
_MOST_JSON = 16 * 1024**2
"""Bytes of a configuration or of the index of the weights."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that holds a whole Qwen2-VL checkpoint."""

    folder: Path
    weights: tuple[Path, ...]
    """Its safetensors files."""
    elements: int
    """Numbers in its weights."""
    head_elements: int
    """Numbers in its last layer, whether stored or shared with the embeddings."""


def resolve_model(model: str) -> Path:
    """The folder of a model; one from the hub is taken from the local cache, or downloaded into it.

    Args:
        model: A checkpoint folder, a hub id ("owner/name") or "nano", the bundled model.

    Raises:
        EngineError: There is no such folder, or the hub has no such model or cannot be reached.
    """
    return model_folder(model) or _from_hub(model)


def model_folder(model: str) -> Path | None:
    """The folder that a name of a model stands for, or None for a hub id; asks no network.

    Raises:
        EngineError: It is neither: there is no such folder, or it is a file.
    """
    if model == BUNDLED:
        bundled = Path(str(resources.files("egolive.assistant"))) / "nano"
        if not (bundled / "config.json").is_file():
            raise EngineError(
                "this installation came without the bundled model nano; give a checkpoint folder or a hub id"
            )
        return bundled
    path = existing_path(model)
    if path is not None and path.is_dir():
        return path
    if path is not None:
        raise EngineError(f"{model} is a file; give the folder that holds config.json and the weights")
    if not _HUB_ID.fullmatch(model):
        close = get_close_matches(model.lower(), [BUNDLED], cutoff=0.7)
        meant = f"did you mean {close[0]}? Else " if close else ""
        raise EngineError(
            f"there is no folder {shorten(model, 200)!r}; {meant}give a checkpoint folder, a hub id "
            f"(owner/name), or {BUNDLED}"
        )
    return None


def inspect_checkpoint(folder: Path) -> Checkpoint:
    """Check a folder as far as that goes without reading its weights.

    Raises:
        EngineError: No or another model's configuration, or no, damaged or missing safetensors files.
    """
    config = _configuration(folder)
    weights = _weights(folder)
    elements = sum(_elements(path) for path in weights)
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    vocabulary, width = text.get("vocab_size"), text.get("hidden_size")
    if not isinstance(vocabulary, int) or not isinstance(width, int):
        raise EngineError(f"{folder / 'config.json'} tells no vocab_size or hidden_size; download it again")
    return Checkpoint(folder, weights, elements, vocabulary * width)


def _configuration(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    if not path.is_file():
        # What a training run wrote holds its finished model in a folder of its own.
        inner = folder / "model"
        advice = f"{inner} is one" if (inner / "config.json").is_file() else "give a folder with one"
        raise EngineError(f"{folder} has no config.json, so it is no checkpoint; {advice}")
    config = _read_object(path)
    kind = config.get("model_type")
    if kind != "qwen2_vl":
        raise EngineError(
            f"{folder} holds a model of type {kind!r}; only Qwen2-VL (qwen2_vl) works, such as EgoThinker-v1"
        )
    return config


def _weights(folder: Path) -> tuple[Path, ...]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if not index.is_file():
        others = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".gguf")]
        found = f", only {min(others)}, which is not read; save the model as safetensors" if others else ""
        raise EngineError(f"{folder} has no model.safetensors{found or '; is the download complete?'}")
    names = _read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise EngineError(f"{index} lists no weights; download it again")
    shards = tuple(folder / name for name in sorted(set(map(str, names.values()))))
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        raise EngineError(
            f"{len(missing)} of {len(shards)} weight files are missing in {folder}, first {missing[0]}; "
            "download them again"
        )
    return shards


def _elements(path: Path) -> int:
    """Numbers in a safetensors file, by its header; opening it also tells a file that was cut off."""
    count = 0
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                count += size
    except (SafetensorError, OSError) as error:
        raise EngineError(f"{path} is damaged or cut off ({one_line(error)}); download it again") from error
    return count


def _from_hub(model: str) -> Path:
    """A hub model's folder: what is complete in the cache needs no network."""
    try:
        # With the same patterns: files that are never fetched would make it incomplete.
        cached = Path(huggingface_hub.snapshot_download(model, allow_patterns=_FILES, local_files_only=True))
        inspect_checkpoint(cached)
    except (LocalEntryNotFoundError, EngineError):
        pass
    else:
        return cached
    try:
        found = huggingface_hub.snapshot_download(model, allow_patterns=_FILES, etag_timeout=_CONNECT_SECONDS)
        return Path(found)
    except GatedRepoError as error:
        raise EngineError(
            f"{model} is gated: accept its terms on its hub page and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise EngineError(
            f"there is no folder {model}, and the hub has no such model or it is private (`hf auth login`)"
        ) from error
    except HFValidationError as error:
        raise EngineError(f"{model!r} is no hub id ({one_line(error)})") from error
    except Exception as error:  # what breaks on the way comes from the hub's own HTTP library
        raise EngineError(
            f"there is no folder {model}; as a hub id, it is not in the local cache and the hub cannot be "
            "reached: check the path, or connect, or download the model elsewhere and give its folder, "
            f"or use --model {BUNDLED} ({one_line(error)})"
        ) from error


def _read_object(path: Path) -> dict[str, object]:
    return read_json_object(path, remedy="download it again", most=_MOST_JSON, error=EngineError)
