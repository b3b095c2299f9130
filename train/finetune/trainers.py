"""Shared by SFT and GRPO of a checkpoint: loading, learning rates by part of the model, resuming.

The loops are transformers' and TRL's own; multi-GPU training is accelerate's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel, Qwen2VLForConditionalGeneration, Trainer

from egolive.assistant.model.checkpoint import inspect_checkpoint, resolve_model
from egolive.assistant.model.positions import install_rope_override
from egolive.assistant.schema.profiles import PROFILES, Profile, load_profile
from egolive.streaming.errors import ConfigError
from egolive.train.common.hub import check_loggers
from egolive.train.common.processes import part_of, processes, together
from egolive.train.common.trainer_recipe import Rates, TrainerRecipe
from egolive.train.common.training_clock import Clock
from egolive.train.finetune.window_processor import WindowProcessor

__all__ = [
    "Loaded",
    "PartTrainer",
    "common_arguments",
    "keep_adapters_float32",
    "load_for_training",
    "lora_config",
]

TEXT_LINEARS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint, ready to be trained."""

    model: Qwen2VLForConditionalGeneration
    processor: WindowProcessor
    profile: Profile
    folder: Path


def load_for_training(recipe: TrainerRecipe) -> Loaded:
    """Load a recipe's base, with parts at rate 0 frozen and the position ids of transformers 4.x.

    Weights that are trained are float32: at a rate of 1e-6 a bfloat16 weight would never move. Weights under
    adapters are bfloat16 on a GPU, or 4 bits.

    Raises:
        EngineError: the checkpoint is missing or damaged.
        ConfigError: no such profile or logger, or several GPUs for one process.
    """
    # Each process has to know its GPU before weights are read: 4 bits are made where they are used.
    together()
    if processes() == 1 and torch.cuda.device_count() > 1:
        raise ConfigError(
            f"one process cannot use {torch.cuda.device_count()} GPUs: start with accelerate launch, as the "
            "recipe says, or show it one (CUDA_VISIBLE_DEVICES=0)"
        )
    check_loggers(recipe.report_to)
    install_rope_override()
    folder = resolve_model(recipe.base)
    inspect_checkpoint(folder)
    if recipe.profile and recipe.profile not in PROFILES:
        raise ConfigError(f"profile is one of {', '.join(PROFILES)}, got {recipe.profile!r}")
    kept = PROFILES[recipe.profile] if recipe.profile else load_profile(folder)
    profile = replace(
        kept,
        image_pixels=_budget(kept.image_pixels, recipe.image_pixels),
        video_pixels=_budget(kept.video_pixels, recipe.video_pixels),
    )
    model = Qwen2VLForConditionalGeneration.from_pretrained(
        folder,
        dtype=torch.bfloat16 if recipe.lora and torch.cuda.is_available() else torch.float32,
        attn_implementation="sdpa",
        use_safetensors=True,
        local_files_only=True,
        quantization_config=_nf4(recipe),
    )
    # TRL loads its reference model by this name.
    model.config._name_or_path = str(folder)
    if recipe.lora is None:
        for name, weights in model.named_parameters():
            weights.requires_grad_(rate_of(name, recipe.rates) > 0)
    return Loaded(model, WindowProcessor(folder, profile, kept=kept), profile, folder)


def _budget(usual: tuple[int, int], most: int) -> tuple[int, int]:
    return (min(usual[0], most), most) if most else usual


def _nf4(recipe: TrainerRecipe) -> BitsAndBytesConfig | None:
    if recipe.lora is None or not recipe.lora.nf4:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        # The tower is found only by its full name, and does not bear 4 bits.
        llm_int8_skip_modules=["model.visual", "lm_head"],
    )


def keep_adapters_float32(model: nn.Module) -> None:
    """TRL makes adapters over 4-bit weights bfloat16, in which small steps are lost."""
    for weights in model.parameters():
        if weights.requires_grad:
            weights.data = weights.data.float()


def lora_config(recipe: TrainerRecipe) -> LoraConfig | None:
    """Adapters on every linear layer of the text part but the last."""
    if recipe.lora is None:
        return None
    return LoraConfig(
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        target_modules=TEXT_LINEARS,
        task_type="CAUSAL_LM",
    )


def rate_of(name: str, rates: Rates) -> float:
    """The learning rate of a weight by its name; wrappers may have put words before it."""
    if "visual.merger." in name:
        return rates.merger
    return rates.tower if "visual." in name else rates.text


def common_arguments(recipe: TrainerRecipe, out: Path, *, rows: int) -> dict[str, Any]:
    """Arguments that both of TRL's configurations take.

    Args:
        recipe: the settings.
        out: folder of the run.
        rows: in a step, over all devices.

    Raises:
        ConfigError: they cannot be cut evenly over the devices.
    """
    on_gpu = torch.cuda.is_available()
    share = part_of(rows)
    per_device = max(size for size in range(1, min(recipe.per_device, share) + 1) if share % size == 0)
    return {
        "output_dir": str(out),
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": share // per_device,
        "learning_rate": recipe.rates.text,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": recipe.warmup,
        "weight_decay": recipe.weight_decay,
        "bf16": recipe.bf16 if on_gpu else recipe.bf16_on_cpu,
        "activation_checkpointing": recipe.checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "save_steps": recipe.save_every,
        "save_total_limit": 2,
        "logging_steps": recipe.log_every,
        "logging_first_step": True,
        "report_to": recipe.report_to,
        "remove_unused_columns": False,
        "dataloader_pin_memory": on_gpu,
        "use_cpu": not on_gpu,
        "ddp_backend": "gloo" if processes() > 1 and not on_gpu else None,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
    }


class PartTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Mixin for a trainer: a learning rate for each part of the model, and working resumption."""

    rates: Rates
    optimizer: torch.optim.Optimizer | None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's, with a clock."""
        self._clock = Clock()
        return super().train(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The trainer's, with the seconds so far."""
        super().log(self._clock.stamp(logs, self.state.log_history), start_time)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One group of weights for each rate, with and without weight decay."""
        if self.optimizer is None:
            trained = model if model is not None else self.model
            decayed = set(self.get_decay_parameter_names(trained))
            groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
            for name, weights in trained.named_parameters():
                if weights.requires_grad:
                    key = rate_of(name, self.rates), name in decayed
                    groups.setdefault(key, []).append(weights)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
            self.optimizer = kind(
                [
                    {"params": weights, "lr": rate, "weight_decay": self.args.weight_decay if decay else 0.0}
                    for (rate, decay), weights in groups.items()
                ],
                **options,
            )
        assert self.optimizer is not None
        return self.optimizer

    def create_model_card(self, *_: object, **__: object) -> None:
        """Nothing: TRL's card, written with every checkpoint, does not fit vision models; see `finish`."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # save_pretrained writes other names than the model's own, and the Trainer passes over names that it
        # does not know: it would go on with the base's weights.
        plain = isinstance(self.model, PreTrainedModel)
        if plain and not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
            self.model.load_state_dict(saved.state_dict())
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
