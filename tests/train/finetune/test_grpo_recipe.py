"""Recipes of GRPO: EgoThinker's settings unless they say otherwise, mistakes told with their place."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from egolive.streaming.errors import ConfigError
from egolive.train.common.trainer_recipe import (
    CheckpointRecipe,
    GrpoRecipe,
    Rates,
    load_trainer_recipe,
)


def test_recipes_are_egothinkers_settings_unless_they_say_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("{base: x, out: y, rates: {text: 1.0e-6}, rows: [a.jsonl], steps: 5}")
    recipe = load_trainer_recipe(str(path), GrpoRecipe)
    assert (recipe.generations, recipe.beta, recipe.loss, recipe.max_tokens) == (8, 0.04, "grpo", 1024)
    assert (recipe.temperature, recipe.top_p, recipe.top_k, recipe.kl_correction) == (1.0, 1.0, 0, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rows: []", "rows, or on the simulator"),
        ("lora: {rank: 8}; rates: {text: 1.0, tower: 1.0}", "the tower and the merger are frozen"),
        ("rates: 3", "mapping of settings"),
        ("lora: {rang: 8}", "unknown key 'lora.rang'; did you mean 'rank'"),
        ("checkpointing: 1", "checkpointing must be a valid boolean, got 1"),
        ("report_to: [1]", r"report_to\[0\] must be a valid string, got 1"),
        ("importance: word", "importance must be 'token' or 'sequence', got 'word'"),
    ],
)
def test_a_mistake_in_a_recipe_is_told_with_its_place(tmp_path: Path, change: str, message: str) -> None:
    settings = {"base": "x", "out": "y", "rates": "{text: 1.0e-6}", "rows": "[a.jsonl]", "steps": "5"}
    for part in change.split("; "):
        key, _, value = part.partition(": ")
        settings[key] = value
    path = tmp_path / "mine.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
    with pytest.raises(ConfigError, match=message) as found:
        load_trainer_recipe(str(path), GrpoRecipe)
    assert str(path) in str(found.value)


def test_the_recipes_for_egothinker_are_whole() -> None:
    tuned = load_trainer_recipe("egothinker-grpo", GrpoRecipe)
    assert (tuned.generations, tuned.beta, tuned.loss, tuned.rates.text) == (8, 0.04, "grpo", 1e-6)
    learned = load_trainer_recipe("egothinker-sft", CheckpointRecipe)
    assert learned.rates == Rates(text=4e-5, merger=1e-4, tower=4e-5)
    small = load_trainer_recipe("nano-grpo", GrpoRecipe)
    assert small.simulator is not None
    # One batch of completions is one pass.
    assert small.per_device == small.prompts * small.generations


@pytest.mark.parametrize(("name", "kind"), [("fsdp", "FSDP"), ("zero3", "DEEPSPEED")])
def test_accelerate_reads_the_files_for_several_gpus(name: str, kind: str) -> None:
    path = Path(str(files("egolive.train") / "recipes" / f"accelerate_{name}.yaml"))
    assert load_config_from_file(str(path)).distributed_type == kind
