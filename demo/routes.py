"""What the Live tab calls: begin, post a picture, watch, ask, change what is asked, leave."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from concurrent.futures import Future

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from egolive.assistant.schema.answers import Question, Task
from egolive.demo.browser_source import MOST_BYTES, BrowserSource, StreamEndedError
from egolive.demo.sessions import Settings, VisitorSession, VisitorSessions
from egolive.demo.state_sink import State
from egolive.streaming.errors import EgoliveError, SourceError, UsageError

__all__ = ["add_live_routes", "settings_of"]

_LIVE_TASKS: tuple[Task, ...] = ("intent", "next", "ground")
_MOST_PHRASES = 4
_MOST_WORDS = 300
"""Characters of a question or a phrase."""
_MOST_JSON = 10_000
"""Bytes of a request that is not a picture."""
_PATIENCE = 2.0
"""Seconds for which a request waits for its picture to be shown; the page asks again."""
_GONE = "this visit is over; start again"


def add_live_routes(app: FastAPI, visits: VisitorSessions, *, longest: int = 640) -> None:
    """Add the routes, and how their errors are told.

    Args:
        app: The server.
        visits: Who is looking.
        longest: Pixels of the longer side that pages shall make their pictures.
    """
    router = APIRouter(prefix="/live")
    app.add_exception_handler(_Gone, _tell_gone)
    app.add_exception_handler(EgoliveError, _tell_error)

    @router.post("/open")
    async def open_visit(request: Request) -> Response:
        settings = settings_of(await _json(request))
        word = await run_in_threadpool(visits.open, settings)
        if word is None:
            count = len(visits)
            message = f"{count} visitors are looking, which is all there is room for; trying again"
            return JSONResponse({"error": message, "full": True}, status_code=503)
        info = visits.engine.info
        return JSONResponse(
            {
                "visit": word,
                "watched": visits.watched,
                "longest": longest,
                "engine": f"{info.name} {info.precision} on {info.device}",
                "thinks": visits.engine.profile.think,
            }
        )

    @router.post("/{word}/picture")
    async def post_picture(word: str, request: Request) -> Response:
        visit = _visit(visits, word)
        body = await _body(request, MOST_BYTES)
        if visit.over or visit.changing:
            return JSONResponse(_timed(visit, visit.board.state))
        try:
            captured = float(request.query_params.get("time", "nan"))
        except ValueError:
            captured = float("nan")
        try:
            moment = visit.post(body, captured)
        except StreamEndedError:
            # It is ending right now: why is told once that is known.
            moment = visit.board.wait_for(sys.maxsize)
        return JSONResponse(_timed(visit, await _first(visit, moment)))

    @router.get("/{word}/view")
    async def view(word: str, after: int = -1) -> Response:
        visit = _visit(visits, word)
        await _first(visit, visit.board.wait_for(after + 1))
        state, jpeg = await run_in_threadpool(visit.board.jpeg)
        told = json.dumps(_timed(visit, state)).encode()
        return Response(struct.pack(">I", len(told)) + told + jpeg, media_type="application/octet-stream")

    @router.post("/{word}/ask")
    async def ask(word: str, request: Request) -> Response:
        visit = _visit(visits, word)
        fields = await _json(request)
        text, task = _words(fields.get("text")), fields.get("task", "ask")
        if task not in ("ask", "when") or not text:
            raise UsageError("the question is empty; write what you want to know")
        visit.ask(Question(task, text))
        return JSONResponse({"asked": text})

    @router.post("/{word}/settings")
    async def change(word: str, request: Request) -> Response:
        visit = _visit(visits, word)
        settings = settings_of(await _json(request))
        if settings != visit.settings:
            await run_in_threadpool(visit.change, settings)
        return JSONResponse({"asked": [*settings.tasks, *settings.phrases]})

    @router.post("/{word}/close")
    async def close(word: str) -> Response:
        await run_in_threadpool(visits.leave, word)
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
    """The visit is over."""


def _visit(visits: VisitorSessions, word: str) -> VisitorSession:
    visit = visits.get(word)
    if visit is None:
        raise _Gone
    return visit


async def _first(visit: VisitorSession, moment: Future[State]) -> State:
    """The moment, or the newest one where it does not come in time."""
    try:
        state = await asyncio.wait_for(asyncio.wrap_future(moment), _PATIENCE)
    except TimeoutError:
        return visit.board.state
    # The last moment of a run that another has replaced is not the end of the visit.
    return state if visit.over or not state["over"] else visit.board.state


def _timed(visit: VisitorSession, state: State) -> dict[str, object]:
    """The state with what a page needs to place its times on its own clock."""
    source = visit.source
    origin = source.origin if isinstance(source, BrowserSource) else None
    state = {**state, "over": state["over"] and visit.over}
    return {**state, "origin": origin, "queue": visit.queue, "source": source.name, "live": source.live}


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
    try:
        fields = json.loads(await _body(request, _MOST_JSON) or b"{}")
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise UsageError("the request is not a JSON object")
    return fields


def _words(value: object) -> str:
    """Words on one line, of a length that a model can take."""
    return " ".join(value.split())[:_MOST_WORDS] if isinstance(value, str) else ""


async def _tell_gone(_: Request, __: Exception) -> Response:
    """Answers for a visit that is over."""
    return JSONResponse({"error": _GONE, "gone": True}, status_code=404)


async def _tell_error(_: Request, error: Exception) -> Response:
    """Tells what the user can mend, in one line that the page shows."""
    return JSONResponse({"error": str(error)}, status_code=400)
