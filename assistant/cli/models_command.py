"""`egolive models`: what egolive has built into its cache, and removing it.

egolive models
egolive models remove EgoThinker-v1-1a2b3c4d5e6f-int4
egolive models remove --all
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from egolive.assistant.cli.printing import json_line, note
from egolive.assistant.model.model_cache import CachedModel, cached_models, models_folder, remove_model
from egolive.streaming.errors import UsageError

__all__ = ["list_models", "remove_models"]


def list_models(*, json_file: Path | None = None) -> None:
    """List the engines that egolive has built into its cache.

    Args:
        json_file: Also write the list here, as one JSON object.
    """
    entries = cached_models()
    if not entries:
        note(f"nothing has been built into {models_folder()}")
    else:
        table = Table(title=str(models_folder()), title_justify="left")
        for column in ("name", "form", "size", "of", "last used"):
            table.add_column(column, overflow="fold")
        for entry in entries:
            table.add_row(entry.name, _form(entry), f"{entry.nbytes / 1e9:.2f} GB", entry.model, _when(entry))
        Console().print(table)
    if json_file is not None:
        models = [
            {
                "name": entry.name,
                "form": entry.form,
                "complete": entry.built,
                "bytes": entry.nbytes,
                "model": entry.model,
                "revision": entry.revision,
                "used": entry.used,
                "engine": str(entry.engine),
            }
            for entry in entries
        ]
        json_line({"models": models}, json_file)


def remove_models(*names: str, all_: Annotated[bool, Parameter(name="--all", negative="")] = False) -> None:
    """Remove engines that egolive has built into its cache; never anything else.

    Args:
        names: As `egolive models` lists them.
        all_: Remove all of them.
    """
    if bool(names) == all_:
        raise UsageError("name the models to remove, or give --all; egolive models lists them")
    freed = 0
    chosen = [entry.name for entry in cached_models()] if all_ else list(dict.fromkeys(names))
    for name in chosen:
        freed += remove_model(name)
        note(f"removed {name}")
    note(f"{freed / 1e9:.2f} GB were freed")


def _form(entry: CachedModel) -> str:
    return entry.form if entry.built else f"{entry.form}, not complete"


def _when(entry: CachedModel) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
