"""Where the contract tests find things: the only file here that knows a module of the package.

When a module moves, correct its line here. Everything else is reached by the console command `egolive`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from cyclopts import App

RECIPES = {
    "sft, new model": "egolive.train.common.recipe:Recipe",
    "sft, new model: tower": "egolive.train.common.recipe:Phase",
    "sft, new model: answers": "egolive.train.common.recipe:AnswerPhase",
    "sft, checkpoint": "egolive.train.common.trainer_recipe:CheckpointRecipe",
    "grpo": "egolive.train.common.trainer_recipe:GrpoRecipe",
    "rates": "egolive.train.common.trainer_recipe:Rates",
    "lora": "egolive.train.common.trainer_recipe:Lora",
    "simulator": "egolive.train.common.trainer_recipe:SimulatorShares",
    "ablation": "egolive.train.ablation.ablation_recipe:AblationRecipe",
}
"""The settings of each kind of recipe."""
PROFILE = "egolive.assistant.schema.profiles:Profile"
PROFILES = "egolive.assistant.schema.profiles:PROFILES"
ANSWER = "egolive.assistant.schema.answers:Answer"
"""Has the statuses of an answer as the type of its field `status`."""
BAG_BASELINE = "egolive.train.evaluate.evaluate:training_bags"
"""Renders 300 episodes unless told `episodes`; the contract tests have no time for that."""
FAULTS = (
    "egolive.benchmarks.robustness.soak:stream_faults",
    "egolive.benchmarks.robustness.soak:process_faults",
)
"""Each yields one fault after the other; the contract tests take the first of the first."""


def find(place: str) -> Any:
    """The object at "module:name"."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def command() -> Callable[[], None]:
    """The function behind the console command, whose words are in `sys.argv`."""
    [script] = metadata.entry_points(group="console_scripts", name="egolive")
    found: Callable[[], None] = script.load()
    return found


def app() -> App:
    """The command line application."""
    [script] = metadata.entry_points(group="console_scripts", name="egolive")
    values = vars(importlib.import_module(script.module)).values()
    [found] = {id(one): one for one in values if isinstance(one, App) and one.name == ("egolive",)}.values()
    return found


def nano() -> Path:
    """Folder of the bundled model, wherever it lies in the package."""
    package = importlib.import_module("egolive")
    places = [path for root in package.__path__ for path in sorted(Path(root).rglob("nano/config.json"))]
    return places[0].parent


def recipe_names() -> list[str]:
    """Recipes that come with the package, wherever they lie in it."""
    roots = map(Path, importlib.import_module("egolive").__path__)
    return sorted(path.stem for root in roots for path in root.rglob("recipes/*.yaml"))
