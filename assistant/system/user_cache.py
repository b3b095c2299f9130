"""Where egolive keeps what can be made again: the user's own cache folder."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """`egolive` in `$XDG_CACHE_HOME`, or in `~/.cache` without it; it may not be there yet."""
    # What is not absolute is to be ignored, as the specification of the variable says.
    named = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (named if named.is_absolute() else Path.home() / ".cache") / "egolive"
