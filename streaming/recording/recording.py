"""What happened in a run, kept so that it can happen again: frames, when each was shown, what was thought.

A folder holds `recording.json` (the source and the caller's settings), `recording.jsonl` (one line an event)
and the pictures, which stand in the order of the frames' lines. Tasks and what thinking yields are the
caller's business: this file keeps what it is told about them. `egolive.streaming.recording.replay` runs it
again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from egolive.streaming.errors import DataError, SinkError
from egolive.streaming.frames import Frame
from egolive.streaming.pipeline.latest_results import Showing
from egolive.streaming.pipeline.results import Result, Status
from egolive.streaming.pipeline.run_report import Report
from egolive.streaming.pipeline.scheduler import Work
from egolive.streaming.plain_values import above_zero, count, of_kind
from egolive.streaming.recording.event_log import Outcome, RecordedShow, RecordedWork, read_log
from egolive.streaming.recording.lossless import PictureFiles, read_pictures
from egolive.streaming.sources.source import Source

__all__ = ["Outcome", "RecordedShow", "RecordedWork", "Recorder", "Recording", "is_recording"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_HEAD, _LOG = "recording.json", "recording.jsonl"
_FORMAT = 1


class Recorder(Generic[K, T]):
    """Stands round the three parts of a run and writes down what passes; they notice nothing of it.

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
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise SinkError(f"{folder}: is not empty; name a new folder to record into")
            self._log = (folder / _LOG).open("w", encoding="utf-8")
        except OSError as error:
            raise self._failure(error) from error
        self._pictures = PictureFiles(folder)

    def source(self, source: Source) -> Source:
        """The source, each of its frames recorded."""
        about = {"name": source.name, "live": source.live, "fps": source.fps}
        head = self._head | {"source": about, "settings": self._settings}
        try:
            (self._folder / _HEAD).write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise self._failure(error) from error
        return _Watched(source, self._frame)

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
                self._write(
                    work=work.picture.index,
                    t=work.time,
                    slices=len(work.window) if work.window is not None else 0,
                    tasks=[self._name(task) for task in work.tasks],
                    outcomes=outcomes,
                )

        return recorded

    def show(self, show: Callable[[Showing[K, T]], None]) -> Callable[[Showing[K, T]], None]:
        """The showing, with when it was and how many results were new."""

        def recorded(showing: Showing[K, T]) -> None:
            self._write(shown=showing.frame.index, now=showing.now, new=len(showing.new))
            show(showing)

        return recorded

    def close(self, report: Report | None = None) -> None:
        """Finish the files, with what the run counted where it came to its end; twice does nothing."""
        if self._log.closed:
            return
        try:
            if report is not None:
                self._write(end=asdict(report))
            self._pictures.close()
        finally:
            self._log.close()

    def _frame(self, frame: Frame) -> None:
        self._pictures.write(frame.image)
        self._write(frame=frame.index, t=frame.time, gap=frame.gap)

    def _write(self, **event: object) -> None:
        with self._lock:
            try:
                self._log.write(json.dumps(event) + "\n")
                self._log.flush()
            except OSError as error:
                raise self._failure(error) from error

    def _failure(self, error: OSError) -> SinkError:
        return SinkError(f"{self._folder}: cannot be written ({error.strerror or error}); check the folder")


class _Watched(Source):
    """A source whose every frame is told to somebody before it goes on."""

    def __init__(self, source: Source, tell: Callable[[Frame], None]) -> None:
        self._source = source
        self._tell = tell
        self.live = source.live
        self.name = source.name
        self.fps = source.fps
        self.size = source.size

    @property
    def broken(self) -> int:  # type: ignore[override]  # counted by the source
        """Pieces that were skipped, so far."""
        return self._source.broken

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            self._tell(frame)
            yield frame

    def close(self) -> None:
        """Close the source."""
        self._source.close()


class Recording:
    """A recording, read back. Its pictures stay on disk until they are asked for.

    Args:
        folder: As the recorder left it; one that a kill ended is read as far as it goes.

    Raises:
        DataError: It is none, or its files are damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            head = json.loads((folder / _HEAD).read_text(encoding="utf-8"))
            lines = (folder / _LOG).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}: is no recording that can be read; egolive run --record") from error
        version = head.get("format") if isinstance(head, dict) else None
        if version != _FORMAT:
            raise DataError(f"{folder}: made by another egolive, format {version!r}; record again")
        try:
            about = of_kind(head["source"], dict)
            self.source: str = of_kind(about["name"], str)
            self.live: bool = of_kind(about["live"], bool)
            self.source_fps = None if about["fps"] is None else above_zero(about["fps"])
            self.fps = above_zero(head["fps"])
            self.slices = count(head["slices"], least=1)
            self.seconds = None if head["seconds"] is None else above_zero(head["seconds"])
            self.settings: Mapping[str, Any] = of_kind(head["settings"], dict)
            """What the recorder's caller gave it."""
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder / _HEAD}: damaged ({_why(error)}); record again") from error
        log = read_log(folder / _LOG, lines)
        self.works: Sequence[RecordedWork] = log.works
        self.shows: Sequence[RecordedShow] = log.shows
        self.report = log.end
        """What the run counted; None where it did not come to its end."""
        self._frames = log.frames[: self.report.captured] if self.report else log.frames

    def frames(self) -> Iterator[Frame]:
        """The frames, pixel by pixel as they were.

        Raises:
            DataError: A file of pictures is damaged, or ends before the run did.
        """
        pictures = read_pictures(self.folder)
        for index, time, gap in self._frames:
            image = next(pictures, None)
            if image is None:
                if self.report is None:
                    return
                raise DataError(f"{self.folder}: the picture of frame {index} is missing; record again")
            yield Frame(image, time, index, gap)


def is_recording(folder: Path) -> bool:
    """Whether a folder says of itself that it is one."""
    return (folder / _HEAD).is_file()


def _why(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
