"""Profiles travel with a checkpoint as JSON, and a mistake in one is a single clear line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.prompts.parsing import parse
from egolive.assistant.prompts.prompts import question_text, render_answer
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import (
    EGOTHINKER_V1,
    NANO,
    PROFILES,
    QWEN2_VL_INSTRUCT,
    SIMULATED_NANO,
    Calibration,
    Curve,
    Profile,
    checkpoint_profile,
    load_profile,
    profile_from_dict,
    profile_to_dict,
    save_profile,
)
from egolive.streaming.errors import ConfigError

PROMPTS = {"intent": "a", "next": "b", "ground": "{phrase}", "when": "{phrase}", "ask": "{phrase}"}
CURVE: dict[str, Any] = {"kind": "hand", "scores": [0.1, 0.9], "chances": [0.2, 0.8]}
LEAST: dict[str, Any] = {"name": "mine", "unit": "norm1", "prompts": PROMPTS}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES.keys())
def test_a_profile_comes_back_from_its_folder_as_it_was(profile: Profile, tmp_path: Path) -> None:
    save_profile(profile, tmp_path)
    assert load_profile(tmp_path) == profile
    assert profile_from_dict(json.loads(json.dumps(profile_to_dict(profile)))) == profile


def test_a_qwen2_vl_checkpoint_without_a_profile_is_taken_for_egothinker(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}', encoding="utf-8")
    assert load_profile(tmp_path) == EGOTHINKER_V1


def test_keys_with_a_default_may_be_left_out() -> None:
    profile = profile_from_dict(LEAST)
    assert (profile.name, profile.think_prompts, profile.window_slices, profile.picture) == (
        "mine",
        None,
        8,
        None,
    )
    assert profile_from_dict({**LEAST, "picture": [140, 224], "fps": 1}).picture == (140, 224)
    # Files that were written before these keys were known.
    assert (profile.domain, profile.free_questions, profile.calibration) == ("", True, None)


def test_the_bundled_model_knows_the_simulator_alone_and_its_scores_are_measured() -> None:
    profile = load_profile(resolve_model("nano"))
    assert replace(profile, calibration=None) == SIMULATED_NANO
    assert profile.calibration is not None
    assert {curve.kind for curve in profile.calibration.curves} >= {"hand", "object", "none", "intent"}


def test_a_calibration_travels_with_its_profile(tmp_path: Path) -> None:
    calibration = Calibration((Curve("hand", (0.1, 0.9), (0.2, 0.8)),), 0.4, "tests")
    profile = replace(NANO, calibration=calibration, domain="factories only")
    save_profile(profile, tmp_path)
    assert load_profile(tmp_path) == profile
    # Profiles are keys of caches.
    assert hash(load_profile(tmp_path)) == hash(profile)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "unknown key 'colour'"),
        ({"prompts": {**PROMPTS, "dance": "x"}}, "unknown key 'dance'"),
        ({"prompts": {"intent": "a"}}, "'next' is missing"),
        ({"prompts": {**PROMPTS, "ground": "find it"}}, "ground prompt has no {phrase}"),
        ({"prompts": {**PROMPTS, "next": 3}}, "next is a text, got '3'"),
        ({"prompts": "short"}, "prompts is an object of prompts"),
        ({"unit": "inches"}, "unit is one of norm1000, norm1, pixels, auto, got 'inches'"),
        ({"answer_style": "xml"}, "answer_style is one of"),
        ({"think": True}, "no think_prompts"),
        ({"think": 1}, "think is true or false"),
        ({"picture": [140, 225]}, "multiples of 28"),
        ({"picture": [140]}, "picture is a list of two whole numbers"),
        ({"image_pixels": [2, 1]}, "image_pixels is the least and the most"),
        ({"video_pixels": [0, 1]}, "video_pixels is the least and the most"),
        ({"window_slices": 0}, "window_slices is at least 1"),
        ({"window_slices": True}, "window_slices is a whole number"),
        ({"fps": 0}, "fps is above 0"),
        ({"fps": float("nan")}, "fps is above 0"),
        ({"fps": "2"}, "fps is a number"),
        ({"time_decimals": 9}, "time_decimals is from 0 to 6"),
        ({"domain": 3}, "domain is a text"),
        ({"free_questions": 1}, "free_questions is true or false"),
        ({"calibration": []}, "calibration is an object"),
        ({"calibration": {"curves": 3}}, "curves is a list"),
        ({"calibration": {"curves": [], "colour": 1}}, "unknown key 'colour'; known are curves"),
        ({"calibration": {"curves": [{**CURVE, "colour": 1}]}}, "unknown key 'colour'; known are kind"),
        ({"calibration": {"curves": [], "threshold": 2}}, "threshold is from 0 to 1"),
        ({"calibration": {"curves": [{**CURVE, "scores": [0.5, 0.5]}]}}, "do not rise"),
        ({"calibration": {"curves": [{**CURVE, "chances": [0.5, 0.4]}]}}, "fall"),
        ({"calibration": {"curves": [{**CURVE, "chances": [0.5]}]}}, "as many scores as chances"),
        ({"calibration": {"curves": [{**CURVE, "chances": [0.5, 1.4]}]}}, "not from 0 to 1"),
        ({"calibration": {"curves": [CURVE, CURVE]}}, "two curves of one kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_in_a_profile_is_one_line_that_names_file_and_key(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "egolive.json"
    file.write_text(json.dumps({**LEAST, **change}), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_profile(tmp_path)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["name", "unit", "prompts"])
def test_a_missing_key_is_named(missing: str) -> None:
    values = {key: value for key, value in LEAST.items() if key != missing}
    with pytest.raises(ConfigError, match=f"'{missing}' is missing"):
        profile_from_dict(values)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "\udc80".encode("utf-8", "surrogateescape").decode("latin-1")]
)
@pytest.mark.parametrize("name", ["egolive.json", "config.json"])
def test_a_file_that_is_no_json_object_is_one_line(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{name}: ") as caught:
        load_profile(tmp_path)
    assert "\n" not in str(caught.value)


def test_other_architectures_and_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint"):
        load_profile(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}', encoding="utf-8")
    with pytest.raises(ConfigError, match="'qwen2_5_vl'"):
        load_profile(tmp_path)
    with pytest.raises(ConfigError, match="expected an object, got list"):
        profile_from_dict([])


def test_built_in_profiles_ask_for_pictures_that_the_model_can_see() -> None:
    assert NANO.picture == (140, 224)
    assert (NANO.system, NANO.think_prompts) == ("", None)
    assert replace(EGOTHINKER_V1, think=True).think


@pytest.mark.parametrize(
    ("place", "made_from", "expected"),
    [
        ("Qwen2-VL-2B-Instruct", None, QWEN2_VL_INSTRUCT),
        ("qwen2-vl-7b-instruct-awq", None, QWEN2_VL_INSTRUCT),
        ("models--Qwen--Qwen2-VL-2B-Instruct/snapshots/abc", None, QWEN2_VL_INSTRUCT),
        ("models--hyf015--EgoThinker-v1/snapshots/abc", "Qwen/Qwen2-VL-7B-Instruct", EGOTHINKER_V1),
        ("mine", "Qwen/Qwen2-VL-7B-Instruct", QWEN2_VL_INSTRUCT),
        ("mine", "runs/stage-2", EGOTHINKER_V1),
        ("Qwen2-VL-2B", None, EGOTHINKER_V1),
        ("Qwen2-VL-2B-Instructed", None, EGOTHINKER_V1),
    ],
)
def test_a_checkpoint_without_a_profile_is_told_by_its_name(
    place: str, made_from: str | None, expected: Profile, tmp_path: Path
) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True)
    config = {"model_type": "qwen2_vl"} | ({"_name_or_path": made_from} if made_from else {})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    profile, why = checkpoint_profile(folder)
    assert profile == load_profile(folder) == expected
    assert why.startswith("built in")
    # What lies beside the weights goes first.
    save_profile(replace(NANO, name="own"), folder)
    assert checkpoint_profile(folder)[0].name == "own"


def test_the_instruct_models_are_asked_and_read_in_their_own_marks() -> None:
    asked = question_text(QWEN2_VL_INSTRUCT, Question("ground", "the red mug"))
    assert "<|object_ref_start|>the red mug<|object_ref_end|>" in asked
    # As Qwen2-VL writes a box: thousandths, two corners, its own marks.
    text = "<|object_ref_start|>red mug<|object_ref_end|><|box_start|>(100,250),(500,1000)<|box_end|>"
    answer = parse(text, Question("ground", "red mug"), QWEN2_VL_INSTRUCT, source_size=(1000, 400))
    (box,) = answer.boxes
    assert (box.x1, box.y1, box.x2, box.y2) == (100, 100, 500, 400)
    assert render_answer(QWEN2_VL_INSTRUCT, answer, source_size=(1000, 400)) in text
