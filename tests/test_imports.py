"""Packages: which may import which, and what is imported only when needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("streaming", "assistant", "train", "quantize", "demo", "benchmarks")
"""Each may import itself and what stands before it."""
API = ROOT / "assistant" / "api"
"""The modules of `egolive` itself."""
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
COMMANDS = "egolive.assistant.cli"


def imports(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            # `from egolive.streaming import pipeline` imports a module of its own.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_room_has_files() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {"streaming", "assistant", "train"}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_go_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    allowed = ROOMS[: ROOMS.index(room) + 1]
    used = {module.split(".")[1] for module in imports(path) if module.startswith("egolive.")}
    if path.is_relative_to(API):
        # The package's own modules, such as egolive.model.
        used -= {module.stem for module in API.glob("*.py")}
    assert used <= set(allowed)


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(ROOT / "streaming")], ids=name)
def test_streaming_knows_no_models(path: Path) -> None:
    used = {module.split(".")[0] for module in imports(path)}
    assert not used & {"torch", "transformers", "safetensors", "accelerate"}


def test_the_command_line_names_its_targets_as_strings() -> None:
    used = {module for module in imports(ROOT / "assistant" / "cli.py") if module.startswith("egolive.")}
    assert {module.rpartition(".")[0] for module in used} == {"egolive.streaming.errors"}


@pytest.mark.parametrize("module", [COMMANDS, "egolive.assistant.run", "egolive.assistant.ask"])
def test_help_and_first_mistakes_do_not_wait_for_torch(module: str) -> None:
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert not set(done.stdout.split()) & {"torch", "transformers", "supervision"}


def test_importing_configures_no_logs() -> None:
    loggers = "len(logging.getLogger('egolive').handlers), len(logging.root.handlers)"
    code = f"import logging, {COMMANDS}; print({loggers})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["0", "0"]


def test_exporting_needs_nothing_that_only_training_needs() -> None:
    """A Jetson that builds an engine has no `datasets`; what AWQ is shown is imported when asked for."""
    seen: set[str] = set()
    left = ["egolive.quantize.commands", "egolive.quantize.tensorrt_build"]
    while left:
        module = left.pop()
        if module in seen:
            continue
        seen.add(module)
        path = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("egolive."):
                left += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    assert "egolive.quantize.build" in seen
    assert not [module for module in seen if module.startswith("egolive.train")]
