"""EPIC-KITCHENS VISOR's sparse masks as grounding rows: hands, held objects, and all other objects.

A row is a frame and a phrase: "left hand", "object in the left hand", or a thing's name, with the box round
its mask. A glove that is worn counts as the hand; of a frame with one glove on both hands neither the hands
nor what they hold can be told. Known errata: gloves without relation fields say nothing of contact;
"rigth hand" is read as "right hand"; wrong relations are replaced from the correction file that comes with
VISOR-HOS. The annotations are CC BY-NC 4.0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egolive.assistant.schema.coordinates import Size
from egolive.streaming.errors import DataError
from egolive.streaming.frames import Box
from egolive.streaming.json_files import read_json_value
from egolive.train.data.rows import RowError, Tally

__all__ = ["SPARSE_SIZE", "read_visor"]

SPARSE_SIZE: Size = (1920, 1080)
"""Width and height of the frames that the sparse masks are drawn on; the dense ones are on (854, 480)."""
SIDES = ("left hand", "right hand")
_MOST_BYTES = 1024**3
"""Of a file of a data set, which its user has chosen."""
_HANDS = {300: "left hand", 301: "right hand"}
_GLOVES = {303: "left hand", 304: "right hand"}
_GLOVE = 60
"""Class of gloves in general; only those that are on a hand count as one."""
_FREE = frozenset({"hand-not-in-contact", "glove-not-in-contact"})
"""What a relation says of a free hand; "inconclusive" and "none-of-the-above" say that it is not known."""
_SLACK = 2.0
"""Pixels that a mask may reach over the edge of its frame."""

Errata = Mapping[str, Mapping[str, str]]
"""Frame name to hand to the annotation that it really touches."""


@dataclass(frozen=True, slots=True)
class _Thing:
    """One annotated thing of a frame."""

    name: str
    kind: int
    box: Box
    worn_on: frozenset[str]
    """The hands that this is, or that this glove is worn on."""
    touches: str | None
    """Annotation that a hand touches, or one of the words for none and not known."""


def read_visor(
    paths: Sequence[Path], tally: Tally, *, errata: Path | None = None, size: Size = SPARSE_SIZE
) -> Iterator[dict[str, Any]]:
    """Rows of VISOR's annotation files, as JSON objects.

    For each frame: both hands (null where one is not in the frame: all hands in a frame are annotated), what
    each hand in the frame holds (null where it is free; no row where that is not known), and every thing
    whose name occurs once in the frame. One glove on both hands, such as oven gloves that are sewn together,
    has one mask: its frame has no rows of hands and what they hold, as VISOR-HOS measures none on it.

    Args:
        paths: one JSON file a video.
        tally: counts rows, and frames and annotations that cannot be used, among them gloves on both hands.
        errata: `data_preparation/correct.json` of VISOR-HOS: relations that are wrong in the annotations.
        size: width and height of the frames that the masks are drawn on.

    Raises:
        DataError: a file cannot be read or is not VISOR's.
    """
    corrected = _errata(errata) if errata else {}
    for path in paths:
        try:
            frames = list(_json(path)["video_annotations"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: not an annotation file of VISOR") from error
        for number, frame in enumerate(frames, start=1):
            try:
                name = str(frame["image"]["name"])
                picture = f"{frame['image']['video']}/{name}"
                listed = list(frame["annotations"])
            except (KeyError, TypeError):
                where = f"{path.name}, frame {number}"
                tally.add(RowError(where, "a frame without a name, a video or annotations"))
                continue
            annotations = _whole(listed, f"{path.name}, {name}", tally)
            things = _things(annotations, name, size, tally)
            complete = len(things) == len(listed)
            shared = [found["id"] for found in annotations if _on_both(found)]
            for glove in shared:
                tally.add(
                    RowError(f"{name} {glove}", "a glove on both hands, so no rows of hands in its frame")
                )
            for phrase, box in _phrases(things, corrected.get(name, {}), SIDES if not shared else ()):
                if box is None and not complete:
                    # What was left out may be the very thing.
                    continue
                tally.good += 1
                yield {
                    "path": picture,
                    "object": phrase,
                    "box": [round(value, 1) for value in box] if box else None,
                    "size": list(size),
                }


def _whole(listed: Sequence[Any], where: str, tally: Tally) -> list[Mapping[str, Any]]:
    """The annotations that have what every one has; masks are looked at later."""
    whole: list[Mapping[str, Any]] = []
    for number, found in enumerate(listed, start=1):
        if (
            isinstance(found, dict)
            and {"id", "name", "segments"} <= found.keys()
            and str(found.get("class_id")).isdecimal()
            and isinstance(found.get("in_contact_object"), str | None)
        ):
            whole.append(found)
        else:
            reason = "an annotation whose id, class_id, name, segments or in_contact_object cannot be right"
            tally.add(RowError(f"{where}, annotation {number}", reason))
    return whole


def _things(
    annotations: Sequence[Mapping[str, Any]], frame: str, size: Size, tally: Tally
) -> dict[str, _Thing]:
    """The things of a frame by their annotation's number."""
    things = {}
    for found in annotations:
        kind = int(found["class_id"])
        try:
            box = _hull(found["segments"], f"{frame} {found['id']}", size)
        except RowError as error:
            tally.add(error)
            continue
        worn = {_HANDS[kind]} if kind in _HANDS else set()
        if kind in _GLOVES:
            worn = _sides(found.get("on_which_hand")) or {_GLOVES[kind]}
        elif kind == _GLOVE:
            worn = _sides(found.get("on_which_hand"))
        name = str(found["name"]).strip().lower().replace(":", " ")
        things[str(found["id"])] = _Thing(name, kind, box, frozenset(worn), found.get("in_contact_object"))
    return things


