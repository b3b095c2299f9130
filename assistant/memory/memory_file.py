"""The memory's SQLite file: opened as somebody else's, its tables those of egolive and nothing more.

A file that comes from elsewhere could hold triggers or views, which run when something is written or read: a
trigger can keep what is forgotten in a table of its own. So every object of the file has to be one that
egolive makes, word by word, and SQLite is told to trust no function in a schema. Types and sizes of values
are looked at when they are read.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from egolive.streaming.errors import DataError

__all__ = ["FILE", "is_busy", "is_full", "open_file", "reason"]

FILE = "memory.sqlite"
_LARGEST = 64 * 1024**2
"""Bytes of a value; pictures and encodings are far smaller."""
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
CREATE TABLE IF NOT EXISTS ages (id INTEGER PRIMARY KEY, lived REAL NOT NULL);
CREATE INDEX IF NOT EXISTS ages_lived ON ages (lived);
CREATE TABLE IF NOT EXISTS forgotten (id INTEGER PRIMARY KEY, start REAL NOT NULL, "end" REAL NOT NULL);
"""
_OBJECTS = "SELECT type, name, tbl_name, sql FROM sqlite_schema"


def open_file(folder: Path | None, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a memory's file, or make one; its tables are there afterwards unless it is only read.

    Args:
        folder: Where it lies; in this process's memory alone without it.
        read_only: Nothing can be written by the connection; the file has to be there.

    Raises:
        DataError: It cannot be used, or is not as egolive makes it.
    """
    place = "this process's memory" if folder is None else str(folder)
    remedy = "name another folder"
    try:
        if folder is None:
            file = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        else:
            path = folder / FILE
            if not read_only:
                folder.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():
                raise DataError(f"{place}: {FILE} is no file; {remedy}")
            place_of = f"{path.absolute().as_uri()}?mode={'rw' if read_only else 'rwc'}"
            file = sqlite3.connect(place_of, uri=True, check_same_thread=False, isolation_level=None)
    except (sqlite3.Error, OSError) as error:
        raise DataError(f"{place}: no memory that can be used ({reason(error)}); {remedy}") from error
    try:
        _distrust(file)
        _check_objects(file, place, remedy)
        if read_only:
            file.execute("PRAGMA query_only = ON")
            return file
        # In the file alone: a second one beside it would keep what is forgotten.
        mode = file.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
        if mode not in ("delete", "memory"):
            raise DataError(f"{place}: another program keeps the memory in {mode} mode; close that program")
        file.executescript(
            "PRAGMA secure_delete = ON; PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY;"
        )
        # All of them or none: a disk may be full from the start.
        file.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
    except sqlite3.Error as error:
        file.close()
        if folder is not None and not read_only:
            _remove_empty(folder / FILE)
        raise DataError(f"{place}: no memory that can be used ({reason(error)}); {remedy}") from error
    except DataError:
        file.close()
        raise
    return file


def _remove_empty(path: Path) -> None:
    """Remove a file that was made and got nothing; one with anything in it stays."""
    try:
        if path.stat().st_size == 0:
            path.unlink()
    except OSError:
        # The folder went, or is not ours: nothing was lost.
        return


def reason(error: BaseException) -> str:
    """What SQLite says, in one line: names in a file may hold anything."""
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(told.split())[:200]


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process is at work on the file; anything else does not go away by waiting."""
    # Extended codes have the plain one in their lowest byte.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_full(error: sqlite3.Error) -> bool:
    """Whether the disk has no room for what was written."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def _distrust(file: sqlite3.Connection) -> None:
    file.execute("PRAGMA trusted_schema = OFF")
    file.execute("PRAGMA cell_size_check = ON")
    file.execute("PRAGMA mmap_size = 0")
    # VACUUM attaches one; nothing else may.
    file.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1)
    file.setlimit(sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 0)
    file.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST)
    if (defensive := getattr(sqlite3, "SQLITE_DBCONFIG_DEFENSIVE", None)) is not None:
        # From Python 3.12.
        file.setconfig(defensive, True)  # type: ignore[attr-defined]
    if hasattr(file, "enable_load_extension"):
        file.enable_load_extension(False)


def _check_objects(file: sqlite3.Connection, place: str, remedy: str) -> None:
    """Compare what is in the file with what this SQLite makes of `_TABLES`; tables may be missing.

    Raises:
        DataError: Something else is there.
    """
    with sqlite3.connect(":memory:") as own:
        own.executescript(_TABLES)
        known = {tuple(map(_plain, row)) for row in own.execute(_OBJECTS)}
    own.close()
    for row in file.execute(f"{_OBJECTS} LIMIT 100"):
        if tuple(map(_plain, row)) not in known:
            kind, name = (" ".join(str(value).split())[:40] for value in row[:2])
            told = f"{place}: {FILE} has a {kind} {name!r} that egolive did not make"
            raise DataError(f"{told}, so it is not used; {remedy}")


def _plain(value: object) -> object:
    return " ".join(value.split()) if isinstance(value, str) else value
