"""A training recipe: one YAML file says what is trained on what, and how long.

egolive train sft nano-sft.yaml
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from egolive.streaming.errors import ConfigError

__all__ = ["Phase", "Recipe", "load_recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One run of the optimiser."""

    steps: int
    """Optimiser steps."""
    batch: int
    """Rows a step."""
    lr: float
    """Peak learning rate; warmed up over the first 3 % of the steps, then a cosine to a twentieth."""
    weight_decay: float = 0.05
    save_every: int = 250
    """Steps between checkpoints; an interrupted run goes on from the last."""
    eval_every: int = 250
    """Steps between checks on held-out episodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights that come out."""

    data: Path
    """Folder of simulated episodes, 2 frames a second; made first if it is not there."""
    episodes: int
    """Episodes to simulate."""
    tower: Phase
    """First: the vision tower alone, by the dense loss."""
    answers: Phase
    """Then: the text part on packed questions, over the visual tokens of the finished tower."""
    base: str = "new-nano"
    """What to start from; v0 knows only fresh nano weights."""
    slices: int = 8
    """Slices in a training window, at most: windows of every shorter length are trained too."""
    windows: int = 10
    """Rows of windows in each step of the second phase, beside its rows of pictures."""
    pictures_first: int = 0
    """Steps of the second phase on pictures alone, before windows come in."""
    held_out: float = 0.03
    """Share of the episodes kept for checks while training."""
    seed: int = 0
    out: Path = field(default_factory=lambda: Path("runs/nano-sft"))
    """Where checkpoints, plots and the finished model go."""


def load_recipe(name: str) -> Recipe:
    """Read a recipe from a file, or by the name of one that comes with the package.

    Raises:
        ConfigError: no such recipe, not YAML, or a key that is unknown, missing, of the wrong kind or out of
            range.
    """
    path = Path(name)
    if not path.is_file():
        bundled = files("egolive.train") / "recipes"
        path = Path(str(bundled / (name if name.endswith(".yaml") else f"{name}.yaml")))
        if not path.is_file():
            known = ", ".join(sorted(p.name for p in Path(str(bundled)).glob("*.yaml")))
            raise ConfigError(f"no recipe {name!r}: give a YAML file, or one of {known}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no settings: a recipe is a mapping of keys to values")
    for key in ("tower", "answers"):
        if isinstance(raw.get(key), dict):
            raw[key] = _build(Phase, raw[key], f"{path}: {key}")
    for key in ("data", "out"):
        if isinstance(raw.get(key), str):
            raw[key] = Path(raw[key])
    recipe: Recipe = _build(Recipe, raw, str(path))
    return recipe


_KINDS: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "float": (int, float),
    "str": str,
    "Path": Path,
    "Phase": Phase,
}
_LEAST = {"steps": 1, "batch": 1, "save_every": 1, "eval_every": 1, "episodes": 2, "slices": 2}
_MOST = {"held_out": 1}


def _build(kind: type[Any], raw: dict[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key, value in raw.items():
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {key!r}; known are {', '.join(fields)}")
        expected = _KINDS[str(fields[key].type)]
        if not isinstance(value, expected) or isinstance(value, bool):
            raise ConfigError(f"{where}: {key} must be of the kind {fields[key].type}, got {value!r}")
        if isinstance(value, int | float):
            least, most = _LEAST.get(key, 0), _MOST.get(key, math.inf)
            if not (math.isfinite(value) and least <= value <= most):
                upper = f" and at most {most}" if key in _MOST else ""
                raise ConfigError(f"{where}: {key} must be at least {least}{upper}, got {value!r}")
    missing = [
        name
        for name, f in fields.items()
        if name not in raw and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} must be given")
    return kind(**raw)
