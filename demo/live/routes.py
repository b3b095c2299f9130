"""HTTP routes of the Live tab: open, post a picture, view, ask, change settings, close."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from concurrent.futures import Future

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from egolive.assistant.generation.domain import advice, check_question
from egolive.assistant.schema.answers import Question, Task
from egolive.demo.live.browser_source import MOST_BYTES, BrowserSource, StreamEndedError
from egolive.demo.live.sessions import Settings, VisitorSession, VisitorSessions
from egolive.demo.live.state_sink import State
from egolive.demo.security.names import client_network
from egolive.streaming.errors import EgoliveError, SourceError, UsageError
from egolive.streaming.json_files import json_object

__all__ = ["add_live_routes", "settings_of"]

_LIVE_TASKS: tuple[Task, ...] = ("intent", "next", "ground")
_MOST_PHRASES = 4
_MOST_WORDS = 300
"""Characters of a question or a phrase."""
_MOST_JSON = 10_000
"""Bytes of a request that is not a picture."""
_TIMEOUT = 2.0
"""Seconds for which a request waits for its picture to be shown; the page asks again."""
_GONE = "this visit is over; start again"


def add_live_routes(app: FastAPI, sessions: VisitorSessions, *, longest: int = 640) -> None:
    """Add the routes and the handlers of their errors.

    Args:
        app: The server.
        sessions: Of all visitors.
        longest: Pixels of the longer side that pages shall make their pictures.
    """
    router = APIRouter(prefix="/live")
    app.add_exception_handler(_Gone, _answer_gone)
    app.add_exception_handler(EgoliveError, _answer_error)

    @router.post("/open")
    async def open_session(request: Request) -> Response:
        settings = settings_of(await _json(request))
        address = client_network(request.client.host if request.client else None)
        word = await run_in_threadpool(sessions.open, settings, address)
        if word is None:
            count = await run_in_threadpool(len, sessions)
            message = f"{count} visitors are looking, which is all there is room for; trying again"
            return JSONResponse({"error": message, "full": True}, status_code=503)
        info = sessions.engine.info
        return JSONResponse(
            {
                "visit": word,
                "watched": sessions.watched,
                "longest": longest,
                "engine": f"{info.name} {info.precision} on {info.device}",
                "thinks": sessions.engine.profile.think,
                "knows": advice(sessions.engine.profile),
            }
        )

    @router.post("/{word}/picture")
    async def post_picture(word: str, request: Request) -> Response:
        session = _session(sessions, word)
        body = await _body(request, MOST_BYTES)
        if session.over or session.changing:
            return JSONResponse(_timed(session, session.sink.state))
        try:
            captured = float(request.query_params.get("time", "nan"))
        except ValueError:
            captured = float("nan")
        try:
            moment = session.post(body, captured)
        except StreamEndedError:
            # It is ending right now: the last state says why.
            moment = session.sink.wait_for(sys.maxsize)
        return JSONResponse(_timed(session, await _first(session, moment)))

    @router.get("/{word}/view")
    async def view(word: str, after: int = -1) -> Response:
        session = _session(sessions, word)
        await _first(session, session.sink.wait_for(after + 1))
        state, jpeg = await run_in_threadpool(session.sink.jpeg)
        head = json.dumps(_timed(session, state)).encode()
        return Response(struct.pack(">I", len(head)) + head + jpeg, media_type="application/octet-stream")

    @router.post("/{word}/ask")
    async def ask(word: str, request: Request) -> Response:
        session = _session(sessions, word)
        fields = await _json(request)
        text, task = _words(fields.get("text")), fields.get("task", "ask")
        if task not in ("ask", "when") or not text:
            raise UsageError("the question is empty; write what you want to know")
        if task == "ask":
            check_question(text, sessions.engine.profile)
        session.ask(Question(task, text))
        return JSONResponse({"asked": text})

    @router.post("/{word}/settings")
    async def change(word: str, request: Request) -> Response:
        session = _session(sessions, word)
        settings = settings_of(await _json(request))
        if settings != session.settings:
            await run_in_threadpool(session.change, settings)
        return JSONResponse({"asked": [*settings.tasks, *settings.phrases]})

    @router.post("/{word}/close")
    async def close(word: str) -> Response:
        await run_in_threadpool(sessions.leave, word)
        return JSONResponse({})

    app.include_router(router)


def settings_of(fields: dict[str, object]) -> Settings:
    """What a page wants to be asked.

    Raises:
        UsageError: It cannot be understood, or nothing is asked.
    """
    tasks, phrases, think = (fields.get(name) for name in ("tasks", "phrases", "think"))
    tasks = list(_LIVE_TASKS) if tasks is None else tasks
    phrases = [] if phrases is None else phrases
    if (
        not isinstance(tasks, list)
        or not isinstance(phrases, list)
        # Each by itself: what came may not be hashable.
        or any(task not in _LIVE_TASKS for task in tasks)
    ):
        raise UsageError("tasks are a list of intent, next and ground; phrases a list of words")
    words = tuple(dict.fromkeys(filter(None, map(_words, phrases))))
    if len(words) > _MOST_PHRASES:
        raise UsageError(f"at most {_MOST_PHRASES} things are looked for at once; take one away")
    if not tasks and not words:
        raise UsageError("nothing is asked: switch on intent, next step or hands, or name a thing to find")
    chosen = tuple(task for task in _LIVE_TASKS if task in tasks)
    return Settings(chosen, words, think if isinstance(think, bool) else None)


class _Gone(Exception):  # noqa: N818
    """The session is over."""


def _session(sessions: VisitorSessions, word: str) -> VisitorSession:
    session = sessions.get(word)
    if session is None:
        raise _Gone
    return session


async def _first(session: VisitorSession, moment: Future[State]) -> State:
    """The moment, or the newest one where it does not come in time."""
    try:
        state = await asyncio.wait_for(asyncio.wrap_future(moment), _TIMEOUT)
    except TimeoutError:
        return session.sink.state
    # The last moment of a run that another has replaced is not the end of the session.
    return state if session.over or not state["over"] else session.sink.state


def _timed(session: VisitorSession, state: State) -> dict[str, object]:
    """The state with what a page needs to place its times on its own clock."""
    source = session.source
    origin = source.origin if isinstance(source, BrowserSource) else None
    state = {**state, "over": state["over"] and session.over}
    return {**state, "origin": origin, "queue": session.queue, "source": source.name, "live": source.live}


async def _body(request: Request, most: int) -> bytes:
    """What was sent, read no further than it may be long.

    Raises:
        SourceError: It is longer.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise SourceError(f"too much was sent: at most {most / 1e6:g} MB are taken")
    return bytes(body)


async def _json(request: Request) -> dict[str, object]:
    body = await _body(request, _MOST_JSON)
    where = "the request is not a JSON object that can be read"
    return json_object(body or b"{}", where=where, remedy="send another", most=_MOST_JSON, error=UsageError)


def _words(value: object) -> str:
    """Words on one line, of a length that a model can take."""
    return " ".join(value.split())[:_MOST_WORDS] if isinstance(value, str) else ""


async def _answer_gone(_: Request, __: Exception) -> Response:
    """Answers for a session that is over."""
    return JSONResponse({"error": _GONE, "gone": True}, status_code=404)


async def _answer_error(_: Request, error: Exception) -> Response:
    """Answers with the error's message, which the page shows."""
    return JSONResponse({"error": str(error)}, status_code=400)
