"""One engine shared by sessions on several threads, with a first-in, first-out lock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from egolive.assistant.schema.engine import (
    FULL_REUSE,
    Delta,
    Engine,
    EngineInfo,
    EngineSession,
    KnowsFamiliar,
    Request,
    Reuse,
    Vision,
)
from egolive.assistant.schema.profiles import Profile

if TYPE_CHECKING:
    # Who shares an engine behind an address does not wait for torch.
    from egolive.assistant.schema.tokenizer import Tokenizer

__all__ = ["EngineLock", "SharedEngine"]


class EngineLock:
    """A first-in, first-out lock; `threading.Lock` may starve a thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    @property
    def waiting(self) -> int:
        """Number of threads that wait for the lock."""
        with self._changed:
            return max(0, len(self._queue) - 1)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Acquire the lock for a block of code."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            self._changed.wait_for(lambda: self._queue[0] is ticket)
        try:
            yield
        finally:
            with self._changed:
                self._queue.popleft()
                self._changed.notify_all()


class SharedEngine:
    """An `Engine` over one that is shared: its sessions run one at a time."""

    def __init__(self, engine: Engine) -> None:
        """Share an engine, which stays the caller's to close."""
        self.lock = EngineLock()
        """Held by the session that is running."""
        self._engine = engine

    @property
    def info(self) -> EngineInfo:
        """What is loaded."""
        return self._engine.info

    @property
    def profile(self) -> Profile:
        """How the checkpoint is asked and read."""
        return self._engine.profile

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Tells text and ids of tokens."""
        return self._engine.tokenizer

    def session(self, reuse: Reuse = FULL_REUSE) -> EngineSession:
        """A fresh stream state; its calls wait for the lock."""
        with self.lock.held():
            return _SharedSession(self._engine.session(reuse), self.lock)

    def close(self) -> None:
        """Nothing to free: the engine is the caller's."""


class _SharedSession:
    """One session of a shared engine."""

    def __init__(self, session: EngineSession, lock: EngineLock) -> None:
        self._session = session
        self._lock = lock

    def see(self, vision: Vision) -> None:
        with self._lock.held():
            self._session.see(vision)

    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        # Closing this generator releases the lock.
        with self._lock.held():
            yield from self._session.ask(requests)

    def usage(self, request: int | None = None) -> dict[str, int]:
        return self._session.usage(request)

    def familiarity(self, request: int) -> float | None:
        return self._session.familiarity(request) if isinstance(self._session, KnowsFamiliar) else None

    def forget(self) -> None:
        self._session.forget()

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> _SharedSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
