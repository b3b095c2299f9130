"""The moment store: a bounded timeline of a stream in one SQLite file, with full-text search.

Each moment has a few words, and some have a small picture, a box in it and the picture's encoding, so that
the model can be asked about it again. What is worth remembering is decided in
`egolive.assistant.memory.memory_writer`, asking again in `egolive.assistant.memory.recall`, the file in
`egolive.assistant.memory.memory_file`. Search is by whole words (SQLite FTS5, stems of English): "cups" finds
"cup", "mug" does not.

Age is not judged by dates. A clock that is wrong for a while (a machine without a battery for it, a hand that
sets it) dates moments far ahead or back, and one of them would make all others a month old. So each moment
also gets its place on the memory's own clock, which is kept in the file and advances from moment to moment,
in the order in which they are remembered: by the difference of their dates where that is ten minutes at most,
else by what passed on the monotonic clock of the process. A jump of the date adds nothing, and a moment dated
in the future ages like the others. Dates are believed only where all moments of the last quarter of the limit
agree on them: then what they make too old goes too, such as a memory that lay unused for a month. So a wrong
clock does harm only if it stays wrong for six hours of streams without one moment dated otherwise.

What is forgotten is written down as a stretch of time, so that every process that has the file open refuses
what comes late. After another process forgot, nothing is added until `obeyed` says that the stream has
dropped what it holds of it: an answer on its way could be of any time up to now.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

from egolive.assistant.memory.memory_file import is_busy, is_full, open_file, reason
from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.durable_files import MakeRoom
from egolive.streaming.errors import DataError, SinkError
from egolive.streaming.frames import Box

__all__ = ["Kind", "Limits", "Memory", "Moment"]

_log = logging.getLogger(__name__)

Kind = Literal["intent", "next", "take", "held", "put", "seen"]
"""held: the last picture before something was put down; put: the first one after."""

_COLUMNS = "id, at, time, kind, text, width, height, x1, y1, x2, y2, picture, encoding"
_STEP = 600.0
"""Seconds from one moment's date to the next, from which the difference is taken for a jump of the clock."""
_BELIEVED = 0.25
"""Share of the limit for which dates have to agree before they make anything too old."""
_KEPT_STRETCHES = 1000
"""Forgotten stretches that are remembered, the newest."""
_LONGEST_TEXT = 1_000_000
_LARGEST_SIDE = 100_000
"""Pixels of a frame's side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is remembered; what is beyond leaves, the oldest first."""

    text_bytes_a_minute: int = 4096
    seconds: float = 86_400.0
    """Age at which a moment is dropped, on the memory's own clock."""
    picture_bytes: int = 64 * 1024**2
    encoding_bytes: int = 256 * 1024**2
    encoding_seconds: float = 8 * 3600.0
    total_bytes: int | None = None
    """Of the whole file; where it is given, pictures and encodings have no limit of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One line of the timeline."""

    at: float
    """When it was, seconds since 1970."""
    time: float
    """Stream time, seconds."""
    kind: Kind
    text: str
    size: tuple[int, int] | None = None
    """Width and height of the frame that the box is in."""
    box: Box | None = None
    picture: bytes | None = None
    """A JPEG of the frame, perhaps smaller."""
    encoding: bytes | None = None
    """Its visual tokens, as whoever wrote them lays them out."""
    id: int = 0
    """Given when it is remembered."""


