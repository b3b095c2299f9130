"""Values that came from JSON, checked before they are believed: another hand may have written the file."""

from __future__ import annotations

import math
from typing import Any, TypeVar

__all__ = ["above_zero", "count", "of_kind", "seconds"]

V = TypeVar("V")

_MOST = 1e15
"""Seconds beyond which milliseconds are lost in a float; no stream gets there."""


def of_kind(value: Any, kind: type[V]) -> V:
    """The value, where it is of this kind; true and false are no numbers.

    Raises:
        TypeError: It is of another.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{kind.__name__} is expected in place of {type(value).__name__}")
    return value


def count(value: Any, *, least: int = 0) -> int:
    """A whole number, `least` or more.

    Raises:
        TypeError: It is none.
        ValueError: It is smaller.
    """
    if of_kind(value, int) < least:
        raise ValueError(f"{value} is too small")
    return int(value)


def seconds(value: Any) -> float:
    """A finite number.

    Raises:
        TypeError: It is no number.
        ValueError: It is not finite, or absurd.
    """
    if not isinstance(value, float):
        of_kind(value, int)
    number = float(value) if abs(value) < _MOST else math.inf
    if not math.isfinite(number):
        raise ValueError(f"{number} is no time")
    return number


def above_zero(value: Any) -> float:
    """A finite number above 0; raises as `seconds` does."""
    if not (number := seconds(value)) > 0:
        raise ValueError(f"{number} is not above 0")
    return number
