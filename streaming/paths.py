"""Whether any text names something on this machine; texts that cannot be a path are no error.

A question, base64 or bytes of another encoding may stand where a path could: the file system then refuses the
text itself (too long, NUL, an unknown user behind "~"), with an exception of its own for each.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["existing_path"]


def existing_path(text: str | Path) -> Path | None:
    """The path that a text names, "~" expanded; None where nothing is there or the text cannot be a path.

    Example:
        >>> existing_path("x" * 10_000) is None
        True
    """
    try:
        path = Path(text).expanduser()
        return path if str(text) and path.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None
