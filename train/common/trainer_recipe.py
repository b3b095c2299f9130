"""Recipes for training a finished checkpoint: `egolive train grpo`, and `egolive train sft` on other bases.

One YAML file each. Batches are counted over all devices together, so that a recipe gives the same training on
one GPU and on sixty-four; how many rows go through a device at once is `per_device`.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from egolive.train.common.recipe import STRICT, Count, Number, Share, Whole, read_recipe, validate

__all__ = [
    "CheckpointRecipe",
    "GrpoRecipe",
    "Lora",
    "Rates",
    "SimulatorShares",
    "TrainerRecipe",
    "load_trainer_recipe",
]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Rates:
    """Peak learning rates by part of the model; a part at 0 is frozen."""

    text: Number
    tower: Number = 0.0
    merger: Number = 0.0
    """Of the merger, which turns tower outputs into visual tokens."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class Lora:
    """LoRA adapters on the text decoder; the tower and the merger are frozen."""

    rank: Count = 64
    alpha: Whole = 128
    dropout: Share = 0.0
    nf4: bool = False
    """QLoRA: the text decoder's own weights in 4 bits; the tower stays as it is."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class SimulatorShares:
    """Questions about simulated episodes; prompts of a step are of one kind, so that none is padded."""

    episodes: Count
    boxes: Share = 1.0
    """Share of the steps that ask for boxes; the others ask for intervals."""
    live: Share = 0.75
    """Share of the box questions about hands and what they hold, as live; the others name things."""
    absent: Share = 0.15
    """Share of the box questions that ask for what is not there."""
    slices: Annotated[int, Field(ge=2)] = 8
    """Slices in a window."""
    held_out: Share = 0.03
    """Share of the episodes that is not trained on."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class TrainerRecipe:
    """Settings that SFT and GRPO share."""

    base: str
    """Checkpoint to start from: a folder, a hub id, or nano."""
    rates: Rates
    out: Path
    """Where checkpoints, plots and the finished model go."""
    data: Path | None = None
    """Folder of simulated episodes."""
    rows: list[str] = field(default_factory=list)
    """Files of rows, "name.jsonl" or "name.jsonl%30" for 30 percent of one."""
    media: Path = Path()
    """Folder that the paths of pictures and videos in the rows start from."""
    simulator: SimulatorShares | None = None
    """Ask about the episodes in `data`."""
    frames: Count = 32
    """Frames of a video in the rows, at most."""
    fps: Number = 1.0
    """Frames a second of it, where that gives no more than `frames`."""
    image_pixels: Whole = 0
    """Most pixels of a picture while training; 0: the profile's, as live."""
    video_pixels: Whole = 0
    """Most pixels of a frame of a video while training; 0: the profile's, as live."""
    profile: str = ""
    """A built-in profile by name; empty: the checkpoint's own."""
    lora: Lora | None = None
    schedule: str = "linear"
    """Of the learning rate, by transformers' name; from the end of the warm-up to 0."""
    warmup: Share = 0.0
    """Share of the steps over which the learning rate rises."""
    weight_decay: Number = 0.0
    per_device: Count = 1
    """Rows that go through a device at once, at most; the rest of a batch is accumulated."""
    checkpointing: bool = True
    """Compute activations again in the backward pass, to save memory."""
    bf16: bool = True
    """Compute in bfloat16 where the device is a GPU; weights that are trained stay float32."""
    bf16_on_cpu: bool = False
    """The same on a CPU; faster where that has instructions for it."""
    save_every: Count = 250
    log_every: Count = 10
    report_to: list[str] = field(default_factory=list)
    """Where to log beside the files in `out`: tensorboard, wandb, trackio, mlflow and others."""
    seed: Whole = 0

    def __post_init__(self) -> None:
        if bool(self.rows) == (self.simulator is not None):
            raise ValueError("a recipe trains on rows, or on the simulator: give one of the two keys")
        if self.simulator is not None and self.data is None:
            raise ValueError("a recipe on the simulator needs data, the folder of its episodes")
        if self.lora is not None and (self.rates.tower or self.rates.merger):
            raise ValueError("with lora the tower and the merger are frozen: set their rates to 0")


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class GrpoRecipe(TrainerRecipe):
    """GRPO; the defaults are EgoThinker's settings."""

    steps: Count
    """Optimiser steps."""
    prompts: Count = 8
    """Different prompts in a step."""
    generations: Annotated[int, Field(ge=2)] = 8
    """Completions of each prompt (G); a group of one has nothing to be compared with."""
    max_tokens: Count = 1024
    """Tokens of a completion, at most."""
    think: bool = True
    """Ask for reasoning, where the profile knows how."""
    beta: Number = 0.04
    """Weight of the KL term to the base; 0 leaves it out and keeps no reference."""
    kl_correction: bool = False
    """Weight the KL term by the importance ratio, as DeepSeek-V3.2 does."""
    loss: str = "grpo"
    """grpo, dr_grpo, dapo, bnpo, cispo, sapo and what else TRL knows."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the deviation of the group or of the batch, or not at all (none)."""
    epsilon: Number = 0.2
    """Clipping of the importance ratio; no effect with one update for each batch of completions."""
    epsilon_high: Number | None = None
    """Upper clipping bound, where it differs (DAPO: 0.28)."""
    importance: Literal["token", "sequence"] = "token"
    """token, or sequence as in GSPO."""
    updates: Count = 1
    """Updates on each batch of completions."""
    mask_truncated: bool = False
    """Leave completions without an end out of the loss (DAPO)."""
    format_weight: Number = 1.0
    box_weight: Number = 1.0
    interval_weight: Number = 1.0
    shaped: Share = 0.0
    """Share of (1 + GIoU) / 2 in the box and interval rewards: a signal where nothing overlaps."""
    temperature: Number = 1.0
    top_p: Number = 1.0
    top_k: Whole = 0
    """0 keeps all tokens."""
    min_p: Number = 0.0
    repetition_penalty: Number = 1.0
    vllm: bool = False
    """Generate with vLLM; rows with pictures only, since it takes no windows from TRL."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class CheckpointRecipe(TrainerRecipe):
    """Supervised fine-tuning of a checkpoint on rows of conversations; the defaults are EgoThinker's."""

    batch: Count = 256
    """Rows in an optimiser step."""
    epochs: Number = 1.0
    steps: Whole = 0
    """Optimiser steps, in place of the epochs where it is not 0."""
    max_tokens: Count = 32_768
    """Longest row; a longer one is left out and counted, since cutting it would cut visual tokens."""

    def __post_init__(self) -> None:
        TrainerRecipe.__post_init__(self)
        if not self.rows:
            raise ValueError("supervised fine-tuning of a checkpoint is on rows: give rows, a list of files")


R = TypeVar("R", bound=TrainerRecipe)


def load_trainer_recipe(name: str, kind: type[R]) -> R:
    """Read a recipe of one kind; errors are those of `read_recipe` and `validate`."""
    return validate(kind, *read_recipe(name))
