"""`egolive train grpo RECIPE`: grounding by GRPO with IoU rewards, on TRL's own trainer.

    egolive train grpo nano-grpo
    accelerate launch --config_file CONFIG "$(which egolive)" train grpo egothinker-grpo

The defaults are EgoThinker's settings. An interrupted run goes on where it stopped. The finished model, its
log, its plots and its card end up in the recipe's output folder.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from trl import GRPOConfig, GRPOTrainer

from egolive.streaming.errors import ConfigError, DataError
from egolive.train.common.processes import together
from egolive.train.common.run_files import last_checkpoint, writing_into
from egolive.train.common.run_folder import claim
from egolive.train.common.trainer_recipe import GrpoRecipe
from egolive.train.data.row_files import mix_rows
from egolive.train.data.row_media import FrameSampling
from egolive.train.data.rows import Tally
from egolive.train.data.simulated_data import load_simulated
from egolive.train.finetune.finish import finish, resumed
from egolive.train.finetune.rewards import trl_rewards
from egolive.train.finetune.samples import (
    Recent,
    RowSamples,
    Samples,
    SimulatedSamples,
    only_questions,
    trl_dataset,
)
from egolive.train.finetune.shared_pictures import encode_copies_once
from egolive.train.finetune.trainers import (
    Loaded,
    PartTrainer,
    common_arguments,
    keep_adapters_float32,
    load_for_training,
    lora_config,
)
from egolive.train.simulator.write import simulate

__all__ = ["GrpoTrainer", "run_grpo", "sampling_values", "trainer_for"]

log = logging.getLogger(__name__)

# It would write prompts and completions into the log, of rows that are told by their place already.
logging.getLogger("trl.trainer.grpo_trainer").addFilter(
    lambda record: not str(record.msg).startswith("All reward functions returned None")
)


def run_grpo(recipe: GrpoRecipe, out: Path, *, command: str, push_to_hub: str = "") -> Path:
    """Run all of a recipe; returns the folder of the finished model.

    Raises:
        ConfigError: the folder holds a run by other settings.
    """
    claim(out, recipe)
    loaded = load_for_training(recipe)
    samples = samples_for(recipe, loaded)
    trainer = trainer_for(recipe, loaded, samples, out)
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
        notes=(*left_out(samples), *resumed(newest)),
    )


def left_out(samples: Samples) -> tuple[str, ...]:
    """Lines for the card about rows that were not learned from; all processes call it."""
    if not isinstance(samples, RowSamples):
        return ()
    broken = set(gather_object(sorted(samples.broken)))
    return f"Rows: {samples.checked}", f"Rows left out while training: {len(broken)}"


def samples_for(recipe: GrpoRecipe, loaded: Loaded) -> Samples:
    """The prompts of all steps, in their order."""
    count = recipe.steps * recipe.prompts
    if recipe.simulator is None or recipe.data is None:
        return row_samples(recipe, loaded, count)
    shares = recipe.simulator
    height, width = loaded.profile.picture or (252, 448)
    with together().main_process_first():
        simulate(recipe.data, episodes=shares.episodes, split="train", seed=recipe.seed, fps=2.0)
        data = load_simulated(recipe.data, height=height, width=width)
    train, _ = type(data)(data.clips[: shares.episodes]).split(shares.held_out)
    return SimulatedSamples(
        train,
        loaded.profile,
        count=count,
        prompts=recipe.prompts,
        shares=shares,
        think=recipe.think,
        seed=recipe.seed,
    )


def row_samples(recipe: GrpoRecipe, loaded: Loaded, count: int) -> RowSamples:
    """The rows of the recipe's files that ask for a box or an interval.

    Raises:
        DataError: there is none.
    """
    tally = Tally()
    mix = only_questions(mix_rows(recipe.rows, seed=recipe.seed).checked(tally, media=recipe.media), tally)
    log.info("%s", tally)
    if not len(mix):
        raise DataError(f"none of the rows can be used: {tally}")
    sampling = FrameSampling(fps=recipe.fps, max_frames=recipe.frames)
    return RowSamples(
        mix, recipe.media, loaded.profile, sampling, count=count, think=recipe.think, checked=tally
    )


class GrpoTrainer(PartTrainer, GRPOTrainer):  # type: ignore[misc]  # trl is untyped
    """TRL's trainer, with a learning rate for each part of the model."""


