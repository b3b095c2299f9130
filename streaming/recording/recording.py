"""Recordings of runs: the frames, when each was shown, what was asked and what became of it.

A folder holds `recording.json` (the source and the caller's settings), `recording.jsonl` (one line an event)
and the pictures, in the order of the frames' lines. In segments it holds `recording-000001.jsonl` and
`pictures-000001-000.mkv`, and so on: the first line of each but the first segment tells what is needed to
begin with it, so that the oldest ones may be removed. Tasks, and what is noted about their results, are JSON
of the caller's. `egolive.streaming.recording.replay` runs a recording again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from egolive.streaming.disk_budget import DiskBudget
from egolive.streaming.durable_files import LineFile, MakeRoom, replace_file
from egolive.streaming.errors import DataError, SinkError
from egolive.streaming.frames import Box, Frame
from egolive.streaming.hands import Hand, HandWatch, Look, Side
from egolive.streaming.json_files import (
    AtLeastOne,
    Count,
    JsonModel,
    Positive,
    Seconds,
    json_bytes,
    json_object,
    parse_json,
    read_at_most,
    read_json,
)
from egolive.streaming.pipeline.choice import Choice
from egolive.streaming.pipeline.governor import Governing
from egolive.streaming.pipeline.latest_results import Showing
from egolive.streaming.pipeline.results import Result, Status
from egolive.streaming.pipeline.run_report import Report
from egolive.streaming.pipeline.scheduler import Work
from egolive.streaming.pipeline.windowing import Windower, WindowState
from egolive.streaming.recording.pictures import PICTURES, PictureFiles, read_pictures
from egolive.streaming.sources.source import Source
from egolive.streaming.sources.wrappers import SourceWrapper

__all__ = [
    "Outcome",
    "RecordedChoice",
    "RecordedHands",
    "RecordedLook",
    "RecordedShow",
    "RecordedWork",
    "Recorder",
    "Recording",
    "SegmentStart",
    "Segments",
    "is_recording",
]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_HEAD, _LOG = "recording.json", "recording.jsonl"
_SEGMENT_LOG = "recording-{:06d}.jsonl"
_FORMAT = 1
_MOST_LOG = 256 * 1024**2
"""Bytes of `recording.jsonl`: about a day at 30 frames a second."""
_REMEDY = "record again with egolive run --record"


_Share = Annotated[float, Field(gt=0, le=1)]


class _SourceAbout(JsonModel):
    name: str
    live: bool
    fps: Positive | None


class _Head(JsonModel):
    """`recording.json`."""

    format: Literal[1]
    fps: Positive
    slices: AtLeastOne
    seconds: Positive | None
    source: _SourceAbout
    settings: dict[str, Any]


class _Frame(JsonModel):
    """A line of `recording.jsonl`: a frame that the source gave."""

    index: Count = Field(alias="frame")
    time: Seconds = Field(alias="t")
    gap: bool


class Outcome(NamedTuple):
    """What became of one task of some work, in the order in which outcomes came."""

    task: Count
    """Its place among the work's tasks."""
    status: Status
    note: dict[str, Any]
    """What the recorder's caller noted about the value."""


class RecordedWork(JsonModel):
    """A line of `recording.jsonl`: tasks that were worked on together."""

    picture: Count = Field(alias="work")
    """Index of the newest frame when it began."""
    time: Seconds = Field(alias="t")
    """Stream time at which it began, seconds."""
    slices: Count
    """Slices of the window that it was given; 0 where it was given none."""
    tasks: tuple[Any, ...]
    """Its tasks, as the recorder's caller named them."""
    outcomes: tuple[Outcome, ...]
    size: _Share = 1.0
    """Share of the usual pixels at which it saw pictures; left out where it is 1."""

    @model_validator(mode="after")
    def _outcomes_are_of_tasks(self) -> Self:
        if any(outcome.task >= len(self.tasks) for outcome in self.outcomes):
            raise ValueError("an outcome of no task")
        return self


class _Chosen(JsonModel):
    """The fields of a `Choice` but for its reason."""

    every: AtLeastOne
    slices: AtLeastOne
    size: _Share
    pictures: AtLeastOne
    windows: AtLeastOne
    apart: bool
    duty: _Share
    still_since: Seconds | None
    heartbeat: Positive
    contact_since: Seconds | None = None


