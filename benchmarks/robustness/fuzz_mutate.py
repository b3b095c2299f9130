"""Bad input of every kind, made from good input: text, bytes and JSON with pieces missing, doubled or absurd.

All choices come from one `random.Random`, so that an input can be made again from its seed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

__all__ = ["mutate_bytes", "mutate_json", "mutate_text"]

_SCRAPS = [
    *"<>[]{}(),:\"'\\\n\0-./|%~@?#\t",
    *("9" * 40, "1e999", "-0", "NaN", "Infinity", "0x1f", "\u0663", "\u00bd", "\u202e", "\ud800", "\x1b["),
    *("none", "null", "true", "to", "<think>", "</think>", "<answer>", "</answer>", "<|box_start|>"),
    *("<|box_end|>", "<box>", "```json", "(1,2),(3,4)", "[1, 2, 3, 4]", "00:02", "2.5 s", " " * 50),
    *("&x *x", "!!python/x", "..", "~nobody", "://", "\u00e9" * 300),
]
_ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**70, 0.5, -1.5, float("inf"), float("nan"), "", " ", "x" * 1000),
    *("\0", "../up", "/dev/null", "nano", "1", [], {}, [[]], [None], ["a", "b"], {"a": 1}, {"": None}),
]


def mutate_text(text: str, random: Random, others: Sequence[str] = ()) -> str:
    """The text with one to five changes.

    Args:
        text: Good input.
        random: Makes all choices.
        others: Further good inputs, of which pieces are put in.
    """
    for _ in range(random.randint(1, 5)):
        start, end = _stretch(len(text), random)
        pieces: list[Callable[[], str]] = [
            lambda: "",
            lambda start=start, end=end, text=text: text[start:end] * random.randint(2, 4),  # type: ignore[misc]
            lambda: random.choice(_SCRAPS),
            lambda: str(random.randint(-10, 2000)),
            lambda: chr(random.randint(0, 0x2FFF)) * random.randint(1, 3),
            lambda: _piece(random.choice(others), random) if others else "",
        ]
        text = text[:start] + random.choice(pieces)() + text[end if random.random() < 0.7 else start :]
    return text


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """The bytes cut off, or with some of them changed, left out or put in."""
    if random.random() < 0.2:
        return data[: random.randint(0, len(data))]
    changed = bytearray(data)
    for _ in range(random.randint(1, 8)):
        place = random.randrange(len(changed) + 1)
        kind = random.random()
        if kind < 0.6 and place < len(changed):
            changed[place] = random.randrange(256)
        elif kind < 0.8:
            del changed[place : place + random.randint(1, 20)]
        else:
            changed[place:place] = random.randbytes(random.randint(1, 8))
    return bytes(changed)


def mutate_json(value: Any, random: Random) -> Any:
    """The value with one to three of its parts replaced, renamed, left out or doubled."""
    value = copy.deepcopy(value)
    for _ in range(random.randint(1, 3)):
        value = _changed(value, random)
    return value


def _changed(value: Any, random: Random) -> Any:
    """One change, at the value itself or, more often, deeper inside."""
    if not isinstance(value, dict | list) or not value or random.random() < 0.1:
        return copy.deepcopy(random.choice(_ODD))
    key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
    kind = random.random()
    if kind < 0.7:
        value[key] = _changed(value[key], random)
    elif kind < 0.85:
        del value[key]
    elif isinstance(value, dict):
        value[random.choice(["", "x", f"{key}2"])] = value.pop(key)
    else:
        value.append(copy.deepcopy(value[key]))
    return value


def _piece(text: str, random: Random) -> str:
    start, end = _stretch(len(text), random)
    return text[start:end]


def _stretch(length: int, random: Random) -> tuple[int, int]:
    """Some stretch of a text, short ones more often."""
    start = random.randint(0, length)
    return start, min(length, start + int(min(1e4, random.expovariate(1 / 12))))
