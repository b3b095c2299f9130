"""JSON from files and requests: written in one way, read in one way that takes nothing on trust.

All JSON that may come from others is read here. Before anything is made of it, it is limited in bytes, in
depth (200 levels) and in the number of its values, which in Python take up to 30 times their bytes. A key
that stands twice, NaN, an infinite number, a number of thousands of digits and text that is no UTF-8 are
errors.
What cannot be read or does not fit its model is an error of one line: file, field, what is wrong, what to do.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from egolive.streaming.errors import DataError, EgoliveError, one_line

__all__ = [
    "MOST_BYTES",
    "AtLeastOne",
    "Count",
    "JsonModel",
    "Positive",
    "Seconds",
    "json_bytes",
    "json_object",
    "json_value",
    "parse_json",
    "read_at_most",
    "read_json",
    "read_json_object",
    "read_json_value",
]

MOST_BYTES = 4 * 1024**2
"""Of a JSON text, unless its reader expects more."""
_BYTES_A_VALUE = 32
"""There is at most one value for so many of the bytes that are allowed: 131072 in 4 MiB."""
_LONGEST_FIELD = 100
"""Characters of a field's name in an error."""

_MOST_SECONDS = 1e15
"""Beyond it milliseconds are lost in a float; no stream gets there."""

Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=-_MOST_SECONDS, le=_MOST_SECONDS)]
Positive = Annotated[float, Field(gt=0, le=_MOST_SECONDS)]
"""Seconds, or how often a second."""


class JsonModel(BaseModel):
    """Base of models of JSON: nothing is converted from one kind to another, numbers are finite.

    Keys that it does not know are ignored, so that a later version may add some.
    """

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=BaseModel)


def json_bytes(values: object, *, indent: int | None = 2) -> bytes:
    """Values as the text of a JSON file, in UTF-8; a lone surrogate, which that cannot hold, becomes "?"."""
    return (json.dumps(values, indent=indent, ensure_ascii=False) + "\n").encode(errors="replace")


def json_value(
    data: str | bytes,
    *,
    where: str,
    remedy: str,
    most: int = MOST_BYTES,
    nan: bool = False,
    error: type[EgoliveError] = DataError,
) -> Any:
    """Plain values from JSON text, such as a line of a file or the body of a request.

    Args:
        data: The text.
        where: Names it in the error.
        remedy: What to do where it cannot be read.
        most: Bytes that it may have.
        nan: Let NaN and infinite numbers pass: the caller checks numbers, and names the one that is wrong.
        error: What is raised.

    Raises:
        EgoliveError: As `error`: it is no JSON, or more of it than allowed.
    """
    try:
        return _strict(_limited(data, most), nan)
    except ValueError as problem:
        raise error(f"{where} ({one_line(problem)}); {remedy}") from None


def json_object(
    data: str | bytes,
    *,
    where: str,
    remedy: str,
    most: int = MOST_BYTES,
    nan: bool = False,
    error: type[EgoliveError] = DataError,
) -> dict[str, Any]:
    """As `json_value`, of text that has to be a JSON object."""
    return _object(
        json_value(data, where=where, remedy=remedy, most=most, nan=nan, error=error), where, remedy, error
    )


def read_json_value(
    path: Path,
    *,
    where: str | None = None,
    remedy: str,
    most: int = MOST_BYTES,
    nan: bool = False,
    error: type[EgoliveError] = DataError,
) -> Any:
    """Plain values from a JSON file.

    Args:
        path: The file.
        where: Names it in the error, in place of the path.
        remedy: What to do where it cannot be read.
        most: Bytes that it may have.
        nan: Let NaN and infinite numbers pass: the caller checks numbers, and names the one that is wrong.
        error: What is raised.

    Raises:
        EgoliveError: As `error`: it cannot be read, is no JSON, or is more of it than allowed.
    """
    where = where or f"{path} cannot be read as JSON"
    data = read_at_most(path, most, where=where, remedy=remedy, error=error)
    return json_value(data, where=where, remedy=remedy, most=most, nan=nan, error=error)


def read_json_object(
    path: Path,
    *,
    where: str | None = None,
    remedy: str,
    most: int = MOST_BYTES,
    nan: bool = False,
    error: type[EgoliveError] = DataError,
) -> dict[str, Any]:
    """As `read_json_value`, of a file that has to hold a JSON object."""
    where = where or f"{path} cannot be read as JSON"
    found = read_json_value(path, where=where, remedy=remedy, most=most, nan=nan, error=error)
    return _object(found, where, remedy, error)


