"""Training recipes: one YAML file says what is trained on what, and how long.

egolive train sft nano-sft.yaml

A recipe is validated by pydantic in strict mode: no key is guessed, no value is converted. Here are the
recipe of nano from random weights and the loader; recipes for finished checkpoints are in `trainer_recipe`.
"""

from __future__ import annotations

import difflib
import json
import re
import reprlib
from collections.abc import Hashable, Iterable
from dataclasses import field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from egolive.streaming.errors import ConfigError, one_line
from egolive.streaming.json_files import read_at_most
from egolive.streaming.paths import existing_path

__all__ = [
    "NEW_NANO",
    "STRICT",
    "AnswerPhase",
    "Count",
    "Number",
    "Phase",
    "Recipe",
    "Share",
    "Whole",
    "load_recipe",
    "read_recipe",
    "validate",
]

NEW_NANO: Literal["new-nano"] = "new-nano"
"""The base of a recipe that starts from random nano weights."""

STRICT = ConfigDict(strict=True, extra="forbid")
"""Of every class of settings: an unknown key is an error, and so is "3" where a number is expected."""
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Phase:
    """One run of the optimiser."""

    steps: Count
    """Optimiser steps."""
    batch: Count
    """Rows a step."""
    lr: Number
    """Peak learning rate; warmed up over the first 3 % of the steps, then a cosine to a twentieth."""
    weight_decay: Number = 0.05
    save_every: Count = 250
    """Steps between checkpoints; an interrupted run goes on from the last."""
    eval_every: Count = 250
    """Steps between checks on held-out episodes."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class AnswerPhase(Phase):
    """One pass of training the text decoder."""

    ahead: Share = 0.0
    """Next-step share: of the windows, those that are drawn again until the next step can be asked about,
    which a quarter of random windows allow. They have one question about an interval, others two."""
    unseen: Whole = 0
    """Extra episodes for this pass, which the tower was not trained on: its tokens of its own training
    episodes are better than those of any new episode."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Recipe:
    """Everything that determines the trained weights."""

    data: Path
    """Folder of simulated episodes, 2 frames a second; made first if it is not there."""
    episodes: Annotated[int, Field(ge=2)]
    """Episodes to simulate, without the extra ones of `unseen`."""
    tower: Phase
    """Phase one: the vision tower alone, with the dense loss."""
    answers: AnswerPhase
    """Phase two: the text decoder on packed questions, over the visual tokens of the finished tower."""
    again: list[AnswerPhase] = field(default_factory=list)
    """Further passes of phase two, each from the weights of the one before, on other random rows; a finished
    run resumes when one is added."""
    base: Literal["new-nano"] = NEW_NANO
    """What to start from: new-nano, random weights."""
    slices: Annotated[int, Field(ge=2)] = 8
    """Slices in a training window, at most: windows of every shorter length are trained too."""
    windows: Whole = 10
    """Rows of windows in each step of the second phase, beside its rows of pictures."""
    pictures_first: Whole = 0
    """Steps of the second phase on pictures alone, before windows come in."""
    held_out: Share = 0.03
    """Share of the episodes kept for checks while training."""
    seed: Whole = 0
    report_to: list[str] = field(default_factory=list)
    """Where to log beside the files in `out`: tensorboard, wandb, trackio, mlflow and others."""
    out: Path = field(default_factory=lambda: Path("runs/nano-sft"))
    """Where checkpoints, plots and the finished model go."""


R = TypeVar("R")


_MOST_BYTES = 256 * 1024
"""Of a recipe."""
_MOST_DEPTH = 20
"""Of lists and mappings inside of each other."""


class _Loader(yaml.SafeLoader):
    """Reads `1e-3` as a number, as YAML 1.2 does; to YAML 1.1, a number without a point is a text.

    Recipes may come from others: what stands twice has to be written twice, because a few lines of aliases of
    aliases become gigabytes, and there are limits to depth and size.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (*): write the values again", mark)
        if self._depth >= _MOST_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"more than {_MOST_DEPTH} levels", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r:.60} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_recipe(name: str) -> Recipe:
    """Read a recipe for nano from random weights; errors are those of `read_recipe` and `validate`."""
    return validate(Recipe, *read_recipe(name))


def read_recipe(name: str) -> tuple[dict[str, Any], str]:
    """The settings in a recipe's file, or in one that comes with the package; and what to call it in errors.

    Raises:
        ConfigError: no such recipe, or not a YAML mapping.
    """
    path = existing_path(name)
    if path is None or not path.is_file():
        bundled = Path(str(files("egolive.train") / "recipes"))
        path = bundled / (name if name.endswith(".yaml") else f"{name}.yaml")
        if existing_path(path) is None:
            known = ", ".join(sorted(p.name for p in bundled.glob("*-*.yaml")))
            raise ConfigError(f"no recipe {name!r}: give a YAML file, or one of {known}")
    where = f"{path} is not readable as YAML"
    data = read_at_most(path, _MOST_BYTES, where=where, remedy="give a recipe", error=ConfigError)
    try:
        # A safe loader: it makes plain values only.
        raw = yaml.load(data.decode(), Loader=_Loader)
    except Exception as error:  # PyYAML raises many kinds for a text that is not what its tag says
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or error
        raise ConfigError(f"{where}: {place}{one_line(reason)}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no settings: a recipe is a mapping of keys to values")
    return raw, str(path)


def validate(kind: type[R], raw: dict[str, Any], where: str) -> R:
    """Settings from the plain values of a YAML file.

    Args:
        kind: pydantic dataclass of the settings.
        raw: the values.
        where: file, named in the error.

    Raises:
        ConfigError: a key that is unknown or missing, or a value of the wrong type or out of range.
    """
    try:
        # As JSON, for which strict mode still takes a text as a path and a mapping as a class of settings.
        text = json.dumps(raw, default=str)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} is no recipe: {one_line(error)}") from error
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_message(kind, error.errors())}") from None


_UNKNOWN, _MISSING = "unexpected_keyword_argument", "missing"


def _message(kind: type[Any], errors: list[ErrorDetails]) -> str:
    """One line about the first error; an unknown key comes first, since it explains one that is missing."""
    unknown = next((error for error in errors if error["type"] == _UNKNOWN), None)
    if unknown is not None:
        *outer, key = unknown["loc"]
        known = _keys(kind, outer)
        close = difflib.get_close_matches(str(key), known, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown key {_path(unknown['loc'])!r}; {hint}known are {', '.join(known)}"
    missing = [_path(error["loc"]) for error in errors if error["type"] == _MISSING]
    wrong = next((error for error in errors if error["type"] != _MISSING), None)
    if wrong is None:
        return f"{', '.join(missing)} must be given"
    place, got = _path(wrong["loc"]), reprlib.repr(wrong["input"])
    if wrong["type"] == "value_error":
        return ": ".join(filter(None, (place, str(wrong["ctx"]["error"]))))
    if wrong["type"] == "dataclass_type":
        return f"{place} must be a mapping of settings, got {got}"
    rule = wrong["msg"].replace("Input should be", "must be").replace("a valid array", "a list")
    return f"{place} {rule}, got {got}" if place else rule


def _path(keys: Iterable[int | str]) -> str:
    """Keys as one name: tower.lr, again[1].steps."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def _keys(kind: type[Any], outer: list[int | str]) -> list[str]:
    """The keys that settings allow at a place inside them."""
    schema = TypeAdapter(kind).json_schema()
    node = schema
    for key in outer:
        node = node["items"] if isinstance(key, int) else node["properties"][key]
        node = next((one for one in node.get("anyOf", []) if "$ref" in one), node)
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return list(node["properties"])
