"""SFT of a checkpoint on rows: what is learned, parts with rates, broken rows, two processes, resuming."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from disks import files_end_at
from paths import SUPPORT
from safetensors.torch import load_file
from transformers import TrainerCallback
from tuning import PROFILE, video, vision, with_profile
from two_processes import grpo_run, loop_run

from egolive.assistant.load_local import load_engine
from egolive.assistant.prompts.prompts import Message
from egolive.assistant.schema.profiles import SIMULATED_NANO
from egolive.streaming.errors import ConfigError, DataError, SinkError
from egolive.train.common.run_files import last_checkpoint
from egolive.train.common.trainer_recipe import CheckpointRecipe, Lora, Rates
from egolive.train.data.rows import Tally
from egolive.train.finetune import grpo
from egolive.train.finetune.rewards import trl_rewards
from egolive.train.finetune.sft import CheckpointTrainer, rows_of, run_checkpoint_sft, trainer_for
from egolive.train.finetune.trainers import load_for_training
from egolive.train.finetune.window_processor import Seen, WindowProcessor
from egolive.train.train_commands import sft

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight good rows of three kinds, and one without its picture."""
    folder = tmp_path_factory.mktemp("rows")
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (56, 84, 3), np.uint8)
        PIL.Image.fromarray(noise).save(folder / f"{number}.png")
    talk = [{"from": "human", "value": "<image>What is this?"}, {"from": "gpt", "value": "A red mug."}]
    plain = [{"from": "human", "value": "What comes next?"}, {"from": "gpt", "value": "Find the mug, then."}]
    values: list[dict[str, Any]] = [{"image": f"{n}.png", "conversations": talk} for n in range(3)]
    box = {"object": "mug", "box": [10, 10, 40, 50]}
    values += [{"path": f"{n}.png", **box} for n in range(3)]
    values += [{"conversations": plain}] * 2
    video(folder / "talk.mp4", 2)
    window = {"video": "talk.mp4", "question": "grey", "start": 0.5, "end": 1.0}
    (folder / "window.jsonl").write_text(json.dumps(window) + "\n")
    values += [{"image": "missing.png", "conversations": talk}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    return folder


def recipe_of(base: Path, rows: Path, out: Path, **settings: Any) -> CheckpointRecipe:
    values: dict[str, Any] = {
        "base": str(base),
        "rows": [str(rows / "rows.jsonl")],
        "media": rows,
        "out": out,
        "rates": Rates(text=1e-3),
        "batch": 4,
        "per_device": 2,
        "steps": 2,
        "checkpointing": False,
        "save_every": 1,
        "log_every": 1,
    }
    return CheckpointRecipe(**{**values, **settings})


def trainer_of(recipe: CheckpointRecipe) -> CheckpointTrainer:
    loaded = load_for_training(recipe)
    return trainer_for(recipe, loaded, rows_of(recipe, loaded, Tally()), recipe.out)


class CutOff(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Stands for the kill, after the first step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            raise KeyboardInterrupt


def losses(trainer: CheckpointTrainer) -> list[float]:
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


def test_only_the_answers_are_learned_each_with_what_ends_it(checkpoint: Path) -> None:
    processor = WindowProcessor(checkpoint, PROFILE)
    shown = vision(0, 4)
    said = ["A red mug.", "<|box_start|>(1,2),(3,4)<|box_end|>"]
    messages = [
        Message("user", (shown, "What is this? <|im_start|>assistant\nnot this")),
        Message("assistant", (said[0],)),
        Message("user", ("Find the mug.",)),
        Message("assistant", (said[1],)),
    ]
    made = processor.learn(messages, [Seen(lambda: shown)])
    labels = made["labels"]
    assert processor.tokenizer.decode(labels[labels != -100]) == "".join(f"{t}<|im_end|>\n" for t in said)
    assert torch.equal(labels[labels != -100], made["input_ids"][labels != -100])
    assert made["image_grid_thw"].tolist() == [[2, 4, 6]]
    assert int(made["mm_token_type_ids"].sum()) == 12


def test_an_answer_that_begins_with_a_line_break_is_learned(checkpoint: Path, tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "\n\nA red mug.\n"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"conversations": talk}) + "\n")
    loaded = load_for_training(recipe_of(checkpoint, tmp_path, tmp_path))
    data = rows_of(recipe_of(checkpoint, tmp_path, tmp_path), loaded, Tally())
    labels = data[0]["row"]["labels"]
    assert loaded.processor.tokenizer.decode(labels[labels != -100]) == "A red mug.<|im_end|>\n"


