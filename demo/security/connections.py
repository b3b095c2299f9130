"""Closes connections that send nothing, or a request's head a byte at a time; uvicorn waits forever."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from egolive.demo.security.names import client_network

__all__ = ["ImpatientProtocol", "allow_connections"]

_HANDSHAKE = 10.0
"""Seconds for that of TLS; asyncio's own limit is a minute, and uvicorn has no setting for it."""


def allow_connections() -> None:
    """Let this process have as many files open as it may, and TLS begin in time.

    A connection counts as one for uvicorn only when its TLS stands.
    """
    asyncio.constants.SSL_HANDSHAKE_TIMEOUT = _HANDSHAKE  # type: ignore[attr-defined]
    try:
        import resource
    except ImportError:
        # Windows has no such limit.
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class ImpatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with limits: the time in which a request's head has to come, and connections."""

    head_seconds = 10.0
    most_of_network = 100
    """Connections of one address; a browser has six at most."""
    _open: ClassVar[Counter[str]] = Counter()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waiting: asyncio.TimerHandle | None = None
        self._network = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._network = client_network(self.client[0] if self.client else None)
        self._open[self._network] += 1
        if self._open[self._network] > self.most_of_network:
            transport.abort()
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what came; where no request is under way after it, its head is still incomplete."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._waiting is None and not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the limit."""
        self._stop_waiting()
        self._open[self._network] -= 1
        if not self._open[self._network]:
            del self._open[self._network]
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """A request that came with the one before has its head already; else uvicorn's own limit holds."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self._stop_waiting()

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.head_seconds, self._close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _close(self) -> None:
        self._waiting = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
