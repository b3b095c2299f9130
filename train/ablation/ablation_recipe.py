"""The recipe of the ablation: one start, and three ways to go on from it with grounding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from egolive.streaming.errors import ConfigError
from egolive.train.common.recipe import Phase, build, read_recipe
from egolive.train.common.trainer_recipe import GrpoRecipe, Rates, SimulatorShares

__all__ = ["AblationRecipe", "load_ablation_recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationRecipe:
    """Everything that decides the ablation's figures."""

    base: str
    """Checkpoint whose tower stands still throughout: nano, or a folder."""
    data: Path
    """Folder of simulated episodes for training; made first if it is not there."""
    episodes: int
    """Training episodes."""
    out: Path
    """Where tokens, runs, results, the table and the plot go."""
    start: Phase
    """SFT on reasoning with few boxes; its end is the start of all further runs. Its batch counts the rows of
    pictures."""
    sft_lr: float
    """Peak learning rate of the further rows by SFT; steps and rows are GRPO's."""
    grpo: GrpoRecipe
    """The further rows by GRPO; base, data, out and seed are filled in."""
    windows: int = 10
    """Rows of windows in a step of the start."""
    slices: int = 8
    """Slices in a window."""
    questions: int = 160
    """Test episodes that every model is asked about; each asks about 18 questions."""
    seeds: int = 3
    """Of what is drawn after the start, rows and completions."""


def load_ablation_recipe(name: str) -> AblationRecipe:
    """Read a recipe of the ablation.

    Raises:
        ConfigError: no such recipe, or a setting that is unknown, missing or wrong.
    """
    raw, where = read_recipe(name)
    if isinstance(raw.get("start"), dict):
        raw["start"] = build(Phase, raw["start"], f"{where}: start")
    grpo = raw.get("grpo")
    if isinstance(grpo, dict):
        told = f"{where}: grpo"
        values = {"base": "start", "out": "grpo", "data": "data", **grpo}
        parts: dict[str, type] = {"rates": Rates, "simulator": SimulatorShares}
        for key, kind in parts.items():
            if not isinstance(grpo.get(key), dict):
                raise ConfigError(f"{told}: {key} is a mapping of settings")
            values[key] = build(kind, grpo[key], f"{told}: {key}")
        raw["grpo"] = build(GrpoRecipe, values, told)
    recipe: AblationRecipe = build(AblationRecipe, raw, where)
    if not isinstance(recipe.grpo, GrpoRecipe):
        raise ConfigError(f"{where}: grpo is a mapping of settings")
    if recipe.grpo.simulator is None or recipe.grpo.simulator.boxes != 1:
        raise ConfigError(f"{where}: the further rows are boxes alone: leave grpo.simulator.boxes at 1")
    return recipe
