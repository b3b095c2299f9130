"""All functions and routes, found by walking them: no file of the server comes back, nothing breaks."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from browser import served
from fakes import FakeEngine
from fastapi import FastAPI
from starlette.routing import BaseRoute, Mount

from egolive.demo.security.gate import RequestGate

SECRET = f"only for the wearer {secrets.token_hex(8)}"


class Listener(BaseHTTPRequestHandler):
    """A server that the page has no business with."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


class Place:
    """A served page, with what its routes and functions are."""

    elsewhere = ""
    """An address of another server."""

    def __init__(self, address: str, folder: Path, app: FastAPI) -> None:
        self.address = address
        self.folder = folder
        self.client = httpx.Client(base_url=address, headers={"origin": address}, timeout=10)
        self.routes = sorted(set(walk(app.routes)))
        self.functions: list[Any] = self.client.get("/config").json()["dependencies"]

    def join(self, number: object, data: object, **fields: object) -> httpx.Response:
        body = {"fn_index": number, "data": data, "session_hash": "a1b2c3", **fields}
        return self.client.post("/gradio_api/queue/join", json=body)

    def heard(self, number: int, data: object, session: str = "") -> str:
        """All that a function says, up to its end."""
        session = session or secrets.token_hex(8)
        sent = self.join(number, data, session_hash=session)
        if sent.status_code != 200:
            return sent.text
        said = ""
        with self.client.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
            for line in stream.iter_lines():
                said += line
                if "process_completed" in line or "close_stream" in line:
                    break
        return said


