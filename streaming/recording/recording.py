"""Recordings of runs: the frames, when each was shown, what was asked and what became of it.

A folder holds `recording.json` (the source and the caller's settings), `recording.jsonl` (one line an event)
and the pictures, in the order of the frames' lines. Tasks, and what is noted about their results, are JSON of
the caller's. `egolive.streaming.recording.replay` runs a recording again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, Self, TypeVar

from pydantic import Field, model_validator

from egolive.streaming.durable_files import LineFile, replace_file
from egolive.streaming.errors import DataError, SinkError
from egolive.streaming.frames import Frame
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
from egolive.streaming.recording.pictures import PictureFiles, read_pictures
from egolive.streaming.sources.source import Source
from egolive.streaming.sources.wrappers import SourceWrapper

__all__ = [
    "Outcome",
    "RecordedChoice",
    "RecordedShow",
    "RecordedWork",
    "Recorder",
    "Recording",
    "is_recording",
]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_HEAD, _LOG = "recording.json", "recording.jsonl"
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
    "governor": RecordedChoice,
    "shown": RecordedShow,
    "end": _End,
}
"""Kinds of lines by the key that they have alone; lines of other kinds are ignored."""


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
    ) -> None:
        self._folder = folder
        self._head = {"format": _FORMAT, "fps": fps, "slices": slices, "seconds": seconds}
        self._settings = settings
        self._name = name
        self._note = note
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise SinkError(f"{folder}: is not empty; name a new folder to record into")
            self._log = LineFile(folder / _LOG)
        except OSError as error:
            raise self._failure(error) from error
        self._pictures = PictureFiles(folder)

    def source(self, source: Source) -> Source:
        """The source, each of its frames recorded."""
        about = {"name": source.name, "live": source.live, "fps": source.fps}
        head = self._head | {"source": about, "settings": self._settings}
        try:
            replace_file(self._folder / _HEAD, json_bytes(head))
        except OSError as error:
            raise self._failure(error) from error
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
            self._write(shown=showing.frame.index, now=showing.now, new=len(showing.new))
            show(showing)

        return recorded

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
        self._write(governor=frame.index, t=frame.time, choice=choice.as_json(), reason=choice.reason)

    def _frame(self, frame: Frame) -> None:
        self._pictures.write(frame.image)
        self._write(frame=frame.index, t=frame.time, gap=frame.gap)

    def _write(self, **event: object) -> None:
        try:
            self._log.write(json_bytes(event, indent=None))
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

    def see(self, frame: Frame) -> Choice | None:
        choice = self._governor.see(frame)
        if choice is not None:
            self._write(frame, choice)
        return choice

    def worked(self, work: Work[K], results: Sequence[tuple[Result[K, T], float]]) -> None:
        self._governor.worked(work, results)


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
        self.report: Report | None = None
        """What the run counted; None where it did not come to its end."""
        self._frames: list[_Frame] = []
        self._read_log(folder / _LOG)

    def _read_log(self, path: Path) -> None:
        where = f"{path}: no recording that can be read"
        lines = read_at_most(path, _MOST_LOG, where=where, remedy=_REMEDY, links=False).splitlines()
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}: damaged"
            try:
                keys = json_object(line, where=where, remedy=_REMEDY)
                kind = next((kind for key, kind in _KINDS.items() if key in keys), None)
                if kind is None:
                    continue
                event = parse_json(kind, line, where=where, remedy=_REMEDY, known=True)
            except DataError:
                if number == len(lines) and self.report is None:
                    # Cut off by a kill.
                    break
                raise
            match event:
                case _Frame():
                    self._frames.append(event)
                case RecordedWork():
                    self.works.append(event)
                case RecordedChoice():
                    self.choices.append(event)
                case RecordedShow():
                    self.shows.append(event)
                case _End():
                    self.report = event.report
        for before, after in pairwise(self._frames):
            if after.index <= before.index or after.time < before.time:
                raise DataError(f"{path}: the line of frame {after.index} is out of order; {_REMEDY}")
        if self.report is not None:
            del self._frames[self.report.captured :]

    def frames(self) -> Iterator[Frame]:
        """The frames, pixel by pixel as they were.

        Raises:
            DataError: A file of pictures is damaged, or ends before the run did.
        """
        pictures = read_pictures(self.folder)
        for frame in self._frames:
            image = next(pictures, None)
            if image is None:
                if self.report is None:
                    return
                raise DataError(f"{self.folder}: the picture of frame {frame.index} is missing; {_REMEDY}")
            yield Frame(image, frame.time, frame.index, frame.gap)


def is_recording(folder: Path) -> bool:
    """Whether a folder says of itself that it is one."""
    return (folder / _HEAD).is_file()