def _phrases(
    things: Mapping[str, _Thing], corrected: Mapping[str, str], sides: Sequence[str]
) -> Iterator[tuple[str, Box | None]]:
    """What can be asked of a frame with its known sides, each with its box, None where it is not there."""
    for side in sides:
        parts = [thing for thing in things.values() if side in thing.worn_on]
        yield side, _union([thing.box for thing in parts]) if parts else None
        touched = {corrected.get(side) or thing.touches for thing in parts}
        # A gloved hand touches its glove; what the glove touches is what is held.
        touched -= {number for number, thing in things.items() if side in thing.worn_on}
        held = [thing for number, thing in things.items() if number in touched]
        if len(held) == 1:
            yield f"object in the {side}", held[0].box
        elif touched and touched <= _FREE:
            yield f"object in the {side}", None
    names = [thing.name for thing in things.values()]
    for thing in things.values():
        if not thing.worn_on and names.count(thing.name) == 1:
            yield thing.name, thing.box


def _on_both(found: Mapping[str, Any]) -> bool:
    """Whether this is one glove on two hands; two entries are that, whatever else is misspelt in them."""
    hands = found.get("on_which_hand")
    return int(found["class_id"]) in {*_GLOVES, _GLOVE} and isinstance(hands, list) and len(hands) > 1


def _sides(value: object) -> set[str]:
    """The hands that a glove is worn on, the known misspelling mended; empty where that is not told."""
    words = value if isinstance(value, list) else [value]
    return {str(word).replace("rigth", "right") for word in words} & set(SIDES)


def _hull(segments: Sequence[Any], where: str, size: Size) -> Box:
    """The box round all polygons of a mask, cut to the frame."""
    try:
        points = [point for polygon in segments for point in polygon]
        xs, ys = [float(point[0]) for point in points], [float(point[1]) for point in points]
    except (TypeError, ValueError, IndexError, KeyError):
        raise RowError(where, "a mask that is no list of points") from None
    if not all(map(math.isfinite, (*xs, *ys))):
        raise RowError(where, "a mask that is no list of points")
    if len(points) < 3 or max(xs) <= min(xs) or max(ys) <= min(ys):
        raise RowError(where, "a mask without an area")
    if min(*xs, *ys) < -_SLACK or max(xs) > size[0] + _SLACK or max(ys) > size[1] + _SLACK:
        raise RowError(where, "a mask that reaches out of its frame")
    return Box(max(0.0, min(xs)), max(0.0, min(ys)), min(max(xs), size[0]), min(max(ys), size[1]))


def _union(boxes: Sequence[Box]) -> Box:
    return Box(
        min(box.x1 for box in boxes),
        min(box.y1 for box in boxes),
        max(box.x2 for box in boxes),
        max(box.y2 for box in boxes),
    )


def _errata(path: Path) -> Errata:
    found = _json(path)
    if not isinstance(found, dict) or not all(isinstance(hands, dict) for hands in found.values()):
        raise DataError(f"{path}: not VISOR-HOS's correct.json, which names frames and in each the hands")
    return found


def _json(path: Path) -> Any:
    return read_json_value(
        path, remedy="give the file as it comes with the data set", most=_MOST_BYTES, nan=True
    )
