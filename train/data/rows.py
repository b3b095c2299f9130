"""The row format of all training and evaluation data, and the JSON forms that it is read from.

A row is what is shown (pictures, a stretch of a video, or one frame of it) and either a conversation or one
question with its true answer. Read are the published forms:

- conversations: `{"conversations": [{"from", "value"}, ...], "image" | "video", "start", "end"}`;
- boxes: `{"path", "object", "gt"}`, or with a `"box"` in pixels (null: not there) and the picture's `"size"`;
  with `"time"`, the path is a video and the picture its frame at that second;
- intervals: `{"video" | "vid", "question", "start", "end"}`, where `"clip": [s, e]` names a stretch of a
  longer video; seconds count from the start of the file, an event that is not there has null for both ends;
- words: `{"video", "clip", "task", "text"}` for intent, next step and free questions (`"question"`);
- both in one: `{"type": "visor" | "egoexo", "video_path", ...}`.

Files of rows are read in `row_files`, pixels in `row_media`.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.coordinates import Size
from egolive.streaming.errors import DataError
from egolive.streaming.frames import Box, Interval

__all__ = ["BoxUnit", "Row", "RowError", "Tally", "Turn", "row_from_dict"]

_LOGGER = logging.getLogger(__name__)
_TOLD = 5
"""Broken rows of a kind that are told one by one; the others are only counted."""
_SHORTEST = 0.5
"""Seconds of video that a conversation shows at least."""
_THOUSAND: Size = (1000, 1000)

BoxUnit = Literal["pixels", "norm1", "norm1000"]
"""What the numbers of a published `gt` count; its file does not say."""


class RowError(DataError):
    """A row that cannot be used: where it stands, a reason to count it by, and what exactly was found."""

    def __init__(self, where: str, reason: str, found: str = "") -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"{where}: {reason}" + (f" ({found})" if found else ""))


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; `<image>` and `<video>` stand where pictures are shown."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Something to see, with a conversation about it or one question and its true answer."""

    where: str
    """File and number, for reports."""
    images: tuple[str, ...] = ()
    """Paths of pictures."""
    videos: tuple[str, ...] = ()
    """Paths of videos."""
    stretch: Interval | None = None
    """The part of the video that is shown, seconds of the file; None: all of it."""
    chunked: bool = False
    """The video is a folder of files of 15 s each, 0000.mp4, 0001.mp4, ..., as EgoThinker keeps Ego4D."""
    time: float | None = None
    """The one frame of the video that is shown, as a picture; seconds of the file."""
    turns: tuple[Turn, ...] = ()
    """A conversation; empty where there is a question."""
    question: Question | None = None
    text: str = ""
    """True answer in words, where the question is about neither a place nor a time."""
    box: Box | None = None
    """True box in pixels of a picture of `size`; None also where the thing is not there."""
    size: Size | None = None
    """Width and height of the picture that the box is in; None: those of the picture itself."""
    interval: Interval | None = None
    """True interval in seconds from the start of what is shown; None also where the event is not there."""


@dataclass(slots=True)
class Tally:
    """Counts the rows that could not be used, by reason."""

    good: int = 0
    broken: Counter[str] = field(default_factory=Counter)

    def add(self, error: RowError) -> None:
        """Count a broken row; the first few of a reason are logged."""
        self.broken[error.reason] += 1
        if self.broken[error.reason] <= _TOLD:
            _LOGGER.warning("left out: %s", error)

    def __str__(self) -> str:
        broken = [f"{count} left out: {reason}" for reason, count in self.broken.most_common()]
        return "; ".join([f"{self.good} rows", *broken])


def row_from_dict(values: object, *, where: str, unit: BoxUnit = "pixels") -> Row:
    """Read one JSON object as a row.

    Args:
        values: the object.
        where: file and number, for messages.
        unit: of a published `gt`; a `box` is always in pixels.

    Raises:
        RowError: it is of none of the known forms, or something in it cannot be right.
    """
    if not isinstance(values, Mapping):
        raise RowError(where, "a row is a JSON object", type(values).__name__)
    try:
        if "conversations" in values:
            return _conversation(values, where)
        if "object" in values and values.get("type") != "egoexo":
            return _grounding(values, where, unit)
        if "task" in values:
            return _worded(values, where)
        if "question" in values:
            return _temporal(values, where)
    except RowError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        raise RowError(where, "a value is missing or of the wrong kind", str(error)) from error
    raise RowError(where, "neither a conversation, nor a box, nor an interval")


