"""`egolive train sft`, `grpo` and `ablation`: the recipe is read first, what trains is imported after that.

    egolive train sft nano-sft
    egolive train grpo nano-grpo
    egolive train ablation nano-ablation

torch, transformers and TRL take many seconds to import, which neither help nor a slip in a recipe is worth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from egolive.streaming.errors import ConfigError
from egolive.train.ablation.ablation_recipe import load_ablation_recipe
from egolive.train.common.recipe import NEW_NANO, load_recipe, read_recipe
from egolive.train.common.run_folder import first_process
from egolive.train.common.trainer_recipe import CheckpointRecipe, GrpoRecipe, load_trainer_recipe

__all__ = ["ablation", "grpo", "sft"]


def sft(
    recipe: str = "nano-sft", *, threads: int = 1, out: Path | None = None, push_to_hub: str = ""
) -> None:
    """Train a model by a recipe; a run that was interrupted goes on where its last checkpoint is.

    A recipe without a base, or with the base new-nano, makes nano from nothing; any other base is a
    checkpoint that is trained on rows. With the package come nano-sft and egothinker-sft.

    Args:
        recipe: a YAML file, or the name of a recipe that comes with the package.
        threads: CPU threads; small models are fastest with 1.
        out: where to write, in place of the recipe's folder.
        push_to_hub: also upload the finished model under this hub id.
    """
    raw = _checked_kind(recipe, "sft")
    command = f"egolive train sft {recipe}"
    if raw.get("base", NEW_NANO) == NEW_NANO:
        nano = load_recipe(recipe)
        with _told(threads):
            from egolive.train.nano.nano_sft import run_recipe

            _tell(run_recipe(nano, out or nano.out, command=command, push_to_hub=push_to_hub))
        return
    settings = load_trainer_recipe(recipe, CheckpointRecipe)
    with _told(threads):
        from egolive.train.finetune.sft import run_checkpoint_sft

        _tell(run_checkpoint_sft(settings, out or settings.out, command=command, push_to_hub=push_to_hub))


def grpo(
    recipe: str = "nano-grpo", *, threads: int = 1, out: Path | None = None, push_to_hub: str = ""
) -> None:
    """Train a model by GRPO; a run that was interrupted goes on where its last checkpoint is.

    With the package come the recipes nano-grpo and egothinker-grpo.

    Args:
        recipe: a YAML file, or the name of a recipe that comes with the package.
        threads: CPU threads; small models are fastest with 1.
        out: where to write, in place of the recipe's folder.
        push_to_hub: also upload the finished model under this hub id.
    """
    _checked_kind(recipe, "grpo")
    settings = load_trainer_recipe(recipe, GrpoRecipe)
    command = f"egolive train grpo {recipe}"
    with _told(threads):
        from egolive.train.finetune.grpo import run_grpo

        _tell(run_grpo(settings, out or settings.out, command=command, push_to_hub=push_to_hub))


def ablation(recipe: str = "nano-ablation", *, threads: int = 1, out: Path | None = None) -> None:
    """Train the rows of the ablation and measure them; an interrupted run goes on where it stopped.

    Args:
        recipe: a YAML file, or the name of a recipe that comes with the package.
        threads: CPU threads; small models are fastest with 1.
        out: where to write, in place of the recipe's folder.
    """
    _checked_kind(recipe, "ablation")
    settings = load_ablation_recipe(recipe)
    with _told(threads):
        from egolive.train.ablation.ablation import run_ablation

        run_ablation(dataclasses.replace(settings, out=out or settings.out))


_OF_KIND = {"grpo": {"prompts", "generations"}, "ablation": {"start"}, "sft": {"tower", "answers", "batch"}}
"""Keys that only one kind of recipe has."""


def _checked_kind(recipe: str, wanted: str) -> dict[str, object]:
    """The settings of a recipe that is not one of another command.

    Raises:
        ConfigError: it is, or there is no such recipe.
    """
    raw, where = read_recipe(recipe)
    for kind, keys in _OF_KIND.items():
        if kind != wanted and keys & set(raw) and not _OF_KIND[wanted] & set(raw):
            raise ConfigError(f"{where} is a recipe for `egolive train {kind}`, not for {wanted}")
    return raw


@contextmanager
def _told(threads: int) -> Iterator[None]:
    """Set torch's threads meanwhile; say that an interrupted run is not lost."""
    from egolive.assistant.runtime.torch_threads import torch_threads

    try:
        with torch_threads(threads):
            yield
    except KeyboardInterrupt:
        _say("what the last checkpoint holds is kept: the same command goes on from there")
        raise


def _tell(model: Path) -> None:
    _say(f"{model}: the model, with its card; plots and the log are in {model.parent}")


def _say(line: str) -> None:
    if first_process():
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