def trainer_for(recipe: GrpoRecipe, loaded: Loaded, samples: Samples, out: Path) -> GrpoTrainer:
    """TRL's trainer for a recipe; every copy of a picture is encoded once.

    Raises:
        ConfigError: a step that cannot be cut evenly over the devices, or FSDP.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and not recipe.vllm:
        # Each process would stop sampling at its own last token, and wait in vain for the others' weights.
        raise ConfigError("GRPO cannot sample under FSDP: start it with accelerate_zero3.yaml")
    settings = GRPOConfig(
        **common_arguments(recipe, out, rows=recipe.prompts * recipe.generations),
        max_steps=recipe.steps * recipe.updates,
        num_generations=recipe.generations,
        num_iterations=recipe.updates,
        max_completion_length=recipe.max_tokens,
        pad_to_multiple_of=None,
        beta=recipe.beta,
        use_bias_correction_kl=recipe.kl_correction,
        loss_type=recipe.loss,
        scale_rewards=recipe.scale_rewards,
        epsilon=recipe.epsilon,
        epsilon_high=recipe.epsilon_high,
        importance_sampling_level=recipe.importance,
        mask_truncated_completions=recipe.mask_truncated,
        reward_weights=[recipe.format_weight, recipe.box_weight, recipe.interval_weight],
        # The samples come in their order already, a step at a time.
        shuffle_dataset=False,
        use_vllm=recipe.vllm,
        **sampling_values(recipe, loaded),
    )
    trainer = GrpoTrainer(
        model=loaded.model,
        reward_funcs=trl_rewards(loaded.profile, shaped=recipe.shaped),
        args=settings,
        train_dataset=trl_dataset(Recent(samples, 2 * recipe.prompts), loaded.profile, plain=recipe.vllm),
        processing_class=loaded.processor,
        peft_config=lora_config(recipe),
    )
    trainer.rates = recipe.rates
    keep_adapters_float32(trainer.model)
    encode_copies_once(loaded.model)
    if trainer.ref_model is not None:
        encode_copies_once(trainer.accelerator.unwrap_model(trainer.ref_model))
    return trainer


def sampling_values(recipe: GrpoRecipe, loaded: Loaded) -> dict[str, Any]:
    """Every value that decides how tokens are drawn.

    What is left unset, transformers takes from the checkpoint's generation_config.json, and those of
    Qwen2-VL's family sample all but greedily: eight equal completions, and nothing to learn from. Tokens that
    stand for pictures, and numbers beyond the vocabulary, are never drawn.
    """
    tokenizer = loaded.processor.tokenizer
    names = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
    size = loaded.model.config.get_text_config().vocab_size
    banned = {*tokenizer.convert_tokens_to_ids(list(names)), *range(len(tokenizer), size)}
    values: dict[str, Any] = {
        "temperature": recipe.temperature,
        "top_p": recipe.top_p,
        "top_k": recipe.top_k,
        "min_p": recipe.min_p,
        "repetition_penalty": recipe.repetition_penalty,
    }
    if recipe.vllm:
        # vLLM's way to say it; it knows no numbers beyond the vocabulary.
        biases = {token: -100.0 for token in sorted(banned) if token < len(tokenizer)}
        values["generation_kwargs"] = {"logit_bias": biases}
    else:
        values["generation_kwargs"] = {
            "suppress_tokens": sorted(banned),
            "num_beams": 1,
            "typical_p": 1.0,
            "epsilon_cutoff": 0.0,
            "eta_cutoff": 0.0,
            "no_repeat_ngram_size": 0,
            "length_penalty": 1.0,
            "min_new_tokens": 0,
            "renormalize_logits": False,
        }
    return values
