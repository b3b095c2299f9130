"""The demo's routes under fuzz: pictures that are none, times that are none, requests that make no sense."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from unittest.mock import patch
from urllib.parse import quote

from fastapi import FastAPI
from PIL import Image as PillowImage
from starlette.testclient import TestClient

from egolive.assistant.runtime.engine_lock import SharedEngine
from egolive.benchmarks.robustness.fuzz_mutate import mutate_bytes, mutate_json, mutate_text
from egolive.benchmarks.robustness.scripted_engine import ScriptedEngine, scene
from egolive.demo.browser_source import BrowserSource
from egolive.demo.routes import add_live_routes, settings_of
from egolive.demo.sessions import VisitorSessions

__all__ = ["arrange_page"]

_GOOD = {
    "tasks": ["intent", "ground"],
    "phrases": ["red mug"],
    "think": False,
    "text": "What?",
    "task": "ask",
}
_TIMES = ["1.5", "2", "1e400", "nan", "-1", "", "x", "9" * 400, "1.5e300", "\0"]
_FAULT = 500


@contextmanager
def arrange_page() -> Iterator[dict[str, Callable[[Random], object]]]:
    """A page's server in this process; what is posted to it, by name."""
    jpeg = _jpeg()
    with ExitStack() as stack:
        # A picture that cannot be decoded is never shown; nobody waits for it here.
        stack.enter_context(patch("egolive.demo.routes._PATIENCE", 0.01))
        visits = VisitorSessions(SharedEngine(ScriptedEngine(None)), most=2)
        stack.callback(visits.close)
        app = FastAPI()
        add_live_routes(app, visits)
        client = stack.enter_context(TestClient(app))

        def request(random: Random) -> None:
            _request(client, jpeg, random)

        yield {"picture": lambda random: _picture(jpeg, random), "settings": _settings, "route": request}


def _picture(jpeg: bytes, random: Random) -> None:
    """A picture by itself, up to its pixels."""
    source = BrowserSource(timeout=0.001)
    source.put(mutate_bytes(jpeg, random), random.choice([1.0, -5.0, 1e300, float("inf"), float("nan")]))
    for _ in source:
        source.close()


def _settings(random: Random) -> None:
    fields = mutate_json(_GOOD, random)
    settings_of(fields if isinstance(fields, dict) else {"tasks": fields})


def _request(client: TestClient, jpeg: bytes, random: Random) -> None:
    """One request to some route.

    Raises:
        AssertionError: The server met a fault of its own.
    """
    word = random.choice(["nobody", "", "..", "a/b", "é"])
    if random.random() < 0.8:
        opened = client.post("/live/open", json={"tasks": ["ground"]})
        word = opened.json().get("visit", word)
    action = random.choice(["open", "picture", "picture", "view", "ask", "settings", "close"])
    path = "/live/open" if action == "open" else f"/live/{quote(word)}/{action}"
    if action == "picture":
        body = random.choice([jpeg, mutate_bytes(jpeg, random)])
        reply = client.post(f"{path}?time={quote(random.choice(_TIMES))}", content=body)
    elif action == "view":
        reply = client.get(f"{path}?after={quote(random.choice(_TIMES))}")
    else:
        text = json.dumps(mutate_json(_GOOD, random))
        if random.random() < 0.3:
            text = mutate_text(text, random)
        reply = client.post(path, content=text.encode(errors="surrogatepass"))
    if word != "nobody":
        client.post(f"/live/{quote(word)}/close")
    assert reply.status_code < _FAULT or reply.json().get("full"), f"{action}: status {reply.status_code}"


def _jpeg() -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(scene(0)).resize((96, 64)).save(file, "JPEG")
    return file.getvalue()
