"""Training in miniature, from nothing to a model that answers; cut off and resumed it is the same run."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.live.assistant import Assistant
from egolive.assistant.load_local import load_engine
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import SIMULATED_NANO
from egolive.streaming.errors import ConfigError, DataError
from egolive.streaming.frames import Frame
from egolive.train.common.loop import Loss, Tensors
from egolive.train.common.recipe import AnswerPhase, Recipe
from egolive.train.data.simulated_data import SimulatedData, load_simulated
from egolive.train.evaluate import evaluate as evaluation
from egolive.train.nano import nano_sft as sft
from egolive.train.nano.answer_batches import AnswerBatches
from egolive.train.nano.answer_loss import answer_check, answer_loss, kinds
from egolive.train.nano.nano_model import HEIGHT, WIDTH, new_nano
from egolive.train.nano.tower_training import Tower, tower_check, tower_loss
from egolive.train.simulator.write import simulate

pytestmark = pytest.mark.slow

EPISODES = 2
PHASE = AnswerPhase(steps=4, batch=2, lr=1e-3, save_every=2, eval_every=100)


class CutOffError(Exception):
    """Stands for the kill, the crash or the power cut."""


@dataclass
class Recorder:
    """A loss that keeps its values, and ends the run at one call."""

    loss: Loss
    curve: list[float] = field(default_factory=list)
    cut_at: int | None = None

    def __call__(self, model: nn.Module, inputs: Tensors) -> dict[str, Tensor]:
        if len(self.curve) == self.cut_at:
            raise CutOffError
        parts = self.loss(model, inputs)
        self.curve.append(sum(value.item() for value in parts.values()))
        return parts


@dataclass(frozen=True)
class Run:
    """One call of `run_recipe`."""

    tower: list[float]
    """The loss at each step of phase one."""
    answers: list[float]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A few small episodes, four steps a phase."""
    folder = tmp_path_factory.mktemp("training")
    data = folder / "data"
    simulate(data, episodes=EPISODES, fps=2.0, size=(112, 64), workers=1)
    load_simulated(data, height=HEIGHT, width=WIDTH, workers=1)
    return Recipe(
        data=data, episodes=EPISODES, tower=PHASE, answers=PHASE, slices=3, windows=2, out=folder / "out"
    )


def train(recipe: Recipe, out: Path, *, cut_tower: int | None = None, cut_answers: int | None = None) -> Run:
    """Run the recipe on one thread; a cut ends it as an error in the middle of a step would."""
    tower, answers = Recorder(tower_loss, cut_at=cut_tower), Recorder(answer_loss, cut_at=cut_answers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "tower_loss", tower)
        patch.setattr(sft, "answer_loss", answers)
        patch.setattr(sft, "simulate", partial(simulate, size=(112, 64), workers=1))
        # Whitening and the checks of a real run take longer than all of this.
        patch.setattr(sft, "WHITENING", 1)
        patch.setattr(sft, "tower_check", lambda *_: lambda: {"checked": 1.0})
        patch.setattr(sft, "answer_check", lambda *_: lambda: {"checked": 1.0})
        try:
            sft.run_recipe(recipe, out)
        except CutOffError:
            assert (cut_tower, cut_answers) != (None, None)
        else:
            assert (cut_tower, cut_answers) == (None, None)
    return Run(tower.curve, answers.curve)


@pytest.fixture(scope="module")
def whole(recipe: Recipe) -> tuple[Run, Path]:
    """An uninterrupted run and its folder."""
    return train(recipe, recipe.out), recipe.out


@pytest.mark.robustness
def test_a_run_that_is_cut_off_in_either_phase_goes_on_with_the_same_losses(
    recipe: Recipe, whole: tuple[Run, Path], tmp_path: Path
) -> None:
    expected, finished = whole
    first = train(recipe, tmp_path, cut_tower=3)
    # A kill in the middle of saving leaves a checkpoint without its last file.
    (tmp_path / "tower" / "checkpoint-3").mkdir()
    second = train(recipe, tmp_path, cut_answers=3)
    third = train(recipe, tmp_path)
    assert len(expected.tower) == len(expected.answers) == PHASE.steps
    assert first.tower == pytest.approx(expected.tower[:3], rel=1e-5)
    assert second.tower == pytest.approx(expected.tower[2:], rel=1e-5)
    assert second.answers == pytest.approx(expected.answers[:3], rel=1e-5)
    assert third.tower == []
    assert third.answers == pytest.approx(expected.answers[2:], rel=1e-5)
    for phase in ("tower", "answers"):
        history = json.loads((tmp_path / phase / "history.json").read_text())
        assert max(record["step"] for record in history) == PHASE.steps
    ours, theirs = (
        Qwen2VLForConditionalGeneration.from_pretrained(folder / "model").state_dict()
        for folder in (tmp_path, finished)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(value, theirs[name], atol=1e-5) for name, value in ours.items())


