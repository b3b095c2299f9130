"""The shape of a JSON value: its keys, and the kind of each value; and what is missing of a frozen one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

FREE = {"drops", "requests", "audits", "versions", "files", "parity"}
"""Objects whose keys are names that depend on the run; only the shape of their values counts."""
LEAVES = {"machine"}
"""Objects of which the values depend on the machine; only their own keys count."""


def shape(value: Any, name: str = "", free: frozenset[str] = frozenset()) -> Any:
    """Objects by key, lists by their merged items, "number", "text", "boolean" or "null" at the leaves.

    Args:
        value: Plain JSON.
        name: Its key.
        free: More names of objects like those in `FREE`.
    """
    if isinstance(value, dict):
        if name in LEAVES:
            return dict.fromkeys(value, "any")
        shapes = {key: shape(one, key, free) for key, one in value.items()}
        return {"*": merged(shapes.values())} if name in FREE | free else shapes
    if isinstance(value, list):
        return [merged(shape(one, "", free) for one in value)] if value else []
    if isinstance(value, bool):
        return "boolean"
    if value is None:
        return "null"
    return "number" if isinstance(value, int | float) else "text"


def merged(shapes: Iterable[Any]) -> Any:
    """The shape of what is now one of these and now another; objects and lists outweigh the rest."""
    whole: Any = None
    for one in shapes:
        whole = one if whole is None else _both(whole, one)
    return "any" if whole is None else whole


def _both(a: Any, b: Any) -> Any:
    if "any" in (a, b):
        return "any"
    for kind in (dict, list):
        if isinstance(a, kind) != isinstance(b, kind):
            return a if isinstance(a, kind) else b
    if isinstance(a, dict):
        return {key: _both(a[key], b[key]) if key in a and key in b else (a | b)[key] for key in a | b}
    if isinstance(a, list):
        return [_both(a[0], b[0])] if a and b else a or b
    return "|".join(sorted({*a.split("|"), *b.split("|")}))


def missing(frozen: Any, now: Any, where: str = "") -> list[str]:
    """What of a frozen shape is missing or of another kind now, one line each; additions are allowed."""
    # Of something that was null nothing is known.
    if frozen in ("any", "null") or now == "any":
        return []
    if isinstance(frozen, dict):
        if not isinstance(now, dict):
            return [f"{where}: was an object with {', '.join(frozen)}; is {_kind(now)}"]
        lines = []
        for key, inner in frozen.items():
            place = f"{where}.{key}" if where else key
            lines += missing(inner, now[key], place) if key in now else [f"{place}: is missing"]
        return lines
    if isinstance(frozen, list):
        if not isinstance(now, list):
            return [f"{where}: was a list; is {_kind(now)}"]
        return missing(frozen[0], now[0], f"{where}[]") if frozen and now else []
    if not isinstance(now, str) or not {*now.split("|")} <= {*frozen.split("|")}:
        return [f"{where}: was {frozen}; is {_kind(now)}"]
    return []


def extended(frozen: Any, now: Any) -> Any:
    """A frozen shape with the keys that are new; the rest of it stays as it is."""
    if isinstance(frozen, dict) and isinstance(now, dict):
        return {key: extended(frozen.get(key, now.get(key)), now.get(key)) for key in frozen | now}
    if isinstance(frozen, list) and isinstance(now, list):
        return [extended(frozen[0], now[0])] if frozen and now else frozen or now
    return now if frozen == "null" and now is not None else frozen


def _kind(shape: Any) -> str:
    if isinstance(shape, dict):
        return "an object"
    return "a list" if isinstance(shape, list) else str(shape)


def lost(frozen: Any, now: Any, where: str = "") -> list[str]:
    """What of frozen values is missing or differs now, one line each; additions are allowed."""
    if isinstance(frozen, dict) and isinstance(now, dict):
        lines = []
        for key, inner in frozen.items():
            place = f"{where}.{key}" if where else key
            lines += lost(inner, now[key], place) if key in now else [f"{place}: is missing"]
        return lines
    if (
        isinstance(frozen, list)
        and isinstance(now, list)
        and all(isinstance(one, str | dict) for one in frozen)
    ):
        return [f"{where}: {one} is missing" for one in frozen if one not in now]
    return [] if frozen == now else [f"{where}: was {frozen!r}, is {now!r}"]
