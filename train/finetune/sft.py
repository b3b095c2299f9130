"""Supervised fine-tuning of a finished checkpoint on rows of conversations, on TRL's own trainer.

    egolive train sft egothinker-sft

The collator is ours, since TRL's knows no windows; the loop, the loss, adapters and sharding are theirs.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from trl import SFTConfig, SFTTrainer

from egolive.streaming.errors import ConfigError, DataError
from egolive.train.common.loop import last_checkpoint
from egolive.train.common.run_folder import claim
from egolive.train.common.trainer_recipe import CheckpointRecipe
from egolive.train.data.row_files import mix_rows
from egolive.train.data.row_media import Sampling
from egolive.train.data.rows import Tally
from egolive.train.finetune.finish import finish, resumed
from egolive.train.finetune.row_batches import Reader, collate_rows, row_dataset
from egolive.train.finetune.trainers import (
    Loaded,
    PartTrainer,
    common_arguments,
    keep_adapters_float32,
    load_for_training,
    lora_config,
)

__all__ = ["CheckpointTrainer", "run_checkpoint_sft", "trainer_for"]

log = logging.getLogger(__name__)


def run_checkpoint_sft(recipe: CheckpointRecipe, out: Path, *, command: str, push_to_hub: str = "") -> Path:
    """Run all of a recipe; returns the folder of the finished model.

    Raises:
        ConfigError: the folder holds a run by other settings.
    """
    claim(out, recipe)
    loaded = load_for_training(recipe)
    tally = Tally()
    trainer = trainer_for(recipe, loaded, rows_of(recipe, loaded, tally), out)
    newest = last_checkpoint(out)
    trainer.train(resume_from_checkpoint=newest)
    return finish(
        trainer,
        loaded,
        recipe,
        out,
        command=command,
        hub=push_to_hub,
        notes=(f"Rows: {tally}", f"Rows left out while training: {trainer.left_out}", *resumed(newest)),
    )


def rows_of(recipe: CheckpointRecipe, loaded: Loaded, tally: Tally) -> Dataset:
    """The recipe's mix, in the order that its seed decides, without the rows that are broken.

    Raises:
        DataError: no row is left.
    """
    if not recipe.rows:
        raise ConfigError("supervised fine-tuning of a checkpoint is on rows: give rows, a list of files")
    mix = mix_rows(recipe.rows, seed=recipe.seed).checked(tally, media=recipe.media)
    log.info("%s", tally)
    if not len(mix):
        raise DataError(f"none of the rows can be used: {tally}")
    sampling = Sampling(fps=recipe.fps, max_frames=recipe.frames)
    reader = Reader(loaded.processor, recipe.media, sampling, recipe.max_tokens)
    return row_dataset(mix, reader, tally)


class CheckpointTrainer(PartTrainer, SFTTrainer):  # type: ignore[misc]  # trl is untyped
    """TRL's trainer on rows in their order, with a rate for each part; counts the rows that were left out."""

    left_out = 0

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """TRL's, of a batch that also tells how many rows it lost."""
        lost = self.accelerator.reduce(inputs.pop("left_out"), reduction="sum")
        self.left_out += int(lost)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, with the rows left out so far."""
        super().log({**logs, "rows_left_out": self.left_out}, start_time)


def trainer_for(recipe: CheckpointRecipe, loaded: Loaded, rows: Dataset, out: Path) -> CheckpointTrainer:
    """TRL's trainer for a recipe.

    Raises:
        ConfigError: a batch that cannot be cut evenly over the devices.
    """
    settings = SFTConfig(
        **common_arguments(recipe, out, rows=recipe.batch),
        num_train_epochs=recipe.epochs,
        max_steps=recipe.steps or -1,
        # Long rows are left out by us; nothing may cut one.
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        average_tokens_across_devices=True,
    )
    trainer = CheckpointTrainer(
        model=loaded.model,
        args=settings,
        train_dataset=rows,
        data_collator=partial(
            collate_rows, pad=loaded.processor.tokenizer.pad_token_id, unseen=loaded.processor.unseen()
        ),
        processing_class=loaded.processor,
        peft_config=lora_config(recipe),
    )
    trainer.rates = recipe.rates
    keep_adapters_float32(trainer.model)
    return trainer