class RecordedChoice(JsonModel):
    """A line of `recording.jsonl`: what the governor chose, which holds from a frame on."""

    frame: Count = Field(alias="governor")
    """Index of that frame."""
    time: Seconds = Field(alias="t")
    """Its time."""
    chosen: _Chosen = Field(alias="choice")
    reason: str = Field(max_length=1000)

    @property
    def choice(self) -> Choice:
        """The choice as it was."""
        return Choice(**self.chosen.model_dump(), reason=self.reason)


class RecordedShow(JsonModel):
    """A line of `recording.jsonl`: a frame that was shown."""

    frame: Count = Field(alias="shown")
    now: Seconds
    """Stream time of this moment, seconds."""
    new: Count
    """Results that had come in since the frame before."""


_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Hand(NamedTuple):
    """A hand as it is kept."""

    side: Side
    score: _Share | None
    box: tuple[_Number, _Number, _Number, _Number]
    landmarks: tuple[tuple[_Number, _Number], ...]


class RecordedLook(JsonModel):
    """A line of `recording.jsonl`: what the hand detector found, and with which frame it came."""

    frame: Count = Field(alias="hands")
    """Index of the frame with which it came to be shown."""
    index: Count = Field(alias="of")
    """Index of the picture that was looked at."""
    time: Seconds = Field(alias="t")
    """Its time."""
    found: tuple[_Hand, ...] = Field(max_length=2)

    @property
    def look(self) -> Look:
        """What was found, as it was."""
        hands = tuple(
            Hand(one.side, Box(*one.box, f"{one.side} hand", one.score, by="detector"), one.landmarks)
            for one in self.found
        )
        return Look(self.time, self.index, hands)


class SegmentStart(JsonModel):
    """What has to be known of the segments before one, to begin with it."""

    number: AtLeastOne
    captured: Count
    """Frames in the segments before."""
    pending: int
    """Outcomes of works whose lines are before, less those that were shown before; below 0 where outcomes of
    a work were shown whose line is still to come."""
    windows: WindowState | None
    choice: RecordedChoice | None = None
    """What the governor's choice was; None where there was none."""


class _Segment(JsonModel):
    """The first line of a segment."""

    start: SegmentStart = Field(alias="segment")


class _End(JsonModel):
    """The last line of `recording.jsonl`: what the run counted."""

    report: Report = Field(alias="end")

    @model_validator(mode="after")
    def _counts_are_counts(self) -> Self:
        counts = (self.report.captured, *self.report.drops.values(), *self.report.requests.values())
        if min(counts) < 0:
            raise ValueError("a count below 0")
        return self


