"""Writing engine folders: everything beside the weights, and the move into place once all of it is right."""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from transformers import Qwen2VLConfig

from egolive.assistant.model.engine_folder import Shapes, is_engine_folder
from egolive.streaming.errors import ConfigError

__all__ = ["copy_small_files", "model_shapes", "new_folder", "package_versions", "peak_memory"]

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
)
_PACKAGES = ("egolive", "torch", "transformers", "onnx", "onnxruntime", "nvidia-modelopt", "bitsandbytes")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into; it becomes `out` only if nothing goes wrong inside.

    An engine that is there already is replaced, anything else is left alone.

    Raises:
        ConfigError: Something else is there.
    """
    if out.exists() and not is_engine_folder(out) and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out} is there already and is no engine folder; give another name with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def copy_small_files(source: Path, out: Path) -> None:
    """Configuration and tokenizer files of a checkpoint; those that `out` has already stay."""
    for name in _SMALL:
        if (source / name).is_file() and not (out / name).exists():
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


def peak_memory() -> int:
    """Most bytes that this process has held in memory so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux hands the other count on from the process that started this one.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
