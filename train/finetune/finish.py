"""Output of a finished training run on a checkpoint: model, log, plots, card, upload."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from peft import PeftModel
from transformers import Qwen2VLForConditionalGeneration, Trainer

from egolive.assistant.schema.profiles import NANO
from egolive.train.common.hub import upload
from egolive.train.common.model_card import write_tuned_card
from egolive.train.common.plots import plot_curves
from egolive.train.common.run_files import partial_of, put_in_place, writing_into
from egolive.train.common.run_folder import plain
from egolive.train.common.trainer_recipe import GrpoRecipe, TrainerRecipe
from egolive.train.common.training_clock import seconds_of, spoken
from egolive.train.finetune.trainers import Loaded

__all__ = ["finish", "resumed"]

CURVES = {
    "loss": ("loss",),
    "reward": ("reward", "rewards/box/mean", "rewards/interval/mean", "rewards/format/mean"),
    "KL to the base": ("kl",),
    "tokens a completion": ("completions/mean_length",),
    "share of groups without variance": ("frac_reward_zero_std",),
    "entropy": ("entropy",),
}


def finish(
    trainer: Trainer,
    loaded: Loaded,
    recipe: TrainerRecipe,
    out: Path,
    *,
    command: str,
    hub: str = "",
    notes: tuple[str, ...] = (),
) -> Path:
    """Write the output of a finished run; called by all processes, written by the first.

    Args:
        trainer: after its last step.
        loaded: what it trained.
        recipe: by which settings.
        out: the run's folder.
        command: that started it.
        hub: id to upload the model to, or empty.
        notes: further lines for the card.

    Returns:
        The folder of the model: a whole checkpoint, into which adapters have been merged. The adapters
        alone are beside it.
    """
    folder = out / "model"
    saved = out / "adapters" if recipe.lora else folder
    with writing_into(out):
        trainer.save_model(str(partial_of(saved)))
        if not trainer.is_world_process_zero():
            return folder
        # A pickle that only the Trainer writes and nobody reads.
        (partial_of(saved) / "training_args.bin").unlink(missing_ok=True)
        put_in_place(saved)
        if recipe.lora:
            merge(loaded, saved, partial_of(folder))
            put_in_place(folder)
        history = trainer.state.log_history
        (out / "history.json").write_text(json.dumps(history))
    plot_curves(history, out / "curves.png", CURVES)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    write_tuned_card(
        folder,
        {
            "name": out.name,
            "base": recipe.base,
            "method": "GRPO" if isinstance(recipe, GrpoRecipe) else "supervised fine-tuning",
            "kind": simulated(loaded),
            "steps": trainer.state.global_step,
            "command": command,
            "time": spoken(seconds_of(history)),
            "device": f"{trainer.args.world_size} x {device}",
            "notes": "".join(f"- {line}\n" for line in notes),
            "recipe": yaml.safe_dump(plain(recipe), sort_keys=False).strip(),
        },
    )
    if hub:
        upload(folder, hub)
    return folder


def resumed(checkpoint: str | None) -> tuple[str, ...]:
    """A line for the card of a resumed run: rows left out before the checkpoint are not counted."""
    since = Path(checkpoint or "").name
    return (f"Interrupted; rows left out are those since {since}",) if checkpoint else ()


def merge(loaded: Loaded, adapters: Path, folder: Path) -> None:
    """Write a checkpoint of the base with adapters in its weights, in the precision of the base.

    The base is read again: what was trained on may be in 4 bits.
    """
    base = Qwen2VLForConditionalGeneration.from_pretrained(loaded.folder, dtype="auto")
    PeftModel.from_pretrained(base, adapters).merge_and_unload().save_pretrained(folder)
    loaded.processor.save_pretrained(folder)


def simulated(loaded: Loaded) -> str:
    """A line for the card that says whether the model is nano or a real checkpoint."""
    if loaded.profile.name == NANO.name:
        return "It is for trying and testing, and it is **not EgoThinker**: it knows the simulator alone."
    return "A Qwen2-VL checkpoint, trained further with egolive."