def test_a_finished_run_that_is_started_again_trains_no_step(recipe: Recipe, whole: tuple[Run, Path]) -> None:
    _, out = whole
    before = (out / "model" / "model.safetensors").read_bytes()
    assert train(recipe, out) == Run([], [])
    assert (out / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.robustness
def test_a_finished_run_goes_on_when_its_text_part_is_to_learn_again(
    recipe: Recipe, whole: tuple[Run, Path], tmp_path: Path
) -> None:
    _, finished = whole
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    # The second repetition asks for an episode more.
    first, second = replace(PHASE, steps=2), replace(PHASE, steps=3, ahead=0.5, unseen=1)
    data = tmp_path / "data"
    shutil.copytree(recipe.data, data)
    longer = replace(recipe, data=data, again=[first, second])
    # The last step of the second repetition is cut off.
    cut = train(longer, tmp_path, cut_answers=first.steps + second.steps - 1)
    rest = train(longer, tmp_path)
    assert (cut.tower, rest.tower) == ([], [])
    assert (
        len(list(data.glob("*.mp4"))) == len(list((tmp_path / "tokens").glob("*.slices.npy"))) == EPISODES + 1
    )
    assert (len(cut.answers), len(rest.answers)) == (4, 1)
    histories = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("answers*/history.json"))]
    assert [history[-1]["step"] for history in histories] == [PHASE.steps, first.steps, second.steps]
    before, after = (
        Qwen2VLForConditionalGeneration.from_pretrained(folder / "model").state_dict()
        for folder in (finished, tmp_path)
    )
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved
    assert not any("visual" in name for name in moved)
    with pytest.raises(ConfigError, match="answers-2 holds a run by other settings"):
        train(replace(longer, again=[second, second]), tmp_path)
    # What comes after a pass that is made anew would go on from the old one.
    shutil.rmtree(tmp_path / "answers-2")
    with pytest.raises(ConfigError, match="answers-3 holds a run by other settings"):
        train(replace(longer, again=[second, second]), tmp_path)