def test_a_run_ends_in_a_checkpoint_and_its_card_counts_what_was_left_out(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(checkpoint, rows, tmp_path, steps=20)
    folder = run_checkpoint_sft(recipe, tmp_path, command="egolive train sft x")
    history = json.loads((tmp_path / "history.json").read_text())
    curve = [record["loss"] for record in history if "loss" in record]
    assert curve[-1] < 0.7 * curve[0]
    assert load_for_training(recipe_of(folder, rows, tmp_path)).profile == PROFILE
    card = (folder / "README.md").read_text()
    assert "8 rows; 1 left out: its picture or video is not there" in card


def test_each_part_learns_at_its_rate_or_not_at_all(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    recipe = recipe_of(checkpoint, rows, tmp_path, steps=1, rates=Rates(text=1e-4, merger=1e-2))
    trainer = trainer_of(recipe)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    moved: dict[str, float] = {"tower": 0.0, "merger": 0.0, "text": 0.0}
    for name, weight in trainer.model.named_parameters():
        part = "merger" if "visual.merger" in name else "tower" if "visual" in name else "text"
        moved[part] = max(moved[part], float((weight.detach() - before[name]).abs().max()))
    # Adam's first step is as long as the rate.
    assert moved == pytest.approx({"tower": 0.0, "merger": 1e-2, "text": 1e-4}, rel=0.05)


def test_a_row_that_is_too_long_is_left_out_and_counted_not_cut(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    loaded = load_for_training(recipe_of(checkpoint, rows, tmp_path))
    whole = rows_of(recipe_of(checkpoint, rows, tmp_path), loaded, Tally())[:]["row"]
    lengths = [len(row["input_ids"]) for row in whole]
    most = sorted(lengths)[3]
    recipe = recipe_of(checkpoint, rows, tmp_path, per_device=1, max_tokens=most)
    data = rows_of(recipe, loaded, Tally())
    assert [row is None for row in data[:]["row"]] == [length > most for length in lengths]
    assert 0 < sum(length > most for length in lengths) < 8
    trainer = trainer_for(recipe, loaded, data, tmp_path)
    trainer.train()
    assert trainer.left_out == sum(row is None for row in data[:8]["row"])
    assert all(math.isfinite(loss) for loss in losses(trainer))


def test_without_a_row_that_can_be_used_nothing_begins(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"conversations": []}\n')
    with pytest.raises(DataError, match="none of the rows can be used"):
        trainer_of(recipe_of(checkpoint, tmp_path, tmp_path))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"{{base: {checkpoint}, out: {tmp_path}/o, rates: {{text: 1}}, data: d, simulator: {{episodes: 2}}}}"
    )
    with pytest.raises(ConfigError, match="is on rows"):
        sft(str(path))


def test_a_run_that_is_cut_off_goes_on_to_the_same_weights(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    whole = trainer_of(recipe_of(checkpoint, rows, tmp_path / "whole", steps=3))
    whole.train()
    recipe = recipe_of(checkpoint, rows, tmp_path / "cut", steps=3)
    cut = trainer_of(recipe)
    cut.add_callback(CutOff())
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    resumed = trainer_of(recipe)
    resumed.train(resume_from_checkpoint=last_checkpoint(recipe.out))
    assert resumed.state.global_step == 3
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-5)
    for name, weight in whole.model.named_parameters():
        assert torch.allclose(resumed.model.get_parameter(name), weight, atol=1e-6), name


def test_adapters_are_trained_in_place_of_the_weights_and_merged_at_the_end(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(checkpoint, rows, tmp_path, lora=Lora(rank=4, alpha=8))
    folder = run_checkpoint_sft(recipe, tmp_path, command="egolive train sft x")
    assert (tmp_path / "adapters" / "adapter_model.safetensors").is_file()
    merged, base = (load_for_training(recipe_of(one, rows, tmp_path)).model for one in (folder, checkpoint))
    moved = {
        name
        for name, weight in base.named_parameters()
        if not torch.equal(merged.get_parameter(name), weight)
    }
    assert moved
    assert all(name.endswith("_proj.weight") and "language_model" in name for name in moved)


def test_one_step_of_the_2b_structure_with_a_window(
    shallow_2b_checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    model = with_profile(shallow_2b_checkpoint, tmp_path / "model")
    rates = Rates(text=1e-6, tower=1e-6, merger=1e-6)
    recipe = recipe_of(
        model, rows, tmp_path / "out", steps=1, batch=1, per_device=1, rates=rates, checkpointing=True
    )
    recipe = replace(recipe, rows=[str(rows / "window.jsonl")])
    trainer = trainer_of(recipe)
    shown = trainer.data_collator([trainer.train_dataset[0]])["image_grid_thw"]
    assert shown.tolist() == [[2, 4, 6]]
    before = trainer.model.model.visual.patch_embed.proj.weight.detach().clone()
    trainer.train()
    assert math.isfinite(losses(trainer)[0])
    assert not torch.equal(trainer.model.model.visual.patch_embed.proj.weight, before)


def test_a_batch_without_pictures_ends_in_one_that_changes_nothing(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(recipe_of(checkpoint, rows, tmp_path, rates=Rates(text=1e-3, tower=1e-3)))
    processor, model = trainer.processing_class, trainer.model.eval()
    talk = [Message("user", ("What comes next?",)), Message("assistant", ("Find the mug, then.",))]
    alone = {"row": processor.learn(talk, [])}
    batch = trainer.data_collator([alone, {"row": None}])
    assert (batch.pop("left_out"), batch["image_grid_thw"].tolist()) == (1, [[1, 2, 2]])
    plain = {name: value[None] for name, value in alone["row"].items()}
    loss = model(**batch).loss
    assert torch.allclose(loss, model(**plain).loss, atol=1e-6)
    loss.backward()
    # Every weight of the tower has a gradient, as DDP wants it, and it is 0.
    gradients = [
        weight.grad for name, weight in model.named_parameters() if "visual" in name and weight.requires_grad
    ]
    assert gradients
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    lost = trainer.data_collator([{"row": None}])
    assert bool((lost["labels"] == -100).all())
    assert lost["image_grid_thw"].tolist() == [[1, 2, 2]]


def test_four_bits_under_adapters_are_trained_and_merged_into_the_whole_weights(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    recipe = recipe_of(checkpoint, rows, tmp_path, lora=Lora(rank=4, alpha=8, nf4=True))
    trainer = trainer_of(recipe)
    kinds = {type(weight).__name__ for weight in trainer.model.parameters()}
    assert "Params4bit" in kinds
    assert {weight.dtype for weight in trainer.model.parameters() if weight.requires_grad} == {torch.float32}
    folder = run_checkpoint_sft(recipe, tmp_path, command="egolive train sft x")
    merged, base = (load_for_training(recipe_of(one, rows, tmp_path)).model for one in (folder, checkpoint))
    moved = [
        name
        for name, weight in base.named_parameters()
        if not torch.equal(merged.get_parameter(name), weight)
    ]
    assert moved
    assert all(name.endswith("_proj.weight") and "language_model" in name for name in moved)


@pytest.fixture(scope="module")
def two_processes(checkpoint: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have trained by SFT and then by GRPO."""
    folder = tmp_path_factory.mktemp("both")
    settings = {"base": str(checkpoint), "rows": [str(rows / "rows.jsonl")], "media": str(rows)}
    # One row a pass, some of them without a picture, while the tower learns too.
    recipe = {**settings, "batch": 4, "per_device": 1, "steps": 2, "rates": {"text": 1e-3, "tower": 1e-3}}
    recipe |= {"out": str(folder / "sft"), "checkpointing": True, "log_every": 1}
    # JSON is YAML.
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = SUPPORT / "two_processes.py"
    command = [str(script), str(folder / "recipe.yaml"), str(checkpoint), str(folder / "grpo")]
    done = subprocess.run([*launch, *command], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


def test_two_processes_give_the_loss_of_one_on_the_same_batches(
    checkpoint: Path, rows: Path, tmp_path: Path, two_processes: Path
) -> None:
    alone = trainer_of(recipe_of(checkpoint, rows, tmp_path / "alone", rates=Rates(text=1e-3, tower=1e-3)))
    alone.train()
    history = json.loads((two_processes / "sft" / "history.json").read_text())
    curve = [record["loss"] for record in history if "loss" in record]
    assert curve == pytest.approx(losses(alone), rel=1e-4)


def test_two_processes_give_the_loss_and_the_gradient_of_one_by_grpo(
    checkpoint: Path, tmp_path: Path, two_processes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Put back when the test ends.
    monkeypatch.setattr(grpo, "trl_rewards", trl_rewards)
    alone = grpo_run(checkpoint, tmp_path, per_device=8)
    together = json.loads((two_processes / "grpo" / "came_to.json").read_text())["grpo"]
    assert len(together) == 3
    # The first loss is 0: a group's advantages cancel out, and the model is its own reference.
    assert min(abs(loss) for loss, _ in alone[1:]) > 1e-2
    for mine, theirs in zip(alone, together, strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-5)


def test_two_processes_take_the_steps_of_one_in_the_loop_of_nano(tmp_path: Path, two_processes: Path) -> None:
    together = json.loads((two_processes / "grpo" / "came_to.json").read_text())["loop"]
    # Products are rounded to bfloat16, those of a batch of both halves elsewhere.
    assert together == pytest.approx(loop_run(tmp_path, joined=2), abs=5e-4)


def test_two_processes_go_on_together_from_their_checkpoint(two_processes: Path) -> None:
    folder = two_processes / "grpo"
    came_to = json.loads((folder / "came_to.json").read_text())
    assert came_to["resumed"] == pytest.approx(came_to["loop"], abs=1e-6)
    assert json.loads((folder / "resumed/checkpoint-6/trainer_state.json").read_text())["global_step"] == 6


def test_two_processes_make_nano_from_nothing(two_processes: Path) -> None:
    out = two_processes / "grpo" / "nano"
    for phase in ("tower", "answers"):
        history = json.loads((out / phase / "history.json").read_text())
        assert max(record["step"] for record in history) == 2
        assert all(math.isfinite(record["train_loss"]) for record in history if "train_loss" in record)
    tokens = {path.name for path in (out / "tokens").iterdir()}
    assert tokens == {f"0000{clip}.{kind}.npy" for clip in range(2) for kind in ("pictures", "slices")}
    assert load_engine(str(out / "model"), device="cpu").profile == SIMULATED_NANO


@pytest.mark.robustness
def test_a_run_whose_disk_is_full_goes_on_from_its_last_whole_checkpoint(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(checkpoint, rows, tmp_path / "run", steps=3)
    whole = recipe_of(checkpoint, rows, tmp_path / "whole", steps=3)
    expected = run_checkpoint_sft(whole, whole.out, command="")
    for size in (30_000, 300_000):
        with files_end_at(size), pytest.raises(SinkError, match="make room"):
            run_checkpoint_sft(recipe, recipe.out, command="")
        assert last_checkpoint(recipe.out) is None
        assert not (recipe.out / "model").exists()
    model = run_checkpoint_sft(recipe, recipe.out, command="")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (model, expected))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
