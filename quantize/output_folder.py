"""Writes all of an engine folder but its weights, and moves it into place once it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import Qwen2VLConfig

from egolive.assistant.model.engine_folder import EngineCard, Shapes, is_engine_folder, write_engine_card
from egolive.streaming.errors import ConfigError

__all__ = [
    "DEFAULT_SIZE",
    "copy_small_files",
    "model_shapes",
    "new_folder",
    "package_versions",
    "record_loss",
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


def _loss_rows(loss: dict[str, Any]) -> list[str]:
    shown = {key: value for key, value in loss.items() if key not in ("reference", "machine", "versions")}
    return [f"- {key}: {value}" for key, value in shown.items()]
