"""Files of questions asked through the engine's protocol: what is asked, kept, taken up again, and told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from fakes import FakeEngine, text_of
from paths import REAL, needs_real

from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO
from egolive.streaming.errors import ConfigError, DataError
from egolive.train.common.model_card import check_card
from egolive.train.evaluate import evaluate as evaluation
from egolive.train.evaluate.result_files import model_stamp


def rows(folder: Path) -> Path:
    PIL.Image.fromarray(np.full((100, 200, 3), 90, np.uint8)).save(folder / "a.png")
    lines: list[dict[str, Any]] = [
        {"path": "a.png", "object": "right hand", "box": [100, 50, 150, 100], "size": [200, 100]},
        {"path": "a.png", "object": "left hand", "box": None, "size": [200, 100]},
        {"image": "a.png", "text": "Is there a mug?", "label": "yes"},
        {"path": "gone.png", "object": "cup", "box": [1, 1, 9, 9], "size": [200, 100]},
        {"something": "else"},
    ]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def evaluated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engine: FakeEngine, **options: Any
) -> dict[str, Any]:
    monkeypatch.setattr(evaluation, "open_model", lambda *_, **__: engine)
    monkeypatch.setattr(evaluation, "check_model", lambda *_, **__: None)
    evaluation.evaluate(**options)
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_file_is_asked_and_told_with_what_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine()
    found = evaluated(monkeypatch, capsys, engine, data=str(rows(tmp_path)), json_file=tmp_path / "out.json")
    # The script finds a right hand at 500..750, 500..1000 thousandths, and no left hand.
    assert found["n"] == 3
    assert found["hand_miou"] == 1
    assert found["box_absent_acc"] == 1
    assert found["exists_acc"] == 0
    assert found["unread"] == 1
    assert found["left_out"] == {
        "its picture or video cannot be read": 1,
        "neither a conversation, nor a box, nor an interval": 1,
    }
    assert json.loads((tmp_path / "out.json").read_text()) == found
    # What shows the same is asked together.
    assert [len(requests) for requests in engine.asked] == [3]
    assert engine.open_sessions == 0
    assert engine.closed


def test_an_interrupted_run_goes_on_and_does_not_ask_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, samples = rows(tmp_path), tmp_path / "samples.jsonl"
    whole = evaluated(monkeypatch, capsys, FakeEngine(), data=str(data), samples=samples)
    lines = samples.read_text().splitlines()
    assert json.loads(lines[0])["type"] == "run"
    assert [json.loads(line)["id"] for line in lines[1:]] == [f"rows.jsonl:{n}" for n in (1, 2, 3)]
    # Killed in the middle of the third answer.
    samples.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    engine = FakeEngine()
    again = evaluated(monkeypatch, capsys, engine, data=str(data), samples=samples)
    assert sum(len(requests) for requests in engine.asked) == 1
    measured = ("n", "hand_miou", "hand_miou_ci", "exists_acc", "left_out")
    assert {name: again[name] for name in measured} == {name: whole[name] for name in measured}
    assert samples.read_text().splitlines() == lines
    with pytest.raises(ConfigError, match="results of another run"):
        evaluated(monkeypatch, capsys, FakeEngine(), data=str(data), samples=samples, think=True)
    (tmp_path / "text.jsonl").write_text("no\nresults\n")
    with pytest.raises(DataError, match="no file of results"):
        evaluated(monkeypatch, capsys, FakeEngine(), data=str(data), samples=tmp_path / "text.jsonl")


def test_an_interrupted_run_on_the_simulator_asks_the_last_episode_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "training_bags", lambda *_: [(frozenset({"mug"}), "make tea")])
    monkeypatch.setattr(evaluation, "PICTURES", 1)
    monkeypatch.setattr(evaluation, "WINDOWS", 1)
    samples = tmp_path / "samples.jsonl"
    whole = evaluated(monkeypatch, capsys, FakeEngine(), samples=samples, episodes=3, slices=2)
    lines = samples.read_text().splitlines()
    assert {json.loads(line)["episode"] for line in lines[1:]} == {0, 1, 2}
    # Cut off within the second episode.
    second = [number for number, line in enumerate(lines) if '"episode": 1,' in line]
    samples.write_text("\n".join(lines[: second[2]]) + "\n" + lines[second[2]][:9])
    engine = FakeEngine()
    again = evaluated(monkeypatch, capsys, engine, samples=samples, episodes=3, slices=2)
    assert samples.read_text().splitlines() == lines
    assert sum(map(len, engine.asked)) == sum('"episode": 0,' not in line for line in lines[1:])
    figures = [name for name in whole if name.startswith(("hand", "object", "intent", "next", "interval"))]
    assert {name: again[name] for name in figures} == {name: whole[name] for name in figures}
    fewer = evaluated(monkeypatch, capsys, FakeEngine(), samples=samples, episodes=1, slices=2)
    assert fewer["n"] == sum('"episode": 0,' in line for line in lines)


def test_the_baseline_of_intents_is_not_made_where_no_intent_was_asked_about(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "training_bags", lambda *_: pytest.fail("300 episodes for nothing"))
    monkeypatch.setattr(evaluation, "PICTURES", 1)
    monkeypatch.setattr(evaluation, "WINDOWS", 0)
    found = evaluated(monkeypatch, capsys, FakeEngine(), episodes=1)
    assert found["n"] == 4
    assert found["intent_acc_bag_of_objects"] is None


def test_results_of_a_model_that_was_trained_again_are_not_taken_up(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"first")
    first = model_stamp(str(tmp_path))
    assert model_stamp(str(tmp_path)) == first
    (tmp_path / "model.safetensors").write_bytes(b"trained again")
    assert model_stamp(str(tmp_path)) != first


def test_reasoning_is_asked_for_and_does_not_count_as_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    PIL.Image.fromarray(np.zeros((60, 60, 3), np.uint8)).save(tmp_path / "a.png")
    turns = [
        {"from": "human", "value": "<image>\nWhat now?\n(A) wait\n(B) cut\nAnswer with the letter."},
        {"from": "gpt", "value": "B"},
    ]
    path = tmp_path / "choices.json"
    path.write_text(json.dumps([{"conversations": turns, "image": "a.png"}]))
    seen: list[str] = []

    def script(prompt: str) -> str:
        seen.append(prompt)
        return "<think>A knife, so not A.</think><answer>B</answer>"

    engine = FakeEngine(script, profile=EGOTHINKER_V1)
    found = evaluated(monkeypatch, capsys, engine, data=str(path), think=True)
    assert found["choice_acc"] == 1
    assert found["choice_acc_chance"] == 0.5
    assert "What now?\n(A) wait\n(B) cut\n" in seen[0]
    assert "<think>" in seen[0]
    assert text_of(engine.asked[0][0].prompt).count("<image>") == 1
    evaluated(monkeypatch, capsys, engine, data=str(path))
    assert "<think>" not in seen[1]


def test_a_part_of_a_file_is_drawn_by_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(rows(tmp_path))
    for number in range(2):
        found = evaluated(
            monkeypatch, capsys, FakeEngine(), data=data, limit=4, samples=tmp_path / f"{number}.jsonl"
        )
        assert found["n"] + sum(found["left_out"].values()) == 4
    assert (tmp_path / "0.jsonl").read_text() == (tmp_path / "1.jsonl").read_text()
    (tmp_path / "bad.jsonl").write_text('{"something": "else"}\n')
    with pytest.raises(DataError, match="nothing to ask"):
        evaluated(monkeypatch, capsys, FakeEngine(), data=str(tmp_path / "bad.jsonl"))


def test_a_file_whose_pictures_are_all_missing_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = rows(tmp_path)
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"no question could be asked, .*cannot be read"):
        evaluated(monkeypatch, capsys, FakeEngine(), data=str(data))


@pytest.mark.parametrize("changed", ["rows", "profile", "precision"])
def test_results_of_other_rows_or_another_way_of_asking_are_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    path, samples = rows(tmp_path), tmp_path / "samples.jsonl"
    engine = FakeEngine()
    before = evaluated(monkeypatch, capsys, engine, data=str(path), samples=samples)
    asked = len(engine.asked)
    assert evaluated(monkeypatch, capsys, engine, data=str(path), samples=samples)["n"] == before["n"]
    assert len(engine.asked) == asked
    if changed == "rows":
        path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    elif changed == "profile":
        engine = FakeEngine(profile=replace(NANO, name="other"))
    else:
        engine.info = replace(engine.info, precision="bf16")
    with pytest.raises(ConfigError, match="holds results of another run"):
        evaluated(monkeypatch, capsys, engine, data=str(path), samples=samples)


def test_a_missing_card_is_told_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine()
    with pytest.raises(DataError, match=r"no README\.md"):
        evaluated(monkeypatch, capsys, engine, data=str(rows(tmp_path)), card=tmp_path / "nowhere")
    assert not engine.asked


def test_figures_of_another_model_do_not_come_into_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, engine, card = str(rows(tmp_path)), FakeEngine(), tmp_path / "tuned"
    card.mkdir()
    (card / "README.md").write_text("# A model\n")
    with pytest.raises(ConfigError, match="another model than nano") as caught:
        evaluated(monkeypatch, capsys, engine, data=data, card=card)
    assert "\n" not in str(caught.value)
    assert not engine.asked
    # The bundled model by its name, and a model by another path to it.
    check_card(resolve_model("nano"), "nano")
    (tmp_path / "link").symlink_to(card)
    check_card(card, str(tmp_path / "link"))


def test_a_card_says_what_gives_its_figures_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("# A model\n")
    data = str(rows(tmp_path))
    chosen = {"model": str(tmp_path), "limit": 3, "grammar": False, "card": tmp_path}
    evaluated(monkeypatch, capsys, FakeEngine(), data=data, **chosen)
    card = (tmp_path / "README.md").read_text()
    expected = f"`egolive evaluate --data {data} --seed 0 --no-grammar --limit 3 --fps 1.0 --max-frames 32`"
    assert expected in card


def test_two_files_of_results_are_compared_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(rows(tmp_path))
    for name, engine in (("one", FakeEngine()), ("two", FakeEngine(lambda _: "yes"))):
        evaluated(monkeypatch, capsys, engine, data=data, samples=tmp_path / f"{name}.jsonl")
    pair = (tmp_path / "one.jsonl", tmp_path / "two.jsonl")
    evaluation.evaluate(compare=pair)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["measures"]["hand_miou"]["difference"] == -1
    assert told["measures"]["exists_acc"]["difference"] == 1
    assert told["measures"]["exists_acc"]["n"] == 1
    # The second denies nothing, and gives no box either.
    for name in ("box_absent_none", "box_there_given"):
        assert (told["measures"][name]["a"], told["measures"][name]["b"]) == (1, 0)
    with pytest.raises(DataError, match="cannot be read"):
        evaluation.evaluate(compare=(pair[0], tmp_path / "gone.jsonl"))


@needs_real
def test_the_labelled_real_frames_are_asked_about(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = REAL / "annotations" / "hand_object_boxes.json"
    found = evaluated(monkeypatch, capsys, FakeEngine(), data=str(labels), media=REAL / "images")
    assert found["hand_acc_iou30_n"] == 14
    assert found["object_acc_iou30_n"] == 9
    assert not found["left_out"]