def parse_json(
    model: type[M],
    data: str | bytes,
    *,
    where: str,
    remedy: str,
    most: int = MOST_BYTES,
    known: bool = False,
) -> M:
    """Check JSON text.

    Args:
        model: What it has to fit.
        data: The text.
        where: Names it in the error.
        remedy: What to do where it does not fit.
        most: Bytes that it may have.
        known: Whether `json_value` has read it before, so that only the model is left to be checked.

    Raises:
        DataError: It is no JSON, more of it than allowed, or does not fit.
    """
    try:
        data = _limited(data, most)
        found = model.model_validate_json(data)
        # After the model, which names the field: what it lets pass, such as NaN where it takes anything.
        if not known:
            _strict(data)
    except ValidationError as error:
        raise DataError(f"{where} ({_problem(error)}); {remedy}") from None
    except ValueError as error:
        raise DataError(f"{where} ({one_line(error)}); {remedy}") from None
    return found


def read_json(
    model: type[M], path: Path, *, kind: str, remedy: str, most: int = MOST_BYTES, links: bool = True
) -> M:
    """Read a JSON file and check it.

    Args:
        model: What it has to fit.
        path: The file.
        kind: What it is called in the error: "recording", "bundle".
        remedy: What to do where it cannot be read or does not fit.
        most: Bytes that it may have.
        links: Whether it may be a symbolic link.

    Raises:
        DataError: It cannot be read, or does not fit.
    """
    where = f"{path}: no {kind} that can be read"
    data = read_at_most(path, most, where=where, remedy=remedy, links=links)
    return parse_json(model, data, where=where, remedy=remedy, most=most)


def read_at_most(
    path: Path,
    most: int,
    *,
    where: str,
    remedy: str,
    links: bool = True,
    error: type[EgoliveError] = DataError,
) -> bytes:
    """The bytes of a plain file, if there are not too many; nothing else is opened for long, such as a pipe.

    Args:
        path: The file.
        most: Bytes that it may have.
        where: Names it in the error.
        remedy: What to do where it cannot be read.
        links: Whether it may be a symbolic link; in a folder of somebody else's, one can lead to any file.
        error: What is raised.

    Raises:
        EgoliveError: As `error`: it cannot be read, is no plain file, or has more bytes.
    """
    try:
        if not links and path.is_symlink():
            raise ValueError("a symbolic link")
        # Without waiting: to open a pipe to which nobody writes would never end.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ValueError("not a plain file")
            data = file.read(most + 1)
    except OSError as problem:
        raise error(f"{where} ({problem.strerror or one_line(problem)}); {remedy}") from problem
    except ValueError as problem:
        raise error(f"{where} ({one_line(problem)}); {remedy}") from None
    if len(data) > most:
        raise error(f"{where} (larger than {_size(most)}); {remedy}")
    return data


def _limited(data: str | bytes, most: int) -> bytes:
    """The text in UTF-8, without a byte-order mark.

    Raises:
        ValueError: It is too long, or holds too many values.
    """
    # Lone surrogates become what is no UTF-8, and so an error.
    data = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    if len(data) > most:
        raise ValueError(f"larger than {_size(most)}")
    # Too high where these characters stand in texts, never too low.
    if data.count(b",") + data.count(b"[") + data.count(b"{") > most // _BYTES_A_VALUE:
        raise ValueError(f"more than {most // _BYTES_A_VALUE} values")
    return data.removeprefix(b"\xef\xbb\xbf")


def _strict(data: bytes, nan: bool = False) -> Any:
    """The values of JSON.

    Raises:
        ValueError: It is none; or what some readers of JSON let pass and others do not.
    """
    try:
        # Limits the depth and the digits of a number, whatever depth the caller has reached in Python.
        from_json(data, allow_inf_nan=nan)
    except ValueError as error:
        raise ValueError(f"Invalid JSON: {error}") from None
    return json.loads(data.decode(), object_pairs_hook=_unique, parse_float=float if nan else _finite)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r:.60} stands twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text:.20} is out of range")
    return number


def _object(found: Any, where: str, remedy: str, error: type[EgoliveError]) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise error(f"{where} (it is no JSON object); {remedy}")
    return found


def _size(count: int) -> str:
    return f"{count / 1024**2:.3g} MiB" if count >= 1024**2 else f"{count / 1024:.3g} KiB"


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong, in one line: its field, and why. A wrong format number comes first."""
    problems = error.errors(include_url=False, include_context=False)
    for problem in problems:
        if problem["loc"] == ("format",) and problem["type"] == "literal_error":
            return f"format {problem['input']!r:.20}, which another egolive wrote"
    # A key of somebody else's may be of any length, and hold what a terminal obeys.
    field = ".".join(map(str, problems[0]["loc"]))[:_LONGEST_FIELD]
    field = "".join(one if one.isprintable() else "?" for one in field)
    message = one_line(problems[0]["msg"].removeprefix("Value error, "))
    return f"{field}: {message}" if field else message
