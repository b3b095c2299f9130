"""The wheel holds every module and every file that the package reads at run time, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

PACKAGES = ("assistant", "streaming", "train", "quantize", "demo", "benchmarks")
DATA = {".json", ".jinja", ".safetensors", ".mp4", ".yaml", ".js", ".css", ".html", ".svg", ".typed", ".py"}
"""What is read at run time; READMEs, pictures and measured results stay in the repository."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    place = tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "results")
        if source.is_dir():
            shutil.copytree(source, place / "tree" / name, ignore=ignored)
        else:
            shutil.copy(source, place / "tree" / name)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('..'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=place / "tree", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(place / done.stdout.split()[-1]) as archive:
        archive.extractall(place / "unpacked")
    return place / "unpacked"


def installed_name(path: Path) -> str:
    """Where a file of the repository is in the wheel."""
    inside = path.relative_to(ROOT)
    if inside.parts[:2] == ("assistant", "api"):
        inside = inside.relative_to("assistant/api")
    return (Path("egolive") / inside).as_posix()


def test_the_wheel_holds_what_the_folders_hold(wheel: Path) -> None:
    wanted = {
        installed_name(path)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix in DATA and not {"__pycache__", "results"} & set(path.parts)
    }
    found = {path.relative_to(wheel).as_posix() for path in (wheel / "egolive").rglob("*") if path.is_file()}
    assert wanted - found == set()
    strays = {name for name in found - wanted if Path(name).suffix in DATA}
    assert strays == set()
    assert not (wheel / "tests").exists()


def test_bundled_files_load_from_the_wheel(wheel: Path) -> None:
    code = """
import egolive.assistant, json
from pathlib import Path
from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.model.media import bundled_clip
from egolive.train.common.recipe import load_recipe
nano, clip = resolve_model("nano"), bundled_clip()
recipe = load_recipe("nano-sft")
print(json.dumps([str(nano / "model.safetensors"), str(clip), recipe.base]))
assert (nano / "model.safetensors").is_file() and clip.is_file()
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(wheel)) == 2