_KINDS: dict[str, type[JsonModel]] = {
    "frame": _Frame,
    "work": RecordedWork,
    "hands": RecordedLook,
    "governor": RecordedChoice,
    "shown": RecordedShow,
    "segment": _Segment,
    "end": _End,
}
"""Kinds of lines by the key that they have alone; lines of other kinds are ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """How a recording is cut, and what its segments may take."""

    seconds: float
    """Stream time of one."""
    run: int = 0
    """Number of the run, as its folder is named."""
    budget: DiskBudget | None = None


class Recorder(Generic[K, T]):
    """Wraps the source, the thinking and the showing of a run, and writes down what passes through them.

    Pictures are written on the capturing thread, so that none is lost; a frame is recorded before it goes on.

    Args:
        folder: A new or empty one.
        settings: What the caller needs to run it again.
        fps: Frames a second that go into windows.
        slices: Slices of a full window.
        seconds: Stream time at which the run ends.
        name: What stands for a task, as plain JSON.
        note: What is worth keeping about a value, as plain JSON.
        segments: Cut it into segments; one that is full is closed.
        make_room: Asked before a full disk counts as a failure.

    Raises:
        SinkError: The folder holds something already, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, Any],
        fps: float,
        slices: int,
        seconds: float | None,
        name: Callable[[K], Any],
        note: Callable[[T], Mapping[str, Any]],
        segments: Segments | None = None,
        make_room: MakeRoom | None = None,
    ) -> None:
        self._folder = folder
        self._segments = segments
        self._make_room = make_room
        self._number = 1 if segments else 0
        self._ends = segments.seconds if segments else math.inf
        self._lock = threading.Lock()
        self._captured = self._pending = 0
        self._windower: Windower | None = None
        self._waiting: Frame | None = None
        """The newest frame, without its picture: what the governor chooses with it is told only after it."""
        self._chosen: dict[str, object] | None = None
        self._fps, self._slices = fps, slices
        self._head = {"format": _FORMAT, "fps": fps, "slices": slices, "seconds": seconds}
        self._settings = settings
        self._name = name
        self._note = note
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise SinkError(f"{folder}: is not empty; name a new folder to record into")
            self._log, self._pictures = self._open()
        except OSError as error:
            raise self._failure(error) from error

    def source(self, source: Source) -> Source:
        """The source, each of its frames recorded."""
        about = {"name": source.name, "live": source.live, "fps": source.fps}
        head = self._head | {"source": about, "settings": self._settings}
        try:
            replace_file(self._folder / _HEAD, json_bytes(head))
        except OSError as error:
            raise self._failure(error) from error
        if self._segments is not None:
            self._windower = Windower(self._fps, self._slices, source.fps)
        return _Recorded(source, self._frame)

    def think(
        self, think: Callable[[Work[K]], Iterable[Result[K, T]]]
    ) -> Callable[[Work[K]], Generator[Result[K, T]]]:
        """The thinking, its outcomes and their times recorded."""

        def recorded(work: Work[K]) -> Generator[Result[K, T]]:
            outcomes: list[tuple[int, Status, Mapping[str, Any]]] = []
            found = think(work)
            try:
                for result in found:
                    place = work.tasks.index(result.task)
                    outcomes.append((place, result.status, self._note(result.value)))
                    yield result
            finally:
                if isinstance(found, Generator):
                    found.close()
                seen = {} if work.size == 1 else {"size": work.size}
                self._write(
                    len(outcomes),
                    work=work.picture.index,
                    t=work.time,
                    slices=len(work.window) if work.window is not None else 0,
                    tasks=[self._name(task) for task in work.tasks],
                    outcomes=outcomes,
                    **seen,
                )

        return recorded

    def governor(self, governor: Governing[K, T]) -> Governing[K, T]:
        """The governor, with what it chooses and from which frame on."""
        return _RecordedGovernor(governor, self._choice)

    def show(self, show: Callable[[Showing[K, T]], None]) -> Callable[[Showing[K, T]], None]:
        """The showing, with when it was and how many results were new."""

        def recorded(showing: Showing[K, T]) -> None:
            new = len(showing.new)
            self._write(-new, shown=showing.frame.index, now=showing.now, new=new)
            show(showing)

        return recorded

    def hands(self, watch: HandWatch) -> HandWatch:
        """What asks the hand detector, with what was found and with which frame it came."""
        return _RecordedWatch(watch, self._look)

    def close(self, report: Report | None = None) -> None:
        """Finish the files, with what the run counted where it came to its end; twice does nothing.

        Raises:
            SinkError: The disk is full or gone.
        """
        if self._log.closed:
            return
        try:
            if report is not None:
                self._write(end=asdict(report))
            self._pictures.close()
        finally:
            try:
                self._log.close()
            except OSError as error:
                raise self._failure(error) from error

    def _choice(self, frame: Frame, choice: Choice) -> None:
        values = choice.as_json()
        self._chosen = {"governor": frame.index, "t": frame.time, "choice": values, "reason": choice.reason}
        if self._windower is not None:
            self._windower.resize(choice.slices)
        self._write(governor=frame.index, t=frame.time, choice=values, reason=choice.reason)

    def _look(self, frame: Frame, look: Look) -> None:
        found = [(one.side, one.box.score, [*one.box], one.landmarks) for one in look.hands]
        self._write(hands=frame.index, of=look.index, t=look.time, found=found)

    def _frame(self, frame: Frame) -> None:
        if self._windower is not None and self._waiting is not None:
            self._windower.push(self._waiting)
        if frame.time >= self._ends:
            self._next_segment(frame.time)
        self._pictures.write(frame.image)
        self._write(frame=frame.index, t=frame.time, gap=frame.gap)
        self._captured += 1
        if self._windower is not None:
            # Its windows hold no pictures here: only what they come to is told.
            black = np.broadcast_to(np.zeros((), np.uint8), (frame.height, frame.width, 3))
            self._waiting = replace(frame, pixels=black)

    def _open(self) -> tuple[LineFile, PictureFiles]:
        """The files of a segment, or of a whole recording."""
        if self._segments is None:
            pictures = PictureFiles(self._folder, make_room=self._make_room)
            return LineFile(self._folder / _LOG, make_room=self._make_room), pictures
        if self._segments.budget is not None:
            self._segments.budget.writing((self._segments.run, self._number))
        log = LineFile(self._folder / _SEGMENT_LOG.format(self._number), make_room=self._make_room)
        name = _segment_pictures(self._number)
        return log, PictureFiles(self._folder, name, make_room=self._make_room)

    def _next_segment(self, time: float) -> None:
        assert self._segments is not None
        assert self._windower is not None
        while time >= self._ends:
            self._ends += self._segments.seconds
        self._pictures.close()
        state = self._windower.state()
        try:
            # No line may come between the counts and the segment that they are of.
            with self._lock:
                full = self._log
                self._number += 1
                self._log, self._pictures = self._open()
                start = {
                    "number": self._number,
                    "captured": self._captured,
                    "pending": self._pending,
                    "windows": None if state is None else asdict(state),
                    "choice": self._chosen,
                }
                self._log.write(json_bytes({"segment": start}, indent=None))
            full.close()
        except OSError as error:
            raise self._failure(error) from error

    def _write(self, pending: int = 0, **event: object) -> None:
        """Write a line; `pending` is how many results it adds to those that wait, below 0 what it takes."""
        try:
            with self._lock:
                self._log.write(json_bytes(event, indent=None))
                self._pending += pending
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> SinkError:
        reason = error.strerror or error
        return SinkError(f"{self._folder}: cannot be written ({reason}); check the folder and the free space")


