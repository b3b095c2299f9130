"""`egolive bench fuzz`, which is gone: tests with hypothesis in `tests/robustness` take its place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from egolive.streaming.errors import UsageError

__all__ = ["fuzz"]


def fuzz(
    *,
    inputs: int = 100_000,
    seed: int = 0,
    answers: Path | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Removed: `make robustness` in a source tree tests spoilt input.

    Args:
        inputs: No longer used.
        seed: No longer used.
        answers: No longer used.
        json_file: No longer used.

    Raises:
        UsageError: Always.
    """
    raise UsageError("bench fuzz was removed; in a source tree, make robustness tests spoilt input instead")
