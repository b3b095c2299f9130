"""`egolive train ablation`: compares further training on grounding by SFT and by GRPO.

    egolive train ablation nano-ablation

One start, from SFT on reasoning with few boxes; from it, for each seed, the same rows of boxes by GRPO, by
SFT, and by SFT with further rows for as long as GRPO took. The tower is frozen and its tokens are kept on
disk. Every model is asked the same test questions. What is done already is not done again, a run that was
interrupted goes on from its last checkpoint, and the table and the plot are written anew after every seed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen2TokenizerFast, Qwen2VLForConditionalGeneration

from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.model.positions import install_rope_override
from egolive.assistant.schema.profiles import NANO
from egolive.assistant.schema.tokenizer import load_tokenizer
from egolive.streaming.durable_files import replace_file
from egolive.train.ablation.ablation_questions import answer_questions, encode_questions, stored_questions
from egolive.train.ablation.ablation_recipe import AblationRecipe
from egolive.train.ablation.ablation_report import Run, write_report
from egolive.train.ablation.ablation_rows import GroundingBatches, StoredSamples, look_tokens_up, plain_loss
from egolive.train.common.loop import Batches, fit
from egolive.train.common.recipe import Phase
from egolive.train.common.run_files import last_checkpoint, partial_of, put_in_place, writing_into
from egolive.train.common.run_folder import keep_settings, plain
from egolive.train.common.trainer_recipe import SimulatorShares
from egolive.train.data.simulated_data import SimulatedData, load_simulated
from egolive.train.evaluate.result_files import Results, model_stamp
from egolive.train.finetune.grpo import trainer_for
from egolive.train.finetune.trainers import load_for_training
from egolive.train.finetune.window_processor import WindowProcessor
from egolive.train.nano.answer_batches import AnswerBatches, encode_clips
from egolive.train.nano.nano_model import HEIGHT, WIDTH
from egolive.train.nano.tower_training import Tower
from egolive.train.simulator.write import LOOK, simulate

__all__ = ["AblationRuns", "prepare", "run_ablation"]

QUESTION_SEED = 0
"""Of the test episodes: those of `egolive evaluate`."""


def run_ablation(recipe: AblationRecipe) -> Path:
    """Run all of a recipe; returns the file of the table."""
    bench = prepare(recipe)
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


def prepare(recipe: AblationRecipe) -> AblationRuns:
    """Simulate and encode what is missing: training episodes and test questions.

    Raises:
        ConfigError: the folder holds runs by other settings, which would stand in one table with these.
    """
    keep_settings(recipe.out, plain(recipe) | {"look": LOOK})
    install_rope_override()
    simulate(recipe.data, episodes=recipe.episodes, split="train", seed=0, fps=2.0)
    data = load_simulated(recipe.data, height=HEIGHT, width=WIDTH, episodes=recipe.episodes)
    model = Qwen2VLForConditionalGeneration.from_pretrained(resolve_model(recipe.base), dtype=torch.float32)
    tower = Tower(model)
    encode_clips(tower, data, recipe.out / "tokens")
    encode_questions(
        tower,
        recipe.out / "questions",
        episodes=recipe.questions,
        seed=QUESTION_SEED,
        slices=recipe.slices,
    )
    train, held_out = data.split(SimulatorShares(episodes=recipe.episodes).held_out)
    return AblationRuns(recipe, train, held_out)


@dataclass(frozen=True, slots=True)
class AblationRuns:
    """What all runs of the ablation share."""

    recipe: AblationRecipe
    train: SimulatedData
    held_out: SimulatedData

    @property
    def start(self) -> Path:
        """Folder of the model that all further runs begin with."""
        return self.recipe.out / "start-0" / "model"

    def started(self) -> Run:
        """SFT on windows with few boxes, and its figures."""
        recipe, phase = self.recipe, self.recipe.start

        def batches(data: SimulatedData, tokenizer: Qwen2TokenizerFast, seed: int) -> Batches:
            return AnswerBatches(
                data,
                recipe.out / "tokens",
                tokenizer,
                pictures=phase.batch,
                windows=recipe.windows,
                slices=recipe.slices,
                seed=seed,
            )

        seconds = self._fitted("start-0", resolve_model(recipe.base), phase, batches, 0)
        rows = phase.steps * (phase.batch + recipe.windows)
        return self.measured("start", 0, rows=rows, steps=phase.steps, seconds=seconds)

    def by_sft(self, way: str, seed: int, steps: int) -> Run:
        """Grounding by SFT: the rows of so many steps of GRPO, and its figures."""
        prompts = self.recipe.grpo.prompts

        def batches(data: SimulatedData, tokenizer: Qwen2TokenizerFast, seed: int) -> Batches:
            return GroundingBatches(self._samples(data, seed, steps), tokenizer)

        phase = Phase(steps=steps, batch=prompts, lr=self.recipe.sft_lr, eval_every=steps)
        seconds = self._fitted(f"{way}-{seed}", self.start, phase, batches, seed)
        return self.measured(way, seed, rows=steps * prompts, steps=steps, seconds=seconds)

    def by_grpo(self, seed: int) -> Run:
        """Grounding by GRPO, and its figures."""
        out = self.recipe.out / f"grpo-{seed}"
        grpo = dataclasses.replace(
            self.recipe.grpo, base=str(self.start), out=out, data=self.recipe.data, seed=seed
        )

        def train() -> Qwen2VLForConditionalGeneration:
            loaded = load_for_training(grpo)
            trainer = trainer_for(grpo, loaded, self._samples(self.train, seed, grpo.steps), out)
            look_tokens_up(loaded.model)
            if trainer.ref_model is not None:
                look_tokens_up(trainer.accelerator.unwrap_model(trainer.ref_model))
            with writing_into(out):
                trainer.train(resume_from_checkpoint=last_checkpoint(out))
                (out / "history.json").write_text(json.dumps(trainer.state.log_history))
            return loaded.model

        seconds = self._once(f"grpo-{seed}", grpo.steps * grpo.updates, self.start, train)
        rows = grpo.steps * grpo.prompts
        return self.measured("grpo", seed, rows=rows, steps=grpo.steps, seconds=seconds)

    def measured(
        self, way: str, seed: int, folder: Path | None = None, *, rows: int, steps: int, seconds: float
    ) -> Run:
        """The answers of a model to all test questions; those that are there are kept."""
        recipe = self.recipe
        folder = folder or recipe.out / f"{way}-{seed}" / "model"
        model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        tokenizer = load_tokenizer(
            folder, image_token=model.config.image_token_id, video_token=model.config.video_token_id
        )
        parts = list(stored_questions(recipe.out / "questions", recipe.questions))
        asked = {"questions": recipe.questions, "slices": recipe.slices, **model_stamp(str(folder))}
        results = Results(recipe.out / f"{way}-{seed}.jsonl", asked, whole="batch")
        answer_questions(model, tokenizer, parts, results, description=f"asking {way} {seed}")
        results.close()
        return Run(way, seed, rows, steps, seconds, tuple(results.records))

    def _samples(self, data: SimulatedData, seed: int, steps: int) -> StoredSamples:
        grpo = self.recipe.grpo
        assert grpo.simulator is not None
        samples = StoredSamples(
            data,
            NANO,
            count=steps * grpo.prompts,
            prompts=grpo.prompts,
            shares=grpo.simulator,
            think=False,
            seed=seed,
        )
        samples.tokens = self.recipe.out / "tokens"
        return samples

    def _fitted(
        self,
        name: str,
        base: Path,
        phase: Phase,
        batches: Callable[[SimulatedData, Qwen2TokenizerFast, int], Batches],
        seed: int,
    ) -> float:
        """Train the text part of a model by SFT; returns the core seconds that it took."""
        out = self.recipe.out / name

        def train() -> Qwen2VLForConditionalGeneration:
            model = Qwen2VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
            model.model.visual.requires_grad_(False)
            tokenizer = WindowProcessor(base, NANO).tokenizer
            held_out = batches(self.held_out, tokenizer, seed)

            def check() -> dict[str, float]:
                found = [plain_loss(model, held_out[number]) for number in range(min(4, phase.steps))]
                return {key: sum(float(one[key]) for one in found) / len(found) for key in found[0]}

            history = fit(
                model,
                batches(self.train, tokenizer, seed),
                phase,
                loss=plain_loss,
                check=check,
                out=out,
                seed=seed,
            )
            (out / "history.json").write_text(json.dumps(history))
            return model

        return self._once(name, phase.steps, base, train)

    def _once(
        self, name: str, steps: int, base: Path, train: Callable[[], Qwen2VLForConditionalGeneration]
    ) -> float:
        """Train a model unless it is there; returns the core seconds of the whole run."""
        out = self.recipe.out / name
        told = out / "run.json"
        if told.exists():
            return float(json.loads(told.read_text())["seconds"])
        out.mkdir(parents=True, exist_ok=True)
        newest = last_checkpoint(out)
        done = int(newest.rpartition("-")[2]) if newest else 0
        began = core_seconds()
        model = train()
        # Of a run that was interrupted, what was spent before is known by its steps alone.
        seconds = (core_seconds() - began) * steps / max(1, steps - done)
        with writing_into(out):
            model.save_pretrained(partial_of(out / "model"))
            WindowProcessor(base, NANO).save_pretrained(partial_of(out / "model"))
            put_in_place(out / "model")
            replace_file(told, json.dumps({"seconds": round(seconds, 1), "steps": steps}).encode())
        return seconds


def core_seconds() -> float:
    """Spent on a core by this process and those that it has waited for: what others did does not count."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
