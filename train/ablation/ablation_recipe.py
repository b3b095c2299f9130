"""The recipe of the ablation: one start, and three ways to go on from it with grounding."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from egolive.streaming.errors import ConfigError
from egolive.train.common.recipe import STRICT, Count, Number, Phase, Whole, read_recipe, validate
from egolive.train.common.trainer_recipe import GrpoRecipe

__all__ = ["AblationRecipe", "load_ablation_recipe"]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class AblationRecipe:
    """Everything that decides the ablation's figures."""

    base: str
    """Checkpoint whose tower stands still throughout: nano, or a folder."""
    data: Path
    """Folder of simulated episodes for training; made first if it is not there."""
    episodes: Count
    """Training episodes."""
    out: Path
    """Where tokens, runs, results, the table and the plot go."""
    start: Phase
    """SFT on reasoning with few boxes; its end is the start of all further runs. Its batch counts the rows of
    pictures."""
    sft_lr: Number
    """Peak learning rate of the further rows by SFT; steps and rows are GRPO's."""
    grpo: GrpoRecipe
    """The further rows by GRPO; base, data, out and seed are filled in."""
    windows: Whole = 10
    """Rows of windows in a step of the start."""
    slices: Annotated[int, Field(ge=2)] = 8
    """Slices in a window."""
    questions: Count = 160
    """Test episodes that every model is asked about; each asks about 18 questions."""
    seeds: Count = 3
    """Of what is drawn after the start, rows and completions."""


def load_ablation_recipe(name: str) -> AblationRecipe:
    """Read a recipe of the ablation; errors are those of `read_recipe` and `validate`."""
    raw, where = read_recipe(name)
    if isinstance(raw.get("grpo"), dict):
        raw["grpo"] = {"base": "start", "out": "grpo", "data": "data", **raw["grpo"]}
    recipe = validate(AblationRecipe, raw, where)
    if recipe.grpo.simulator is None or recipe.grpo.simulator.boxes != 1:
        raise ConfigError(f"{where}: the further rows are boxes alone: leave grpo.simulator.boxes at 1")
    return recipe
