"""Whether any text names something on this machine; texts that cannot be a path are no error.

A question, base64 or bytes of another encoding may stand where a path could: the file system then refuses the
text itself (too long, NUL, an unknown user behind "~"), with an exception of its own for each.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["brief", "existing_path", "without_file_scheme"]

_LONGEST_SHOWN = 200
"""Characters of a user's text that a message repeats."""
_DATA_SHOWN = 8
"""Characters of data, such as a picture in base64, that a message repeats."""
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{100,}=?=?\s*")


def brief(text: str | Path) -> str:
    """A text as messages show it: on one line, and not all of it where it is long or holds data.

    Example:
        >>> brief("data:video/mp4;base64," + "AAAA" * 1000)
        'data:video/mp4;base64,AAAAAAAA... (4022 characters)'
    """
    text = str(text)
    most = _LONGEST_SHOWN
    if text.startswith("data:"):
        most = text.find(",", 0, most) + 1 + _DATA_SHOWN
    elif _BASE64.fullmatch(text) and " " not in text:
        most = _DATA_SHOWN
    shown = text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"
    return " ".join(shown.split())


def without_file_scheme(text: str) -> str:
    """The path that a `file://` address names; every other text as it is."""
    if not text.startswith("file://"):
        return text
    try:
        return unquote(urlsplit(text).path)
    except ValueError:
        # Brackets that are no address of a host.
        return unquote(text.removeprefix("file://"))


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
