"""Many questions about one picture or window, packed in one row.

All questions follow one shared prefix, each with the positions that it would have alone and a mask that hides
the others: the loss is that of separate samples, at the cost of one pass over the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2TokenizerFast

from egolive.assistant.model.positions import Part, rope_positions
from egolive.assistant.schema.engine import Prompt, Vision

__all__ = ["Batch", "Row", "collate", "pack"]

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row of n tokens; visual tokens hold the pad token of their kind."""

    tokens: NDArray[np.int64]
    """(n,) token ids."""
    positions: NDArray[np.int64]
    """(3, n) time, row and column positions."""
    labels: NDArray[np.int64]
    """(n,) the token that each position shall predict, -100 where it does not count."""
    tail: NDArray[np.int64]
    """(n,) 0 for the prefix, k for the k-th question."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded to one length."""

    tokens: Tensor
    """(B, L) int64."""
    positions: Tensor
    """(3, B, L) int64."""
    labels: Tensor
    """(B, L) int64."""
    mask: Tensor
    """(B, 1, L, L) bool: True where the query (row) attends to the key (column)."""


def pack(prompts: Sequence[Prompt], answers: Sequence[str], tokenizer: Qwen2TokenizerFast) -> Row:
    """Pack prompts that differ only behind their last picture, each with its answer.

    Raises:
        ValueError: the prompts do not share everything up to their last picture.
    """
    heads = {tuple(p if isinstance(p, str) else id(p) for p in prompt.parts[:-1]) for prompt in prompts}
    if len(heads) != 1:
        raise ValueError("packed prompts share everything but the last text")
    prefix: list[int] = []
    parts: list[Part] = []
    for part in prompts[0].parts[:-1]:
        if isinstance(part, Vision):
            rows, columns = part.height // 28, part.width // 28
            slices = 1 if part.kind == "image" else len(part.frames) // 2
            pad = "<|image_pad|>" if part.kind == "image" else "<|video_pad|>"
            count = slices * rows * columns
            prefix += [tokenizer.convert_tokens_to_ids(pad)] * count
            parts.append((slices, rows, columns))
        else:
            ids = tokenizer(part, add_special_tokens=False)["input_ids"]
            prefix += ids
            parts.append(len(ids))
    places = [rope_positions(parts)]
    start = int(places[0].max()) + 1
    tokens, labels, tails = list(prefix), [IGNORED] * len(prefix), [0] * len(prefix)
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), start=1):
        question = tokenizer(str(prompt.parts[-1]), add_special_tokens=False)["input_ids"]
        reply = [*tokenizer(answer, add_special_tokens=False)["input_ids"], end_of_turn]
        tail = question + reply[:-1]
        tokens += tail
        labels += [IGNORED] * (len(question) - 1) + reply
        tails += [number] * len(tail)
        places.append(rope_positions([len(tail)], start))
    return Row(np.array(tokens), np.concatenate(places, 1), np.array(labels), np.array(tails))


def collate(rows: Sequence[Row], pad: int) -> Batch:
    """Pad to the longest row; padded positions attend to themselves, so that the softmax stays finite."""
    length = max(len(row.tokens) for row in rows)
    tokens = np.full((len(rows), length), pad, np.int64)
    labels = np.full((len(rows), length), IGNORED, np.int64)
    positions = np.zeros((3, len(rows), length), np.int64)
    mask = np.zeros((len(rows), 1, length, length), bool)
    mask[:, :, np.arange(length), np.arange(length)] = True
    causal = np.tril(np.ones((length, length), bool))
    for place, row in enumerate(rows):
        count = len(row.tokens)
        tokens[place, :count], labels[place, :count] = row.tokens, row.labels
        positions[:, place, :count] = row.positions
        same = (row.tail[:, None] == row.tail[None, :]) | (row.tail[None, :] == 0)
        mask[place, 0, :count, :count] |= same & causal[:count, :count]
    return Batch(*(torch.from_numpy(array) for array in (tokens, positions, labels, mask)))
