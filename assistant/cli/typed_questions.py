"""Takes the wearer's questions from the terminal while a run goes on: one a line."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = ["lines_to"]

_POLL = 0.2
"""Seconds in which the reader notices that the run is over."""


@contextmanager
def lines_to(take: Callable[[str], object], stream: TextIO) -> Iterator[None]:
    """Hand every line of a stream that is not empty to a function, on a thread of its own.

    The stream is asked before it is read, so that leaving never waits for a line; its end stops the thread.

    Args:
        take: Called with each line, without the spaces round it.
        stream: A terminal or a pipe.
    """
    over = threading.Event()

    def read() -> None:
        unfinished = b""
        while not over.is_set():
            ready, _, _ = select.select([stream], [], [], _POLL)
            if not ready:
                continue
            piece = os.read(stream.fileno(), 4096)
            *lines, unfinished = (unfinished + piece).split(b"\n")
            for line in lines:
                if text := line.decode(errors="replace").strip():
                    take(text)
            if not piece:
                return

    thread = threading.Thread(target=read, name="egolive-wearer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
