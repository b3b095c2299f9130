"""`egolive train ablation`: what further rows of grounding do to a model, learned by SFT or by GRPO.

    egolive train ablation nano-ablation

One start, from SFT on reasoning with few boxes; from it, for each seed, the same rows of boxes by GRPO, by
SFT, and by SFT with further rows for as long as GRPO took. The tower stands still and its tokens are kept on
disk. Every model is asked the same test questions. What is done already is not done again, a run that was
interrupted goes on from its last checkpoint, and the table and the plot are written anew after every seed.
"""

from __future__ import annotations

from pathlib import Path

from egolive.assistant.model.checkpoint import resolve_model
from egolive.train.ablation.ablation_recipe import AblationRecipe
from egolive.train.ablation.ablation_report import Run, write_report
from egolive.train.ablation.ablation_runs import Bench, prepare

__all__ = ["run_ablation"]


def run_ablation(recipe: AblationRecipe) -> Path:
    """Run all of a recipe; returns the file of the table."""
    bench: Bench = prepare(recipe)
    runs: list[Run] = [bench.measured("base", 0, resolve_model(recipe.base), rows=0, steps=0, seconds=0.0)]
    runs.append(bench.started())
    table = write_report(recipe.out, runs)
    for seed in range(recipe.seeds):
        by_grpo = bench.by_grpo(seed)
        by_sft = bench.by_sft("sft", seed, recipe.grpo.steps)
        longer = round(by_grpo.seconds / max(by_sft.seconds, 1.0) * recipe.grpo.steps)
        runs += [by_grpo, by_sft, bench.by_sft("sft-longer", seed, longer)]
        table = write_report(recipe.out, runs)
    return table
