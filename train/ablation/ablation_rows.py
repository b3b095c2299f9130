"""The ablation's rows of grounding: one question of one picture each, over stored visual tokens.

The same rows go to GRPO, through TRL, and to SFT. The tower is frozen, so a model looks its tokens up
where it would encode patches.
"""

from __future__ import annotations

import functools
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import Qwen2TokenizerFast, Qwen2VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.prompts.prompts import build_prompt
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import NANO
from egolive.train.common.loop import Tensors
from egolive.train.data.questions import Asked
from egolive.train.data.simulated_data import Clip
from egolive.train.finetune.samples import Sample, SimulatedSamples
from egolive.train.finetune.window_processor import Seen
from egolive.train.nano.answer_batches import PICTURE, encoded, target_text
from egolive.train.nano.answer_loss import answer_logits, kinds
from egolive.train.nano.nano_model import COLUMNS, HEIGHT, ROWS, WIDTH
from egolive.train.nano.packing import Row, collate, pack

__all__ = ["GroundingBatches", "StoredSamples", "StoredSeen", "look_tokens_up", "plain_loss"]

EVERY = 2
"""Frames from one stored picture of an episode to the next, as `encode_clips` writes them."""


class StoredSeen(Seen):
    """A picture whose visual tokens are on disk.

    They travel in the place of its patches, cut into as many rows as it has patches, so that whoever counts
    patches finds what the grid says; `look_tokens_up` puts them together again.
    """

    def __init__(self, path: Path, place: int) -> None:
        """Take the file, as `encode_clips` writes it, and the picture's place in it."""
        super().__init__(partial(_without_pixels))
        self.path = path
        self.place = place

    def __reduce__(self) -> Any:
        return StoredSeen, (self.path, self.place)

    def tokens(self) -> Tensor:
        """(n, width) float32."""
        return torch.from_numpy(np.load(self.path, mmap_mode="r")[self.place].astype(np.float32))

    def patches(self, preprocessor: Preprocessor) -> tuple[Tensor, tuple[int, int, int]]:
        """The tokens, four rows to each, and the grid that the patches would have."""
        return self.tokens().reshape(4 * ROWS * COLUMNS, -1), (1, 2 * ROWS, 2 * COLUMNS)


def _without_pixels() -> Vision:
    return Vision((PICTURE,), HEIGHT, WIDTH)


def look_tokens_up(model: Qwen2VLForConditionalGeneration) -> None:
    """Let the model's tower give back the tokens of `StoredSeen`, in place; its weights are not used."""
    visual = model.model.visual
    width = model.config.get_text_config().hidden_size

    @functools.wraps(visual.forward)
    def forward(hidden_states: Tensor, grid_thw: Tensor, **_: object) -> BaseModelOutputWithPooling:
        tokens = hidden_states.reshape(-1, width)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=tokens)

    visual.forward = forward


class StoredSamples(SimulatedSamples):
    """Box questions of simulated pictures, seen through their stored tokens."""

    tokens: Path
    """Folder of the tokens; set before use."""

    def _shown(self, clip: Clip, rng: random.Random) -> tuple[int, Seen]:
        path = encoded(self.tokens, clip).pictures
        place = rng.randrange(len(np.load(path, mmap_mode="r")))
        return EVERY * place, StoredSeen(path, place)


class GroundingBatches:
    """Batch `index`: the samples that GRPO's step `index` asks, with their answers."""

    def __init__(self, samples: StoredSamples, tokenizer: Qwen2TokenizerFast) -> None:
        """Take the samples, whose `prompts` are the rows of a batch."""
        self.samples = samples
        self.tokenizer = tokenizer

    def __getitem__(self, index: int) -> Tensors:
        rows = self.samples.prompts
        made = [self.samples[index * rows + place] for place in range(rows)]
        batch = collate([self._row(one) for one in made], self.tokenizer.pad_token_id)
        visual = torch.stack([one.seen.tokens() for one in made if isinstance(one.seen, StoredSeen)])
        return {
            "pictures.tokens": batch.tokens,
            "pictures.positions": batch.positions,
            "pictures.labels": batch.labels,
            "pictures.mask": batch.mask,
            "pictures.visual": visual,
        }

    def _row(self, sample: Sample) -> Row:
        prompt = build_prompt(NANO, sample.question, [_without_pixels()])
        asked = Asked(sample.question, box=sample.box)
        return pack([prompt], [target_text(asked, sample.source_size, None)], self.tokenizer)


def plain_loss(model: nn.Module, inputs: Tensors) -> dict[str, Tensor]:
    """Next-token cross-entropy over the answers, and nothing else: what SFT of any checkpoint has."""
    found = {}
    for kind, rows in kinds(inputs):
        logits, labels, _ = answer_logits(model, rows)
        found[f"{kind}_answers"] = F.cross_entropy(logits, labels)
    return found
