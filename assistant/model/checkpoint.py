"""Finds a checkpoint (folder, bundled or from the hub) and checks it before its weights are read.

A checkpoint may come from others, and transformers reads more than its weights: adapters that lie beside them
change the answers, and entries of the configuration name other files, packages and kernels of the hub. All of
that is refused here, so that `read_files` lists every file that is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from textwrap import shorten
from typing import Any

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open

from egolive.assistant.schema.tokenizer_files import MOST_BYTES, TOKENIZER_FILES
from egolive.streaming.errors import EngineError, one_line
from egolive.streaming.json_files import read_json_object
from egolive.streaming.paths import brief, existing_path

__all__ = [
    "BUNDLED",
    "PUBLISHED",
    "Checkpoint",
    "inspect_checkpoint",
    "is_within",
    "model_folder",
    "read_files",
    "resolve_model",
    "small_files",
]

BUNDLED = "nano"
"""Name of the model that comes with the package."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = ["*.json", "*.safetensors", "merges.txt"]
_ADAPTERS = ["adapter_*"]
"""Not taken from the hub, and refused beside a whole model: transformers would add them to it unasked."""
_PATTERNS: dict[str, Any] = {"allow_patterns": _FILES, "ignore_patterns": _ADAPTERS}
_INDEX = "model.safetensors.index.json"
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
    *TOKENIZER_FILES,
)
"""What transformers and `Preprocessor` read beside the weights, where it is there."""
_TEMPLATES = "additional_chat_templates"
"""A folder whose templates transformers reads."""
_MOST_SIDE = 2**20
"""No width, length or number of tokens of a model is larger."""
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
    published: str | None = None
    """One of `PUBLISHED` where its text layers have few bits; `elements` are then not those of the model."""


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
    if adapters := sorted(path.name for path in folder.glob(_ADAPTERS[0])):
        raise EngineError(
            f"{folder} holds a whole model and beside it an adapter ({adapters[0]}), which would change its "
            "answers unasked; move the adapter away, or merge it into the model"
        )
    for name in _SMALL_FILES:
        if (folder / name).is_file() and (folder / name).stat().st_size > MOST_BYTES:
            raise EngineError(f"{folder / name} is larger than in any checkpoint; download it again")
    if (folder / "generation_config.json").is_file():
        _read_object(folder / "generation_config.json")
    weights = _weights(folder)
    shapes = {name: shape for path in weights for name, shape in _shapes(path).items()}
    elements = sum(map(math.prod, shapes.values()))
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    vocabulary, width = text.get("vocab_size"), text.get("hidden_size")
    if type(vocabulary) is not int or type(width) is not int:
        raise EngineError(f"{folder / 'config.json'} tells no vocab_size or hidden_size; download it again")
    _check_extent(folder / "config.json", text, config.get("vision_config"), shapes)
    quantised = config.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, dict) else None
    return Checkpoint(folder, weights, elements, vocabulary * width, method if method in PUBLISHED else None)


def read_files(folder: Path) -> tuple[Path, ...]:
    """Every file of a checkpoint folder that is read when it is loaded, but for its profile.

    Raises:
        EngineError: It is no checkpoint that can be used.
    """
    weights = inspect_checkpoint(folder).weights
    index = () if weights[0].name == "model.safetensors" else (folder / _INDEX,)
    return (*small_files(folder), *index, *weights)


def small_files(folder: Path) -> tuple[Path, ...]:
    """Configurations, tokenizer and templates of a checkpoint or engine folder: those that are there."""
    small = (folder / name for name in _SMALL_FILES if (folder / name).is_file())
    return (*small, *sorted((folder / _TEMPLATES).glob("*.jinja")))


def is_within(folder: Path, path: Path) -> bool:
    """Whether a file of a checkpoint lies where its configuration lies, also where both are links.

    In the hub's cache and in an editable installation all files are links into one other folder.
    """
    return path.resolve().parent == (folder / "config.json").resolve().parent


