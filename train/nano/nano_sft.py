"""`egolive train sft RECIPE` for nano, from random weights; other bases are trained in `finetune.sft`.

    egolive train sft nano-sft

Phase one trains the vision tower with the dense loss; phase two, which may be repeated, trains the text
decoder on packed questions. An interrupted phase resumes from its last checkpoint. The finished model, its
profile, the log and plots are written to the recipe's output folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_model, save_model
from transformers import Qwen2TokenizerFast, Qwen2VLForConditionalGeneration

from egolive.assistant.model.positions import install_rope_override
from egolive.assistant.prompts.prompts import build_prompt
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import NANO, SIMULATED_NANO, save_profile
from egolive.streaming.durable_files import sync_file
from egolive.streaming.frames import Interval
from egolive.train.common.hub import check_loggers, upload
from egolive.train.common.loop import fit
from egolive.train.common.model_card import write_card
from egolive.train.common.plots import plot_history
from egolive.train.common.processes import part_of, together
from egolive.train.common.recipe import AnswerPhase, Recipe
from egolive.train.common.run_files import partial_of, put_in_place, writing_into
from egolive.train.common.run_folder import first_process, keep_settings, plain
from egolive.train.common.training_clock import seconds_of, spoken
from egolive.train.data.simulated_data import Clip, SimulatedData, load_simulated
from egolive.train.nano.answer_batches import AnswerBatches, encode_clips
from egolive.train.nano.answer_loss import answer_check, answer_loss
from egolive.train.nano.attention_loss import record_attention
from egolive.train.nano.box_heads import BoxHeads
from egolive.train.nano.nano_model import HEIGHT, WIDTH, new_nano
from egolive.train.nano.tokenizer_training import build_tokenizer
from egolive.train.nano.tower_training import CLASSES, STEPS, Tower, TowerBatches, tower_check, tower_loss
from egolive.train.nano.whitening import fold_into, whitening
from egolive.train.simulator.planning.goals import GOALS, OBJECT_KINDS
from egolive.train.simulator.write import LOOK, simulate

__all__ = ["run_recipe"]

WHITENING = 16
"""Batches of 32 pictures from which the whitening is estimated."""


def run_recipe(
    recipe: Recipe, out: Path, *, command: str = "egolive train sft nano-sft", push_to_hub: str = ""
) -> Path:
    """Run all of a recipe; returns the folder of the finished model.

    Raises:
        ConfigError: steps that cannot be cut over the processes, a logger that is not there, or a folder
            that holds a run by other settings or on other data.
    """
    for phase in (recipe.tower, *answer_phases(recipe).values()):
        part_of(phase.batch)
    part_of(recipe.windows)
    check_loggers(recipe.report_to)
    install_rope_override()
    count = recipe.episodes + max(phase.unseen for phase in answer_phases(recipe).values())
    processes = together()
    if processes.is_main_process:
        # A tower and tokens of other settings would be taken for this run's.
        keep_settings(out, plain(recipe) | {"look": LOOK})
        simulate(recipe.data, episodes=count, split="train", seed=recipe.seed, fps=2.0)
        load_simulated(recipe.data, height=HEIGHT, width=WIDTH, episodes=count)
    processes.wait_for_everyone()
    clips = load_simulated(recipe.data, height=HEIGHT, width=WIDTH, episodes=count).clips
    train, held_out = SimulatedData(clips[: recipe.episodes]).split(recipe.held_out)
    tokenizer = nano_tokenizer()
    model = new_nano(tokenizer, recipe.seed)
    tower = train_tower(model, recipe, train, held_out, out / "tower")
    mine = clips[processes.process_index :: processes.num_processes]
    encode_clips(tower, SimulatedData(mine), out / "tokens", quiet=not processes.is_main_process)
    processes.wait_for_everyone()
    train_answers(model, tokenizer, recipe, train, clips[recipe.episodes :], held_out, out)
    finished = out / "model"
    if not processes.is_main_process:
        return finished
    kind = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU core"
    frames = sum(len(clip.truths) for clip in clips)
    with writing_into(out):
        new = partial_of(finished)
        model.to("cpu").save_pretrained(new)
        tokenizer.save_pretrained(new)
        save_profile(SIMULATED_NANO, new)
        write_preprocessor(new)
        put_in_place(finished)
    write_card(
        finished,
        {
            "millions": sum(weights.numel() for weights in model.parameters()) / 1e6,
            "vocabulary": model.config.text_config.vocab_size,
            "episodes": len(clips),
            "frames": frames,
            "command": command,
            "time": spoken(training_seconds(out, ("tower", *answer_phases(recipe)))),
            "device": f"{processes.num_processes} x {kind}",
            "recipe": yaml.safe_dump(plain(recipe), sort_keys=False).strip(),
        },
    )
    if push_to_hub:
        upload(finished, push_to_hub)
    return finished


def answer_phases(recipe: Recipe) -> dict[str, AnswerPhase]:
    """The passes of phase two, by the names of their folders."""
    phases = (recipe.answers, *recipe.again)
    return {f"answers-{number}" if number > 1 else "answers": one for number, one in enumerate(phases, 1)}


def training_seconds(out: Path, folders: Iterable[str]) -> float:
    """Seconds of training without interruptions."""
    return sum(seconds_of(json.loads((out / name / "history.json").read_text())) for name in folders)


def train_tower(
    model: Qwen2VLForConditionalGeneration,
    recipe: Recipe,
    train: SimulatedData,
    held_out: SimulatedData,
    out: Path,
) -> Tower:
    """Phase one; a finished tower in `out` is loaded instead."""
    tower = Tower(model)
    done = out / "finished.safetensors"
    if done.exists():
        load_model(tower, done)
        return tower.to(best_device())
    history = fit(
        tower,
        TowerBatches(train, batch=part_of(recipe.tower.batch), seed=recipe.seed),
        recipe.tower,
        loss=tower_loss,
        check=tower_check(tower, held_out),
        out=out,
        seed=recipe.seed,
        report_to=recipe.report_to,
    )
    whiten_tokens(tower, train)
    processes = together()
    if processes.is_main_process:
        with writing_into(out):
            (out / "history.json").write_text(json.dumps(history))
            plot_history(history, out / "tower.png", "Vision tower, dense loss")
            # Visual tokens of an earlier tower would go unnoticed.
            shutil.rmtree(out.parent / "tokens", ignore_errors=True)
            # It is loaded instead of training again, so it has its name once it is whole.
            partial = out / "finished.part"
            save_model(tower, str(partial))
            sync_file(partial)
            partial.replace(done)
    processes.wait_for_everyone()
    return tower


def whiten_tokens(tower: Tower, data: SimulatedData) -> None:
    """Whiten the tower's tokens, estimated on training pictures; the dense heads no longer fit afterwards."""
    batches = TowerBatches(data, batch=32, seed=2, augment=False)
    device = next(tower.parameters()).device
    tower.eval()
    with torch.inference_mode():
        tokens = [
            tower.tokens(batches[number]["patches"].to(device)).flatten(0, 1).cpu()
            for number in track(
                range(WHITENING),
                description="whitening",
                disable=not first_process(),
                console=Console(stderr=True),
            )
        ]
    fold_into(tower.visual.merger.mlp[2], *whitening(torch.cat(tokens)))


