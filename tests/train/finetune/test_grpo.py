"""GRPO on TRL's trainer: windows as images, copies that keep their pictures, sampling, steps, resuming."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel
from tuning import PROFILE, Mixed, grpo_recipe, picture_sample, vision, window_sample, with_profile

from egolive.assistant.model.positions import get_rope_index
from egolive.assistant.prompts.prompts import build_prompt
from egolive.assistant.schema.answers import Question
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Interval
from egolive.train.common.run_files import last_checkpoint
from egolive.train.common.trainer_recipe import (
    GrpoRecipe,
    Lora,
    Rates,
)
from egolive.train.finetune import grpo
from egolive.train.finetune.finish import finish, resumed
from egolive.train.finetune.grpo import GrpoTrainer, trainer_for
from egolive.train.finetune.samples import Samples, trl_dataset
from egolive.train.finetune.trainers import load_for_training
from egolive.train.finetune.window_processor import Seen, WindowProcessor

pytestmark = pytest.mark.slow


@pytest.fixture
def odd_tokens_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights write no box: a reward that they can earn."""

    def odd(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        return [sum(token % 2 for token in ids) / len(ids) for ids in completion_ids]

    def none(completions: Sequence[Any], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    monkeypatch.setattr(grpo, "trl_rewards", lambda *_, **__: [none, odd, none])


def trainer_of(recipe: GrpoRecipe, samples: Samples | None = None) -> GrpoTrainer:
    samples = samples or Mixed(recipe.steps * recipe.prompts)
    return trainer_for(recipe, load_for_training(recipe), samples, recipe.out)


def test_a_prompt_has_the_tokens_that_the_engine_would_read(checkpoint: Path) -> None:
    processor = WindowProcessor(checkpoint, PROFILE)
    row = trl_dataset([window_sample(0)], PROFILE)[0]
    made = processor.apply_chat_template([row["prompt"]], tokenize=True, return_dict=True)
    question = Question("when", "open the jar")
    parts = build_prompt(PROFILE, question, [vision(0, 4)], window=Interval(0, 2)).parts
    expected = [processor.tokenizer.encode(part) for part in (parts[0], parts[2])]
    place = processor.tokenizer.encode("<|image_pad|>") * (2 * 2 * 3)
    assert made["input_ids"] == [expected[0] + place + expected[1]]
    assert made["image_grid_thw"].tolist() == [[2, 4, 6]]
    assert sum(made["mm_token_type_ids"][0]) == 12


def test_a_window_as_one_image_is_to_the_model_what_it_is_as_a_video(checkpoint: Path) -> None:
    recipe = grpo_recipe(checkpoint, checkpoint)
    loaded = load_for_training(recipe)
    # Beyond 8 slices the positions of transformers 5 would differ from those of 4.x as well.
    row = trl_dataset([window_sample(0, slices=9)], PROFILE)[0]
    chats = [row["prompt"]]
    made = loaded.processor([[chats[0][0]["content"][0]["image"]]], [loaded.processor._text(chats[0])])
    ids = torch.tensor(made["input_ids"])
    types = torch.tensor(made["mm_token_type_ids"])
    with torch.no_grad():
        as_image = loaded.model(
            input_ids=ids,
            mm_token_type_ids=types,
            pixel_values=made["pixel_values"],
            image_grid_thw=made["image_grid_thw"],
        ).logits
        config = loaded.model.config
        as_video = loaded.model(
            input_ids=ids.masked_fill(ids == config.image_token_id, config.video_token_id),
            mm_token_type_ids=types * 2,
            pixel_values_videos=made["pixel_values"],
            video_grid_thw=made["image_grid_thw"],
        ).logits
    assert torch.equal(as_image, as_video)
    assert Qwen2VLModel.get_rope_index is get_rope_index


def test_copies_share_patches_and_only_the_way_to_them_travels() -> None:
    sample = picture_sample(0)
    processor_free = copy.deepcopy(sample.seen)
    assert processor_free is sample.seen
    sent = pickle.loads(pickle.dumps(Seen(partial(vision, 3, 4))))
    assert sent.load().frames[0].tolist() == vision(3, 4).frames[0].tolist()
    rows = trl_dataset(Mixed(4), PROFILE)[[1, 1, 2]]["prompt"]
    pictures = [prompt[0]["content"][0]["image"] for prompt in rows]
    assert pictures[0] is pictures[1] is not pictures[2]


def test_log_probs_of_a_copy_in_a_group_are_those_of_the_sample_alone(
    checkpoint: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(grpo_recipe(checkpoint, tmp_path))
    processor, model = trainer.processing_class, trainer.model.eval()
    prompts = trl_dataset(Mixed(4), PROFILE)[:]["prompt"]
    completion = torch.randint(300, (4, 5), generator=torch.Generator().manual_seed(1))

    def log_probs(numbers: Sequence[int], *, scrambled: bool = False) -> torch.Tensor:
        images = [[prompts[number][0]["content"][0]["image"]] for number in numbers]
        made = processor(images, [processor._text(prompts[n]) for n in numbers], padding=True)
        ids = torch.cat([made["input_ids"], completion[list(numbers)]], 1)
        mask = torch.cat([made["attention_mask"], torch.ones(len(numbers), 5, dtype=torch.long)], 1)
        types = torch.cat([made["mm_token_type_ids"], torch.zeros(len(numbers), 5, dtype=torch.long)], 1)
        pixels = made["pixel_values"]
        if scrambled:
            # What the published trainer did: each row of patches G times, one after the other.
            pixels = pixels[:: len(numbers)].repeat_interleave(len(numbers), 0)[: len(pixels)]
        with torch.no_grad():
            found, _, _ = trainer._get_per_token_logps_and_entropies(
                model,
                ids,
                mask,
                5,
                pixel_values=pixels,
                image_grid_thw=made["image_grid_thw"],
                num_images=[1] * len(numbers),
                mm_token_type_ids=types,
            )
        assert isinstance(found, torch.Tensor)
        return found

    order = [0, 1, 0, 2, 3, 1, 0, 1]
    together = log_probs(order)
    alone = torch.cat([log_probs([number]) for number in order])
    assert torch.allclose(together, alone, atol=1e-4)
    assert len(set(together[:, 0].tolist())) > 3
    group, one = log_probs([1] * 4, scrambled=True), log_probs([1])
    assert not torch.allclose(group, one.expand(4, -1), atol=1e-2)


def test_every_picture_of_a_group_is_encoded_once_and_its_gradient_is_that_of_all_copies(
    checkpoint: Path, tmp_path: Path
) -> None:
    stock = Qwen2VLForConditionalGeneration.from_pretrained(checkpoint).model.visual
    shared = trainer_of(grpo_recipe(checkpoint, tmp_path, rates=Rates(text=1e-3, tower=1e-3, merger=1e-3)))
    visual = shared.model.model.visual
    preprocessor = shared.processing_class.preprocessor
    made = [Seen(partial(vision, *shown)).patches(preprocessor) for shown in ((0, 1), (1, 4), (2, 1))]
    order = [0, 1, 0, 2, 1, 0]
    pixels = torch.cat([made[number][0] for number in order])
    grids = torch.tensor([made[number][1] for number in order])
    seen: list[int] = []
    visual.patch_embed.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    ours, theirs = (tower(pixels, grid_thw=grids).pooler_output for tower in (visual, stock))
    assert seen == [sum(len(made[number][0]) for number in range(3))]
    assert torch.allclose(ours, theirs, atol=1e-5)
    weights = torch.linspace(-1, 1, ours.numel()).reshape(ours.shape)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    for name, weight in stock.named_parameters():
        assert torch.allclose(visual.get_parameter(name).grad, weight.grad, rtol=1e-3, atol=1e-3), name


def test_a_step_moves_the_parts_that_have_a_rate_and_logs_what_matters(
    checkpoint: Path, tmp_path: Path, odd_tokens_pay: None
) -> None:
    recipe = grpo_recipe(checkpoint, tmp_path, steps=2, rates=Rates(text=1e-3, merger=1e-3))
    trainer = trainer_of(recipe)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    moved = {
        name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])
    }
    assert moved
    assert all("visual" not in name or "visual.merger" in name for name in moved)
    assert {"model.language_model.layers.0.mlp.up_proj.weight", "model.visual.merger.ln_q.weight"} <= moved
    for name, weight in trainer.ref_model.named_parameters():
        assert torch.equal(weight, before[name]), name
    wanted = {"reward", "kl", "frac_reward_zero_std", "completions/mean_length", "entropy", "loss"}
    records = [record for record in trainer.state.log_history if "reward" in record]
    assert len(records) == 2
    assert all(wanted <= set(record) for record in records)
    # The first step starts at the reference.
    assert records[0]["kl"] == pytest.approx(0, abs=1e-5) != records[1]["kl"]


def test_completions_differ_and_hold_no_pictures_whatever_the_checkpoint_prefers(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_profile(checkpoint, tmp_path / "greedy")
    # As Qwen2-VL's own files: close to greedy.
    values = json.loads((model / "generation_config.json").read_text())
    greedy = {"do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.001, "repetition_penalty": 1.05}
    GenerationConfig(**{**values, **greedy}).save_pretrained(model)
    said: list[Sequence[int]] = []

    def listen(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        said.extend(completion_ids)
        return [0.0] * len(completions)

    monkeypatch.setattr(grpo, "trl_rewards", lambda *_, **__: [listen, listen, listen])
    recipe = grpo_recipe(model, tmp_path / "out", max_tokens=12)
    loaded = load_for_training(recipe)
    tokenizer = loaded.processor.tokenizer
    pad = loaded.model.config.image_token_id
    with torch.no_grad():
        # A model that would like nothing better than pictures.
        loaded.model.lm_head.weight[pad] = 5 * loaded.model.lm_head.weight.abs().mean()
    trainer_for(recipe, loaded, Mixed(2), recipe.out).train()
    first = said[:8]
    assert len({tuple(ids) for ids in first[:4]}) > 1
    pictures = set(tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>", "<|vision_start|>"]))
    assert not pictures & {token for ids in first for token in ids}
    assert all(token < len(tokenizer) for ids in first for token in ids)


def test_a_run_that_is_cut_off_goes_on_to_the_same_weights(
    checkpoint: Path, tmp_path: Path, odd_tokens_pay: None
) -> None:
    class Cut(Mixed):
        def __getitem__(self, number: int) -> Any:
            if number >= 4:
                raise KeyboardInterrupt
            return super().__getitem__(number)

    whole = trainer_of(grpo_recipe(checkpoint, tmp_path / "whole", steps=3))
    whole.train()
    recipe = grpo_recipe(checkpoint, tmp_path / "cut", steps=3)
    with pytest.raises(KeyboardInterrupt):
        trainer_of(recipe, Cut(6)).train()
    assert last_checkpoint(recipe.out) is not None
    resumed = trainer_of(recipe)
    resumed.train(resume_from_checkpoint=last_checkpoint(recipe.out))
    assert resumed.state.global_step == whole.state.global_step == 3
    steps = [record["step"] for record in resumed.state.log_history if "reward" in record]
    assert steps == [1, 2, 3]
    seconds = [record["seconds"] for record in resumed.state.log_history]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    for name, weight in whole.model.named_parameters():
        assert torch.allclose(resumed.model.get_parameter(name), weight, atol=1e-5), name
    assert {path.suffix for path in recipe.out.glob("checkpoint-3/model*")} == {".safetensors"}
    # TRL's card of a model about which it knows nothing.
    assert not (recipe.out / "README.md").exists()


def test_what_is_left_at_the_end_is_a_checkpoint_with_its_log_plots_and_card(
    checkpoint: Path, tmp_path: Path, odd_tokens_pay: None
) -> None:
    recipe = grpo_recipe(checkpoint, tmp_path)
    loaded = load_for_training(recipe)
    trainer = trainer_for(recipe, loaded, Mixed(2), tmp_path)
    trainer.train()
    notes = resumed("runs/x/checkpoint-1")
    folder = finish(trainer, loaded, recipe, tmp_path, command="egolive train grpo x", notes=notes)
    again = load_for_training(grpo_recipe(folder, tmp_path / "next"))
    assert again.profile == PROFILE
    for name, weight in trainer.model.named_parameters():
        assert torch.equal(again.model.get_parameter(name), weight), name
    card = (folder / "README.md").read_text()
    assert "trained further by GRPO" in card
    assert "Interrupted; rows left out are those since checkpoint-1" in card
    assert "beta: 0.04" in card
    assert not list(folder.glob("*.bin"))
    assert json.loads((tmp_path / "history.json").read_text())
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_adapters_are_trained_in_place_of_the_weights(
    checkpoint: Path, tmp_path: Path, odd_tokens_pay: None
) -> None:
    trainer = trainer_of(grpo_recipe(checkpoint, tmp_path, lora=Lora(rank=4, alpha=8)))
    assert trainer.ref_model is None
    trained = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora" in name and "language_model" in name for name in trained)
    trainer.train()


@pytest.mark.robustness
def test_one_step_of_the_2b_structure_with_a_window(
    shallow_2b_checkpoint: Path, tmp_path: Path, odd_tokens_pay: None
) -> None:
    model = with_profile(shallow_2b_checkpoint, tmp_path / "model")
    recipe = grpo_recipe(model, tmp_path / "out", prompts=1, generations=2, per_device=2, max_tokens=3)
    trainer = trainer_of(recipe, [window_sample(0)])
    assert trainer.model.dtype == torch.float32
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_step_that_cannot_be_cut_over_the_devices_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="cannot be cut evenly over 3 processes"):
        trainer_of(grpo_recipe(checkpoint, tmp_path))


def test_rows_that_go_through_a_device_at_once_are_as_many_as_fit(checkpoint: Path, tmp_path: Path) -> None:
    settings = trainer_of(grpo_recipe(checkpoint, tmp_path, per_device=5)).args
    assert (settings.per_device_train_batch_size, settings.gradient_accumulation_steps) == (4, 2)


def test_grpo_under_fsdp_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = grpo_recipe(checkpoint, tmp_path)
    loaded = load_for_training(recipe)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="start it with accelerate_zero3"):
        trainer_for(recipe, loaded, Mixed(2), tmp_path)
