"""The files of `--out`: overlay and events in segments, disk budgets told, and what a cut run left put aside.

    out/overlay-000001.mp4   out/events-000001.jsonl
    out/overlay-000002.mp4   out/events-000002.jsonl

Both files of a number are about the same stretch of the stream. The first line of the events tells which:
`{"type": "segment", "number": 2, "start": stream time of its first picture, "began": UTC}`; the video begins
at 0 there. Numbers go on where a run before ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from egolive.assistant.cli.printing import note
from egolive.assistant.live.sinks import EventSink, Shown, Sink
from egolive.streaming.disk_budget import DiskBudget, Removed, next_number
from egolive.streaming.durable_files import MakeRoom
from egolive.streaming.errors import SinkError
from egolive.streaming.video_writer import VideoWriter

__all__ = ["BudgetSink", "SegmentSink", "put_aside"]

_CHECK_EVERY = 10.0
"""Seconds of stream between two looks at how much the folders hold."""
_TAIL = 64 * 1024
"""Bytes at the end of a file of events, which hold its last line."""


class SegmentSink:
    """Writes overlay and events, in new files every few minutes of the stream."""

    def __init__(
        self,
        folder: Path,
        seconds: float,
        *,
        video: bool,
        budget: DiskBudget | None = None,
        make_room: MakeRoom | None = None,
    ) -> None:
        """Write nothing before the first picture, or the first event.

        Args:
            folder: Is made where it is missing.
            seconds: Stream time of a segment.
            video: Whether to write the overlay.
            budget: Of the folder.
            make_room: Asked before a full disk counts as a failure.

        Raises:
            SinkError: The folder cannot be used.
        """
        self.only_new = not video
        self._folder, self._seconds, self._with_video = folder, seconds, video
        self._budget, self._make_room = budget, make_room
        self._events: EventSink | None = None
        self._video: VideoWriter | None = None
        self._start = 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._number = next_number(folder, "segment") - 1
        except OSError as error:
            raise SinkError(f"cannot write to {folder}: {error.strerror or error}; choose another") from error

    def emit(self, shown: Shown) -> None:
        """Append one picture and its answers."""
        time = shown.frame.time
        if self._events is None or time >= self._start + self._seconds:
            self._next(time)
        assert self._events is not None
        self._events.emit(shown)
        if self._video is not None:
            self._video.write(shown.picture, time - self._start)

    def note(self, event: Mapping[str, object]) -> None:
        """Write an event."""
        if self._events is None:
            self._next(0.0)
        assert self._events is not None
        self._events.note(event)

    def close(self) -> None:
        """Finish the files; closing twice does nothing.

        Raises:
            SinkError: The disk did not keep them.
        """
        video, self._video = self._video, None
        try:
            if self._events is not None:
                self._events.close()
        finally:
            if video is not None:
                video.close()

    def _next(self, time: float) -> None:
        self.close()
        self._number += 1
        self._start = time
        if self._budget is not None:
            self._budget.writing((0, self._number))
        name = f"{self._number:06d}"
        self._events = EventSink(self._folder / f"events-{name}.jsonl", make_room=self._make_room)
        began = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._events.note(
            {"type": "segment", "number": self._number, "start": round(time, 4), "began": began}
        )
        if self._with_video:
            path = self._folder / f"overlay-{name}.mp4"
            self._video = VideoWriter(path, make_room=self._make_room)


class BudgetSink:
    """Holds folders within their budgets, and tells the other sinks and the user what was removed."""

    only_new = True

    def __init__(self, budgets: Sequence[DiskBudget], others: Sequence[Sink]) -> None:
        self._budgets, self._others = budgets, others
        self._due = 0.0

    def emit(self, shown: Shown) -> None:
        """Look from time to time, and tell at once what was removed meanwhile."""
        if shown.frame.time >= self._due:
            self._due = shown.frame.time + _CHECK_EVERY
            for budget in self._budgets:
                budget.check()
        self._tell(shown.now)

    def note(self, event: Mapping[str, object]) -> None:
        """Other events say nothing about disks."""

    def close(self) -> None:
        """What is removed is told while the run goes on."""

    def _tell(self, now: float) -> None:
        for budget in self._budgets:
            for removed in budget.removed():
                note(_in_words(removed))
                event = {
                    "type": "removed",
                    "t": round(now, 4),
                    "folder": str(removed.folder),
                    "files": list(removed.names),
                    "bytes": removed.bytes,
                    "why": removed.why,
                }
                for sink in self._others:
                    sink.note(event)


def put_aside(folder: Path) -> list[Path]:
    """Give the files of a run that was cut off names of their own; returns these, none where it ended.

    So a run that starts again after a loss of power writes over nothing.

    Raises:
        SinkError: They cannot be renamed.
    """
    events, overlay = folder / "events.jsonl", folder / "overlay.mp4"
    held = sum(path.stat().st_size for path in (events, overlay) if path.is_file())
    # Pictures come before the first event does.
    if not events.is_file() or not held or _has_end(events):
        return []
    number = next_number(folder, "segment")
    moved = []
    try:
        for path in (events, overlay):
            if path.is_file():
                moved.append(path.rename(path.with_name(f"{path.stem}-{number:06d}{path.suffix}")))
    except OSError as error:
        raise SinkError(f"{folder}: what a run left cannot be renamed ({error.strerror or error})") from error
    return moved


def _has_end(events: Path) -> bool:
    """Whether the last event is the figures of a run that came to its end."""
    with events.open("rb") as file:
        file.seek(max(0, events.stat().st_size - _TAIL))
        lines = file.read().splitlines()
    try:
        last = json.loads(lines[-1])
    except (ValueError, IndexError):
        return False
    return isinstance(last, dict) and "ended" in last


def _in_words(removed: Removed) -> str:
    why = "over --keep" if removed.why == "budget" else "the disk is full"
    return f"removed {', '.join(removed.names)} of {removed.folder} ({removed.bytes / 1e6:.0f} MB, {why})"
