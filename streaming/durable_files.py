"""Files that survive a crash: what is on the disk before a file takes another's place, and when.

A name is given to new content only once that content is on the disk. So a process that is killed, a machine
that loses power and a disk that is full leave the old file or the new one, never a part of either.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["replace_file", "sync_file", "sync_folder", "sync_tree"]


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


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disk.

    Raises:
        OSError: The disk is full or gone.
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())


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