def train_answers(
    model: Qwen2VLForConditionalGeneration,
    tokenizer: Qwen2TokenizerFast,
    recipe: Recipe,
    train: SimulatedData,
    extra: tuple[Clip, ...],
    held_out: SimulatedData,
    out: Path,
) -> None:
    """Phase two and its repetitions, with a frozen tower; the box heads are removed afterwards.

    Args:
        model: of the finished tower.
        tokenizer: nano's.
        recipe: the settings.
        train: the tower's training episodes.
        extra: episodes that the tower was not trained on; each pass adds as many as its `unseen` says.
        held_out: for validation.
        out: folder of the run.
    """
    model.model.visual.requires_grad_(False)
    torch.manual_seed(recipe.seed)
    model.reading = BoxHeads(model.config.text_config.hidden_size, len(CLASSES)).to(model.device)

    def batches(
        data: SimulatedData,
        pictures: int,
        windows: int,
        seed: int,
        first: int = 0,
        next_step_share: float = 0.0,
    ) -> AnswerBatches:
        return AnswerBatches(
            data,
            out / "tokens",
            tokenizer,
            pictures=pictures,
            windows=windows,
            slices=recipe.slices,
            seed=seed,
            pictures_first=first,
            next_step_share=next_step_share,
        )

    processes = together()
    check = answer_check(model, batches(held_out, 16, 16, recipe.seed + 1))
    for number, (name, phase) in enumerate(answer_phases(recipe).items()):
        first = 0 if number else recipe.pictures_first * processes.num_processes
        # The seed after the recipe's own is that of the check.
        seed = recipe.seed + 2 * number
        if number and processes.is_main_process:
            # Together with the passes before it, whose weights it starts from.
            before = [plain(one) for one in (recipe.answers, *recipe.again[:number])]
            keep_settings(out / name, dict(zip(answer_phases(recipe), before, strict=False)))
        processes.wait_for_everyone()
        known = SimulatedData(train.clips + extra[: phase.unseen])
        with record_attention(model):
            history = fit(
                model,
                batches(known, part_of(phase.batch), part_of(recipe.windows), seed, first, phase.ahead),
                phase,
                loss=answer_loss,
                check=check,
                out=out / name,
                seed=seed,
                report_to=recipe.report_to,
            )
        if processes.is_main_process:
            (out / name / "history.json").write_text(json.dumps(history))
            plot_history(history, out / f"{name}.png", name.replace("-", " ").capitalize())
    del model.reading


def nano_tokenizer() -> Qwen2TokenizerFast:
    """The tokenizer of nano: trained on every prompt and answer text that the simulator can give rise to."""
    texts = [*GOALS, *STEPS, *CLASSES, "none", "<|box_start|>(123,456),(789,1000)<|box_end|>", "(0.5,7.5)"]
    questions = [Question("intent"), Question("next")]
    questions += [Question("ground", name) for name in (*CLASSES, *OBJECT_KINDS)]
    questions += [Question("when", step) for step in STEPS]
    for question in questions:
        prompt = build_prompt(NANO, question, [], window=Interval(0, 1))
        texts += [str(part) for part in prompt.parts]
    # Common English keeps free questions from falling apart into bytes.
    texts.append(
        "Is there a hand in the picture? Where, how many, which, who, why? Yes, no. "
        "You are a helpful assistant."
    )
    return build_tokenizer(texts, size=1024)


def write_preprocessor(folder: Path) -> None:
    """Qwen2-VL's preprocessing numbers, so that transformers' own processor reads the folder too."""
    config = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": HEIGHT * WIDTH,
        "max_pixels": HEIGHT * WIDTH,
        "size": {"shortest_edge": HEIGHT * WIDTH, "longest_edge": HEIGHT * WIDTH},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n")


def best_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
