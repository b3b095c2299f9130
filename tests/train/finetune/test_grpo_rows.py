"""What GRPO is given, row by row, and what SFT and GRPO do before and after the training itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from huggingface_hub import HfApi
from tuning import PROFILE, Mixed, grpo_recipe, picture_sample, window_sample

from egolive.assistant.schema.profiles import load_profile
from egolive.streaming.errors import ConfigError, DataError
from egolive.streaming.frames import Box
from egolive.train.common.hub import upload
from egolive.train.common.trainer_recipe import (
    Rates,
    SimulatorShares,
)
from egolive.train.data.row_files import mix_rows
from egolive.train.data.row_media import FrameSampling
from egolive.train.data.rows import Tally
from egolive.train.data.simulated_data import load_simulated
from egolive.train.finetune.grpo import run_grpo, sampling_values
from egolive.train.finetune.rewards import trl_rewards
from egolive.train.finetune.samples import Recent, RowSamples, SimulatedSamples, only_questions, trl_dataset
from egolive.train.finetune.trainers import load_for_training
from egolive.train.finetune.window_processor import WindowProcessor
from egolive.train.simulator.write import simulate

pytestmark = pytest.mark.slow


@pytest.fixture
def noise(tmp_path: Path) -> np.ndarray[Any, Any]:
    """A picture; and beside it, rows about it, about one that cannot be read, and one without a box."""
    noise = np.random.default_rng(0).integers(0, 256, (56, 84, 3), np.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    values = [{"path": f"{n}.png", "object": "mug", "box": [10, 10, 40, 50]} for n in range(2)]
    values += [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    return noise


def test_rows_become_samples_and_to_a_broken_one_no_reward_applies(
    tmp_path: Path, noise: np.ndarray[Any, Any]
) -> None:
    tally = Tally()
    mix = only_questions(mix_rows([tmp_path / "rows.jsonl"], shuffle=False), tally)
    assert sum(tally.broken.values()) == 1
    samples = RowSamples(mix, tmp_path, PROFILE, FrameSampling(), count=4, think=True)
    good, broken = samples[2], samples[3]
    assert good.box == Box(10, 10, 40, 50)
    assert good.source_size == (84, 56)
    assert good.seen_size == (84, 56)
    assert np.array_equal(good.seen.vision().frames[0], noise)
    assert broken.broken
    assert samples[1].broken
    assert sum(samples.tally.broken.values()) == 1
    row = trl_dataset(samples, PROFILE)[3]
    columns = {name: [value] * 2 for name, value in row.items()}
    for reward in trl_rewards(PROFILE):
        assert reward(["(1,2),(3,4)", "<think>"], **columns) == [None, None]


# TRL 1.16 switches checkpointing off while sampling, by its old name.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_.*able. is deprecated:FutureWarning")
def test_a_run_on_rows_goes_on_past_a_picture_that_cannot_be_read_and_counts_it_once(
    checkpoint: Path, tmp_path: Path, noise: np.ndarray[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    # One row a pass: the broken one has a pass to itself.
    recipe = grpo_recipe(
        checkpoint,
        tmp_path / "out",
        simulator=None,
        data=None,
        rows=[str(tmp_path / "rows.jsonl")],
        media=tmp_path,
        generations=2,
        per_device=1,
        rates=Rates(text=1e-3, tower=1e-3, merger=1e-3),
        checkpointing=True,
    )
    folder = run_grpo(recipe, recipe.out, command="egolive train grpo x")
    card = (folder / "README.md").read_text()
    assert "- Rows: 3 rows; 1 left out: no question for a box" in card
    assert "- Rows left out while training: 1\n" in card
    history = json.loads((recipe.out / "history.json").read_text())
    # The other picture's completions have a form, if a poor one.
    assert all(0 <= record["reward"] <= 2 for record in history if "reward" in record)
    assert all(record["kl"] >= 0 for record in history if "reward" in record)
    assert sum(record.message.startswith("left out: ") for record in caplog.records) == 2
    assert "Give the box" not in caplog.text
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"holds a run by other settings \(beta: 0.04, now 0.1\)"):
        run_grpo(replace(recipe, beta=0.1), recipe.out, command="egolive train grpo x")
    assert (folder / "model.safetensors").read_bytes() == before


def test_what_a_step_shows_is_read_once_for_all_of_its_passes() -> None:
    read: list[int] = []

    class Counted(Mixed):
        def __getitem__(self, number: int) -> Any:
            read.append(number)
            return super().__getitem__(number)

    recent = Recent(Counted(6), keep=4)
    for _ in range(3):
        assert recent[0].seen is recent[0].seen
        assert recent[1].question.task == "when"
    assert read == [0, 1]
    for number in (2, 3, 4, 5, 1, 0):
        assert len(recent) == 6
        assert recent[number].question == Mixed(6)[number].question
    assert read == [0, 1, 2, 3, 4, 5, 1, 0]


def test_vllm_gets_plain_pictures_and_no_windows(checkpoint: Path) -> None:
    row = trl_dataset([picture_sample(0)], PROFILE, plain=True)[0]
    picture = row["prompt"][0]["content"][0]["image"]
    assert picture.size == (84, 56)
    processor = WindowProcessor(checkpoint, PROFILE)
    made = [
        processor.apply_chat_template([one["prompt"]], tokenize=True)
        for one in (row, trl_dataset([picture_sample(0)], PROFILE)[0])
    ]
    assert made[0]["input_ids"] == made[1]["input_ids"]
    assert torch.equal(made[0]["pixel_values"], made[1]["pixel_values"])
    with pytest.raises(ConfigError, match="no windows"):
        trl_dataset([window_sample(0)], PROFILE, plain=True)[0]
    recipe = grpo_recipe(checkpoint, checkpoint, vllm=True)
    biases = sampling_values(recipe, load_for_training(recipe))["generation_kwargs"]["logit_bias"]
    assert biases[processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")] == -100
    assert max(biases) < len(processor.tokenizer)


def test_simulated_samples_are_what_their_numbers_say_and_of_one_kind_a_step(tmp_path: Path) -> None:
    simulate(tmp_path, episodes=3, fps=2.0, size=(112, 64), workers=1)
    data = load_simulated(tmp_path, height=56, width=84, workers=1)
    shares = SimulatorShares(episodes=3, boxes=0.5, slices=2)

    def samples() -> SimulatedSamples:
        return SimulatedSamples(data, PROFILE, count=40, prompts=4, shares=shares, think=True, seed=1)

    found, again = samples(), samples()
    for number in range(40):
        assert found[number].question == again[number].question
        assert (found[number].box, found[number].interval) == (again[number].box, again[number].interval)
    kinds = [{found[4 * step + place].question.task for place in range(4)} for step in range(10)]
    assert {"ground"} in kinds
    assert {"when"} in kinds
    assert all(len(kind) == 1 for kind in kinds)
    windows = [found[number] for number in range(40) if found[number].question.task == "when"]
    for sample in windows:
        assert len(sample.seen.vision().frames) == 4
        assert sample.interval is None or 0 <= sample.interval.start < sample.interval.end <= sample.duration
    # Nano never learned to reason.
    assert not any(found[number].question.think for number in range(40))


def test_what_cannot_be_logged_to_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="report_to names nowhere, which is not installed"):
        load_for_training(grpo_recipe(tmp_path / "missing", tmp_path, report_to=["nowhere"]))


def test_pictures_are_larger_while_training_where_the_recipe_says_so(
    checkpoint: Path, tmp_path: Path
) -> None:
    loaded = load_for_training(grpo_recipe(checkpoint, tmp_path, video_pixels=200_704, image_pixels=40_000))
    assert loaded.profile.video_pixels == (PROFILE.video_pixels[0], 200_704)
    assert loaded.profile.image_pixels == (40_000, 40_000)
    loaded.processor.save_pretrained(tmp_path)
    assert load_profile(tmp_path) == PROFILE


def test_an_upload_that_fails_leaves_the_model_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, Path]] = []
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: None)
    monkeypatch.setattr(
        HfApi, "upload_folder", lambda *_, repo_id, folder_path: sent.append((repo_id, folder_path))
    )
    upload(tmp_path, "me/model")
    assert sent == [("me/model", tmp_path)]

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(HfApi, "create_repo", offline)
    with pytest.raises(DataError, match=r"was not uploaded to 'me/model' \(no network\)"):
        upload(tmp_path, "me/model")
