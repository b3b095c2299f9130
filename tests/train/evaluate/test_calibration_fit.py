"""Scores are fitted to what was right, and measured on other answers."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine, nano_script
from hypothesis import given
from hypothesis import strategies as st

from egolive.assistant.cli import main as cli
from egolive.assistant.cli import options
from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.schema.profiles import (
    EGOTHINKER_V1,
    NANO,
    Calibration,
    Curve,
    Profile,
    load_profile,
    profile_to_dict,
)
from egolive.train.evaluate import calibration_fit
from egolive.train.evaluate.calibration_fit import (
    Point,
    calibration_error,
    coverage_curve,
    fit_calibration,
    fit_curve,
    measured,
    points_of,
)
from egolive.train.evaluate.result_files import Record


def drawn(count: int, seed: int) -> tuple[list[float], list[bool]]:
    """Answers of a model that is too sure: right with the square of what it says."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, count)
    return scores.tolist(), (rng.uniform(0, 1, count) < scores**2).tolist()


def test_a_model_that_is_too_sure_becomes_honest_on_other_answers() -> None:
    curve = fit_curve("hand", *drawn(2000, 0))
    scores, right = drawn(2000, 1)
    before = calibration_error(scores, right)
    after = calibration_error([curve.at(score) for score in scores], right)
    assert before > 0.15
    assert after < 0.04


def test_the_error_is_the_gap_between_what_is_told_and_what_is_right() -> None:
    assert calibration_error([0.9] * 10, [True] * 9 + [False]) == pytest.approx(0.0)
    assert calibration_error([0.9] * 10, [True] * 5 + [False] * 5) == pytest.approx(0.4)
    # Two bins that are wrong in opposite ways do not cancel out.
    assert calibration_error([0.25, 0.75], [True, False]) == pytest.approx(0.75)
    assert calibration_error([1.0, 0.0], [True, False]) == 0.0
    assert math.isnan(calibration_error([], []))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=300))
def test_whatever_is_fitted_is_a_curve_that_a_profile_takes(answers: list[tuple[float, bool]]) -> None:
    curve = fit_curve("hand", [score for score, _ in answers], [right for _, right in answers])
    assert all(0 < chance < 1 for chance in curve.chances)


def test_few_answers_of_a_kind_get_no_curve() -> None:
    points = [Point("hand", 0.5, True)] * 100 + [Point("next", 0.5, True)] * 3
    found = fit_calibration(points, threshold=0.4, fitted_on="tests")
    assert [curve.kind for curve in found.curves] == ["hand"]
    assert (found.threshold, found.fitted_on) == (0.4, "tests")
    assert "words_ece" not in measured(points, found)


def test_accuracy_rises_where_improbable_answers_are_left_out() -> None:
    kept, right = coverage_curve([0.9, 0.1, 0.5, 0.6], [True, False, False, True])
    assert kept == [0.25, 0.5, 0.75, 1.0]
    assert right == [1.0, 1.0, pytest.approx(2 / 3), 0.5]


def test_figures_tell_what_the_threshold_leaves_out() -> None:
    calibration = Calibration((Curve("intent", (0.0, 1.0), (0.0, 1.0)),), threshold=0.5)
    points = [Point("intent", 0.8, True)] * 8 + [Point("intent", 0.8, False)] * 2
    points += [Point("intent", 0.2, False)] * 10
    found = measured(points, calibration)
    assert (found["words_n"], found["words_unsure"], found["words_right_sure"]) == (20, 0.5, 0.8)
    assert found["words_right"] == 0.4
    assert found["words_ece"] == pytest.approx(0.1)
    assert found["kinds"]["intent"]["n"] == 20


def record(task: str, truth: object, said: dict[str, object], values: dict[str, float]) -> Record:
    told = {"text": "x", "absent": False, "status": "ok", "boxes": [], "intervals": [], "score": 0.7}
    return {
        "id": "1",
        "task": task,
        "phrase": "left hand",
        "truth": truth,
        "said": {**told, **said},
        "values": values,
    }