def walk(routes: list[BaseRoute], above: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of every route, those of mounted apps included."""
    for route in routes:
        if isinstance(route, Mount):
            yield from walk(list(route.routes), above + route.path.rstrip("/"))
        elif included := getattr(route, "original_router", None):
            # A router that FastAPI keeps as a whole.
            prefix = getattr(getattr(route, "include_context", None), "prefix", "")
            yield from walk(list(included.routes), above + prefix)
        else:
            for method in getattr(route, "methods", None) or ():
                yield method, above + str(getattr(route, "path", ""))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret.txt").write_text(SECRET)
    apps: list[FastAPI] = []

    def remember(app: Any, **options: Any) -> Any:
        apps.append(app)
        return RequestGate(app, **options)

    listener = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch, listener:
        patch.setattr("egolive.demo.app.RequestGate", remember)
        before = dict(os.environ)
        with served(FakeEngine(), folder / "demo") as address:
            # Building a page sets variables; the tests of a module shall leave none behind.
            os.environ.clear()
            os.environ.update(before)
            found = Place(address, folder, apps[0])
            found.elsewhere = f"http://127.0.0.1:{listener.server_port}/x.png"
            yield found
            found.client.close()
        listener.shutdown()


def foreign(place: Place) -> list[Any]:
    """Values that no page sends."""
    secret = str(place.folder / "secret.txt")
    file = {"path": secret, "meta": {"_type": "gradio.FileData"}}
    return [
        file,
        {**file, "url": "http://127.0.0.1:9/x"},
        {"path": "http://127.0.0.1:9/x", "meta": {"_type": "gradio.FileData"}},
        [file],
        {"a": {"b": [file]}},
        [],
        ["x"] * 1000,
        "x" * 1_000_000,
        {"__type__": "update", "value": file},
    ]


def test_routes_and_functions_are_found(place: Place) -> None:
    paths = {path for _, path in place.routes}
    assert {"/live/open", "/clip/upload", "/gradio_api/queue/join", "/gradio_api/upload"} <= paths
    assert len(paths) > 60
    assert len(place.functions) >= 7


def test_no_function_takes_a_file_of_the_server(place: Place) -> None:
    for function in place.functions:
        number, count = function["id"], len(function["inputs"])
        for value in foreign(place):
            for data in ([value] * max(count, 1), [value] * (count + 1), value):
                if function["backend_fn"] and data == [] and not count:
                    continue
                reply = place.join(number, data)
                assert 400 <= reply.status_code < 500, (function, data)
                assert len(reply.text.splitlines()) == 1


def test_plain_values_of_any_kind_break_nothing(place: Place) -> None:
    for function in place.functions:
        values = (None, 7, True, str(place.folder / "secret.txt"), place.elsewhere)
        if not function["backend_fn"]:
            assert place.join(function["id"], []).status_code == 400
            continue
        for value in values if function["inputs"] else [None]:
            said = place.heard(function["id"], [value] * len(function["inputs"]))
            assert SECRET not in said
            assert '"success":true' in said.replace(" ", ""), (function, value, said)
    assert Listener.asked == []


def test_fields_of_the_wrong_kind_are_refused(place: Place) -> None:
    wrong: list[Any] = [None, -1, 10**9, "1", 1.5, True, [1], {"a": 1}, "x" * 5000]
    for value in wrong:
        assert place.join(value, []).status_code == 400
        if not isinstance(value, str) or len(value) > 40:
            assert place.join(place.functions[0]["id"], [], session_hash=value).status_code == 400
    for body in (b"", b"[" * 100_000, b"{", b"7", b"\xff\xfe", b'{"data":' + b"[" * 5000 + b"}"):
        assert place.client.post("/gradio_api/queue/join", content=body).status_code == 400
    assert place.client.get("/gradio_api/queue/data?session_hash=../x").status_code == 400
    assert place.client.get("/gradio_api/queue/data").status_code == 400
    assert place.client.get("/gradio_api/queue/data?session_hash=nobody").status_code == 404


def test_what_a_request_says_of_its_sender_and_server_is_not_believed(place: Place) -> None:
    for name in ("x-forwarded-host", "x-forwarded-proto", "x-forwarded-server", "forwarded"):
        assert "evil" not in place.client.get("/config", headers={name: "evil.example"}).text


def test_calls_of_one_address_do_not_fill_the_queue(place: Place) -> None:
    watch = next(one["id"] for one in place.functions if one["api_name"] == "watch")
    take = next(one["id"] for one in place.functions if one["api_name"] == "take_bundled")
    session = secrets.token_hex(8)
    assert "make_coffee" in place.heard(take, [], session)
    place.join(watch, [], session_hash=session)
    statuses = [place.join(watch, [], session_hash=secrets.token_hex(8)).status_code for _ in range(30)]
    assert statuses[0] == 200
    assert 429 in statuses
    stop = next(one["id"] for one in place.functions if one["api_name"] == "stop")
    deadline = time.monotonic() + 60
    while place.join(stop, [], session_hash=session).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_no_route_gives_a_file_or_breaks(place: Place) -> None:
    secret = str(place.folder / "secret.txt")
    fillings = [secret, "../" * 12 + secret, "%2e%2e%2f" * 6 + "etc/hostname", "x" * 3000, "0", "a/b/c"]
    bodies: list[dict[str, Any]] = [
        {},
        {
            "json": {
                "data": [{"path": secret, "meta": {"_type": "gradio.FileData"}}],
                "session_hash": "a",
                "fn_index": 0,
            }
        },
        {"content": b"[" * 20_000},
        {"files": {"files": ("../../x.html", b"<script>", "text/html")}},
    ]
    for method, path in place.routes:
        filled = {fill_in(path, filling) for filling in fillings}
        for one, body in itertools.product(filled, [{}] if method in ("GET", "HEAD") else bodies):
            if "heartbeat" in one or "queue/data" in one:
                # They answer without end.
                continue
            try:
                reply = place.client.request(method, one, **body)
            except httpx.InvalidURL:
                continue
            assert reply.status_code < 500, (method, one, reply.text[:300])
            assert SECRET not in reply.text
            assert "root:" not in reply.text
    # What was sent as a clip waits to be taken; what was watched has its results.
    kept = [path for path in (place.folder / "demo").rglob("*") if path.is_file()]
    assert {path.relative_to(place.folder / "demo").parts[0] for path in kept} <= {"uploads", "clips"}


def fill_in(path: str, value: str) -> str:
    pieces = path.split("{")
    return pieces[0] + "".join(value + piece.partition("}")[2] for piece in pieces[1:])


def test_the_routes_that_take_and_give_files_are_not_there(place: Place) -> None:
    secret = place.folder / "secret.txt"
    for method, path in (
        ("POST", "/gradio_api/upload"),
        ("GET", f"/gradio_api/file={secret}"),
        ("GET", "/gradio_api/proxy=http://127.0.0.1:9/"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/call/predict"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-code"),
        ("GET", "/monitoring"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
    ):
        assert place.client.request(method, path, json={}).status_code == 404, path


def test_no_address_that_a_request_names_is_contacted(place: Place) -> None:
    for function in place.functions:
        for value in ({"path": place.elsewhere, "meta": {"_type": "gradio.FileData"}}, place.elsewhere):
            place.join(function["id"], [value] * len(function["inputs"]))
    place.client.get(f"/gradio_api/file={place.elsewhere}")
    place.client.get(f"/gradio_api/proxy={place.elsewhere}")
    assert Listener.asked == []


def test_the_page_is_served_whole_and_without_statistics(place: Place) -> None:
    config = place.client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert "requestVideoFrameCallback" in json.dumps(config["components"])
    assert "egolive" in place.client.get("/").text


def test_gradio_checks_paths_itself_as_well() -> None:
    # Should the gate ever let an object through: Gradio's own check is on, which mounted apps have off.
    import gradio as gr
    from browser import built
    from gradio.processing_utils import _check_allowed

    made: list[gr.Blocks] = []
    mount = gr.mount_gradio_app

    def keep(app: Any, blocks: gr.Blocks, **options: Any) -> Any:
        made.append(blocks)
        return mount(app, blocks, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gr, "mount_gradio_app", keep)
        with built(FakeEngine(), Path("/nonexistent")):
            token = gr.context.LocalContext.blocks.set(made[0])
            try:
                with pytest.raises(gr.exceptions.InvalidPathError):
                    _check_allowed("/etc/hostname", check_in_upload_folder=True)
            finally:
                gr.context.LocalContext.blocks.reset(token)
