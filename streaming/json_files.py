"""JSON files and their lines: written in one way, checked by pydantic models when they are read.

What does not fit its model is a `DataError` of one line: file, field, what is wrong, what to do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from egolive.streaming.errors import DataError

__all__ = ["AtLeastOne", "Count", "JsonModel", "Positive", "Seconds", "json_bytes", "parse_json", "read_json"]

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


def parse_json(model: type[M], data: str | bytes, *, where: str, remedy: str) -> M:
    """Check JSON text.

    Args:
        model: What it has to fit.
        data: The text.
        where: Names it in the error.
        remedy: What to do where it does not fit.

    Raises:
        DataError: It is no JSON, or does not fit.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise DataError(f"{where} ({_problem(error)}); {remedy}") from None


def read_json(model: type[M], path: Path, *, kind: str, remedy: str) -> M:
    """Read a JSON file and check it.

    Args:
        model: What it has to fit.
        path: The file.
        kind: What it is called in the error: "recording", "bundle".
        remedy: What to do where it cannot be read or does not fit.

    Raises:
        DataError: It cannot be read, or does not fit.
    """
    where = f"{path}: no {kind} that can be read"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{where} ({error.strerror or error}); {remedy}") from error
    return parse_json(model, data, where=where, remedy=remedy)


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong, in one line: its field, and why. A wrong format number comes first."""
    problems = error.errors(include_url=False, include_context=False)
    for problem in problems:
        if problem["loc"] == ("format",) and problem["type"] == "literal_error":
            return f"format {problem['input']!r:.20}, which another egolive wrote"
    field = ".".join(map(str, problems[0]["loc"]))
    message = " ".join(problems[0]["msg"].removeprefix("Value error, ").split())
    return f"{field}: {message}" if field else message
