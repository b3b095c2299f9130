"""ASGI gate in front of the page's routes: which of Gradio's are reached at all, and with what.

Gradio has some sixty routes; the page needs fifteen. The others are answered 404, among them all that take or
give files. Its one route that runs our functions, `queue/join`, is given plain values alone: an object with a
"path" would make Gradio copy that file, or what an address holds, into a folder that it serves.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Annotated

from pydantic import Field
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from egolive.demo.security.names import client_network
from egolive.streaming.errors import EgoliveError, UsageError
from egolive.streaming.json_files import Count, JsonModel, parse_json

__all__ = ["RequestGate"]

_READ = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static)/[A-Za-z0-9_./@-]{1,200}"
    r"|/gradio_api/(startup-events|info|app_id|queue/data|heartbeat/[A-Za-z0-9]{1,40})"
)
_WRITTEN = frozenset(f"/gradio_api/{name}" for name in ("queue/join", "cancel", "reset"))
_QUERY = re.compile(rb"session_hash=([A-Za-z0-9]{1,40})")
_FORWARDED = (b"x-forwarded-", b"forwarded")
_MOST_WAITING = 8
"""Calls of one address that wait for their turn."""
_MOST_FIELDS = 20_000
"""Bytes of a request that is not a picture."""
_SECONDS = 20.0
"""For a request to be sent whole."""


_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,40}$")]
_Value = bool | int | float | Annotated[str, Field(max_length=2000)] | None


class _Fields(JsonModel):
    """What a page sends to Gradio; what else is in a request is left out."""

    session_hash: _Word | None = None
    fn_index: Count | None = None
    event_id: _Word | None = None
    trigger_id: Count | None = None
    data: Annotated[list[_Value], Field(max_length=16)] | None = None


class RequestGate:
    """Passes on what the page needs, read whole and checked.

    Args:
        app: FastAPI's app with our routes and Gradio's.
        values: How many values each of Gradio's functions takes, by its number.
        waiting: How many calls of an address wait for their turn.
        heard: Whether a session has called anything.
        streamed: Paths whose body their own route reads, piece by piece.
        most_picture: Bytes of a body under /live/.
        seconds: For a request to be sent whole.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        values: Callable[[int], int | None],
        waiting: Callable[[str], int],
        heard: Callable[[str], bool],
        streamed: frozenset[str],
        most_picture: int,
        seconds: float = _SECONDS,
    ) -> None:
        self._app = app
        self._values = values
        self._waiting = waiting
        self._heard = heard
        self._streamed = streamed
        self._most_picture = most_picture
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Gradio makes addresses of what a proxy says, and anybody can say so.
        scope = {
            **scope,
            "headers": [kept for kept in scope["headers"] if not kept[0].startswith(_FORWARDED)],
        }
        path, reading = scope["path"], scope["method"] in ("GET", "HEAD")
        ours = path.startswith(("/live/", "/clip/"))
        if not ours and not (_READ.fullmatch(path) if reading else path in _WRITTEN):
            await _no(404, "there is no such page")(scope, receive, send)
            return
        if path == "/gradio_api/queue/data":
            named = _QUERY.fullmatch(scope["query_string"])
            if named is None:
                await _no(400, "session_hash: letters and digits are wanted")(scope, receive, send)
                return
            if not self._heard(named[1].decode()):
                await _no(404, "this session has called nothing")(scope, receive, send)
                return
        if reading or path in self._streamed:
            await self._app(scope, receive, send)
            return
        try:
            body = await _whole(receive, self._most_picture if ours else _MOST_FIELDS, self._seconds)
            if path.endswith("/join"):
                client = scope.get("client")
                if self._waiting(client_network(client[0] if client else None)) >= _MOST_WAITING:
                    await _no(429, "too many calls wait for their turn; try again")(scope, receive, send)
                    return
            if not ours:
                body = self._plain(path, body)
        except TimeoutError:
            await _no(408, f"the request was not sent within {self._seconds:g} s")(scope, receive, send)
            return
        except EgoliveError as error:
            await _no(400, str(error))(scope, receive, send)
            return
        if body is None:
            return
        kept = [(name, value) for name, value in scope["headers"] if name not in _FRAMING]
        headers = [*kept, (b"content-length", str(len(body)).encode())]
        await self._app({**scope, "headers": headers}, _replayed(body, receive), send)

    def _plain(self, path: str, body: bytes | None) -> bytes | None:
        """The request with its known fields alone.

        Raises:
            DataError: A field is of another kind.
            UsageError: There is no such function, or it takes other values.
        """
        if body is None:
            return None
        fields = parse_json(_Fields, body, where="the request", remedy="reload the page")
        if path.endswith("/join"):
            expected = None if fields.fn_index is None else self._values(fields.fn_index)
            if expected is None or fields.session_hash is None:
                raise UsageError("fn_index, session_hash: one of them is missing or unknown")
            if fields.data is None or len(fields.data) != expected:
                raise UsageError(f"data: a list of {expected} values is wanted")
        return fields.model_dump_json(exclude_none=fields.data is None).encode()


_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


async def _whole(receive: Receive, most: int, seconds: float) -> bytes | None:
    """The body of a request; None where the sender has gone.

    Raises:
        UsageError: It is longer than `most` bytes.
        TimeoutError: It took too long.
    """
    body = bytearray()
    async with asyncio.timeout(seconds):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > most:
                raise UsageError(f"too much was sent: at most {most / 1e6:g} MB are taken")
            if not message.get("more_body"):
                return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body, and then what comes after it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _no(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status_code=status)
