"""Evaluation examples: rows with a known answer, in all published forms, each with its kind.

The kinds: a box (`ground`), an interval (`when`), an option (`choice`), yes or no (`exists`), words
(`words`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from egolive.train.data.choices import Choice, choice_from_dict, yes_or_no_from_dict
from egolive.train.data.row_files import RowMix
from egolive.train.data.rows import BoxUnit, Row, RowError, Tally, row_from_dict

__all__ = ["Example", "Kind", "examples_from_dict", "examples_in"]

Kind = Literal["ground", "when", "choice", "exists", "words"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One thing to ask, with what is shown and what is right."""

    id: str
    """Its name in a file of results."""
    kind: Kind
    row: Row
    """What is shown; for all but options, and yes or no, also the question and its answer."""
    text: str = ""
    """The whole question, where it is one with options or of yes or no."""
    options: Mapping[str, str] = field(default_factory=dict)
    letter: str = ""
    """The right option, or yes or no."""

    @property
    def shows(self) -> tuple[object, ...]:
        """Equal for examples that show the same: they can be asked together."""
        row = self.row
        return (row.images, row.videos, row.stretch, row.time, row.chunked)


def examples_in(mix: RowMix, tally: Tally) -> Iterator[Example]:
    """The examples of a mix of files; rows that cannot be used are counted."""
    for file_number, row_number in mix.order.tolist():
        file = mix.files[file_number]
        try:
            found = examples_from_dict(file.raw(row_number), where=file.where(row_number), unit=file.unit)
        except RowError as error:
            tally.add(error)
        else:
            yield from found


def examples_from_dict(values: object, *, where: str, unit: BoxUnit = "pixels") -> list[Example]:
    """What one JSON object of a file asks; a labelled picture asks several things.

    Raises:
        RowError: it is of no known form, has no answer that can be measured, or cannot be right.
    """
    if isinstance(values, Mapping):
        if "image" in values and isinstance(values.get("boxes"), list):
            return _labelled(values, where)
        choice = choice_from_dict(values, where=where)
        if choice is not None:
            return [_chosen(choice, "choice", where)]
        choice = yes_or_no_from_dict(values, where=where)
        if choice is not None:
            return [_chosen(choice, "exists", where)]
    row = row_from_dict(values, where=where, unit=unit)
    if row.question is None:
        raise RowError(where, "an open conversation, which has no measure")
    if row.question.task == "ground":
        return [Example(id=where, kind="ground", row=row)]
    return [Example(id=where, kind="when" if row.question.task == "when" else "words", row=row)]


def _chosen(choice: Choice, kind: Kind, where: str) -> Example:
    return Example(
        id=where,
        kind=kind,
        row=choice.row,
        text=choice.text,
        options=choice.options,
        letter=choice.letter,
    )


def _labelled(values: Mapping[str, Any], where: str) -> list[Example]:
    """A picture with labelled boxes: hands by their side, and the things that they hold."""
    asked: dict[str, object] = {}
    try:
        for box in values["boxes"]:
            if box["side"] not in ("left", "right", "both"):
                raise RowError(where, "a box is of the left or right hand, or of both", str(box["side"]))
            for side in ("left", "right") if box["side"] == "both" else (box["side"],):
                phrase = f"{side} hand" if box["label"] == "hand" else f"object in the {side} hand"
                if phrase in asked:
                    raise RowError(where, "two boxes for one question", phrase)
                asked[phrase] = box["xyxy"]
        shared = {"path": values["image"], "size": [values["width"], values["height"]]}
    except (KeyError, TypeError) as error:
        raise RowError(where, "a value is missing or of the wrong kind", str(error)) from error
    return [
        Example(
            id=f"{where}:{phrase}",
            kind="ground",
            row=row_from_dict({**shared, "object": phrase, "box": box}, where=where),
        )
        for phrase, box in asked.items()
    ]
