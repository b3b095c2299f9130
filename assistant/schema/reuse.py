"""Which work of earlier questions a session uses again; each kind can be switched off to measure its gain."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FULL_REUSE", "NO_REUSE", "Reuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """All of it is exact: with any of them off the answers are the same tokens, but for ties in rounding."""

    slices: bool = True
    """Encode a slice or picture once for all windows and questions that hold it."""
    prefix: bool = True
    """Keep what was read of the newest windows and picture, and of the text before them, from one `ask` to
    the next."""
    together: bool = True
    """Read what the requests of one `ask` share once for all of them, and decode them side by side."""
    draft: bool = True
    """Propose the last answer under the same key and check it in one pass, in place of token by token."""


FULL_REUSE = Reuse()
"""What a session does unless told otherwise."""
NO_REUSE = Reuse(slices=False, prefix=False, together=False, draft=False)
"""The naive loop: each request by itself, from its pixels to its last token."""