class _Recorded(SourceWrapper):
    """A source each of whose frames is written before it goes on."""

    def __init__(self, source: Source, write: Callable[[Frame], None]) -> None:
        super().__init__(source)
        self._write = write

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            self._write(frame)
            yield frame


class _RecordedGovernor(Generic[K, T]):
    """A governor each of whose choices is written before it is followed."""

    def __init__(self, governor: Governing[K, T], write: Callable[[Frame, Choice], None]) -> None:
        self._governor = governor
        self._write = write

    @property
    def on_contact(self) -> bool:
        return self._governor.on_contact

    def touched(self, time: float, reason: str) -> None:
        self._governor.touched(time, reason)

    def see(self, frame: Frame) -> Choice | None:
        choice = self._governor.see(frame)
        if choice is not None:
            self._write(frame, choice)
        return choice

    def worked(self, work: Work[K], results: Sequence[tuple[Result[K, T], float]]) -> None:
        self._governor.worked(work, results)


class _RecordedWatch:
    """A watch each of whose looks is written before it goes on."""

    def __init__(self, watch: HandWatch, write: Callable[[Frame, Look], None]) -> None:
        self._watch = watch
        self._write = write

    def see(self, frame: Frame) -> Sequence[Look]:
        looks = self._watch.see(frame)
        for look in looks:
            self._write(frame, look)
        return looks

    def take_error(self) -> str:
        return self._watch.take_error()

    def forget(self, since: float) -> None:
        self._watch.forget(since)

    def close(self) -> None:
        self._watch.close()


class RecordedHands:
    """Implements `HandWatch` for a replay: tells what was found then, with the same frames."""

    def __init__(self, looks: Iterable[RecordedLook]) -> None:
        """Take what a recording holds."""
        self._looks: dict[int, list[Look]] = {}
        for recorded in looks:
            self._looks.setdefault(recorded.frame, []).append(recorded.look)

    def see(self, frame: Frame) -> Sequence[Look]:
        """What came with this frame."""
        return self._looks.get(frame.index, ())

    def take_error(self) -> str:
        """Nothing fails here."""
        return ""

    def forget(self, since: float) -> None:
        """What came after a gap was told after it then, too."""

    def close(self) -> None:
        """Nothing to free."""