def test_a_folder_of_another_run_is_refused_before_anything_is_made(
    recipe: Recipe, whole: tuple[Run, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft, "simulate", lambda *_, **__: pytest.fail("minutes for nothing"))
    with pytest.raises(ConfigError, match=r"other settings \(seed: 0, now 5\)"):
        sft.run_recipe(replace(recipe, seed=5), whole[1])


def test_phase_two_leaves_the_tower_as_phase_one_made_it(recipe: Recipe, whole: tuple[Run, Path]) -> None:
    _, out = whole
    tokenizer = sft.nano_tokenizer()
    fresh = new_nano(tokenizer, recipe.seed)
    data = load_simulated(recipe.data, height=HEIGHT, width=WIDTH)
    trained = Qwen2VLForConditionalGeneration.from_pretrained(out / "model")
    assert not torch.equal(
        trained.model.language_model.layers[0].mlp.up_proj.weight,
        fresh.model.language_model.layers[0].mlp.up_proj.weight,
    )
    tower = sft.train_tower(fresh, recipe, data, data, out / "tower")
    for name, weight in tower.visual.state_dict().items():
        assert torch.equal(weight.cpu(), trained.model.visual.state_dict()[name]), name


def test_the_output_folder_is_a_checkpoint_that_answers(whole: tuple[Run, Path]) -> None:
    _, out = whole
    engine = load_engine(str(out / "model"), device="cpu")
    assert engine.profile == SIMULATED_NANO
    picture = Frame(np.full((252, 448, 3), 120, np.uint8), 0.0, 0)
    with Assistant(engine) as assistant:
        (answer,) = assistant.answer([Question("ground", "left hand")], picture=picture)
    assert answer.usage.completion_tokens > 0
    engine.close()
    card = (out / "model" / "README.md").read_text()
    assert "not EgoThinker" in card
    assert (out / "tower" / "tower.png").stat().st_size > 1000
    assert (out / "answers.png").stat().st_size > 1000


def test_the_model_can_be_evaluated_and_its_card_carries_the_figures(
    whole: tuple[Run, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = whole[1] / "model"
    monkeypatch.setattr(evaluation, "PICTURES", 1)
    monkeypatch.setattr(evaluation, "training_bags", lambda *_: [(frozenset({"mug"}), "make tea")])
    report, samples = tmp_path / "report.json", tmp_path / "samples.jsonl"
    evaluation.evaluate(
        model=str(model), device="cpu", episodes=1, slices=2, json_file=report, samples=samples, card=model
    )
    found = json.loads(report.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    assert {"hand_miou", "intent_acc", "machine", "versions", "commit", "command"} <= set(found)
    header, *records = [json.loads(line) for line in samples.read_text().splitlines()]
    assert header["model"] == str(model)
    assert len(records) == found["n"] >= 4
    assert {record["task"] for record in records} >= {"ground", "when"}
    assert "| hand_miou |" in (model / "README.md").read_text()


def test_checks_measure_the_held_out_episodes(recipe: Recipe, whole: tuple[Run, Path]) -> None:
    _, out = whole
    data = load_simulated(recipe.data, height=HEIGHT, width=WIDTH)
    model = Qwen2VLForConditionalGeneration.from_pretrained(out / "model")
    with torch.inference_mode():
        found = tower_check(Tower(model), data, batches=1)()
        shares = {name for name in found if name.endswith(("miou", "acc"))}
        assert shares == set(found) >= {"hand_miou", "held_miou", "hand_there_acc", "step_acc"}
        assert all(0 <= value <= 1 for value in found.values())
        found = answer_check(model, answer_batches(data, out))()
    assert set(found) == {"windows_loss", "windows_token_acc", "pictures_loss", "pictures_token_acc"}
    assert all(value > 0 for name, value in found.items() if name.endswith("loss"))


def answer_batches(data: SimulatedData, out: Path, ahead: float = 0.0) -> AnswerBatches:
    return AnswerBatches(
        data,
        out / "tokens",
        sft.nano_tokenizer(),
        pictures=2,
        windows=2,
        slices=3,
        seed=0,
        pictures_first=1,
        next_step_share=ahead,
    )


def test_answer_batches_are_pure_functions_of_their_number_and_carry_their_own_tokens(
    recipe: Recipe, whole: tuple[Run, Path]
) -> None:
    data = load_simulated(recipe.data, height=HEIGHT, width=WIDTH)
    batches = answer_batches(data, whole[1])
    tokenizer = batches.tokenizer
    for number in range(4):
        batch = batches[number]
        again = batches[number]
        torch.testing.assert_close(again, batch, rtol=0, atol=0, equal_nan=True)
        found = dict(kinds(batch))
        # The first batch is of pictures alone.
        assert set(found) == ({"pictures", "windows"} if number else {"pictures"})
        for kind, rows in found.items():
            pad = tokenizer.convert_tokens_to_ids("<|video_pad|>" if kind == "windows" else "<|image_pad|>")
            # One place in the text for each visual token.
            assert ((rows["tokens"] == pad).sum(1) == rows["visual"].shape[1]).all()
            assert rows["visual"].isfinite().all()
            # An answer looks at cells inside the box, or in front of the picture where there is none.
            for row, word in (rows["word_there"] >= 0).nonzero():
                aim = rows["aim"][row, word]
                assert aim[0] == (rows["word_there"][row, word] == 0) != aim[1:].any()
            assert (rows["labels"][rows["aim"].any(2)] >= 0).all()
    assert not torch.equal(batches[0]["pictures.visual"], batches[1]["pictures.visual"])


@pytest.mark.parametrize(("ahead", "least"), [(0.5, 1), (1.0, 2)])
def test_windows_that_decide_the_next_step_come_as_often_as_is_asked(
    ahead: float, least: int, recipe: Recipe, whole: tuple[Run, Path]
) -> None:
    data = load_simulated(recipe.data, height=HEIGHT, width=WIDTH)
    batches = answer_batches(data, whole[1], ahead)
    for number in range(1, 9):
        rows = batches[number]["windows.tokens"]
        asked = ["What comes next?" in text for text in batches.tokenizer.batch_decode(rows)]
        assert sum(asked) >= least


def test_folders_without_enough_episodes_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no simulated episodes"):
        load_simulated(tmp_path, height=HEIGHT, width=WIDTH)
    data = load_simulated(recipe.data, height=HEIGHT, width=WIDTH)
    training, held_out = data.split(0.3)
    assert (len(training.clips), len(held_out.clips)) == (1, 1)
    with pytest.raises(DataError, match="too few"):
        data.split(1.0)
