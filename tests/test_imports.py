"""What is imported only when it is needed, and what importing must not do.

Who may import whom is held by the contracts of import-linter in `pyproject.toml`, which `make check` runs.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter

import pytest
from paths import ROOT

PACKAGES = ("streaming", "assistant", "train", "quantize", "demo", "benchmarks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
COMMANDS = "egolive.assistant.cli.main"


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that are loaded once a statement has run in a process of its own."""
    code = f"import sys; {statement}; print(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", [COMMANDS, "egolive.assistant.cli.run_command", "egolive.assistant.cli.ask_command"]
)
def test_help_and_first_mistakes_do_not_wait_for_torch(module: str) -> None:
    assert not loaded_by(f"import {module}") & {"torch", "transformers", "supervision"}


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
    left = ["egolive.quantize.quantize_commands", "egolive.quantize.tensorrt_build"]
    # What the commands import when they are called.
    left += ["egolive.quantize.build", "egolive.quantize.methods.bnb"]
    while left:
        module = left.pop()
        if module in seen:
            continue
        seen.add(module)
        path = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("egolive."):
                left += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    assert "egolive.quantize.onnx.onnx_graph" in seen
    assert not [module for module in seen if module.startswith("egolive.train")]


def test_a_file_name_says_where_a_module_is() -> None:
    names = Counter(path.name for path in FILES if not path.name.startswith("__"))
    assert len(names) > 100
    assert [name for name, count in names.items() if count > 1] == []


def test_no_folder_holds_more_than_one_can_overlook() -> None:
    sizes = Counter(path.parent.relative_to(ROOT).as_posix() for path in FILES)
    assert {folder: count for folder, count in sizes.items() if count > 18} == {}
