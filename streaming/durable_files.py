"""Files that survive a crash: what is on the disk before a file takes another's place, and when.

A name is given to new content only once that content is on the disk. So a process that is killed, a machine
that loses power and a disk that is full leave the old file or the new one, never a part of either. Files that
grow are written without a buffer of this process, so that killing it costs nothing that was written, and a
thread of their own brings them to the disk each second: the disk may take long, and a stream does not wait.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import weakref
from collections.abc import Callable
from io import FileIO
from pathlib import Path

__all__ = [
    "CheckedFile",
    "LineFile",
    "MakeRoom",
    "replace_file",
    "sync_file",
    "sync_folder",
    "sync_later",
    "sync_tree",
]

_log = logging.getLogger(__name__)
_EVERY = 1.0
"""Seconds between two times at which what was appended is brought to the disk."""
_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}

MakeRoom = Callable[[], bool]
"""Called where a disk is full: frees something, and says whether it did."""


class LineFile:
    """A file of lines that are written at once and whole.

    Where there is no room for a line the file ends with the one before it. May be used from any thread.

    Args:
        path: Overwritten.
        make_room: Asked, again and again, before a full disk counts as a failure.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, path: Path, *, make_room: MakeRoom | None = None) -> None:
        self._lock = threading.Lock()
        self._make_room = make_room
        # Without a buffer nothing is left for the end, which would block or fail where writing did.
        self._file = path.open("wb", buffering=0)
        self._appending = _Appending(self._file)
        self._length = 0

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._file.closed

    def write(self, line: bytes) -> None:
        """Append a line, its end included.

        Raises:
            OSError: There is no room for it, or the disk failed to keep an earlier one.
        """
        with self._lock:
            self._appending.check()
            rest = line
            while rest:
                try:
                    rest = rest[self._file.write(rest) :]
                except OSError as error:
                    if not _made_room(error, self._make_room):
                        self._cut()
                        raise
            self._length += len(line)

    def close(self) -> None:
        """Close the file, what was written on the disk; closing twice does nothing.

        Raises:
            OSError: The disk failed to keep it.
        """
        try:
            self._appending.close()
        finally:
            self._file.close()

    def _cut(self) -> None:
        """Take a part of a line away; of a pipe or a device nothing can be taken back."""
        try:
            self._file.truncate(self._length)
            self._file.seek(self._length)
        except OSError:
            return


class CheckedFile:
    """A file that a library writes which may not tell what fails, such as FFmpeg's muxers.

    The first failure is kept, and nothing is written after it. It is brought to the disk each second.

    Args:
        path: Overwritten.
        make_room: Asked, again and again, before a full disk counts as a failure.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, path: Path, *, make_room: MakeRoom | None = None) -> None:
        self._file = path.open("wb", buffering=0)
        self._make_room = make_room
        self._appending = _Appending(self._file)
        self._error: OSError | None = None

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._file.closed

    def write(self, data: bytes) -> int:
        """Write all of it; returns how many bytes, or as FFmpeg has it the error below 0."""
        rest = memoryview(data)
        while rest and self._error is None:
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                if not _made_room(error, self._make_room):
                    self._error = error
        return len(data) if self._error is None else -(self._error.errno or 1)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a file does."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As a file does."""
        return self._file.tell()

    def seekable(self) -> bool:
        """As a file does; a pipe is not."""
        return self._file.seekable()

    def check(self) -> None:
        """Nothing where all has been written.

        Raises:
            OSError: The first failure.
        """
        if self._error is not None:
            raise self._error
        self._appending.check()

    def close(self) -> None:
        """Close it, what was written on the disk; closing twice does nothing.

        Raises:
            OSError: The first failure.
        """
        try:
            self._appending.close()
        finally:
            self._file.close()
        self.check()


def _made_room(error: OSError, make_room: MakeRoom | None) -> bool:
    """Whether writing may be tried once more after a failure."""
    return error.errno in _FULL and make_room is not None and make_room()


class _Appending:
    """Brings a growing file to the disk each second, whoever writes it, until it is closed."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        # A pipe or a device has no disk below it.
        self._on_disk = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        self._error: OSError | None = None
        self._open = True
        _syncer.add(self)

    def check(self) -> None:
        """Nothing where all is well.

        Raises:
            OSError: The disk did not keep what was written.
        """
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Bring the rest to the disk; closing twice does nothing.

        Raises:
            OSError: The disk did not keep what was written.
        """
        if self._open:
            self._open = False
            _syncer.remove(self)
            self.sync()
        self.check()

    def sync(self) -> None:
        """Bring to the disk what is written by now; what fails is told by `check`."""
        if not self._on_disk:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._error = error
        except ValueError:
            # Closed meanwhile, after what was in it was brought to the disk.
            return


class _Syncer:
    """One thread for all growing files of the process, while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        # Weakly: a file whose writer was dropped without being closed does not keep the thread.
        self._files: weakref.WeakSet[_Appending] = weakref.WeakSet()
        self._folders: list[Path] = []
        self._thread: threading.Thread | None = None

    def add(self, file: _Appending) -> None:
        with self._lock:
            self._files.add(file)
            self._start()

    def once(self, folder: Path) -> None:
        with self._lock:
            self._folders.append(folder)
            self._start()

    def remove(self, file: _Appending) -> None:
        with self._lock:
            self._files.discard(file)
            self._lock.notify()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: not self._files, timeout=_EVERY)
                if not self._files and not self._folders:
                    self._thread = None
                    return
                files, folders, self._folders = list(self._files), self._folders, []
            for file in files:
                file.sync()
            for folder in folders:
                try:
                    sync_tree(folder)
                except OSError as error:
                    _log.warning("%s: the disk may not have kept it (%s)", folder, error.strerror or error)


_syncer = _Syncer()


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; one that is there is replaced.

    Raises:
        OSError: It cannot be written; what was there is unchanged, and nothing is left beside it.
    """
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_later(folder: Path) -> None:
    """Bring all files below a folder to the disk within about a second, without waiting for it."""
    _syncer.once(folder)


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disk, whoever has written it.

    Raises:
        OSError: The disk is full or gone.
    """
    # Windows wants a handle that may write.
    number = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; does nothing where a system cannot do that."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_tree(folder: Path) -> None:
    """Wait until all files below a folder, and their names, are on the disk.

    Raises:
        OSError: The disk is full or gone.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            sync_file(path)
    sync_folder(folder)
