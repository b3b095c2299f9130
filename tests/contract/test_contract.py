"""What other programs and users rely on is still there: commands, options, keys, names, formats.

A failure lists what is missing or differs. What is new is none: `python tests/contract/freeze.py` adds it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract import observe
from contract.observe import FROZEN, Workspace, read
from contract.shapes import lost, missing

HELP = "If that is meant: see tests/contract/freeze.py"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Runs each command once for all tests."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("modelopt")
    pytest.importorskip("bitsandbytes")
    return Workspace(tmp_path_factory.mktemp("contract"))


def check(name: str, lines: list[str]) -> None:
    assert not lines, f"{name}, against frozen/{name}.json:\n  " + "\n  ".join([*lines, HELP])


def test_commands_options_defaults_and_choices() -> None:
    check("commands", observe.lost_commands(read(FROZEN / "commands.json"), observe.commands()))


@pytest.mark.parametrize("name", observe.SHAPES)
def test_keys_of_what_commands_write(work: Workspace, name: str) -> None:
    check(name, missing(read(FROZEN / f"{name}.json"), observe.SHAPES[name](work)))


@pytest.mark.parametrize("name", observe.VALUES)
def test_names_numbers_and_settings(work: Workspace, name: str) -> None:
    if name == "makefile" and shutil.which("make") is None:
        pytest.skip("make is not installed")
    check(name, lost(read(FROZEN / f"{name}.json"), observe.VALUES[name](work)))


def test_the_frozen_keys_have_what_design_promises() -> None:
    """The keys that are promised to other programs; the frozen files say where each stands."""
    found = read(FROZEN / "measurements.json")
    for command, keys in PROMISED.items():
        told = found[command]
        whole = told["engines"][0] if isinstance(told.get("engines"), list) else told
        assert set(keys.split()) <= set(whole), command
    assert {"p50", "p95", "p99"} <= set(found["bench latency"]["glass_to_overlay_ms"])
    assert {"name", "outcome", "recovery_s"} <= set(found["bench soak"]["faults"][0])
    assert found["bench stream"]["gains"]
    for told in found.values():
        assert {"machine", "versions", "commit", "command"} <= set(told)


PROMISED = {
    "evaluate": "n hand_miou object_miou hand_absent_acc object_absent_acc intent_acc next_acc interval_miou "
    "intent_acc_bag_of_objects interval_r1_iou50 hand_miou_ci hand_miou_chance",
    "bench stream": "speedup_a speedup_b speedup_c windows hops audit_errors audit_ties slices_encoded "
    "slices_used prompt_tokens_reused prompt_tokens draft_accepted gains",
    "bench engines": "name backend precision load_s encode_ms ttft_ms tok_s floor_tok_s peak_mb",
    "bench latency": "glass_to_overlay_ms answer_age_s stages drops",
    "bench soak": "hours rss_slope_mb_h out_of_order expired_shown threads handles faults",
    "quantize --compare": "name size_mb miou intent_acc agreement tok_s",
}


# What was written is read again, and what is of another format is refused in one line.


def test_a_recording_and_a_bundle_are_replayed(work: Workspace) -> None:
    work.done("replay", work.run / "recording", "--check")
    work.done("replay", sorted((work.run / "evidence").iterdir())[0])


@pytest.mark.parametrize("name", ["recording", "bundle-picture", "bundle-window"])
def test_what_an_earlier_version_saved_is_replayed_or_refused(work: Workspace, name: str) -> None:
    done = work.call("replay", FROZEN / "saved" / name, "--model", "nano")
    told = done.err.splitlines()
    refused = done.code == 1 and len(told) == 1 and "format" in told[0]
    # Other weights may answer otherwise, which is told as 1 too.
    replayed = done.code in (0, 1) and done.out and told == ["loading nano ..."]
    assert refused or replayed, (done.code, done.out, done.err)


@pytest.mark.parametrize("name", ["recording", "bundle", "engine"])
def test_another_format_is_refused_in_one_line(work: Workspace, tmp_path: Path, name: str) -> None:
    source, file, words = {
        "recording": (work.run / "recording", "recording.json", ("replay",)),
        "bundle": (sorted((work.run / "evidence").iterdir())[0], "bundle.json", ("replay",)),
        "engine": (work.engines["onnx-fp32"], "engine.json", ("run", work.clip, "--engine")),
    }[name]
    folder = tmp_path / "changed"
    shutil.copytree(source, folder)
    (folder / file).write_text(json.dumps(read(folder / file) | {"format": 9876}), encoding="utf-8")
    done = work.call(*words, folder)
    assert done.code == 1
    [line] = done.err.splitlines()
    assert "format" in line
    assert "9876" in line


# Recipes, as the command line takes them.

REQUIRED = {
    **{"data": "episodes", "out": "out", "base": "nano", "episodes": 4, "steps": 1, "batch": 1, "lr": 1e-3},
    **{"sft_lr": 1e-3, "text": 1e-4},
}
PARTS = {
    "tower": "sft, new model: tower",
    "answers": "sft, new model: answers",
    "start": "sft, new model: tower",
    "rates": "rates",
    "grpo": "grpo",
}


def recipe(frozen: dict[str, Any], kind: str, *, whole: bool) -> dict[str, Any]:
    """A recipe with all keys of its kind, or with those alone that have to be given."""
    made = {}
    for key, told in frozen[kind].items():
        if "required" not in told:
            if whole:
                # The default of a number of steps, none, is one that nobody may write.
                made[key] = told["default"] or (REQUIRED[key] if key == "steps" else told["default"])
        else:
            made[key] = recipe(frozen, PARTS[key], whole=whole) if key in PARTS else REQUIRED[key]
    return made


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("train sft", "sft, new model"),
        ("train sft", "sft, checkpoint"),
        ("train grpo", "grpo"),
        ("train ablation", "ablation"),
    ],
    ids=["new model", "checkpoint", "grpo", "ablation"],
)
def test_recipes_take_all_keys(work: Workspace, tmp_path: Path, words: str, kind: str) -> None:
    """Each recipe has one fault that is seen after all its keys: it is told whatever other keys there are."""
    frozen = read(FROZEN / "recipes.json")
    out = tmp_path / "out"
    # The fault of a new model's recipe: its folder holds something else.
    (out / "something").mkdir(parents=True)

    def told(values: dict[str, Any]) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        done = work.call(*words.split(), path, "--out", out)
        assert done.code in (1, 2)
        return done.err

    made = {whole: recipe(frozen, kind, whole=whole) for whole in (False, True)}
    if kind == "sft, checkpoint":
        # A key by which it is known for what it is; the fault of this one and the next: no data.
        made[False]["batch"] = 1
    if kind == "grpo":
        made[False]["prompts"] = 1
    for values in made.values():
        if kind == "ablation":
            # The fault: other steps than boxes.
            values["grpo"] |= {"data": "episodes", "simulator": {"episodes": 4, "boxes": 0.5}}
    plain = told(made[False])
    assert told(made[True]) == plain
    unknown = told(made[True] | {"contract_probe": 1})
    assert "contract_probe" in unknown
    assert unknown != plain


@pytest.mark.parametrize("part", ["lora", "simulator"])
def test_parts_of_a_recipe_take_all_keys(work: Workspace, tmp_path: Path, part: str) -> None:
    frozen = read(FROZEN / "recipes.json")
    path = tmp_path / "recipe.yaml"

    def told(values: dict[str, Any]) -> str:
        # The fault: rows and the simulator, or neither.
        rows = ["rows.jsonl"] if part == "simulator" else []
        made = recipe(frozen, "grpo", whole=False) | {"prompts": 1, "rows": rows, part: values}
        path.write_text(yaml.safe_dump(made, sort_keys=False), encoding="utf-8")
        done = work.call("train", "grpo", path)
        assert done.code in (1, 2)
        return done.err

    plain = told(recipe(frozen, part, whole=False))
    assert told(recipe(frozen, part, whole=True)) == plain
    assert "contract_probe" in told({"contract_probe": 1})


def test_recipes_of_the_package_are_found_by_name(work: Workspace) -> None:
    """Asked of the command that does not take them, which says so, and starts nothing."""

    def told(command: str, name: str) -> str:
        done = work.call("train", command, name)
        assert done.code in (1, 2)
        return done.err.replace(name, "NAME", 1)

    for name in read(FROZEN / "files.json")["recipes in the package"]:
        if "accelerate" not in name:
            command = "ablation" if "grpo" in name else "grpo"
            assert told(command, name) != told(command, "no-such-recipe"), name
