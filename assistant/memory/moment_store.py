"""The moment store: a bounded timeline of a stream in one SQLite file, with full-text search.

Each moment has a few words, and some have a small picture, a box in it and the picture's encoding, so that
the model can be asked about it again. What is worth remembering is decided in
`egolive.assistant.memory.memory_writer`, asking again in `egolive.assistant.memory.recall`. Search is by
whole words (SQLite FTS5, stems of English): "cups" finds "cup", "mug" does not.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from egolive.streaming.errors import DataError
from egolive.streaming.frames import Box

__all__ = ["Kind", "Limits", "Memory", "Moment"]

_log = logging.getLogger(__name__)

Kind = Literal["intent", "next", "take", "held", "put", "seen"]
"""held: the last picture before something was put down; put: the first one after."""

_TABLES = """
CREATE TABLE IF NOT EXISTS moments (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, time REAL NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL,
    width INTEGER, height INTEGER, x1 REAL, y1 REAL, x2 REAL, y2 REAL,
    picture BLOB, encoding BLOB
);
CREATE INDEX IF NOT EXISTS moments_at ON moments (at);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (
    text, content='moments', content_rowid='id', tokenize='porter unicode61'
);
"""
_COLUMNS = "id, at, time, kind, text, width, height, x1, y1, x2, y2, picture, encoding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is remembered; what is beyond leaves, the oldest first."""

    text_bytes_a_minute: int = 4096
    seconds: float = 86_400.0
    """Age at which a moment is dropped."""
    picture_bytes: int = 64 * 1024**2
    encoding_bytes: int = 256 * 1024**2
    encoding_seconds: float = 8 * 3600.0


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

    Raises:
        DataError: The folder or the file cannot be used.
    """

    def __init__(self, folder: Path | None = None, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._lock = threading.RLock()
        self._room = float(self.limits.text_bytes_a_minute)
        self._room_at: float | None = None
        self._forgotten_until = float("-inf")
        self.refused = 0
        """Moments for which there was no room in their minute, or in the file."""
        place = "this process's memory" if folder is None else str(folder)
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            name = ":memory:" if folder is None else str(folder / "memory.sqlite")
            self._file = sqlite3.connect(name, check_same_thread=False, isolation_level=None)
            self._file.executescript(
                "PRAGMA secure_delete = ON; PRAGMA journal_mode = DELETE; PRAGMA synchronous = NORMAL;"
                "PRAGMA temp_store = MEMORY;"
            )
            self._file.executescript(_TABLES)
            self._held: dict[str, int] = {}
            self._weigh()
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"{place}: no memory that can be used ({error}); name another folder") from error

    def add(self, moment: Moment) -> int:
        """Remember a moment; returns its id, or 0 where its minute is full or it was to be forgotten."""
        with self._lock:
            if moment.at <= self._forgotten_until or not self._fits(moment):
                self.refused += 1
                return 0
            box = moment.box
            values = (
                *(moment.at, moment.time, moment.kind, moment.text, *(moment.size or (None, None))),
                *(tuple(box) if box else (None,) * 4),
                *(moment.picture, moment.encoding),
            )
            held = dict(self._held)
            try:
                with self._file:
                    self._file.execute("BEGIN")
                    row = self._file.execute(
                        f"INSERT INTO moments VALUES (NULL{', ?' * 12}) RETURNING id", values
                    ).fetchone()
                    self._file.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (row[0], moment.text))
                    self._held["picture"] += len(moment.picture or b"")
                    self._held["encoding"] += len(moment.encoding or b"")
                    self._prune(moment.at)
            except sqlite3.OperationalError as error:
                # A full disk, or another process that is at work on the file: what is live goes on.
                if not self.refused:
                    _log.warning("a moment could not be remembered (%s)", error)
                self.refused += 1
                self._held = held
                return 0
            return int(row[0])

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
        """Drop every moment of a stretch of time for good, and whatever of it still comes.

        Args:
            start: Seconds since 1970.
            end: The same; later moments stay.

        Returns:
            How many moments there were.

        Raises:
            DataError: The file cannot be written now.
        """
        with self._lock:
            self._forgotten_until = max(self._forgotten_until, end)
            try:
                with self._file:
                    self._file.execute("BEGIN")
                    gone = self._file.execute("DELETE FROM moments WHERE at BETWEEN ? AND ?", (start, end))
                    # The index keeps the words of deleted rows until it is made anew.
                    self._file.execute("INSERT INTO words (words) VALUES ('rebuild')")
                self._file.execute("VACUUM")
            except sqlite3.OperationalError as error:
                raise DataError(f"the memory's file was not rewritten ({error}): forget once more") from error
            self._weigh()
            return gone.rowcount

    def sizes(self) -> dict[str, int]:
        """Moments, and bytes of text, pictures and encodings."""
        names = ("moments", "text", "pictures", "encodings")
        with self._lock:
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

    def _fits(self, moment: Moment) -> bool:
        """Whether there is room for the text; room comes back evenly with time, up to a minute's."""
        most = float(self.limits.text_bytes_a_minute)
        if self._room_at is not None:
            passed = max(0.0, moment.at - self._room_at)
            self._room = min(most, self._room + passed * most / 60)
        self._room_at = max(moment.at, self._room_at or moment.at)
        size = len(moment.text.encode())
        if size > self._room:
            return False
        self._room -= size
        return True

    def _prune(self, now: float) -> None:
        limits = self.limits
        query = "SELECT id, text, length(picture), length(encoding) FROM moments WHERE at < ?"
        for number, text, *sizes in self._file.execute(query, (now - limits.seconds,)).fetchall():
            self._file.execute(
                "INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)", (number, text)
            )
            self._file.execute("DELETE FROM moments WHERE id = ?", (number,))
            for column, size in zip(self._held, sizes, strict=True):
                self._held[column] -= size or 0
        self._thin("picture", limits.picture_bytes, float("-inf"))
        self._thin("encoding", limits.encoding_bytes, now - limits.encoding_seconds)

    def _thin(self, column: str, most: int, oldest: float) -> None:
        """Take pictures or encodings away from the oldest moments, until the rest is few and young enough."""
        query = f"SELECT id, at, length({column}) FROM moments WHERE {column} IS NOT NULL ORDER BY id LIMIT 1"
        while row := self._file.execute(query).fetchone():
            if self._held[column] <= most and row[1] >= oldest:
                return
            self._file.execute(f"UPDATE moments SET {column} = NULL WHERE id = ?", (row[0],))
            self._held[column] -= row[2]

    def _weigh(self) -> None:
        sizes = self.sizes()
        self._held = {"picture": sizes["pictures"], "encoding": sizes["encodings"]}

    def _moments(self, query: str, values: Sequence[object]) -> list[Moment]:
        with self._lock:
            rows = self._file.execute(query, values).fetchall()
        return [
            Moment(
                id=row[0],
                at=row[1],
                time=row[2],
                kind=row[3],
                text=row[4],
                size=None if row[5] is None else (row[5], row[6]),
                box=None if row[7] is None else Box(*row[7:11]),
                picture=row[11],
                encoding=row[12],
            )
            for row in rows
        ]


def _of_kinds(kinds: Sequence[Kind]) -> tuple[str, Sequence[Kind]]:
    return (f"AND kind IN ({', '.join('?' * len(kinds))})", kinds) if kinds else ("", ())
