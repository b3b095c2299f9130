"""Most memory of its own that a process has taken, without pages of files that are mapped into it.

Mapped pages are given back whenever the system wants them; memory of its own is not. For weights that are
mapped the resident set says little, which is why this is told apart.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path
from types import TracebackType

import psutil

__all__ = ["AnonymousPeak", "anonymous_bytes", "give_back_memory", "use_large_pages"]

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PERIOD = 0.05
"""Seconds between two looks."""


def anonymous_bytes() -> int | None:
    """Bytes of this process and its children that belong to no file; None where the system does not tell."""
    whole = _of(psutil.Process().pid)
    if whole is None:
        return None
    return whole + sum(_of(child.pid) or 0 for child in psutil.Process().children(recursive=True))


def _of(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    told = next((line.split() for line in lines if line.startswith("RssAnon:")), None)
    return int(told[1]) * 1024 if told else None


def give_back_memory() -> None:
    """Give freed memory back to the system: glibc keeps it where small blocks lie between large ones.

    Between layers of hundreds of megabytes it would otherwise add up to several of them. Elsewhere than with
    glibc nothing is done.
    """
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


def use_large_pages() -> None:
    """Let torch ask the system for pages of 2 MiB, unless the environment says something else.

    For work that makes and drops tensors of hundreds of megabytes, as quantising does: most of its time would
    go into getting them from the system in pages of 4 KiB. To be called before torch makes its first tensor;
    only Linux does something about it.
    """
    # Read once, in torch's c10/core/impl/alloc_cpu.cpp.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


class AnonymousPeak:
    """Looks every 50 ms; a context manager."""

    def __init__(self) -> None:
        self.most: int | None = anonymous_bytes()
        """In bytes; None where the system does not tell."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)

    def __enter__(self) -> AnonymousPeak:
        if self.most is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_PERIOD):
            now = anonymous_bytes()
            if now is not None:
                self.most = max(self.most or 0, now)
