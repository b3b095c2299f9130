"""Sinks of a run: overlay video, events as JSON lines, callback. The terminal's is in `cli.terminal_view`.

`events.jsonl` is what other programs read; each line stands on its own and is written at once, so that a run
that is killed leaves a readable file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Protocol

from egolive.assistant.live.overlay import draw
from egolive.assistant.schema.answers import Answer
from egolive.streaming.durable_files import LineFile, MakeRoom
from egolive.streaming.errors import SinkError
from egolive.streaming.frames import Box, Frame, Image
from egolive.streaming.hands import Hand, Look
from egolive.streaming.metrics import known
from egolive.streaming.video_writer import VideoWriter

__all__ = [
    "CallbackSink",
    "EventSink",
    "Shown",
    "Sink",
    "VideoSink",
    "answer_event",
    "box_values",
    "hands_event",
]


class Shown:
    """One picture at the moment it is shown, with what is known by then."""

    def __init__(
        self,
        frame: Frame,
        answers: Sequence[Answer],
        new: Sequence[Answer] = (),
        *,
        late: Sequence[Answer] = (),
        looks: Sequence[Look] = (),
        hands: Sequence[Hand] = (),
        now: float | None = None,
        figures: str = "",
        governor: str = "",
        still_since: float | None = None,
    ) -> None:
        """Hold one picture and its answers.

        Args:
            frame: The picture.
            answers: The newest answer to each question, where it is in time.
            new: Those that have come in since the picture before.
            late: Those that came too late or had to make way, which are only written down.
            looks: What the hand detector has found since the picture before.
            hands: Its hands, where they are in this picture.
            now: Stream time in seconds; the frame's own without it.
            figures: The run in one line, for people.
            governor: What the governor chose and why, in one line; empty where the run is not governed.
            still_since: Stream time since which nothing has moved; None where something does.
        """
        self.frame = frame
        self.answers = tuple(answers)
        self.new = tuple(new)
        self.late = tuple(late)
        self.looks = tuple(looks)
        self.hands = tuple(hands)
        self.now = frame.time if now is None else now
        self.figures = figures
        self.governor = governor
        self.still_since = still_since

    @cached_property
    def picture(self) -> Image:
        """The picture with the answers drawn on it; drawn once, and only if somebody looks."""
        return draw(self.frame, self.answers, self.now, self.hands)


class Sink(Protocol):
    """Something that answers go to.

    One that looks at new answers alone may say `only_new = True`: where all do, no boxes are carried to now.
    """

    def emit(self, shown: Shown) -> None:
        """Take one picture and what is known.

        Raises:
            SinkError: It cannot be written.
        """
        ...

    def note(self, event: Mapping[str, object]) -> None:
        """Take an event that is no answer: a gap, a look for hands, a warning, a choice, metrics."""
        ...

    def close(self) -> None:
        """Finish; what was written stays."""
        ...


class CallbackSink:
    """Hands every new answer to a function."""

    only_new = True

    def __init__(self, function: Callable[[Answer], None]) -> None:
        self._function = function

    def emit(self, shown: Shown) -> None:
        """Call the function once for each new answer."""
        for answer in shown.new:
            self._function(answer)

    def note(self, event: Mapping[str, object]) -> None:
        """Events other than answers are not handed on."""

    def close(self) -> None:
        """Nothing to finish."""


class EventSink:
    """Writes events as JSON lines."""

    only_new = True

    def __init__(self, path: Path, *, make_room: MakeRoom | None = None) -> None:
        """Start a new file, in place of one that is there.

        Args:
            path: The file.
            make_room: Asked before a full disk counts as a failure.

        Raises:
            SinkError: The file cannot be written.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = LineFile(path, make_room=make_room)
        except OSError as error:
            raise SinkError(_unwritable(path, error)) from error

    def emit(self, shown: Shown) -> None:
        """Write one line for each new answer, and for those that came too late."""
        for answer in (*shown.new, *shown.late):
            self.note(answer_event(answer, shown.now))

    def note(self, event: Mapping[str, object]) -> None:
        """Write one line."""
        line = (json.dumps(known(event), ensure_ascii=False) + "\n").encode(errors="backslashreplace")
        try:
            self._file.write(line)
        except OSError as error:
            raise SinkError(_unwritable(self._path, error)) from error

    def close(self) -> None:
        """Close the file.

        Raises:
            SinkError: The disk did not keep it.
        """
        try:
            self._file.close()
        except OSError as error:
            raise SinkError(_unwritable(self._path, error)) from error


class VideoSink:
    """Writes the picture with its answers as a video, in the rhythm of the source."""

    def __init__(self, writer: VideoWriter) -> None:
        self._writer = writer

    def emit(self, shown: Shown) -> None:
        """Append one picture."""
        self._writer.write(shown.picture, shown.frame.time)

    def note(self, event: Mapping[str, object]) -> None:
        """Events have no place in a picture."""

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def answer_event(answer: Answer, now: float) -> dict[str, object]:
    """The answer as one JSON object.

    Args:
        answer: What the model said.
        now: Stream time in seconds at which it is shown.
    """
    window = answer.window
    return {
        "type": "answer",
        "status": answer.status,
        "t": round(answer.time, 4),
        "shown": round(now, 4),
        "age": round(now - answer.time, 4),
        "task": answer.question.task,
        "phrase": answer.question.phrase,
        "text": answer.text,
        "reasoning": answer.reasoning,
        "cut": answer.cut,
        "found": answer.found,
        "unknown": answer.unknown,
        "boxes": [box_values(box) for box in answer.boxes],
        "intervals": [[round(span.start, 3), round(span.end, 3)] for span in answer.intervals],
        "window": None if window is None else [round(window.start, 4), round(window.end, 4)],
        "approx": list(answer.approx),
        "timing": {name: round(value, 5) for name, value in asdict(answer.timing).items()},
        "usage": asdict(answer.usage),
        "score": None if answer.score is None else round(answer.score, 4),
        "calibrated": answer.calibrated,
        "unsure": answer.unsure,
        "familiarity": None if answer.familiarity is None else round(answer.familiarity, 4),
        "domain": answer.domain,
    }


def hands_event(look: Look, now: float) -> dict[str, object]:
    """What a hand detector found in a picture as one JSON object; no hands: it looked and saw none.

    Args:
        look: What it found.
        now: Stream time in seconds at which it is known.
    """
    return {
        "type": "hands",
        "by": "detector",
        "t": round(look.time, 4),
        "shown": round(now, 4),
        "age": round(now - look.time, 4),
        "hands": [
            box_values(hand.box) | {"landmarks": [[round(x, 1), round(y, 1)] for x, y in hand.landmarks]}
            for hand in look.hands
        ],
    }


def box_values(box: Box) -> dict[str, object]:
    """A box as a JSON object; one of which nobody says who found it is the model's."""
    return {
        "label": box.label,
        "x1": round(box.x1, 2),
        "y1": round(box.y1, 2),
        "x2": round(box.x2, 2),
        "y2": round(box.y2, 2),
        "score": None if box.score is None else round(box.score, 4),
        "by": box.by or "model",
        "found_by": box.finder or "model",
        "supported": box.supported,
    }


def _unwritable(path: Path, error: OSError) -> str:
    return f"cannot write {path}: {error.strerror or error}; choose another folder with --out"
