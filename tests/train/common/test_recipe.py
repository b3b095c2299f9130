"""A recipe is read as it was meant, or refused in one line that says why."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from egolive.streaming.errors import ConfigError
from egolive.train import train_commands as commands
from egolive.train.common.recipe import AnswerPhase, Phase, load_recipe, read_recipe
from egolive.train.common.run_folder import keep_settings
from egolive.train.common.trainer_recipe import GrpoRecipe, load_trainer_recipe

BUNDLED = sorted(path.name for path in Path(str(files("egolive.train") / "recipes")).glob("*-*.yaml"))


def values() -> dict[str, Any]:
    phase = {"steps": 3, "batch": 2, "lr": 0.001}
    return {"data": "d", "episodes": 4, "tower": dict(phase), "answers": dict(phase)}


def written(folder: Path, raw: object) -> str:
    path = folder / "recipe.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw))
    return str(path)


def test_five_recipes_come_with_the_package() -> None:
    assert len(BUNDLED) == 5


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_recipe_is_found_by_its_name_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder of the same name, such as an earlier run's, is no recipe.
    (tmp_path / name.removesuffix(".yaml")).mkdir()
    monkeypatch.chdir(tmp_path)
    found, where = read_recipe(name.removesuffix(".yaml"))
    assert (found, where) == read_recipe(name)
    assert Path(where).name == name
    assert {"data", "rows"} & set(found)


def test_nano_from_nothing_is_among_the_bundled_recipes() -> None:
    recipe = load_recipe("nano-sft")
    assert recipe.tower.steps > 0
    assert recipe.answers.lr > 0


def test_a_recipe_keeps_what_it_says_and_fills_in_the_rest(tmp_path: Path) -> None:
    raw = {**values(), "out": "somewhere/else", "seed": 7, "windows": 4}
    raw["again"] = [{"steps": 5, "batch": 2, "lr": 0.1}, {"steps": 6, "batch": 2, "lr": 0.2, "ahead": 0.5}]
    recipe = load_recipe(written(tmp_path, raw))
    first, second = AnswerPhase(steps=5, batch=2, lr=0.1), AnswerPhase(steps=6, batch=2, lr=0.2, ahead=0.5)
    assert recipe.again == [first, second]
    assert recipe.tower == Phase(steps=3, batch=2, lr=0.001)
    assert (recipe.data, recipe.out) == (Path("d"), Path("somewhere/else"))
    assert (recipe.seed, recipe.windows, recipe.slices) == (7, 4, 8)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("epochs", 3, "unknown key 'epochs'"),
        ("seeed", 3, "unknown key 'seeed'; did you mean 'seed'? known are data, episodes, "),
        ("tower.momentum", 0.9, "unknown key 'tower.momentum'; known are steps, batch, "),
        ("again", [{"step": 1}], "unknown key 'again[0].step'; did you mean 'steps'? known are steps, "),
        ("episodes", "many", "episodes must be a valid integer, got 'many'"),
        ("episodes", 2.5, "episodes must be a valid integer, got 2.5"),
        ("episodes", True, "episodes must be a valid integer, got True"),
        ("data", 5, "data must be a valid string, got 5"),
        ("tower", [1, 2], "tower must be a mapping of settings, got [1, 2]"),
        ("answers.lr", "0.001", "answers.lr must be a valid number, got '0.001'"),
        ("answers.lr", -0.1, "answers.lr must be greater than or equal to 0, got -0.1"),
        ("answers.lr", float("nan"), "answers.lr must be a finite number, got nan"),
        ("tower.ahead", 0.5, "unknown key 'tower.ahead'"),
        ("answers.ahead", 2, "answers.ahead must be less than or equal to 1, got 2"),
        ("tower.steps", 0, "tower.steps must be greater than or equal to 1, got 0"),
        ("tower.save_every", 0, "tower.save_every must be greater than or equal to 1, got 0"),
        ("slices", 1, "slices must be greater than or equal to 2, got 1"),
        ("again", {"steps": 1}, "again must be a list, got "),
        ("again", [3], "again[0] must be a mapping of settings, got 3"),
        (
            "again",
            [{"steps": 1, "batch": 1, "lr": 0.1}, {"steps": 1}],
            "again[1].batch, again[1].lr must be given",
        ),
        ("held_out", 1.5, "held_out must be less than or equal to 1, got 1.5"),
        ("base", "hyf015/EgoThinker-v1", "base must be 'new-nano', got 'hyf015/EgoThinker-v1'"),
        ("data", "\ud800", "Invalid JSON"),
    ],
)
def test_a_setting_that_cannot_work_is_told_in_one_line(
    path: str, value: object, words: str, tmp_path: Path
) -> None:
    raw = values()
    *outer, key = path.split(".")
    (raw[outer[0]] if outer else raw)[key] = value
    name = written(tmp_path, raw)
    with pytest.raises(ConfigError) as caught:
        load_recipe(name)
    message = str(caught.value)
    assert words in message
    assert message.startswith(name)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("data", "data must be given"),
        ("tower", "tower must be given"),
        ("answers.batch", "answers.batch must be given"),
    ],
)
def test_a_missing_key_is_named(path: str, words: str, tmp_path: Path) -> None:
    raw = values()
    *outer, key = path.split(".")
    del (raw[outer[0]] if outer else raw)[key]
    with pytest.raises(ConfigError, match=words):
        load_recipe(written(tmp_path, raw))


@pytest.mark.parametrize(
    ("written_as", "value"), [("1e-3", 0.001), ("5E-5", 5e-5), ("2.5e1", 25.0), ("1.0e-3", 0.001)]
)
def test_a_number_with_an_exponent_needs_no_point(written_as: str, value: float, tmp_path: Path) -> None:
    raw = values()
    raw["tower"]["lr"] = 123.5
    text = yaml.safe_dump(raw)
    assert text.count("123.5") == 1
    assert load_recipe(written(tmp_path, text.replace("123.5", written_as))).tower.lr == value
    with pytest.raises(ConfigError, match=r"tower\.lr must be a valid number, got '1e-3'"):
        load_recipe(written(tmp_path, text.replace("123.5", "'1e-3'")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: [unclosed\nepisodes: 4", "not readable as YAML: line 2: "),
        ("data: a: b", "not readable as YAML"),
        ("- a\n- list\n", "holds no settings"),
        ("", "holds no settings"),
        ("2024-01-01: 3", "is no recipe: keys must be str"),
        ("a: &a [*a]", "an alias"),
        ("!!python/object/apply:os.getcwd []", "not readable as YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    name = written(tmp_path, text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_recipe(name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(name)


def test_bytes_that_are_no_text_are_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe\x00data")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load_recipe(str(path))


def test_an_unknown_name_is_answered_with_the_names_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'nano-xyz': give a YAML file, or one of .*nano-sft"):
        load_recipe("nano-xyz")


def test_a_folder_with_a_run_by_other_settings_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"seed": 1, "out": "a", "tower": {"steps": 3, "save_every": 1}}
    keep_settings(tmp_path / "run", settings)
    (tmp_path / "run" / "tower").mkdir()
    keep_settings(tmp_path / "run", {**settings, "out": "b", "tower": {"steps": 3, "save_every": 9}})
    with pytest.raises(ConfigError, match=r"other settings \(tower.steps: 3, now 4\): go on with those, or"):
        keep_settings(tmp_path / "run", {**settings, "tower": {"steps": 4, "save_every": 1}})
    many = dict.fromkeys("abcde", 1)
    with pytest.raises(ConfigError, match=r"seed: 1, now not set, .*, and 4 more\)"):
        keep_settings(tmp_path / "run", many)
    (tmp_path / "run" / "recipe.json").unlink()
    with pytest.raises(ConfigError, match="holds something else than such a run"):
        keep_settings(tmp_path / "run", settings)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write a run to .*file: File exists"):
        keep_settings(tmp_path / "file", settings)


@pytest.mark.parametrize(
    ("wanted", "recipe", "other"),
    [("grpo", "nano-sft", "sft"), ("sft", "egothinker-grpo", "grpo"), ("sft", "nano-ablation", "ablation")],
)
def test_a_recipe_of_another_command_is_told_as_one(wanted: str, recipe: str, other: str) -> None:
    with pytest.raises(ConfigError, match=rf"{recipe}.yaml is a recipe for `egolive train {other}`"):
        getattr(commands, wanted)(recipe)


def test_a_group_of_one_completion_is_refused(tmp_path: Path) -> None:
    raw = {"base": "nano", "rows": ["a.jsonl"], "rates": {"text": 1e-6}, "out": "o", "steps": 1}
    assert load_trainer_recipe(written(tmp_path, raw), GrpoRecipe).generations == 8
    with pytest.raises(ConfigError, match="generations must be greater than or equal to 2, got 1"):
        load_trainer_recipe(written(tmp_path, raw | {"generations": 1}), GrpoRecipe)


def test_reading_a_recipe_does_not_take_what_trains() -> None:
    script = (
        "import sys, egolive.train.train_commands; sys.exit('torch' in sys.modules or 'trl' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
