"""nf4 and int8 by bitsandbytes, for the torch engine: the text layers alone, as transformers stores them."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig, Qwen2VLForConditionalGeneration

from egolive.assistant.load_local import load_transformers_model
from egolive.assistant.model.engine_folder import (
    EngineCard,
    describe_files,
    hash_checkpoint,
)
from egolive.assistant.schema.profiles import load_profile, save_profile
from egolive.assistant.system import machine
from egolive.quantize.checkpoint_source import checkpoint_of
from egolive.quantize.output_folder import (
    copy_small_files,
    model_shapes,
    new_folder,
    package_versions,
    write_card,
)
from egolive.streaming.errors import EngineError
from egolive.streaming.metrics import peak_rss_bytes, reset_peak_rss

__all__ = ["BnbPrecision", "build_torch"]

BnbPrecision = Literal["nf4", "bnb-int8"]
_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_SKIPPED = ["model.visual", "lm_head"]
"""By these full names; "visual" alone skips nothing."""


def build_torch(model: str, out: Path, precision: BnbPrecision) -> EngineCard:
    """Write an engine folder that torch runs.

    Args:
        model: What `checkpoint_of` takes.
        out: The folder; an engine there is replaced.
        precision: Of the text layers.

    Raises:
        EngineError: The checkpoint cannot be used, or layers were quantised that must not be.
        ConfigError: Something else stands in `out`.
    """
    reset_peak_rss()
    started = time.monotonic()
    with checkpoint_of(model) as source, new_folder(out) as folder:
        profile = load_profile(source)
        loaded = _load(source, precision)
        _check(loaded)
        loaded.save_pretrained(folder)
        copy_small_files(source, folder)
        save_profile(profile, folder)
        few = "nf4" if precision == "nf4" else "int8"
        stored = _NAMES.get(loaded.lm_head.weight.dtype, str(loaded.lm_head.weight.dtype))
        card = EngineCard(
            name=out.name,
            backend="torch",
            precision={"tower": stored, "decoder": few, "head": stored, "embeddings": stored},
            shapes=model_shapes(loaded.config, (0, 0)),
            image_token=int(loaded.config.image_token_id),
            video_token=int(loaded.config.video_token_id),
            profile=profile.name,
            source={"name": model, "sha256": hash_checkpoint(source)},
            versions=package_versions(),
            files=describe_files(folder),
            made={
                "command": machine.gather()["command"],
                "commit": machine.commit(),
                "seconds": round(time.monotonic() - started, 1),
                "peak_memory_bytes": peak_rss_bytes(),
            },
        )
        write_card(folder, card)
        load_transformers_model(folder, torch.device("cpu"), None)
    return card


def _load(source: Path, precision: BnbPrecision) -> Qwen2VLForConditionalGeneration:
    settings = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=_SKIPPED,
        )
        if precision == "nf4"
        else BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_SKIPPED)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # What is not quantised is kept as it is stored: in fp32 a 7B's would need twice the room.
        return load_transformers_model(source, torch.device("cpu"), None, quantization=settings)


def _check(model: Qwen2VLForConditionalGeneration) -> None:
    """That every text layer was quantised and nothing else."""
    import bitsandbytes

    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    inside = [module for module in model.model.language_model.modules() if isinstance(module, nn.Linear)]
    outside = (*model.model.visual.modules(), model.lm_head)
    missed = sum(not isinstance(module, kinds) for module in inside)
    wrong = sum(isinstance(module, kinds) for module in outside)
    if missed or wrong:
        raise EngineError(
            f"bitsandbytes left out {missed} text layers and quantised {wrong} layers of the tower or the "
            "last layer: this transformers names them otherwise, so nothing was written"
        )
