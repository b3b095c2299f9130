"""What only a GPU can show: a step of SFT and of GRPO at the size of EgoThinker-7B. Run by `make gpu`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from checkpoints import SPECIAL_TOKENS, make_tokenizer
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Trainer
from transformers.initialization import no_init_weights
from tuning import grpo_recipe, video

from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import EGOTHINKER_V1, save_profile
from egolive.streaming.frames import Box, Interval
from egolive.train.common.trainer_recipe import CheckpointRecipe, Lora, Rates
from egolive.train.data.rows import Tally
from egolive.train.finetune import grpo
from egolive.train.finetune import sft as sft_checkpoint
from egolive.train.finetune.samples import Sample
from egolive.train.finetune.trainers import load_for_training
from egolive.train.finetune.window_processor import Seen

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

HEIGHT, WIDTH, SLICES = 252, 448, 8
NEEDED_GB = {False: 24, True: 14}
"""Of free GPU memory, guessed: the weights in bfloat16 are 16.6 GB, with 4 bits under the adapters 6."""


@pytest.fixture(scope="module")
def seven_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2-VL-7B's structure, whole, with random weights in bfloat16 and a small tokenizer."""
    tokenizer = make_tokenizer()
    ids = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152_064,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32_768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={"depth": 32, "hidden_size": 3584},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    folder = tmp_path_factory.mktemp("seven") / "model"
    with torch.device("cuda"), no_init_weights():
        model = Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for weights in model.parameters():
            weights.fill_(1.0) if weights.ndim == 1 else weights.normal_(std=weights[0].numel() ** -0.5)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    tokenizer.save_pretrained(folder)
    save_profile(EGOTHINKER_V1, folder)
    return folder


def seen(seed: int, frames: int) -> Vision:
    noise = np.random.default_rng(seed).integers(0, 256, (frames, HEIGHT, WIDTH, 3), np.uint8)
    return Vision(tuple(noise), HEIGHT, WIDTH, "image" if frames == 1 else "video")


def sft_trainer(base: Path, out: Path, lora: Lora) -> Trainer:
    """A picture and a window."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    PIL.Image.fromarray(noise).save(out / "0.png")
    video(out / "talk.mp4", 16)
    rows: list[dict[str, Any]] = [
        {"path": "0.png", "object": "mug", "box": [10, 10, 40, 50]},
        {"video": "talk.mp4", "question": "open the jar", "start": 3.0, "end": 9.0},
    ]
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = CheckpointRecipe(
        base=str(base),
        out=out,
        rows=[str(out / "rows.jsonl")],
        media=out,
        rates=Rates(text=1e-4),
        lora=lora,
        batch=2,
        per_device=1,
        steps=2,
        log_every=1,
    )
    loaded = load_for_training(recipe)
    rows_read = sft_checkpoint.rows_of(recipe, loaded, Tally())
    return sft_checkpoint.trainer_for(recipe, loaded, rows_read, out)


def grpo_trainer(base: Path, out: Path, lora: Lora) -> Trainer:
    """A picture and a window, four completions of 64 tokens each."""
    samples = [
        Sample(
            Question("ground", "mug", think=True),
            Seen(partial(seen, 0, 1)),
            (WIDTH, HEIGHT),
            box=Box(10, 10, 40, 50),
        ),
        Sample(
            Question("when", "open the jar", think=True),
            Seen(partial(seen, 1, 2 * SLICES)),
            (WIDTH, HEIGHT),
            interval=Interval(3, 9),
            duration=16,
        ),
    ]
    recipe = grpo_recipe(
        base,
        out,
        lora=lora,
        rates=Rates(text=1e-5),
        steps=2,
        per_device=1,
        max_tokens=64,
        think=True,
        checkpointing=True,
        save_every=100,
    )
    return grpo.trainer_for(recipe, load_for_training(recipe), samples * 2, out)


def odd(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """A reward that random weights can earn."""
    return [sum(token % 2 for token in ids) / len(ids) for ids in completion_ids]


def step_seconds(trainer: Trainer) -> tuple[list[float], float]:
    """Losses of two steps, and the seconds of the second, which warms nothing up."""
    ends: list[float] = []
    inner = trainer.training_step

    def timed(*args: Any, **kwargs: Any) -> Any:
        loss = inner(*args, **kwargs)
        torch.cuda.synchronize()
        ends.append(time.perf_counter())
        return loss

    trainer.training_step = timed
    trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    passes = len(ends) // 2
    return losses, ends[-1] - ends[passes - 1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("nf4", [False, True], ids=["bf16", "nf4"])
@pytest.mark.parametrize("way", [sft_trainer, grpo_trainer], ids=["sft", "grpo"])
def test_a_step_with_adapters_at_the_size_of_7b(
    way: Callable[[Path, Path, Lora], Trainer],
    nf4: bool,
    seven_b: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if nf4:
        pytest.importorskip("bitsandbytes")
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < NEEDED_GB[nf4]:
        pytest.skip(f"{free:.0f} GB of GPU memory are free, {NEEDED_GB[nf4]} are wanted")
    monkeypatch.setattr(grpo, "trl_rewards", lambda *_, **__: [odd, odd, odd])
    torch.cuda.reset_peak_memory_stats()
    trainer = way(seven_b, tmp_path, Lora(rank=64, alpha=128, nf4=nf4))
    adapters = {n: w.detach().clone() for n, w in trainer.model.named_parameters() if w.requires_grad}
    losses, seconds = step_seconds(trainer)
    line = {
        "test": f"7b {way.__name__.removesuffix('_trainer')} lora {'nf4' if nf4 else 'bf16'}",
        "device": torch.cuda.get_device_name(),
        "step_s": round(seconds, 2),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1),
    }
    with capsys.disabled():
        print("\n" + json.dumps(line))  # noqa: T201
    assert all(math.isfinite(loss) for loss in losses)
    assert all(weights.dtype == torch.float32 for weights in adapters.values())
    moved = [
        n for n, w in trainer.model.named_parameters() if w.requires_grad and not torch.equal(w, adapters[n])
    ]
    assert moved