class Memory:
    """The timeline. May be used from any thread.

    Deleted moments are overwritten in the file, not only unlinked from it.

    Args:
        folder: Where the file lies; in this process's memory alone without it.
        limits: How much is kept.
        read_only: Only look; the file has to be there.
        clock: What passes between moments that are dated by another clock.
        make_room: Asked before a full disk counts as a failure.

    Raises:
        DataError: The folder or the file cannot be used.
    """

    def __init__(
        self,
        folder: Path | None = None,
        limits: Limits | None = None,
        *,
        read_only: bool = False,
        clock: Clock | None = None,
        make_room: MakeRoom | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._make_room = make_room
        self._place = "this process's memory" if folder is None else str(folder)
        self._lock = threading.RLock()
        self._clock = clock or MonotonicClock()
        self._added = self._clock.now()
        self._lived = 0.0
        self._newest: float | None = None
        """Date of the newest moment that was no jump."""
        self._room = float(self.limits.text_bytes_a_minute)
        self._room_at = 0.0
        self._unwritten: list[tuple[float, float]] = []
        """Stretches to forget that the file could not take."""
        self._obeyed = 0
        self._held: dict[str, int] = {}
        self.refused = 0
        """Moments for which there was no room in their minute, or while another process wrote the file."""
        self._file = open_file(folder, read_only=read_only)
        try:
            with self._damage_told():
                self._weigh()
                if not read_only:
                    self._take_up()
        except DataError:
            self._file.close()
            raise

    def add(self, moment: Moment) -> int:
        """Remember a moment; returns its id, or 0 where its minute is full or it was to be forgotten.

        Raises:
            SinkError: The disk is full or gone, or the file is damaged.
        """
        with self._lock:
            if any(start <= moment.at <= end for start, end in self._unwritten):
                self.refused += 1
                return 0
            before = (self._lived, self._newest, self._added, self._room, self._room_at, dict(self._held))
            try:
                with self._transaction():
                    number = 0 if self._is_forgotten(moment.at) else self._insert(moment)
            except sqlite3.Error as error:
                self._lived, self._newest, self._added, self._room, self._room_at, self._held = before
                if is_full(error) and self._make_room is not None and self._make_room():
                    return self.add(moment)
                if not is_busy(error):
                    raise SinkError(
                        f"{self._place}: the memory cannot be written ({reason(error)}), what it holds is "
                        "whole; make room, or name another folder with --memory"
                    ) from error
                if not self.refused:
                    _log.warning("a moment could not be remembered (%s)", reason(error))
                number = 0
            if not number:
                self.refused += 1
            return number

    def forgotten_elsewhere(self) -> int:
        """Whether another process forgot something that this one has not obeyed.

        Returns:
            0, or a number for `obeyed`.
        """
        with self._lock:
            try:
                newest = self._newest_stretch()
            except sqlite3.Error:
                # It is asked again soon, and `add` asks by itself.
                return 0
            return newest if newest > self._obeyed else 0

    def obeyed(self, number: int) -> None:
        """Nothing is held any more of what was forgotten: moments are taken again.

        Args:
            number: From `forgotten_elsewhere`, before anything was dropped.
        """
        with self._lock:
            self._obeyed = max(self._obeyed, number)

    def search(self, words: str, *, kinds: Sequence[Kind] = (), limit: int = 20) -> list[Moment]:
        """Moments whose text has one of these words, the best match first and the newest of equals."""
        terms = re.findall(r"\w+", words)
        if not terms:
            return []
        match = " OR ".join(f'"{term}"' for term in terms)
        wanted, marks = _of_kinds(kinds)
        columns = ", ".join(f"moments.{name}" for name in _COLUMNS.split(", "))
        return self._moments(
            f"SELECT {columns} FROM words JOIN moments ON moments.id = words.rowid "
            f"WHERE words MATCH ? {wanted} ORDER BY bm25(words), at DESC LIMIT ?",
            (match, *marks, limit),
        )

    def newest(
        self, kinds: Sequence[Kind] = (), *, before: int | None = None, limit: int = 20
    ) -> list[Moment]:
        """The last moments, the newest first.

        Args:
            kinds: Only these; all without them.
            before: Only moments that were remembered before the one with this id.
            limit: At most so many.
        """
        wanted, marks = _of_kinds(kinds)
        return self._moments(
            f"SELECT {_COLUMNS} FROM moments WHERE id < ? {wanted} ORDER BY id DESC LIMIT ?",
            (2**62 if before is None else before, *marks, limit),
        )

    def following(self, number: int, kind: Kind) -> Moment | None:
        """The first moment of a kind that was remembered after the one with this id."""
        found = self._moments(
            f"SELECT {_COLUMNS} FROM moments WHERE id > ? AND kind = ? ORDER BY id LIMIT 1", (number, kind)
        )
        return found[0] if found else None

    def forget(self, start: float, end: float) -> int:
        """Drop every moment of a stretch of time for good, and whatever of it still comes, from any process.

        Args:
            start: Seconds since 1970.
            end: The same; later moments stay.

        Returns:
            How many moments there were.

        Raises:
            DataError: The file cannot be written now.
        """
        return self._forget(start, end, "at BETWEEN ? AND ?", (start, end))

    def forget_last(self, seconds: float) -> int:
        """As `forget`, of the time before the newest moment: by dates and by the memory's own clock.

        Raises:
            DataError: The file cannot be written now.
        """
        with self._lock:
            with self._damage_told():
                newest = self._file.execute(
                    "SELECT at, lived FROM moments JOIN ages USING (id) ORDER BY id DESC LIMIT 1"
                ).fetchone()
            if newest is None:
                return 0
            at, lived = map(self._finite, newest)
            where = "at BETWEEN ? AND ? OR id IN (SELECT id FROM ages WHERE lived >= ?)"
            return self._forget(at - seconds, at, where, (at - seconds, at, lived - seconds))

    def sizes(self) -> dict[str, int]:
        """Moments, and bytes of text, pictures and encodings."""
        names = ("moments", "text", "pictures", "encodings")
        with self._lock, self._damage_told():
            row = self._file.execute(
                "SELECT count(*), total(length(CAST(text AS BLOB))), total(length(picture)), "
                "total(length(encoding)) FROM moments"
            ).fetchone()
        return dict(zip(names, map(int, row), strict=True))

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; the file is this process's alone meanwhile, so that what is read in it holds."""
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._file.execute("COMMIT")
        except BaseException:
            if self._file.in_transaction:
                self._file.execute("ROLLBACK")
            raise

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            told = f"{self._place}: the memory cannot be read ({reason(error)})"
            raise DataError(f"{told}; close what else uses it, or name another folder") from error

    def _insert(self, moment: Moment) -> int:
        """The moment's id, or 0 where its minute is full; inside a transaction."""
        self._advance(moment.at)
        if not self._fits(moment):
            return 0
        box = moment.box
        values = (
            *(moment.at, moment.time, moment.kind, moment.text, *(moment.size or (None, None))),
            *(tuple(box) if box else (None,) * 4),
            *(moment.picture, moment.encoding),
        )
        row = self._file.execute(
            f"INSERT INTO moments VALUES (NULL{', ?' * 12}) RETURNING id", values
        ).fetchone()
        number = int(row[0])
        self._file.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (number, moment.text))
        self._file.execute("INSERT OR REPLACE INTO ages VALUES (?, ?)", (number, self._lived))
        self._held["picture"] += len(moment.picture or b"")
        self._held["encoding"] += len(moment.encoding or b"")
        self._prune()
        return number

    def _is_forgotten(self, at: float) -> bool:
        if self._newest_stretch() > self._obeyed:
            return True
        query = 'SELECT 1 FROM forgotten WHERE ? BETWEEN start AND "end" LIMIT 1'
        return self._file.execute(query, (at,)).fetchone() is not None

    def _newest_stretch(self) -> int:
        return int(self._file.execute("SELECT coalesce(max(id), 0) FROM forgotten").fetchone()[0])

    def _forget(self, start: float, end: float, where: str, values: Sequence[float]) -> int:
        with self._lock:
            self._unwritten.append((start, end))
            try:
                with self._transaction():
                    before = self._newest_stretch()
                    for stretch in self._unwritten:
                        number = self._file.execute(
                            'INSERT INTO forgotten (start, "end") VALUES (?, ?) RETURNING id', stretch
                        ).fetchone()[0]
                    self._file.execute("DELETE FROM forgotten WHERE id <= ?", (number - _KEPT_STRETCHES,))
                    gone = self._file.execute(f"DELETE FROM moments WHERE {where}", values).rowcount
                    self._file.execute("DELETE FROM ages WHERE id NOT IN (SELECT id FROM moments)")
                    # The index keeps the words of deleted rows until it is made anew.
                    self._file.execute("INSERT INTO words (words) VALUES ('rebuild')")
                self._file.execute("VACUUM")
            except sqlite3.Error as error:
                told = f"the memory's file was not rewritten ({reason(error)}): forget once more"
                raise DataError(told) from error
            self._unwritten.clear()
            if self._obeyed == before:
                # Else another process forgot something too, which is still to be obeyed.
                self._obeyed = number
            self._weigh()
            return gone

    def _advance(self, at: float) -> None:
        """Let the memory's own clock come to a moment."""
        now = self._clock.now()
        passed, self._added = now - self._added, now
        step = 0.0 if self._newest is None else at - self._newest
        if abs(step) > _STEP:
            # The date jumped: what passed meanwhile is known by the process's own clock alone.
            self._lived += min(step, passed) if step > 0 else passed
            self._newest = at
        elif step > 0 or self._newest is None:
            self._lived += step
            self._newest = at

    def _take_up(self) -> None:
        """Go on where the file ends; moments of an older egolive get their ages in their order."""
        with self._transaction():
            self._obeyed = self._newest_stretch()
            (lived,) = self._file.execute("SELECT coalesce(max(lived), 0.0) FROM ages").fetchone()
            self._lived = self._finite(lived)
            newest = self._file.execute(
                "SELECT at FROM moments JOIN ages USING (id) ORDER BY id DESC LIMIT 1"
            ).fetchone()
            if newest is not None:
                self._newest = self._finite(newest[0])
            missing = "SELECT id, at FROM moments WHERE id NOT IN (SELECT id FROM ages) ORDER BY id"
            for number, at in self._file.execute(missing).fetchall():
                self._advance(self._finite(at))
                self._file.execute("INSERT INTO ages VALUES (?, ?)", (number, self._lived))
            most = self.limits.total_bytes
            too_large = most is not None and self._used_bytes() > most
            if most is not None:
                self._shorten(most)
        if too_large:
            # Its pages are given back once, where it was allowed more before.
            self._file.execute("VACUUM")
            self._weigh()
        self._room_at = self._lived

    def _finite(self, value: object) -> float:
        if not isinstance(value, float) or not isfinite(value):
            raise DataError(f"{self._place}: the time of a moment is no number; name another folder")
        return value

    def _fits(self, moment: Moment) -> bool:
        """Whether there is room for the text; room comes back evenly with time, up to a minute's."""
        most = float(self.limits.text_bytes_a_minute)
        self._room = min(most, self._room + (self._lived - self._room_at) * most / 60)
        self._room_at = self._lived
        size = len(moment.text.encode(errors="replace"))
        if size > self._room:
            return False
        self._room -= size
        return True

    def _prune(self) -> None:
        limits = self.limits
        believed = self._lived - limits.seconds * _BELIEVED
        oldest, dated = self._file.execute(
            "SELECT min(lived), min(at) FROM moments JOIN ages USING (id) WHERE lived > ?", (believed,)
        ).fetchone()
        # Few moments at the end of a long rest agree on nothing.
        agreed = oldest < self._lived - limits.seconds * _BELIEVED / 2
        query = (
            "SELECT id, text, length(picture), length(encoding) FROM moments JOIN ages USING (id) "
            "WHERE lived < ? OR (lived <= ? AND at < ?)"
        )
        dates = (believed, dated - limits.seconds) if agreed else (-1.0, 0.0)
        for row in self._file.execute(query, (self._lived - limits.seconds, *dates)).fetchall():
            self._remove(*row)
        most = limits.total_bytes
        self._thin("picture", most or limits.picture_bytes, float("-inf"))
        self._thin("encoding", most or limits.encoding_bytes, self._lived - limits.encoding_seconds)
        if most is not None:
            self._shorten(most)

    def _shorten(self, most: int) -> None:
        """Remove the oldest moments, but for the newest one, until the pages in use fit."""
        query = (
            "SELECT id, text, length(picture), length(encoding) FROM moments "
            "WHERE id < (SELECT max(id) FROM moments) ORDER BY id LIMIT 1"
        )
        while self._used_bytes() > most and (row := self._file.execute(query).fetchone()):
            self._remove(*row)

    def _used_bytes(self) -> int:
        """Of the file's pages, those that hold something; the others are used again."""
        pages = [
            int(self._file.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_size", "page_count", "freelist_count")
        ]
        return pages[0] * (pages[1] - pages[2])

    def _remove(self, number: int, text: str, *sizes: int | None) -> None:
        """Remove a moment; `sizes` are those of its picture and its encoding."""
        self._file.execute("INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)", (number, text))
        self._file.execute("DELETE FROM moments WHERE id = ?", (number,))
        self._file.execute("DELETE FROM ages WHERE id = ?", (number,))
        for column, size in zip(self._held, sizes, strict=True):
            self._held[column] -= size or 0

    def _thin(self, column: str, most: int, oldest: float) -> None:
        """Take pictures or encodings away from the oldest moments, until the rest is few and young enough."""
        query = (
            f"SELECT id, lived, length({column}) FROM moments JOIN ages USING (id) "
            f"WHERE {column} IS NOT NULL ORDER BY id LIMIT 1"
        )
        while row := self._file.execute(query).fetchone():
            if self._held[column] <= most and row[1] >= oldest:
                return
            self._file.execute(f"UPDATE moments SET {column} = NULL WHERE id = ?", (row[0],))
            self._held[column] -= row[2]

    def _weigh(self) -> None:
        sizes = self.sizes()
        self._held = {"picture": sizes["pictures"], "encoding": sizes["encodings"]}

    def _moments(self, query: str, values: Sequence[object]) -> list[Moment]:
        with self._lock, self._damage_told():
            rows = self._file.execute(query, values).fetchall()
        try:
            return [_moment(row) for row in rows]
        except ValueError as error:
            raise DataError(f"{self._place}: a moment is damaged ({error}); name another folder") from None


def _moment(row: Sequence[object]) -> Moment:
    """A row as a moment: SQLite keeps any type in any column, and the file may come from elsewhere.

    Raises:
        ValueError: A value has another type, or is beyond what egolive writes.
    """
    number, at, time, kind, text, width, height, *corners, picture, encoding = row
    if not isinstance(number, int):
        raise ValueError("its id is no number")
    if not (isinstance(at, float) and isinstance(time, float) and isfinite(at) and isfinite(time)):
        raise ValueError("its time is no number")
    if kind not in get_args(Kind):
        raise ValueError("its kind is unknown")
    if not isinstance(text, str) or len(text) > _LONGEST_TEXT:
        raise ValueError("its text is no text, or too long")
    size = None
    if width is not None or height is not None:
        if not (isinstance(width, int) and isinstance(height, int)):
            raise ValueError("its size is no number")
        if not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
            raise ValueError("its size is impossible")
        size = (width, height)
    places = [value for value in corners if isinstance(value, float) and isfinite(value)]
    if len(places) not in (0, 4) or (not places and corners != [None] * 4):
        raise ValueError("its box is no box")
    if not isinstance(picture, bytes | None) or not isinstance(encoding, bytes | None):
        raise ValueError("its picture or encoding is none")
    return Moment(
        id=number,
        at=at,
        time=time,
        kind=kind,  # type: ignore[arg-type]  # one of its values, as was looked at
        text=text,
        size=size,
        box=Box(places[0], places[1], places[2], places[3]) if places else None,
        picture=picture,
        encoding=encoding,
    )


def _of_kinds(kinds: Sequence[Kind]) -> tuple[str, Sequence[Kind]]:
    return (f"AND kind IN ({', '.join('?' * len(kinds))})", kinds) if kinds else ("", ())
