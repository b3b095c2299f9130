"""What the test of two processes starts: SFT by a recipe, GRPO with given completions, nano from nothing.

torchrun --nproc-per-node 2 two_processes.py RECIPE BASE OUT
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tuning import Mixed, grpo_recipe

from egolive.assistant.cli.main import call
from egolive.train.common.loop import Tensors, fit
from egolive.train.common.recipe import AnswerPhase, Phase, Recipe
from egolive.train.finetune import grpo
from egolive.train.finetune.trainers import load_for_training
from egolive.train.nano import nano_sft as sft

STEPS = 3


def grpo_run(base: Path, out: Path, *, per_device: int) -> list[tuple[float, float]]:
    """Loss and length of the gradient of three steps of 2 prompts, 4 completions each."""
    recipe = grpo_recipe(base, out, steps=STEPS, per_device=per_device, beta=0.5, schedule="constant")
    grpo.trl_rewards = lambda *_, **__: [odd, odd, odd]  # type: ignore[attr-defined, assignment]
    trainer = grpo.trainer_for(recipe, load_for_training(recipe), Mixed(2 * STEPS), out)
    first = trainer.accelerator.process_index
    steps = count()

    def generate(
        prompt_ids: Sequence[Sequence[int]], *_: object, **__: object
    ) -> tuple[list[list[int]], None]:
        step, rows = next(steps), len(prompt_ids)
        return [completion(step, rows * first + place) for place in range(rows)], None

    trainer._generate_single_turn = generate
    trainer.train()
    records = [record for record in trainer.state.log_history if "loss" in record]
    return [(record["loss"], record["grad_norm"]) for record in records]


def completion(step: int, row: int) -> list[int]:
    """Two to six tokens, of a row of the whole batch."""
    generator = torch.Generator().manual_seed(100 * step + row)
    tokens: list[int] = torch.randint(300, (2 + row % 5,), generator=generator).tolist()
    return tokens


def odd(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """A reward that random tokens can earn."""
    return [sum(token % 2 for token in ids) / len(ids) for ids in completion_ids]


class Numbers:
    """Batch `index` of a share of the rows: half of the batches have something for the second layer too."""

    def __init__(self, joined: int) -> None:
        self.joined = joined

    def __getitem__(self, index: int) -> Tensors:
        batches = [_numbers(self.joined * index + place) for place in range(self.joined)]
        rows = {name: torch.cat([batch[name] for batch in batches]) for name in ("x", "y")}
        spare = [batch["spare"] / self.joined for batch in batches if "spare" in batch]
        return {**rows, "spare": torch.cat(spare)} if spare else rows


def _numbers(index: int) -> Tensors:
    generator = torch.Generator().manual_seed(index)
    x = torch.rand(4, 3, generator=generator)
    return {"x": x, "y": x.sum(1, keepdim=True)} | ({} if index % 2 else {"spare": x[:1]})


def loop_run(out: Path, *, joined: int, seed: int = 0, fails_at: int = 0) -> list[float]:
    """The weights after a few steps of nano's training loop, on two batches a step in all.

    With `fails_at`, training stops at that step, and fresh weights go on from the checkpoint in front of it.
    """
    torch.manual_seed(seed)
    model = nn.ModuleDict({"first": nn.Linear(3, 1), "spare": nn.Linear(3, 1)})
    steps = count(1)

    def loss(model: Any, inputs: Tensors) -> Tensors:
        if next(steps) == fails_at:
            raise InterruptedError
        parts = {"square": (model["first"](inputs["x"]) - inputs["y"]).square().mean()}
        return parts | ({"spare": model["spare"](inputs["spare"]).sum()} if "spare" in inputs else {})

    phase = Phase(steps=6, batch=4, lr=0.05, save_every=3, eval_every=100)
    try:
        fit(model, Numbers(joined), phase, loss=loss, check=dict, out=out, seed=0)
    except InterruptedError:
        return loop_run(out, joined=joined, seed=seed + 1)
    return [value for weights in model.parameters() for value in weights.flatten().tolist()]


def nano_run(folder: Path) -> None:
    """Nano from nothing in miniature."""
    phase = AnswerPhase(steps=2, batch=2, lr=1e-3, eval_every=100)
    recipe = Recipe(
        data=folder / "data", episodes=2, tower=phase, answers=phase, slices=3, windows=2, out=folder / "nano"
    )
    sft.simulate = partial(sft.simulate, size=(112, 64), workers=1)  # type: ignore[attr-defined]
    sft.WHITENING = 1
    for check in ("tower_check", "answer_check"):
        setattr(sft, check, lambda *_: lambda: {"checked": 1.0})
    sft.run_recipe(recipe, recipe.out)


def main() -> None:
    """Run all; the first process writes what GRPO and nano's loop came to."""
    recipe, base, out = sys.argv[1:]
    code = call(["train", "sft", recipe])
    if code:
        sys.exit(code)
    curve = grpo_run(Path(base), Path(out), per_device=4)
    weights = loop_run(Path(out) / "loop", joined=1)
    resumed = loop_run(Path(out) / "resumed", joined=1, fails_at=5)
    nano_run(Path(out))
    if torch.distributed.get_rank() == 0:
        came_to = {"grpo": curve, "loop": weights, "resumed": resumed}
        (Path(out) / "came_to.json").write_text(json.dumps(came_to))


if __name__ == "__main__":
    main()
