"""Supervised fine-tuning of a finished checkpoint on rows of conversations, on TRL's own trainer.

    egolive train sft egothinker-sft

The collator is ours, since TRL's does not support windows; loop, loss, adapters and sharding are TRL's. A row
that turns out to be broken or too long is left out of its batch, reported and counted: no other row replaces
it, and nothing is truncated, since that would separate visual tokens from their pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from trl import SFTConfig, SFTTrainer

from egolive.assistant.schema.engine import Vision
from egolive.streaming.errors import DataError
from egolive.train.common.loop import Tensors
from egolive.train.common.run_files import last_checkpoint, writing_into
from egolive.train.common.run_folder import claim
from egolive.train.common.trainer_recipe import CheckpointRecipe
from egolive.train.data.row_files import RowMix, mix_rows
from egolive.train.data.row_media import FrameSampling, messages_of, show
from egolive.train.data.rows import RowError, Tally
from egolive.train.finetune.finish import finish, resumed
from egolive.train.finetune.trainers import (
    Loaded,
    PartTrainer,
    common_arguments,
    keep_adapters_float32,
    load_for_training,
    lora_config,
)
from egolive.train.finetune.window_processor import Seen, WindowProcessor

__all__ = [
    "CheckpointTrainer",
    "RowReader",
    "collate_rows",
    "row_dataset",
    "run_checkpoint_sft",
    "trainer_for",
]

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
    with writing_into(out):
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
    mix = mix_rows(recipe.rows, seed=recipe.seed).checked(tally, media=recipe.media)
    log.info("%s", tally)
    if not len(mix):
        raise DataError(f"none of the rows can be used: {tally}")
    sampling = FrameSampling(fps=recipe.fps, max_frames=recipe.frames)
    reader = RowReader(loaded.processor, recipe.media, sampling, recipe.max_tokens)
    return row_dataset(mix, reader, tally)


@dataclass(frozen=True, slots=True)
class RowReader:
    """Turns rows into training examples."""

    processor: WindowProcessor
    media: Path
    sampling: FrameSampling
    max_tokens: int
    """Longest row that is learned."""

    def read(self, mix: RowMix, number: int) -> Tensors:
        """A row of the mix; see `WindowProcessor.learn`.

        Raises:
            RowError: it cannot be used.
        """
        row = mix[number]
        shown = show(row, self.media, self.processor.profile, self.sampling)
        messages = messages_of(row, shown, self.processor.profile)
        visions = [part for message in messages for part in message.parts if isinstance(part, Vision)]
        made = self.processor.learn(messages, [Seen(partial(_given, vision)) for vision in visions])
        if not (made["labels"] != -100).any():
            raise RowError(row.where, "no answer to learn from")
        if len(made["input_ids"]) > self.max_tokens:
            raise RowError(row.where, "longer than max_tokens", f"{len(made['input_ids'])} tokens")
        return made


def _given(vision: Vision) -> Vision:
    return vision


def row_dataset(mix: RowMix, reader: RowReader, tally: Tally) -> Dataset:
    """The rows in their order, as examples `{"row": tensors or None}`: None where one cannot be used."""
    numbers = Dataset.from_dict({"number": range(len(mix))})
    return numbers.with_transform(partial(_examples, mix=mix, reader=reader, tally=tally))


def _examples(
    batch: dict[str, list[int]], *, mix: RowMix, reader: RowReader, tally: Tally
) -> dict[str, list[Tensors | None]]:
    rows: list[Tensors | None] = []
    for number in batch["number"]:
        try:
            rows.append(reader.read(mix, number))
        except RowError as error:
            tally.add(error)
            rows.append(None)
    return {"row": rows}


def collate_rows(examples: Sequence[dict[str, Any]], *, pad: int, unseen: Tensors) -> Tensors:
    """Rows padded on the right to one length, pictures one after the other.

    Args:
        examples: of `row_dataset`.
        pad: token that fills up.
        unseen: of the processor; ends a batch without pictures, and is all of one that has lost its rows, so
            that every device has the same passes through the same parts of the model as the others.

    Returns:
        input_ids, labels, attention_mask and mm_token_type_ids (B, L); pixel_values and image_grid_thw;
        left_out, how many rows were.
    """
    rows = [example["row"] for example in examples if example["row"] is not None]
    left_out = len(examples) - len(rows)
    if not any("pixel_values" in row for row in rows):
        first = rows[0] if rows else {}
        rows[:1] = [
            {name: torch.cat([first[name], more]) if name in first else more for name, more in unseen.items()}
        ]
    fills = {"input_ids": pad, "labels": -100, "mm_token_type_ids": 0}
    batch = {
        name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], True, fill)
        for name, fill in fills.items()
    }
    ones = [torch.ones_like(row["input_ids"]) for row in rows]
    batch["attention_mask"] = torch.nn.utils.rnn.pad_sequence(ones, True, 0)
    for name in ("pixel_values", "image_grid_thw"):
        values = [row[name] for row in rows if name in row]
        if values:
            batch[name] = torch.cat(values)
    batch["left_out"] = torch.tensor(left_out)
    return batch


class CheckpointTrainer(PartTrainer, SFTTrainer):  # type: ignore[misc]  # trl is untyped
    """TRL's trainer on rows in order, with a learning rate for each part; counts rows left out."""

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
        """TRL's, on a batch that also has the number of rows left out of it."""
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