@pytest.mark.parametrize(
    ("one", "point"),
    [
        (
            record("ground", [1, 1, 2, 2], {"boxes": [[1, 1, 2, 2]]}, {"hand_miou": 0.6}),
            Point("hand", 0.7, True),
        ),
        (
            record("ground", [1, 1, 2, 2], {"boxes": [[1, 1, 2, 2]]}, {"hand_miou": 0.4}),
            Point("hand", 0.7, False),
        ),
        (record("ground", None, {"boxes": [[1, 1, 2, 2]]}, {}), Point("hand", 0.7, False)),
        (record("ground", None, {"absent": True}, {}), Point("none", 0.7, True)),
        (record("ground", [1, 1, 2, 2], {"absent": True}, {"hand_miou": 0.0}), Point("none", 0.7, False)),
        (record("when", [1, 2], {"intervals": [[1, 2]]}, {"interval_miou": 1.0}), Point("when", 0.7, True)),
        (record("intent", "tea", {}, {"intent_acc": 1.0}), Point("intent", 0.7, True)),
        (record("next", "tea", {}, {"next_acc": 0.0}), Point("next", 0.7, False)),
        (record("ask", "tea", {}, {}), None),
        (record("intent", "tea", {"score": None}, {"intent_acc": 1.0}), None),
        (record("ground", None, {"status": "unparsed"}, {}), None),
    ],
)
def test_what_counts_as_right(one: Record, point: Point | None) -> None:
    assert points_of([one]) == ([] if point is None else [point])


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like nano's, answered by an engine that says the same whatever it sees."""
    folder = tmp_path / "model"
    shutil.copytree(resolve_model("nano"), folder)
    engine = FakeEngine(nano_script, profile=load_profile(folder), probability=0.9)
    monkeypatch.setattr(options, "load_any_engine", lambda *_, **__: engine)
    return folder


def test_the_command_measures_and_keeps_what_it_found_in_the_profile(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Eight small episodes have no hundred of a kind.
    monkeypatch.setattr(calibration_fit, "FEWEST", 20)
    plot = tmp_path / "plot.png"
    told = tmp_path / "told.json"
    words = [
        "--episodes",
        "8",
        "--test-episodes",
        "2",
        "--slices",
        "1",
        "--plot",
        str(plot),
        "--json",
        str(told),
    ]
    assert cli.call(["calibrate", str(model), *words, "--threshold", "0.6"]) == 0, capsys.readouterr().err
    calibration = load_profile(model).calibration
    assert calibration is not None
    assert calibration.threshold == 0.6
    assert "8 episodes of sim:test, seed 1" in calibration.fitted_on
    curve = calibration.curve("none")
    assert curve is not None
    found = json.loads(told.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    # One score for all: what it is worth is the share of right ones.
    assert 0 < curve.at(0.9) < 1
    assert found["none_n"] > 0
    assert plot.stat().st_size > 5000


def kept_answers(path: Path, profile: Profile, *, right_from: float) -> Path:
    """A file as `egolive evaluate --samples` writes it: hands, right from some score on."""
    lines: list[dict[str, object]] = [{"type": "run", "profile": profile_to_dict(profile)}]
    for number in range(100):
        score = (number + 0.5) / 100
        said = {"boxes": [[1, 1, 2, 2]], "score": score}
        lines.append(record("ground", [1, 1, 2, 2], said, {"hand_miou": float(score > right_from)}))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_answers_that_were_kept_are_not_asked_for_again(model: Path, tmp_path: Path) -> None:
    raw = replace(load_profile(model), calibration=None)
    fit = kept_answers(tmp_path / "fit.jsonl", raw, right_from=0.6)
    test = kept_answers(tmp_path / "test.jsonl", raw, right_from=0.6)
    out = tmp_path / "told.json"
    assert (
        cli.call(["calibrate", str(model), "--data", str(fit), "--test", str(test), "--json", str(out)]) == 0
    )
    calibration = load_profile(model).calibration
    assert calibration is not None
    curve = calibration.curve("hand")
    assert curve is not None
    assert curve.at(0.2) < 0.2 < 0.8 < curve.at(0.9)
    found = json.loads(out.read_text())
    assert (found["box_n"], found["box_right"]) == (100, 0.4)
    # Where it lies is nobody's business.
    assert calibration.fitted_on == "100 answers about fit.jsonl"
    assert found["box_ece"] < 0.1 < found["box_ece_raw"]
    assert found["box_right_sure"] > 0.9


def test_scores_that_were_calibrated_before_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = Calibration((Curve("hand", (0.5,), (0.5,)),))
    fit = kept_answers(tmp_path / "fit.jsonl", replace(NANO, calibration=calibration), right_from=0.6)
    assert cli.call(["calibrate", str(model), "--data", str(fit), "--episodes", "1"]) == 1
    assert "calibrated already" in capsys.readouterr().err
    other = replace(EGOTHINKER_V1, calibration=None)
    fit = kept_answers(tmp_path / "other.jsonl", other, right_from=0.6)
    assert cli.call(["calibrate", str(model), "--data", str(fit), "--episodes", "1"]) == 1
    assert "in other words" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "sim:nothing"], "use sim:train, sim:test or a file of rows"),
        (["--data", "sim:test", "--seed", "0"], "would be fitted on and measured on"),
        (["--episodes", "0"], "1 or more"),
        (["--threshold", "2"], "a probability from 0 to 1"),
        (["--out", "nowhere"], "is no folder"),
    ],
)
def test_a_slip_is_told_before_a_model_is_loaded(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["calibrate", "nano", *words]) in (1, 2)
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_a_model_without_a_folder_needs_one_to_write_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["calibrate", "http://127.0.0.1:9/v1"]) == 2
    assert "--out FOLDER" in capsys.readouterr().err
