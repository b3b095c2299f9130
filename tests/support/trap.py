"""A program in a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)
