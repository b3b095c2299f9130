"""The settings of a training run, kept in its folder: a run with other settings is refused there."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from egolive.streaming.durable_files import replace_file
from egolive.streaming.errors import ConfigError
from egolive.streaming.json_files import read_json_object

__all__ = ["claim", "first_process", "keep_settings", "plain"]

_FREE = (
    *("out", "data", "media", "seeds", "report_to", "save_every", "eval_every", "log_every"),
    *("per_device", "checkpointing", "again"),
)
"""Settings that may change during a run; of `again` each phase has a folder that keeps its own."""
_SHOWN = 3
"""Differences that an error names."""


def keep_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a run beside it: what is there already would be taken for a part of this run.

    Args:
        out: folder of the run.
        settings: as JSON can hold them.

    Raises:
        ConfigError: the folder holds a run by other settings, or something else; or it cannot be written to.
    """
    told = out / "recipe.json"
    found = dict(_flat(_decisive(settings)))
    if out.is_dir() and any(path.is_dir() for path in out.iterdir()):
        if not told.exists():
            raise ConfigError(f"{out} holds something else than such a run: give another folder (--out)")
        remedy = "delete the run, or give another folder (--out)"
        kept = dict(_flat(read_json_object(told, remedy=remedy, error=ConfigError)))
        changed = [
            f"{name}: {kept.get(name, 'not set')}, now {found.get(name, 'not set')}"
            for name in (kept | found)
            if name not in kept or name not in found or kept[name] != found[name]
        ]
        if changed:
            more = f", and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
            raise ConfigError(
                f"{out} holds a run by other settings ({', '.join(changed[:_SHOWN])}{more}): "
                "go on with those, or give another folder (--out)"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        replace_file(told, json.dumps(_decisive(settings), indent=2).encode())
    except OSError as error:
        raise ConfigError(f"cannot write a run to {out}: {error.strerror}") from error


def claim(out: Path, recipe: object) -> None:
    """`keep_settings` of a recipe, by the first of several processes; its error ends them all."""
    if first_process():
        keep_settings(out, plain(recipe))


def first_process() -> bool:
    """This is the only process, or the first of those that torchrun or accelerate started."""
    return os.environ.get("RANK", "0") == "0"


def plain(values: object) -> Any:
    """Settings as JSON and YAML can hold them."""
    if dataclasses.is_dataclass(values) and not isinstance(values, type):
        return {f.name: plain(getattr(values, f.name)) for f in dataclasses.fields(values)}
    if isinstance(values, list):
        return [plain(value) for value in values]
    return str(values) if isinstance(values, Path) else values


def _decisive(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {name: _decisive(value) for name, value in settings.items() if name not in _FREE}


def _flat(settings: dict[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{start}{name}.")
        else:
            yield f"{start}{name}", value
