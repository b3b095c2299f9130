"""The package's names: what is exported, what importing it costs, and how it is run."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import egolive

HEAVY = ("torch", "transformers", "cv2", "av", "numpy", "PIL", "rich", "cyclopts", "supervision")


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )


def test_every_public_name_is_there_and_listed() -> None:
    assert egolive.__all__ == sorted(egolive.__all__)
    assert set(egolive.__all__) <= set(dir(egolive))
    for name in egolive.__all__:
        assert getattr(egolive, name) is not None
    assert egolive.__version__ == metadata.version("egolive")


def test_type_checkers_see_the_names_that_are_exported() -> None:
    tree = ast.parse(Path(egolive.__file__).read_text(encoding="utf-8"))
    (checking,) = (
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {alias.name for node in checking.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    seen |= {ast.unparse(node.target) for node in checking.body if isinstance(node, ast.AnnAssign)}
    assert seen == set(egolive.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'egolive' has no attribute 'load_modell'"):
        getattr(egolive, "load_modell")  # noqa: B009  # a type checker refuses the name itself
    assert not hasattr(egolive, "anything")


def test_all_names_can_be_imported_at_once_without_torch() -> None:
    done = python("from egolive import *; import sys; print(load_model.__name__, 'torch' in sys.modules)")
    assert done.stdout.split() == ["load_model", "False"]


def test_importing_the_package_imports_nothing_heavy() -> None:
    done = python(f"import sys, egolive; print([name for name in {HEAVY} if name in sys.modules])")
    assert done.stdout.strip() == "[]"


def test_importing_the_package_takes_less_than_300_ms() -> None:
    done = python("import egolive", "-X", "importtime")
    (line,) = (line for line in done.stderr.splitlines() if line.rpartition("|")[2].strip() == "egolive")
    microseconds = int(line.split("|")[1])
    assert microseconds < 300_000


@pytest.mark.parametrize(
    "package",
    [
        "assistant.cli.main",
        "streaming.sources.opening",
        "train.train_commands",
        "quantize.quantize_commands",
        "demo.app",
        "benchmarks.stream.stream_bench",
    ],
)
def test_the_packages_are_found_below_it(package: str) -> None:
    done = python(
        "import importlib.util, sys, egolive\n"
        f"print(importlib.util.find_spec('egolive.{package}').name, egolive.__file__)"
    )
    name, file = done.stdout.split()
    assert name == f"egolive.{package}"
    assert Path(file).name == "__init__.py"


def test_the_package_runs_as_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "egolive", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == egolive.__version__
    wrong = subprocess.run(
        [sys.executable, "-m", "egolive", "nothing"], capture_output=True, text=True, timeout=60, check=False
    )
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("egolive: ")
