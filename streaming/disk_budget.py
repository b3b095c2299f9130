"""Disk budgets: of the segments in a folder the newest stay, as many as fit.

A segment is one file or several that share a number in their names. The one that is being written is never
removed, and neither is a file with another name than a segment's: it is not counted either.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["DiskBudget", "Removed", "Segment", "next_number", "room_maker", "segments_in"]

_log = logging.getLogger(__name__)

Place = tuple[int, int]
"""Number of the run, 0 where files are not sorted by runs, and of the segment."""
_RUN = re.compile(r"run-(\d{6,})")
_FILE = re.compile(r"(?:overlay|events|recording|pictures)-(\d{6,})(?:-\d{3,})?\.(?:mp4|jsonl|mkv)")


@dataclass(frozen=True, slots=True)
class Segment:
    """Files that belong together."""

    place: Place
    files: tuple[Path, ...]
    """Those that say what the others hold come first."""

    @property
    def bytes(self) -> int:
        """What they take; a file that went meanwhile takes nothing."""
        return sum(_size(path) for path in self.files)


@dataclass(frozen=True, slots=True)
class Removed:
    """A segment that made room."""

    folder: Path
    names: tuple[str, ...]
    """Its files, relative to the folder."""
    bytes: int
    why: Literal["budget", "disk full"]


def segments_in(folder: Path) -> list[Segment]:
    """The segments of a folder and of its `run-…` folders, the oldest first; links are left alone."""
    found: dict[Place, list[Path]] = {}
    for run, path in _entries(folder):
        if (match := _FILE.fullmatch(path.name)) and path.is_file() and not path.is_symlink():
            found.setdefault((run, int(match[1])), []).append(path)
    # "jsonl" before "mkv" and "mp4": what is left of a segment whose lines are gone is known to be a rest.
    return [
        Segment(place, tuple(sorted(files, key=lambda path: (path.suffix, path.name))))
        for place, files in sorted(found.items())
    ]


def next_number(folder: Path, kind: Literal["segment", "run"]) -> int:
    """The number after the highest that a folder holds; 1 where it holds none."""
    pattern = _RUN if kind == "run" else _FILE
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return 1 + max((int(match[1]) for name in names if (match := pattern.fullmatch(name))), default=0)


class DiskBudget:
    """Keeps a folder's segments within so many bytes. May be used from any thread.

    Args:
        folder: Need not be there yet.
        most: Bytes.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most
        self._lock = threading.Lock()
        self._open: Place | None = None
        self._stuck: set[Place] = set()
        self._untold: list[Removed] = []
        self._too_large = False

    def writing(self, place: Place) -> None:
        """Tell which segment is being written from now on, and make room for it."""
        with self._lock:
            self._open = place
        self.check()

    def check(self) -> None:
        """Remove the oldest segments until the rest fits."""
        with self._lock:
            segments = segments_in(self.folder)
            held = sum(segment.bytes for segment in segments)
            for segment in segments:
                if held <= self.most:
                    return
                if self._removable(segment):
                    held -= self._remove(segment, "budget")
            if held > self.most and not self._too_large:
                self._too_large = True
                _log.warning("%s: the open segment alone is larger than --keep allows", self.folder)

    def make_room(self) -> bool:
        """Remove the oldest segment for a disk that is full; returns whether there was one."""
        with self._lock:
            for segment in segments_in(self.folder):
                if self._removable(segment) and self._remove(segment, "disk full"):
                    return True
            return False

    def removed(self) -> list[Removed]:
        """What was removed since the last call."""
        with self._lock:
            told, self._untold = self._untold, []
            return told

    def _removable(self, segment: Segment) -> bool:
        return segment.place != self._open and segment.place not in self._stuck

    def _remove(self, segment: Segment, why: Literal["budget", "disk full"]) -> int:
        """Remove a segment; returns the bytes that came free."""
        freed, names = 0, []
        for path in segment.files:
            size = _size(path)
            try:
                path.unlink()
            except OSError as error:
                self._stuck.add(segment.place)
                _log.warning("%s: cannot be removed (%s)", path, error.strerror or error)
                break
            freed += size
            names.append(str(path.relative_to(self.folder)))
        if names:
            self._untold.append(Removed(self.folder, tuple(names), freed, why))
        _remove_run(segment.files[0].parent, self.folder, self._open)
        return freed


def room_maker(folder: Path, budgets: Sequence[DiskBudget]) -> Callable[[], bool] | None:
    """What makes room for files in a folder: its own budget first, then others of the same disk."""
    if not budgets:
        return None

    def make_room() -> bool:
        own = [budget for budget in budgets if budget.folder == folder]
        disk = _disk(folder)
        others = [budget for budget in budgets if budget.folder != folder and _disk(budget.folder) == disk]
        return any(budget.make_room() for budget in own + others)

    return make_room


def _entries(folder: Path) -> Iterator[tuple[int, Path]]:
    """Files of a folder, and of the folders of its runs with their numbers."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if (match := _RUN.fullmatch(path.name)) and path.is_dir() and not path.is_symlink():
            for inner in path.iterdir():
                yield int(match[1]), inner
        else:
            yield 0, path


def _remove_run(run: Path, folder: Path, being_written: Place | None) -> None:
    """Remove the folder of a run that has no segment left."""
    match = _RUN.fullmatch(run.name)
    if run == folder or match is None or (being_written and being_written[0] == int(match[1])):
        return
    if {path.name for path in run.iterdir()} <= {"recording.json"}:
        try:
            (run / "recording.json").unlink(missing_ok=True)
            run.rmdir()
        except OSError as error:
            _log.warning("%s: cannot be removed (%s)", run, error.strerror or error)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _disk(folder: Path) -> int | None:
    try:
        return folder.stat().st_dev
    except OSError:
        return None
