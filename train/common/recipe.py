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

__all__ = ["NEW_NANO", "AnswerPhase", "Phase", "Recipe", "build", "load_recipe", "read_recipe"]


NEW_NANO = "new-nano"
"""The base of a recipe that starts from fresh nano weights."""


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
class AnswerPhase(Phase):
    """One pass over the text part."""

    ahead: float = 0.0
    """Share of the windows that are drawn until they decide the next step, which by chance a quarter does;
    they are asked about one interval, others about two."""
    unseen: int = 0
    """Episodes beside `episodes` to learn from, none of which the tower has seen: what it makes of those that
    it knows is better than of any that come later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights that come out."""

    data: Path
    """Folder of simulated episodes, 2 frames a second; made first if it is not there."""
    episodes: int
    """Episodes to simulate; more where a pass over the text part asks for unseen ones."""
    tower: Phase
    """First: the vision tower alone, by the dense loss."""
    answers: AnswerPhase
    """Then: the text part on packed questions, over the visual tokens of the finished tower."""
    again: list[AnswerPhase] = field(default_factory=list)
    """Then the text part once more for each, from where it stood, on other draws; a finished run goes on when
    one is added."""
    base: str = NEW_NANO
    """What to start from; so far only new-nano, fresh weights."""
    slices: int = 8
    """Slices in a training window, at most: windows of every shorter length are trained too."""
    windows: int = 10
    """Rows of windows in each step of the second phase, beside its rows of pictures."""
    pictures_first: int = 0
    """Steps of the second phase on pictures alone, before windows come in."""
    held_out: float = 0.03
    """Share of the episodes kept for checks while training."""
    seed: int = 0
    report_to: list[str] = field(default_factory=list)
    """Where to log beside the files in `out`: tensorboard, wandb, trackio, mlflow and others."""
    out: Path = field(default_factory=lambda: Path("runs/nano-sft"))
    """Where checkpoints, plots and the finished model go."""


def load_recipe(name: str) -> Recipe:
    """Read a recipe for nano from nothing; see `read_recipe` and `build` for what can go wrong."""
    raw, where = read_recipe(name)
    for key, kind in (("tower", Phase), ("answers", AnswerPhase)):
        if isinstance(raw.get(key), dict):
            raw[key] = build(kind, raw[key], f"{where}: {key}")
    again = raw.get("again")
    if isinstance(again, list):
        named = [(f"{where}: again, number {number}", one) for number, one in enumerate(again, start=1)]
        raw["again"] = [
            build(AnswerPhase, one, name) if isinstance(one, dict) else one for name, one in named
        ]
    recipe: Recipe = build(Recipe, raw, where)
    return recipe


def read_recipe(name: str) -> tuple[dict[str, Any], str]:
    """The settings in a recipe's file, or in one that comes with the package; and what to call it in errors.

    Raises:
        ConfigError: no such recipe, or not a YAML mapping.
    """
    path = Path(name)
    if not path.is_file():
        bundled = Path(str(files("egolive.train") / "recipes"))
        path = bundled / (name if name.endswith(".yaml") else f"{name}.yaml")
        if not path.is_file():
            known = ", ".join(sorted(p.name for p in bundled.glob("*-*.yaml")))
            raise ConfigError(f"no recipe {name!r}: give a YAML file, or one of {known}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{path} is not readable as YAML: {place}{reason}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no settings: a recipe is a mapping of keys to values")
    return raw, str(path)


_KINDS: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "float": (int, float),
    "str": str,
    "bool": bool,
    "Path": Path,
    "Phase": Phase,
    "AnswerPhase": AnswerPhase,
    "list[str]": list,
    "list[AnswerPhase]": list,
}
_LEAST = {
    **{"steps": 1, "batch": 1, "save_every": 1, "eval_every": 1, "log_every": 1, "per_device": 1},
    **{"prompts": 1, "updates": 1, "max_tokens": 1, "episodes": 2, "slices": 2},
    # A group of one has nothing to be compared with.
    "generations": 2,
}
_MOST = {"held_out": 1, "ahead": 1}


def build(kind: type[Any], raw: dict[str, Any], where: str) -> Any:
    """A dataclass of settings from plain values, each checked against its field.

    Args:
        kind: the dataclass; a field of another kind than in `_KINDS` takes what its own `build` has given.
        raw: the values.
        where: named in the error.

    Raises:
        ConfigError: a key that is unknown, missing, of the wrong kind or out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {key!r}; known are {', '.join(fields)}")
        values[key] = _checked(key, value, str(fields[key].type), where)
    missing = [
        name
        for name, f in fields.items()
        if name not in raw and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} must be given")
    return kind(**values)


def _checked(key: str, value: Any, type_name: str, where: str) -> Any:
    wanted = type_name.removesuffix(" | None")
    if value is None and wanted != type_name:
        return None
    if wanted == "Path" and isinstance(value, str):
        value = Path(value)
    expected = _KINDS.get(wanted, object)
    inside = _KINDS.get(wanted.removeprefix("list[").removesuffix("]"), object)
    whole_list = not isinstance(value, list) or all(isinstance(one, inside) for one in value)
    is_bool = isinstance(value, bool)
    if not isinstance(value, expected) or is_bool != (wanted == "bool") or not whole_list:
        # Of a phase one writes its settings, a mapping.
        kind = type_name.replace("AnswerPhase", "mapping").replace("Phase", "mapping")
        raise ConfigError(f"{where}: {key} must be of the kind {kind}, got {value!r}")
    if isinstance(value, int | float) and not is_bool:
        least, most = _LEAST.get(key, 0), _MOST.get(key, math.inf)
        if not (math.isfinite(value) and least <= value <= most):
            upper = f" and at most {most}" if key in _MOST else ""
            raise ConfigError(f"{where}: {key} must be at least {least}{upper}, got {value!r}")
    return value
