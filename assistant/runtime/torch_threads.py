"""A context manager that sets torch's number of CPU threads for one block of code."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["torch_threads"]

_lock = threading.Lock()
_open: list[int] = []
"""The numbers of all blocks that are running, in any thread."""
_outside = 1
"""Torch's number when none was running."""
_here = threading.local()


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` CPU threads in this block; None leaves them as they are. It costs microseconds.

    With OpenMP, which all of torch's packages use, `torch.set_num_threads` holds for the thread that calls
    it, and for threads that use torch for the first time from then on. So engines with different numbers can
    work side by side in several threads. A thread that comes from another engine's block with that block's
    number is given the one from outside when it leaves its own. What cannot be undone: a thread that first
    uses torch while a block runs elsewhere, and never enters one, keeps that block's number until it calls
    `torch.set_num_threads` itself.
    """
    if count is None:
        yield
        return
    before = _enter(count)
    try:
        yield
    finally:
        _leave(count, before)


def _enter(count: int) -> int:
    """Set the number of this thread, and say which one to put back."""
    global _outside
    depth: int = getattr(_here, "depth", 0)
    with _lock:
        before = torch.get_num_threads()
        if not _open:
            _outside = before
        elif depth == 0 and before in _open:
            before = _outside
        _open.append(count)
        _here.depth = depth + 1
        torch.set_num_threads(count)
    return before


def _leave(count: int, before: int) -> None:
    with _lock:
        _open.remove(count)
        _here.depth -= 1
        torch.set_num_threads(before)
