"""The ablation: answers over stored tokens, the same rows for both ways, paired differences, a whole run."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.live.assistant import Assistant
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.schema.profiles import NANO
from egolive.streaming.errors import ConfigError
from egolive.train.ablation import ablation as ablation_module
from egolive.train.ablation import ablation_report
from egolive.train.ablation.ablation import run_ablation
from egolive.train.ablation.ablation_questions import answer_questions, encode_questions, stored_questions
from egolive.train.ablation.ablation_recipe import AblationRecipe, load_ablation_recipe
from egolive.train.ablation.ablation_report import Run, difference, markdown, values_of
from egolive.train.ablation.ablation_rows import GroundingBatches, StoredSamples, StoredSeen, look_tokens_up
from egolive.train.common.recipe import Phase
from egolive.train.common.run_folder import keep_settings, plain
from egolive.train.common.trainer_recipe import GrpoRecipe, Rates, SimulatorShares
from egolive.train.data.simulated_data import SimulatedData, load_simulated
from egolive.train.evaluate.evaluate import ask_episode
from egolive.train.evaluate.result_files import Results
from egolive.train.finetune.samples import trl_dataset
from egolive.train.finetune.window_processor import WindowProcessor
from egolive.train.nano.answer_batches import encode_clips
from egolive.train.nano.nano_model import HEIGHT, WIDTH
from egolive.train.nano.tower_training import Tower
from egolive.train.simulator.write import LOOK, simulate

pytestmark = pytest.mark.slow

SHARES = SimulatorShares(episodes=1, live=1.0, absent=0.2)


@pytest.fixture(scope="module")
def nano() -> Qwen2VLForConditionalGeneration:
    return Qwen2VLForConditionalGeneration.from_pretrained(resolve_model("nano"), dtype=torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, nano: Qwen2VLForConditionalGeneration) -> Path:
    """A small episode with its tokens, and the questions of one test episode."""
    made = tmp_path_factory.mktemp("ablation")
    simulate(made / "data", episodes=1, fps=2.0, size=(112, 64), workers=1)
    data = load_simulated(made / "data", height=HEIGHT, width=WIDTH, workers=1)
    encode_clips(Tower(nano), data, made / "tokens")
    encode_questions(Tower(nano), made / "questions", episodes=1, seed=0, slices=2)
    return made


def samples_in(folder: Path) -> StoredSamples:
    data = load_simulated(folder / "data", height=HEIGHT, width=WIDTH, workers=1)
    samples = StoredSamples(data, NANO, count=8, prompts=4, shares=SHARES, think=False, seed=0)
    samples.tokens = folder / "tokens"
    return samples


def _plain(line: dict[str, Any]) -> dict[str, Any]:
    """Without what says which lines were written together."""
    return {key: value for key, value in line.items() if key not in ("batch", "last")}


def test_answers_over_stored_tokens_are_those_of_the_engine(
    folder: Path, nano: Qwen2VLForConditionalGeneration
) -> None:
    engine = load_engine("nano", device="cpu", threads=1)
    assert engine.tokenizer is not None
    parts = list(stored_questions(folder / "questions", 1))
    results = Results(None, {})
    answer_questions(nano, engine.tokenizer, parts, results, description="")
    # Here scores are the model's own.
    with Assistant(engine, replace(engine.profile, calibration=None)) as assistant:
        expected = ask_episode(assistant, 0, "test", 0, 2)
    engine.close()
    said = {line["id"]: _plain(line) for line in results.records}
    wanted = {line["id"]: line for line in expected}
    scores = [{name: line["said"].pop("score") for name, line in lines.items()} for lines in (said, wanted)]
    assert said == wanted
    # Other passes round otherwise.
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert len({line["said"]["text"] + str(line["said"]["boxes"]) for line in expected}) > 8


def test_a_model_that_looks_tokens_up_says_what_it_says_of_the_pixels(
    folder: Path, nano: Qwen2VLForConditionalGeneration
) -> None:
    samples = samples_in(folder)
    row = trl_dataset(samples, NANO)[0]
    processor = WindowProcessor(resolve_model("nano"), NANO)
    picture = row["prompt"][0]["content"][0]["image"]
    assert isinstance(picture, StoredSeen)
    array = np.load(
        next(clip.path for clip in samples.data.clips if clip.path.name[:5] == picture.path.name[:5])
    )
    patches, grid = processor.preprocessor.patches([array[2 * picture.place]], HEIGHT, WIDTH)
    made = processor([[picture]], [processor._text(row["prompt"])], padding=True)
    assert made["image_grid_thw"].tolist() == [list(grid)]
    looking = Qwen2VLForConditionalGeneration.from_pretrained(resolve_model("nano"), dtype=torch.float32)
    look_tokens_up(looking)
    with torch.no_grad():
        found = looking(**made).logits
        expected = nano(**{**made, "pixel_values": torch.from_numpy(patches)}).logits
    # The stored tokens were computed and kept in 16 bits.
    assert float((found - expected).abs().mean()) < 0.02
    assert torch.equal(found.argmax(-1)[0, -1], expected.argmax(-1)[0, -1])


def test_sft_has_the_rows_of_grpo_with_their_answers(folder: Path) -> None:
    samples = samples_in(folder)
    tokenizer = WindowProcessor(resolve_model("nano"), NANO).tokenizer
    batch = GroundingBatches(samples, tokenizer)[1]
    asked = trl_dataset(samples, NANO)[:]
    for place in range(4):
        words = tokenizer.decode(batch["pictures.tokens"][place])
        prompt = asked["prompt"][4 + place][0]["content"]
        assert prompt[1]["text"] in words
        assert torch.equal(batch["pictures.visual"][place], prompt[0]["image"].tokens())
        labels = batch["pictures.labels"][place]
        answer = tokenizer.decode(labels[labels >= 0])
        assert ("none" in answer) == (asked["box"][4 + place] is None)


def record(number: int, task: str, phrase: str, **values: float) -> dict[str, Any]:
    said = {"text": "", "absent": not values, "boxes": [[0, 0, 1, 1]] if values else []}
    truth = [0, 0, 1, 1] if values else None
    line = {"id": str(number), "episode": number // 2, "task": task, "phrase": phrase, "truth": truth}
    return {**line, "said": said, "values": values}


def run_of(way: str, seed: int, hands: list[float], thing: float) -> Run:
    records = [record(n, "ground", "left hand", hand_miou=value) for n, value in enumerate(hands)]
    records.append(record(10, "ground", "object in the left hand", object_miou=thing))
    records.append(record(11, "ground", "right hand"))
    return Run(way, seed, 16, 1, 2.0, tuple(records))


def test_differences_are_between_the_same_questions_over_all_seeds() -> None:
    start = [run_of("start", 0, [0.2, 0.4], 0.1)]
    grpo = [run_of("grpo", 0, [0.4, 0.6], 0.3), run_of("grpo", 1, [0.6, 0.8], 0.1)]
    mean, low, high, count = difference(start, grpo, "hand_miou")
    assert (mean, low, high) == pytest.approx((0.3, 0.3, 0.3))
    assert count == 2
    mean, low, high, count = difference(start, grpo, "both_miou")
    assert mean == pytest.approx((0.3 + 0.3 + 0.1) / 3)
    assert low < mean < high
    assert count == 3
    # Three are there and one is not: each class weighs a half.
    weights = values_of(start[0])["absent_acc"]
    assert weights["11"] == pytest.approx(2)
    assert sum(weights.values()) / 4 == pytest.approx(1)
    table = markdown([*start, *grpo])
    assert "| 0.600 (0.500 to 0.700) |" in table
    assert "| grpo - start | +0.300 (+0.300 to +0.300) |" in table


@pytest.mark.robustness
def test_a_whole_ablation_is_done_once_and_goes_on_where_it_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = Phase(steps=1, batch=1, lr=1e-4, save_every=1, eval_every=1)
    grpo = GrpoRecipe(
        base="start",
        out=tmp_path,
        data=folder / "data",
        simulator=SHARES,
        rates=Rates(text=1e-4),
        steps=1,
        prompts=2,
        generations=2,
        per_device=4,
        max_tokens=4,
        think=False,
        checkpointing=False,
        log_every=1,
    )
    recipe = AblationRecipe(
        base="nano",
        data=folder / "data",
        episodes=1,
        out=tmp_path,
        start=phase,
        sft_lr=1e-4,
        grpo=grpo,
        windows=1,
        slices=2,
        questions=1,
        seeds=1,
    )
    keep_settings(tmp_path, plain(recipe) | {"look": LOOK})
    for name in ("tokens", "questions"):
        (tmp_path / name).symlink_to(folder / name)
    # The episodes are smaller than the real ones, which it would make itself.
    monkeypatch.setattr(ablation_module, "simulate", lambda *_, **__: None)
    monkeypatch.setattr(ablation_report, "DRAWS", 20)
    monkeypatch.setattr(SimulatedData, "split", lambda self, share: (self, self))
    measured = ablation_module.AblationRuns.measured
    broken = ConfigError("the power went")

    def cut(self: Any, way: str, *args: Any, **settings: Any) -> Run:
        if way == "sft":
            raise broken
        return measured(self, way, *args, **settings)

    monkeypatch.setattr(ablation_module.AblationRuns, "measured", cut)
    with pytest.raises(ConfigError, match="the power went"):
        run_ablation(recipe)
    monkeypatch.setattr(ablation_module.AblationRuns, "measured", measured)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/model/model.safetensors")}
    assert {path.parts[-3] for path in done} == {"start-0", "grpo-0", "sft-0"}
    table = run_ablation(recipe).read_text()
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [line["way"] for line in lines] == ["base", "start", "grpo", "sft", "sft-longer"]
    assert len({line["questions"] for line in lines}) == 1
    assert [line["rows"] for line in lines[:4]] == [0, 2, 2, 2]
    assert "grpo - sft-longer" in table
    assert (tmp_path / "ablation.png").stat().st_size > 1000
    with pytest.raises(ConfigError, match="other settings"):
        run_ablation(dataclasses.replace(recipe, sft_lr=1e-3))


def test_the_recipe_that_comes_with_the_package_is_read_and_a_wrong_one_refused(tmp_path: Path) -> None:
    recipe = load_ablation_recipe("nano-ablation")
    assert recipe.seeds == 3
    assert recipe.grpo.rates.text > 0
    text = (files("egolive.train") / "recipes" / "nano-ablation.yaml").read_text()
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("    live: 1.0", "    boxes: 0.5"))
    with pytest.raises(ConfigError, match="boxes alone"):
        load_ablation_recipe(str(wrong))
    wrong.write_text(text.replace("    live: 1.0", "    lively: 1.0"))
    with pytest.raises(ConfigError, match=r"unknown key 'grpo.simulator.lively'; did you mean 'live'"):
        load_ablation_recipe(str(wrong))