def _configuration(folder: Path) -> dict[str, Any]:
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
            f"{folder} holds a model of type {kind!r:.60}; only Qwen2-VL (qwen2_vl) works, such as "
            "EgoThinker-v1"
        )
    if "transformers_weights" in config:
        raise EngineError(f"{path} names other weights (transformers_weights); take the entry out")
    quantised = config.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
    if method not in _QUANTISED or config.get("compression_config") is not None:
        raise EngineError(
            f"{path} asks for weights quantised by {method!r:.60}, which are not read; give the original "
            "model, and quantise it with egolive quantize"
        )
    for key, value in _entries(config):
        if key.endswith("_implementation") and not (value is None or value in _IMPLEMENTATIONS):
            raise EngineError(f"{path} asks for the kernels {value!r:.60} ({key:.60}); take the entry out")
    return config


PUBLISHED = ("awq", "gptq", "compressed-tensors")
"""Methods of quantised checkpoints that `egolive quantize --to int4` makes engines of."""
_QUANTISED = (None, "bitsandbytes", *PUBLISHED)
"""Methods whose weights can be read; others take kernels from the hub."""
_IMPLEMENTATIONS = ("eager", "sdpa", "flash_attention_2")
"""Of attention; any other name may be a repository of the hub, whose program would run here."""


def _entries(values: object) -> Iterator[tuple[str, Any]]:
    """All keys of nested objects with their values; lists of objects are looked into too."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(values, list):
        for value in values:
            yield from _entries(value)


def _check_extent(
    path: Path, text: dict[str, Any], vision: object, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a configuration of a model far larger than the weights: it would be made all the same.

    Raises:
        EngineError: It has more layers than the weights, or sizes that no model has.
    """
    told = vision if isinstance(vision, dict) else {}
    for part, key, name in ((text, "num_hidden_layers", "layers"), (told, "depth", "blocks")):
        place = re.compile(rf"(?:^|\.){name}\.(\d{{1,6}})\.")
        there = [int(found[1]) for found in map(place.search, shapes) if found]
        layers, most = part.get(key), max(there, default=-1) + 1
        if isinstance(layers, int) and layers > most:
            raise EngineError(f"{path} tells of {layers} {name}, the weights have {most}; download it again")
    widest = max((side for shape in shapes.values() for side in shape), default=0)
    for part in (text, told):
        for key, value in _entries(part):
            size = key.endswith("_size") or key in ("embed_dim", "in_channels", "mlp_ratio", "head_dim")
            if size and isinstance(value, (int, float)) and not 0 <= value <= min(_MOST_SIDE, 4 * widest):
                raise EngineError(f"{path} tells of a {key:.60} of {value}, which the weights have not")


def _weights(folder: Path) -> tuple[Path, ...]:
    single, index = folder / "model.safetensors", folder / _INDEX
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
    if odd := [path for path in shards if path.parent != folder or path.suffix != ".safetensors"]:
        raise EngineError(
            f"{index} names {brief(odd[0])}, which is no weight file of its folder; download it again"
        )
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        raise EngineError(
            f"{len(missing)} of {len(shards)} weight files are missing in {folder}, first {missing[0]}; "
            "download them again"
        )
    return shards


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in a safetensors file, by its header; opening it also tells a file that was cut off."""
    try:
        with safe_open(path, framework="np") as file:
            # A safetensors file is no mapping.
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EngineError(f"{path} is damaged or cut off ({one_line(error)}); download it again") from error


def _from_hub(model: str) -> Path:
    """A hub model's folder: what is complete in the cache needs no network."""
    try:
        # With the same patterns: files that are never fetched would make it incomplete.
        cached = Path(huggingface_hub.snapshot_download(model, **_PATTERNS, local_files_only=True))
        inspect_checkpoint(cached)
    except (LocalEntryNotFoundError, EngineError):
        pass
    else:
        return cached
    try:
        found = huggingface_hub.snapshot_download(model, **_PATTERNS, etag_timeout=_CONNECT_SECONDS)
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


def _read_object(path: Path) -> dict[str, Any]:
    return read_json_object(path, remedy="download it again", most=_MOST_JSON, error=EngineError)
