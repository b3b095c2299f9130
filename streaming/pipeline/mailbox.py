"""The bounded queue between two threads, for streams that may lose items and for streams that may not."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Mailbox"]

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Hands items (anything but None) from one thread to another, in order, each once.

    Live: writing never waits; when it is full the oldest item makes room and is counted as dropped.
    Recorded: writing waits for room, so that nothing is lost.

    The writer ends it with `finish` or `fail`, after which what is still inside can be read; either side ends
    it at once with `close`, which wakes the other.

    Args:
        live: drop rather than wait.
        capacity: items that it holds.
    """

    def __init__(self, *, live: bool, capacity: int = 1) -> None:
        if capacity < 1:
            raise ValueError(f"a mailbox holds at least one item, got {capacity}")
        self._live = live
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._closed = False
        self._error: BaseException | None = None
        self._drops: Counter[str] = Counter()

    @property
    def drops(self) -> dict[str, int]:
        """Items that were put but never read, by reason: "busy" (a newer one came first), "closed"."""
        with self._changed:
            return dict(self._drops)

    def put(self, item: T) -> bool:
        """Hand over an item; waits for room unless live. False: the mailbox is closed, nobody will read it.

        Raises:
            ValueError: the writer has finished it before.
        """
        with self._changed:
            if self._finished and not self._closed:
                raise ValueError("an item was put after the end")
            if not self._live:
                self._changed.wait_for(lambda: self._closed or len(self._items) < self._capacity)
            if self._closed:
                self._drops["closed"] += 1
                return False
            if len(self._items) == self._capacity:
                self._items.popleft()
                self._drops["busy"] += 1
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self, timeout: float | None = None) -> T | None:
        """Take the oldest item, waiting for one; None at the end: closed, or finished and empty.

        Args:
            timeout: seconds to wait at most; for ever without it.

        Raises:
            TimeoutError: no item came in time.
            BaseException: what the writer handed to `fail`, once the items before it are read.
        """
        with self._changed:
            ready = self._changed.wait_for(lambda: self._items or self._finished or self._closed, timeout)
            if not ready:
                raise TimeoutError
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None and not self._closed:
                raise self._error
            return None

    def __iter__(self) -> Iterator[T]:
        """Items until the end; raises what the writer handed to `fail`."""
        while (item := self.get()) is not None:
            yield item

    def finish(self) -> None:
        """Mark the end; what is inside can still be read."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Mark the end by an error, which the reader gets after what is still inside."""
        with self._changed:
            if not self._finished:
                self._error = error
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """End it at once for both sides; what is inside is counted as dropped."""
        with self._changed:
            self._closed = True
            if self._items:
                self._drops["closed"] += len(self._items)
                self._items.clear()
            self._changed.notify_all()