def _conversation(values: Mapping[str, Any], where: str) -> Row:
    roles: dict[object, Literal["system", "user", "assistant"]] = {
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "assistant": "assistant",
    }
    turns = []
    for said in values["conversations"]:
        role = roles.get(said["from"] if "from" in said else said["role"])
        text = said["value"] if "value" in said else said["content"]
        if role is None or not isinstance(text, str):
            raise RowError(where, "a turn without its speaker (human or gpt) or its words")
        # With its header an answer's leading line break would become one token, and go unlearned.
        turns.append(Turn(role, text.strip() if role == "assistant" else text))
    if not turns or turns[-1].role != "assistant" or not turns[-1].text:
        raise RowError(where, "the conversation does not end with an answer")
    if not any(turn.role == "user" for turn in turns):
        raise RowError(where, "the conversation has no question")
    image: Any = values.get("image")
    video: Any = values.get("video")
    # Multiple-choice rows of EgoExoLearn name their video inside the image.
    if isinstance(image, Mapping):
        image, video = image.get("image"), image.get("video", video)
    row = Row(
        where=where,
        images=_paths(image, where),
        videos=_paths(video, where),
        stretch=_shown(values.get("start"), values.get("end"), where),
        chunked=bool(values.get("chunked")),
        turns=tuple(turns),
    )
    for kind, paths in (("<image>", row.images), ("<video>", row.videos)):
        places = sum(turn.text.count(kind) for turn in turns)
        # With no place at all, what is shown comes first.
        if places and places != len(paths):
            raise RowError(where, "other pictures than its words show", f"{places} and {len(paths)}")
    return row


def _grounding(values: Mapping[str, Any], where: str, unit: BoxUnit) -> Row:
    path = values.get("path", values.get("video_path"))
    if not path:
        raise RowError(where, "no path of a picture")
    time = values.get("time")
    published = "box" not in values
    corners = values["gt"] if published else values["box"]
    size: Size | None = None
    if values.get("size"):
        width, height = values["size"]
        size = (int(width), int(height))
    if published and unit != "pixels":
        size = _THOUSAND
        corners = [value * (1000 if unit == "norm1" else 1) for value in corners]
    return Row(
        where=where,
        images=() if time is not None else (str(path),),
        videos=(str(path),) if time is not None else (),
        time=None if time is None else float(time),
        question=Question("ground", str(values["object"]).strip()),
        box=None if corners is None else _box(corners, size, where),
        size=size,
    )


def _temporal(values: Mapping[str, Any], where: str) -> Row:
    video = values.get("video", values.get("vid", values.get("video_path")))
    if not video:
        raise RowError(where, "no path of a video")
    clip = values.get("clip")
    stretch = _stretch(clip[0], clip[1], where) if clip else None
    truth = _stretch(values["start"], values["end"], where)
    if truth is not None and stretch is not None:
        if truth.end <= stretch.start or truth.start >= stretch.end:
            raise RowError(where, "the event lies outside the clip that is shown")
        first, last = max(truth.start, stretch.start), min(truth.end, stretch.end)
        truth = Interval(first, last).shift(-stretch.start)
    question = Question("when", str(values["question"]).strip())
    return Row(where=where, videos=(str(video),), stretch=stretch, question=question, interval=truth)


def _worded(values: Mapping[str, Any], where: str) -> Row:
    question = Question(values["task"], str(values.get("question", "")).strip())
    text = str(values["text"]).strip()
    if question.task not in ("intent", "next", "ask") or not text:
        raise RowError(where, "no words to answer with, or not a task that is answered in words")
    clip = values.get("clip")
    stretch = _stretch(clip[0], clip[1], where) if clip else None
    return Row(
        where=where, videos=_paths(values["video"], where), stretch=stretch, question=question, text=text
    )


def _box(corners: Any, size: Size | None, where: str) -> Box:
    if len(corners) != 4 or not all(isinstance(value, int | float) for value in corners):
        raise RowError(where, "a box is four numbers")
    x1, y1, x2, y2 = (float(value) for value in corners)
    box = Box(x1, y1, x2, y2)
    if not all(math.isfinite(value) for value in box) or box.area <= 0:
        raise RowError(where, "the box is empty or its corners are in the wrong order")
    if size is not None and (box.x1 < 0 or box.y1 < 0 or box.x2 > size[0] or box.y2 > size[1]):
        raise RowError(where, "the box reaches out of the picture")
    return box


def _stretch(start: float | None, end: float | None, where: str) -> Interval | None:
    """A stretch of time; None where neither end is given."""
    if start is None and end is None:
        return None
    if start is None or end is None or not (0 <= float(start) < float(end) < math.inf):
        raise RowError(where, "a stretch of time ends before it starts", f"{start} to {end} s")
    return Interval(float(start), float(end))


def _shown(start: float | None, end: float | None, where: str) -> Interval | None:
    """The part of a video that a conversation is about; at least half a second, as EgoThinker cuts it."""
    if start is not None and end is not None and 0 <= end - start < _SHORTEST:
        end = start + _SHORTEST
    return _stretch(start, end, where)


def _paths(value: object, where: str) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(path, str) and path for path in value):
        return tuple(value)
    raise RowError(where, "paths of pictures and videos are texts")
