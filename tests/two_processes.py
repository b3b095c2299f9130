"""What the test of two processes starts: SFT by a recipe, then GRPO with completions that nobody draws.

torchrun --nproc-per-node 2 two_processes.py RECIPE BASE OUT
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tuning import Mixed, grpo_recipe

from egolive.assistant.cli import call
from egolive.train import grpo
from egolive.train.trainers import load_for_training

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


def main() -> None:
    """Run both; the first process writes what GRPO came to."""
    recipe, base, out = sys.argv[1:]
    code = call(["train", "sft", recipe])
    if code:
        sys.exit(code)
    curve = grpo_run(Path(base), Path(out), per_device=4)
    if torch.distributed.get_rank() == 0:
        (Path(out) / "curve.json").write_text(json.dumps(curve))


if __name__ == "__main__":
    main()
