"""`egolive train sft`, `grpo`, `ablation` and `familiarity`; what trains is imported last, after the checks.

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
from typing import Annotated, TypeVar

from cyclopts import Parameter

from egolive.assistant.cli.options import GIVEN, OUTPUT, JsonFile
from egolive.assistant.cli.printing import check_folders, json_line, note, wrote
from egolive.assistant.load import check_model
from egolive.streaming.errors import ConfigError, UsageError
from egolive.streaming.paths import existing_path
from egolive.train.ablation.ablation_recipe import load_ablation_recipe
from egolive.train.common.hub import check_login
from egolive.train.common.recipe import NEW_NANO, load_recipe, read_recipe
from egolive.train.common.run_folder import first_process
from egolive.train.common.trainer_recipe import CheckpointRecipe, GrpoRecipe, load_trainer_recipe

__all__ = ["ablation", "familiarity", "grpo", "sft"]

_Settings = TypeVar("_Settings", CheckpointRecipe, GrpoRecipe)


_Recipe = Annotated[str, Parameter(group=GIVEN)]
_Data = Annotated[Path | None, Parameter(group=GIVEN)]
_Out = Annotated[Path | None, Parameter(group=OUTPUT)]
_Hub = Annotated[str, Parameter(group=OUTPUT)]
_Threads = Annotated[int, Parameter(group=GIVEN)]


def sft(
    recipe: _Recipe = "nano-sft",
    *,
    data: _Data = None,
    threads: _Threads = 1,
    out: _Out = None,
    push_to_hub: _Hub = "",
) -> None:
    """Train a model by a recipe; a run that was interrupted goes on where its last checkpoint is.

    A recipe without a base, or with the base new-nano, makes nano from nothing; any other base is a
    checkpoint that is trained on rows. With the package come nano-sft and egothinker-sft.

    Args:
        recipe: a YAML file, or the name of a recipe that comes with the package.
        data: folder that `egolive simulate` wrote, in place of the recipe's; made where it is missing.
        threads: CPU threads; small models are fastest with 1.
        out: where to write, in place of the recipe's folder.
        push_to_hub: also upload the finished model under this hub id.
    """
    raw = _checked_kind(recipe, "sft")
    command = f"egolive train sft {recipe}"
    _check_places(threads, data, out, push_to_hub)
    if raw.get("base", NEW_NANO) == NEW_NANO:
        nano = load_recipe(recipe)
        nano = dataclasses.replace(nano, data=data or nano.data)
        with _told(threads):
            from egolive.train.nano.nano_sft import run_recipe

            _tell(run_recipe(nano, out or nano.out, command=command, push_to_hub=push_to_hub))
        return
    settings = _with_data(load_trainer_recipe(recipe, CheckpointRecipe), data, recipe)
    check_model(settings.base)
    with _told(threads):
        from egolive.train.finetune.sft import run_checkpoint_sft

        _tell(run_checkpoint_sft(settings, out or settings.out, command=command, push_to_hub=push_to_hub))


def grpo(
    recipe: _Recipe = "nano-grpo",
    *,
    data: _Data = None,
    threads: _Threads = 1,
    out: _Out = None,
    push_to_hub: _Hub = "",
) -> None:
    """Train a model by GRPO; a run that was interrupted goes on where its last checkpoint is.

    With the package come the recipes nano-grpo and egothinker-grpo.

    Args:
        recipe: a YAML file, or the name of a recipe that comes with the package.
        data: folder that `egolive simulate` wrote, in place of the recipe's; made where it is missing.
        threads: CPU threads; small models are fastest with 1.
        out: where to write, in place of the recipe's folder.
        push_to_hub: also upload the finished model under this hub id.
    """
    _checked_kind(recipe, "grpo")
    settings = _with_data(load_trainer_recipe(recipe, GrpoRecipe), data, recipe)
    _check_places(threads, data, out, push_to_hub)
    check_model(settings.base)
    command = f"egolive train grpo {recipe}"
    with _told(threads):
        from egolive.train.finetune.grpo import run_grpo

        _tell(run_grpo(settings, out or settings.out, command=command, push_to_hub=push_to_hub))


def ablation(
    recipe: _Recipe = "nano-ablation", *, data: _Data = None, threads: _Threads = 1, out: _Out = None
) -> None:
    """Train the rows of the ablation and measure them; an interrupted run goes on where it stopped.

    Args:
        recipe: a YAML file, or the name of a recipe that comes with the package.
        data: folder that `egolive simulate` wrote, in place of the recipe's; made where it is missing.
        threads: CPU threads; small models are fastest with 1.
        out: where to write, in place of the recipe's folder.
    """
    _checked_kind(recipe, "ablation")
    settings = load_ablation_recipe(recipe)
    _check_places(threads, data, out, "")
    settings = dataclasses.replace(settings, data=data or settings.data, out=out or settings.out)
    with _told(threads):
        from egolive.train.ablation.ablation import run_ablation

        run_ablation(settings)
    if first_process():
        wrote(settings.out)


def familiarity(
    model: Annotated[str, Parameter(group=GIVEN)] = "nano",
    *,
    episodes: Annotated[int, Parameter(group=GIVEN)] = 100,
    held_out: Annotated[int, Parameter(group=GIVEN)] = 30,
    test: Annotated[int, Parameter(group=GIVEN)] = 40,
    real: Annotated[tuple[Path, ...], Parameter(negative="", group=GIVEN)] = (),
    directions: Annotated[int, Parameter(group=GIVEN)] = 96,
    tokens: Annotated[int, Parameter(group=GIVEN)] = 4096,
    seed: Annotated[int, Parameter(group=GIVEN)] = 0,
    threads: _Threads = 1,
    out: _Out = None,
    json_file: JsonFile = None,
) -> None:
    """Write the table by which a model trained on the simulator knows pictures of its world; measures it.

    The table, familiarity.safetensors, is made of the simulator's training split alone and lies beside the
    weights.

    Args:
        model: nano, or the folder of a checkpoint or engine.
        episodes: of the training split, which the table describes.
        held_out: the following ones, on which its limit is set.
        test: episodes of the test split that it is measured on.
        real: a folder, picture or video of other scenes that it is measured on; may be given several times.
        directions: along which visual tokens are compared.
        tokens: that the table keeps.
        seed: of the simulator.
        threads: CPU threads.
        out: folder of the table; that of the model without it.
        json_file: also write the JSON object here.
    """
    if min(episodes, held_out, test, directions, tokens) < 1 or seed < 0:
        raise UsageError(
            "--episodes, --held-out, --test, --directions and --tokens are 1 or more, --seed 0 or more"
        )
    _check_places(threads, None, out, "")
    check_folders(json_file)
    check_model(model)
    from rich.console import Console
    from rich.progress import Progress

    from egolive.assistant.runtime.torch_threads import torch_threads
    from egolive.assistant.system import machine
    from egolive.train.nano.familiarity_table import Settings, run_familiarity

    with torch_threads(threads):
        settings = Settings(
            episodes=episodes, held_out=held_out, directions=directions, tokens=tokens, seed=seed
        )
        with Progress(console=Console(stderr=True), transient=True) as bar:
            path, figures = run_familiarity(
                model,
                settings,
                out=out,
                test=test,
                real=real,
                progress=lambda numbers, what: bar.track(list(numbers), description=what),
            )
    counts = [f"{figures['simulated_marked']:.1%} of {figures['simulated_marked_n']} looks at test episodes"]
    if figures["real_marked_n"]:
        counts.append(f"{figures['real_marked']:.1%} of {figures['real_marked_n']} other pictures")
    note(f"marked as unfamiliar: {', '.join(counts)}")
    json_line({"model": model, **figures, **machine.gather()}, json_file)
    wrote(path)


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


def _with_data(settings: _Settings, data: Path | None, recipe: str) -> _Settings:
    """The settings on another folder of simulated episodes.

    Raises:
        UsageError: the recipe trains on rows, or a model that it names is not there.
    """
    if data is None:
        return settings
    if settings.data is None:
        raise UsageError(f"{recipe} trains on rows, which its recipe names; --data is for simulated episodes")
    return dataclasses.replace(settings, data=data)


def _check_places(threads: int, data: Path | None, out: Path | None, push_to_hub: str) -> None:
    """Refuse what could only fail after the imports, or after the training.

    Raises:
        ConfigError: no place to write to, no number of threads, or no login on the hub.
    """
    if threads < 1:
        raise UsageError(f"--threads is 1 or more, got {threads}")
    for name, folder in (("--data", data), ("--out", out)):
        if folder is not None and existing_path(folder) is not None and not folder.is_dir():
            raise UsageError(f"{name} {folder} is a file; name a folder")
    if push_to_hub and first_process():
        check_login(push_to_hub)


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
    _say(f"wrote {model}: the model, with its card; plots and the log are in {model.parent}")


def _say(line: str) -> None:
    if first_process():
        note(line)
