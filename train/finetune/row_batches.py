"""Rows as batches for supervised fine-tuning: conversations to tokens and patches, read as they are needed.

A row that turns out to be broken or too long is left out of its batch, reported and counted: nothing takes
its place, and nothing is cut, since a cut would part visual tokens from their pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from egolive.assistant.schema.engine import Vision
from egolive.train.data.row_files import RowMix
from egolive.train.data.row_media import Sampling, messages_of, show
from egolive.train.data.rows import RowError, Tally
from egolive.train.finetune.window_processor import Seen, WindowProcessor

__all__ = ["Reader", "collate_rows", "row_dataset"]

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Reader:
    """How rows become what is learned."""

    processor: WindowProcessor
    media: Path
    sampling: Sampling
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


def row_dataset(mix: RowMix, reader: Reader, tally: Tally) -> Dataset:
    """The rows in their order, as examples `{"row": tensors or None}`: None where one cannot be used."""
    numbers = Dataset.from_dict({"number": range(len(mix))})
    return numbers.with_transform(partial(_examples, mix=mix, reader=reader, tally=tally))


def _examples(
    batch: dict[str, list[int]], *, mix: RowMix, reader: Reader, tally: Tally
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