class Recording:
    """A recording, read back. Its pictures stay on disk until they are asked for.

    Args:
        folder: As the recorder left it; one that a kill ended is read as far as it goes.

    Raises:
        DataError: It is none, or its files are damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        head = read_json(_Head, folder / _HEAD, kind="recording", remedy=_REMEDY, links=False)
        self.source, self.live, self.source_fps = head.source.name, head.source.live, head.source.fps
        self.fps, self.slices, self.seconds = head.fps, head.slices, head.seconds
        self.settings: Mapping[str, Any] = head.settings
        """What the recorder's caller gave it."""
        self.works: list[RecordedWork] = []
        self.shows: list[RecordedShow] = []
        self.choices: list[RecordedChoice] = []
        """What the governor chose; empty where the run was not governed."""
        self.looks: list[RecordedLook] = []
        """What a hand detector found; empty where none looked."""
        self.report: Report | None = None
        """What the run counted; None where it did not come to its end."""
        self.start: SegmentStart | None = None
        """What came before, where the oldest segments were removed."""
        self.skipped = 0
        """Results that are shown although what they came from is gone."""
        self.lost = 0
        """Outcomes of works that began with a picture that is gone."""
        self._frames: list[_Frame] = []
        self._parts: list[_Part] = []
        self._read_logs()

    @property
    def first(self) -> int:
        """Index of the first frame whose picture is kept; that of the run's first where all are."""
        return self._frames[0].index if self._frames else 0

    def _read_logs(self) -> None:
        logs = {0: self.folder / _LOG}
        if not logs[0].exists():
            found = {_number_of(path): path for path in self.folder.glob(_SEGMENT_LOG.replace("{:06d}", "*"))}
            logs = {number: found[number] for number in sorted(found) if number} or logs
        left = _MOST_LOG
        for number, path in logs.items():
            before = self._parts[-1].number + 1 if self._parts else number
            if number != before:
                raise DataError(f"{self.folder}: segment {before} is missing; {_REMEDY}")
            name = _segment_pictures(number) if number else PICTURES
            self._parts.append(_Part(number=number, name=name))
            left -= self._read_log(path, left, last=number == max(logs))
        if min(logs) > 1 and self.start is None:
            raise DataError(f"{self.folder}: segment {min(logs)} does not tell how it begins; {_REMEDY}")
        # Works that began with a picture that is gone, and were written down later.
        if self.start is not None:
            first = self.first
            gone = [work for work in self.works if work.picture < first]
            shown = sum(show.new for show in self.shows if show.frame < first)
            self.skipped = self.start.pending + sum(len(work.outcomes) for work in gone) - shown
            self.works = [work for work in self.works if work.picture >= first]
            self.shows = [show for show in self.shows if show.frame >= first]
            self.lost = sum(len(work.outcomes) for work in gone)
        for before_, after in pairwise(self._frames):
            if after.index <= before_.index or after.time < before_.time:
                place = self.folder / _LOG
                raise DataError(f"{place}: the line of frame {after.index} is out of order; {_REMEDY}")
        if self.report is not None:
            del self._frames[max(0, self.report.captured - (self.start.captured if self.start else 0)) :]

    def _read_log(self, path: Path, most: int, *, last: bool) -> int:
        """Read the lines of a file; returns its bytes."""
        where = f"{path}: no recording that can be read"
        data = read_at_most(path, most, where=where, remedy=_REMEDY, links=False)
        lines = data.splitlines()
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}: damaged"
            try:
                keys = json_object(line, where=where, remedy=_REMEDY)
                kind = next((kind for key, kind in _KINDS.items() if key in keys), None)
                if kind is None:
                    continue
                event = parse_json(kind, line, where=where, remedy=_REMEDY, known=True)
            except DataError:
                if last and number == len(lines) and self.report is None:
                    # Cut off by a kill.
                    break
                raise
            match event:
                case _Frame():
                    self._frames.append(event)
                    self._parts[-1].frames += 1
                case _Segment():
                    if len(self._parts) == 1 and self._parts[0].number > 1:
                        self.start = event.start
                case RecordedWork():
                    self.works.append(event)
                case RecordedLook():
                    self.looks.append(event)
                case RecordedChoice():
                    self.choices.append(event)
                case RecordedShow():
                    self.shows.append(event)
                case _End():
                    self.report = event.report
        return len(data)

    def frames(self) -> Iterator[Frame]:
        """The frames, pixel by pixel as they were.

        Raises:
            DataError: A file of pictures is damaged, or ends before the run did.
        """
        frames = iter(self._frames)
        for part in self._parts:
            pictures = read_pictures(self.folder, part.name)
            for frame in islice(frames, part.frames):
                image = next(pictures, None)
                if image is None:
                    if self.report is None and part is self._parts[-1]:
                        return
                    raise DataError(
                        f"{self.folder}: the picture of frame {frame.index} is missing; {_REMEDY}"
                    )
                yield Frame(image, frame.time, frame.index, frame.gap)


@dataclass(slots=True)
class _Part:
    """A segment of a recording, or all of it."""

    number: int
    name: str
    """What the names of its files of pictures begin with."""
    frames: int = 0


def _segment_pictures(number: int) -> str:
    return f"{PICTURES}-{number:06d}"


def _number_of(path: Path) -> int:
    """The number in the name of a segment's log; 0 where there is none."""
    digits = path.stem.rpartition("-")[2]
    return int(digits) if digits.isdecimal() and len(digits) >= 6 else 0


def is_recording(folder: Path) -> bool:
    """Whether a folder says of itself that it is one."""
    return (folder / _HEAD).is_file()
