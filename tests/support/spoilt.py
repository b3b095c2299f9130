"""Hypothesis strategies that spoil good input: text, bytes and JSON with parts missing, doubled or absurd."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

__all__ = ["spoilt_bytes", "spoilt_json", "spoilt_json_text", "spoilt_text"]

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


@st.composite
def spoilt_text(draw: st.DrawFn, good: Sequence[str]) -> str:
    """One of the good texts with one to five pieces left out, repeated, replaced or put in."""
    text: str = draw(st.sampled_from(good))
    for _ in range(draw(st.integers(1, 5))):
        start, end = _part(draw, len(text))
        other = draw(st.sampled_from(good))
        piece = draw(
            st.one_of(
                st.sampled_from(_SCRAPS),
                st.sampled_from(["", text[start:end] * draw(st.integers(2, 4))]),
                st.integers(-10, 2000).map(str),
                st.characters(max_codepoint=0x2FFF),
                st.just(other[slice(*_part(draw, len(other)))]),
            )
        )
        text = text[:start] + piece + text[draw(st.sampled_from([start, end])) :]
    return text


@st.composite
def spoilt_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """The bytes cut off, or with one to eight stretches of them replaced by others."""
    if draw(st.integers(0, 4)) == 0:
        return good[: draw(st.integers(0, len(good)))]
    for _ in range(draw(st.integers(1, 8))):
        start, end = _part(draw, len(good))
        good = good[:start] + draw(st.binary(max_size=end - start + 4)) + good[end:]
    return good


@st.composite
def spoilt_json(draw: st.DrawFn, good: Any) -> Any:
    """The value with one to three of its parts replaced, renamed, left out or doubled."""
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    return value


def spoilt_json_text(good: str) -> st.SearchStrategy[bytes]:
    """A JSON text with something wrong in its characters, or in the value that they write."""
    return st.one_of(spoilt_json(json.loads(good)).map(json.dumps), spoilt_text([good])).map(
        lambda text: text.encode(errors="surrogatepass")
    )


def _changed(draw: st.DrawFn, value: Any) -> Any:
    """One change, at the value itself or, more often, deeper inside."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 9)) == 0:
        return copy.deepcopy(draw(st.sampled_from(_ODD)))
    key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
    change = draw(st.sampled_from(["inside", "inside", "inside", "remove", "other"]))
    if change == "inside":
        value[key] = _changed(draw, value[key])
    elif change == "remove":
        del value[key]
    elif isinstance(value, dict):
        value[draw(st.sampled_from(["", "x", f"{key}2"]))] = value.pop(key)
    else:
        value.append(copy.deepcopy(value[key]))
    return value


def _part(draw: st.DrawFn, length: int) -> tuple[int, int]:
    """Start and end of some part, short ones more often."""
    start = draw(st.integers(0, length))
    longest = draw(st.sampled_from([4, 12, 12, 40, length]))
    return start, min(length, start + draw(st.integers(0, longest)))
