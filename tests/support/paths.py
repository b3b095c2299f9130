"""Where the repository and the recorded material are, wherever a test file stands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["GOLDEN", "REAL", "ROOT", "SUPPORT", "needs_real", "real_files"]

SUPPORT = Path(__file__).parent
"""The helper modules; a process that a test starts puts this folder on its path to import them."""
ROOT = next(folder for folder in SUPPORT.parents if (folder / "pyproject.toml").is_file())
"""Of the repository."""
GOLDEN = ROOT / "tests" / "golden"
"""Expected results that were made once and are kept."""
_CHOSEN = os.environ.get("EGOLIVE_REAL", "")
REAL = Path(_CHOSEN).absolute() if _CHOSEN else ROOT.parent / "shared" / "real"
"""Recorded videos, pictures, annotations and answers, which are not in the repository."""
if _CHOSEN and not REAL.is_dir():
    raise FileNotFoundError(f"EGOLIVE_REAL is {_CHOSEN}, and that is not a folder")

needs_real = pytest.mark.skipif(
    not REAL.is_dir(),
    reason="no recorded material: EGOLIVE_REAL is not set, and ../shared/real is not beside the repository",
)
"""Skips a test where the recorded material is not at hand. Where it is, a file that is missing fails."""


def real_files(folder: str) -> list[Path]:
    """All files below a folder of the recorded material, in order; none where it is not at hand.

    Raises:
        FileNotFoundError: The material is there, and this folder is not or is empty.
    """
    if not REAL.is_dir():
        return []
    found = sorted(path for path in (REAL / folder).rglob("*") if path.is_file())
    if not found:
        raise FileNotFoundError(f"there is no file below {REAL / folder}")
    return found
