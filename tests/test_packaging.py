"""The wheel holds every module and every file that the package reads at run time, and nothing else."""

from __future__ import annotations

import os
import re
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


LOCKS = ("requirements.lock", "docs/requirements.lock", "setup.lock")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_a_lock_has_a_version_and_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if not line.strip().startswith("#")]
    assert any(lines)
    for line in filter(None, lines):
        package, *hashes = re.split(r"\s+(?=--hash)", line)
        # No option, as of an index, no address, no file: a name and a version, and when it is needed.
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*(\[[a-z,]+\])?==[^\s/;@]+( ; [^/@]+)?", package), line
        assert hashes, line
        assert all(HASH.fullmatch(one) for one in hashes), line


def test_packages_are_installed_with_their_hashes_only() -> None:
    """Of each call of pip and uv in the Makefile: packages come from a lock, the project brings none."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    calls = [line for line in text.splitlines() if re.search(r"pip (install|sync)\b", line)]
    assert len(calls) >= 5
    for call in calls:
        locked = "--require-hashes" in call and any(lock in call for lock in LOCKS)
        itself = "--no-deps" in call and "--no-build-isolation" in call and call.endswith("-e .")
        assert locked or itself, call
    assert "make setup" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


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
