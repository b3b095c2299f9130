"""Recipes for training a finished checkpoint: `egolive train grpo`, and `egolive train sft` on other bases.

One YAML file each. Batches are counted over all devices together, so that a recipe gives the same training on
one GPU and on sixty-four; how many rows go through a device at once is `per_device`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from egolive.streaming.errors import ConfigError
from egolive.train.common.recipe import build, read_recipe

__all__ = [
    "CheckpointRecipe",
    "GrpoRecipe",
    "Lora",
    "Rates",
    "Shared",
    "SimulatorShares",
    "load_trainer_recipe",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Peak learning rates by part of the model; a part at 0 stands still."""

    text: float
    tower: float = 0.0
    merger: float = 0.0
    """Of the two layers that turn tower outputs into visual tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Adapters on the text part in place of its weights; the tower and the merger stand still."""

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.0
    nf4: bool = False
    """QLoRA: the text part underneath in 4 bits; the tower stays as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorShares:
    """What is asked about simulated episodes; each step asks one kind alone, so that nothing is padded."""

    episodes: int
    boxes: float = 1.0
    """Share of the steps that ask for boxes; the others ask for intervals."""
    live: float = 0.75
    """Share of the box questions about hands and what they hold, as live; the others name things."""
    absent: float = 0.15
    """Share of the box questions that ask for what is not there."""
    slices: int = 8
    """Slices in a window."""
    held_out: float = 0.03
    """Share of the episodes that is not trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What SFT and GRPO have in common."""

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
    frames: int = 32
    """Frames of a video in the rows, at most."""
    fps: float = 1.0
    """Frames a second of it, where that gives no more than `frames`."""
    image_pixels: int = 0
    """Most pixels of a picture while training; 0: the profile's, as live."""
    video_pixels: int = 0
    """Most pixels of a frame of a video while training; 0: the profile's, as live."""
    profile: str = ""
    """A built-in profile by name; empty: the checkpoint's own."""
    lora: Lora | None = None
    schedule: str = "linear"
    """Of the learning rate, by transformers' name; from the end of the warm-up to 0."""
    warmup: float = 0.0
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.0
    per_device: int = 1
    """Rows that go through a device at once, at most; the rest of a batch is accumulated."""
    checkpointing: bool = True
    """Compute activations again in the backward pass, to save memory."""
    bf16: bool = True
    """Compute in bfloat16 where the device is a GPU; weights that are trained stay float32."""
    bf16_on_cpu: bool = False
    """The same on a CPU; faster where that has instructions for it."""
    save_every: int = 250
    log_every: int = 10
    report_to: list[str] = field(default_factory=list)
    """Where to log beside the files in `out`: tensorboard, wandb, trackio, mlflow and others."""
    seed: int = 0

    def __post_init__(self) -> None:
        if bool(self.rows) == (self.simulator is not None):
            raise ConfigError("a recipe trains on rows, or on the simulator: give one of the two keys")
        if self.simulator is not None and self.data is None:
            raise ConfigError("a recipe on the simulator needs data, the folder of its episodes")
        if self.lora is not None and (self.rates.tower or self.rates.merger):
            raise ConfigError("with lora the tower and the merger stand still: set their rates to 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoRecipe(Shared):
    """GRPO; the defaults are EgoThinker's settings."""

    steps: int
    """Optimiser steps."""
    prompts: int = 8
    """Different prompts in a step."""
    generations: int = 8
    """Completions of each prompt (G)."""
    max_tokens: int = 1024
    """Tokens of a completion, at most."""
    think: bool = True
    """Ask for reasoning, where the profile knows how."""
    beta: float = 0.04
    """Weight of the KL term to the base; 0 leaves it out and keeps no reference."""
    kl_correction: bool = False
    """Weight the KL term by the importance ratio, as DeepSeek-V3.2 does."""
    loss: str = "grpo"
    """grpo, dr_grpo, dapo, bnpo, cispo, sapo and what else TRL knows."""
    scale_rewards: str = "group"
    """Divide advantages by the deviation of the group or of the batch, or not at all (none)."""
    epsilon: float = 0.2
    """Clipping of the importance ratio; no effect with one update for each batch of completions."""
    epsilon_high: float | None = None
    """Upper clipping bound, where it differs (DAPO: 0.28)."""
    importance: str = "token"
    """token, or sequence as in GSPO."""
    updates: int = 1
    """Updates on each batch of completions."""
    mask_truncated: bool = False
    """Leave completions without an end out of the loss (DAPO)."""
    format_weight: float = 1.0
    box_weight: float = 1.0
    interval_weight: float = 1.0
    shaped: float = 0.0
    """Share of (1 + GIoU) / 2 in the box and interval rewards: a signal where nothing overlaps."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    vllm: bool = False
    """Generate with vLLM; rows with pictures only, since it takes no windows from TRL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecipe(Shared):
    """Supervised fine-tuning of a checkpoint on rows of conversations; the defaults are EgoThinker's."""

    batch: int = 256
    """Rows in an optimiser step."""
    epochs: float = 1.0
    steps: int = 0
    """Optimiser steps, in place of the epochs where it is not 0."""
    max_tokens: int = 32_768
    """Longest row; a longer one is left out and counted, since cutting it would cut visual tokens."""


R = TypeVar("R", bound=Shared)


def load_trainer_recipe(name: str, kind: type[R]) -> R:
    """Read a recipe of one kind.

    Raises:
        ConfigError: no such recipe, or a setting that is unknown, missing or wrong.
    """
    raw, where = read_recipe(name)
    parts: dict[str, type[Any]] = {"rates": Rates, "lora": Lora, "simulator": SimulatorShares}
    for key, part in parts.items():
        if isinstance(raw.get(key), dict):
            raw[key] = build(part, raw[key], f"{where}: {key}")
        elif raw.get(key) is not None:
            raise ConfigError(f"{where}: {key} is a mapping of settings")
    try:
        recipe: R = build(kind, raw, where)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(where) else f"{where}: {text}") from None
    return recipe
