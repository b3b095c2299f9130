"""`egolive demo`: the page and its server.

    egolive demo                                  a browser's camera, the bundled model
    egolive demo --model hyf015/EgoThinker-v1
    egolive demo --source rtsp://camera/stream    a camera that the server reads; pages only watch
    egolive demo --host 0.0.0.0 --auth login.txt  for a phone on the same network

A Gradio page is mounted in a FastAPI app, which has routes for the camera's pictures and for clips. Every
request first passes `SecurityMiddleware` (who asks) and then `RequestGate` (for what).
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
from cyclopts import Group, Parameter

from egolive.assistant.cli.options import ASKED, GIVEN, MODEL, HandOptions, ModelOptions
from egolive.assistant.cli.printing import note
from egolive.assistant.hands.hand_choice import HandSettings
from egolive.assistant.live.assistant import LIVE_QUESTIONS
from egolive.assistant.runtime.engine_lock import SharedEngine
from egolive.assistant.schema.engine import Engine
from egolive.demo.live.sessions import VisitorSessions
from egolive.demo.security.certificate import self_signed
from egolive.demo.security.gate import RequestGate
from egolive.demo.security.login import VARIABLE, read_login
from egolive.demo.security.middleware import SecurityMiddleware
from egolive.demo.security.names import HostNames, client_network, is_loopback, own_addresses, own_names
from egolive.demo.static_text import static_text
from egolive.streaming.errors import ConfigError, EgoliveError, SourceError, UsageError
from egolive.streaming.sources.opening import open_source
from egolive.streaming.sources.source import Source

if TYPE_CHECKING:
    from gradio import Blocks
    from starlette.types import ASGIApp

__all__ = ["build_page", "demo"]

_MODEL, _HANDS = ModelOptions(), HandOptions()
_SERVER = Parameter(group=Group("Server", sort_key=4))
_log = logging.getLogger(__name__)

_FOLDER = "egolive-demo-"
"""How the name of the folder begins where visitors' clips are; the process's number follows."""
_EVERYWHERE = ("0.0.0.0", "::")
_MOST_CONNECTIONS = 800
"""Fewer than the files that a process may have open, 1,024 on most machines."""
_SWEEP = 5.0
"""Seconds from one look for what visitors left behind to the next."""
_FONT = ["system-ui", "sans-serif"]
"""What the machine has: a page that fetches nothing has no fonts of others."""
_MONO = ["ui-monospace", "monospace"]


def demo(
    *,
    source: Annotated[str | None, Parameter(group=GIVEN)] = None,
    model: Annotated[ModelOptions, Parameter(name="*", group=MODEL)] = _MODEL,
    hands: Annotated[HandOptions, Parameter(name="*", group=ASKED)] = _HANDS,
    host: Annotated[str, _SERVER] = "127.0.0.1",
    port: Annotated[int, _SERVER] = 7860,
    auth: Annotated[str | None, _SERVER] = None,
    open_: Annotated[bool, Parameter(name="--open", negative="", group=_SERVER.group)] = False,
    allowed_host: Annotated[list[str] | None, _SERVER] = None,
    https: Annotated[bool, _SERVER] = False,
    http: Annotated[bool, Parameter(negative="", group=_SERVER.group)] = False,
    certificate: Annotated[Path | None, _SERVER] = None,
    key: Annotated[Path | None, _SERVER] = None,
    fixed: Annotated[bool, Parameter(negative="", group=MODEL)] = False,
    visitors: Annotated[int, _SERVER] = 4,
    upload_mb: Annotated[int, _SERVER] = 200,
) -> None:
    """Show it all on a web page: live camera, clips, questions.

    Args:
        source: A camera, address or file that the server reads and all pages watch ("0", "rtsp://...");
            without it each page brings its own camera.
        model: Which model answers.
        hands: Who is asked about hands.
        host: Address to listen on; 0.0.0.0 lets other machines in, with --auth or --open.
        port: Port to listen on.
        auth: File whose first line is "user:password", which the page then asks for; the variable
            EGOLIVE_AUTH does the same.
        open_: Let in everybody who reaches --host, without a password.
        allowed_host: Further name under which the page is reached, such as that of a proxy; may be repeated.
        https: Serve over HTTPS, which browsers want before they give a camera to a page of another machine;
            with a certificate of its own where none is given. So it is wherever other machines are let in.
        http: Serve plain HTTP there too, for example behind a proxy that does HTTPS.
        certificate: Certificate file for HTTPS.
        key: Key file of the certificate.
        fixed: Do not govern what is asked when; see `egolive run --fixed`.
        visitors: Visitors with a camera at once; further ones wait.
        upload_mb: Most megabytes of a clip.
    """
    login = read_login(auth)
    alone = is_loopback(host)
    if not alone and login is None and not open_:
        raise UsageError(
            f"--host {host} lets other machines in: give a password with --auth FILE or {VARIABLE}, or let "
            "everybody in with --open"
        )
    if (certificate is None) != (key is None):
        raise UsageError("HTTPS with a certificate of yours needs --certificate and --key")
    if http and (https or certificate is not None):
        raise UsageError("--http and HTTPS exclude each other; give one")
    for name, value in {"visitors": visitors, "upload-mb": upload_mb}.items():
        if value < 1:
            raise UsageError(f"--{name} is 1 or more, got {value}")
    if not 0 < port < 65536:
        raise UsageError(f"--port is 1 to 65535, got {port}")
    for file in (certificate, key):
        if file is not None and not file.is_file():
            raise SourceError(f"{file}: there is no such file; check --certificate and --key")
    opening = (
        None
        if source is None
        else partial(open_source, source, realtime=True, loop=True, reconnect_timeout=math.inf)
    )
    if opening is not None:
        # A source that is not there is refused before the model is loaded.
        opening().close()
    # A hand detector that is not there is told, or refused, now too.
    hands.choose(LIVE_QUESTIONS, source)
    # Imported here, as below: it needs a package that an installation may lack, and takes seconds.
    import uvicorn

    from egolive.demo.security.connections import ImpatientProtocol, allow_connections

    _remove_leftovers(Path(tempfile.gettempdir()))
    allow_connections()
    with ExitStack() as stack:
        listening = stack.enter_context(_listen(host, port))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-")))
        named = list(allowed_host or [])
        reached = [host] if alone or host not in _EVERYWHERE else own_addresses()
        if certificate is None and (https or not (alone or http)):
            certificate, key = self_signed(folder, [*own_names(), "127.0.0.1", "::1", *named, *reached])
        engine = model.chosen().load()
        stack.callback(engine.close)
        page, sessions = build_page(
            engine,
            folder,
            source=opening,
            visitors=visitors,
            upload_mb=upload_mb,
            fixed=fixed,
            hands=HandSettings(hands.hands, hands.found()),
        )
        stack.callback(sessions.close)
        config = uvicorn.Config(
            SecurityMiddleware(page, login=login, names=HostNames(host, named)),
            log_level="warning",
            ws="none",
            ssl_certfile=certificate,
            ssl_keyfile=key,
            timeout_graceful_shutdown=2,
            limit_concurrency=_MOST_CONNECTIONS,
            http=ImpatientProtocol,
            # What a request says of its sender is not believed: limits and passwords count by it.
            proxy_headers=False,
            server_header=False,
        )
        scheme = "http" if certificate is None else "https"
        shown = ["localhost"] if alone else [*named, *reached]
        sys.stdout.write(f"{engine.info.name} on {engine.info.device}  (Ctrl-C ends)\n")
        for name in shown:
            sys.stdout.write(f"  {scheme}://{f'[{name}]' if ':' in name else name}:{port}\n")
        sys.stdout.flush()
        if not alone and login is None:
            note("--open: everybody who reaches this machine may use the page")
        if not alone and certificate is None:
            note("plain HTTP: others on the network can read along, and browsers give no camera to the page")
        uvicorn.Server(config).run(sockets=[listening])
    note("the page is closed; what visitors brought is deleted")


def _listen(host: str, port: int) -> socket.socket:
    """Take the port, before a model is loaded.

    Raises:
        ConfigError: Somebody else has it, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error}); give another --port or --host"
        ) from error


def _remove_leftovers(folder: Path) -> None:
    """Delete what servers have left behind that were killed."""
    mine = folder.stat().st_uid if not hasattr(os, "getuid") else os.getuid()
    for path in folder.glob(f"{_FOLDER}*-*"):
        number = path.name.removeprefix(_FOLDER).partition("-")[0]
        try:
            ours = path.is_dir() and not path.is_symlink() and path.stat().st_uid == mine
        except OSError:
            # Its own server has just deleted it, or it is somebody else's.
            continue
        if ours and number.isdecimal() and not psutil.pid_exists(int(number[:9])):
            shutil.rmtree(path, ignore_errors=True)


def build_page(
    engine: Engine,
    folder: Path,
    *,
    source: Callable[[], Source] | None = None,
    visitors: int = 4,
    upload_mb: int = 200,
    fixed: bool = False,
    hands: HandSettings | None = None,
) -> tuple[ASGIApp, VisitorSessions]:
    """The page as an ASGI app.

    Args:
        engine: What answers; stays the caller's to close.
        folder: For what visitors bring and what is made of it; the only place of which files are served.
        source: Opens the server's own source.
        visitors: Visitors with a camera at once.
        upload_mb: Most megabytes of a clip.
        fixed: Do not govern what is asked when.
        hands: Who is asked about hands.

    Returns:
        The app, and the sessions, to be closed at the end.
    """
    import gradio as gr
    from fastapi import FastAPI

    from egolive.demo.clips.clip_jobs import ClipSessions
    from egolive.demo.clips.clip_routes import UPLOAD, add_clip_routes
    from egolive.demo.clips.clip_tab import ClipPage, clip_tab
    from egolive.demo.clips.uploads import Uploads
    from egolive.demo.live.browser_source import MOST_BYTES
    from egolive.demo.live.live_tab import live_tab
    from egolive.demo.live.routes import add_live_routes

    # Gradio serves the files under it; nothing is ever put there.
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    sessions = VisitorSessions(SharedEngine(engine), source, most=visitors, fixed=fixed, hands=hands)
    taken, upload = folder / "clips", upload_mb * 1_000_000
    clips = ClipSessions(taken, most=4 * visitors)
    uploads = Uploads(folder / "uploads", most_bytes=upload, total_bytes=2 * visitors * upload, taken=taken)
    page = ClipPage(sessions.engine, clips, uploads, hands)

    def sweep() -> None:
        sessions.sweep()
        uploads.sweep()
        clips.sweep()

    app = FastAPI(openapi_url=None, lifespan=partial(_sweeping, sweep))
    add_live_routes(app, sessions)
    add_clip_routes(app, clips, uploads)
    with gr.Blocks(title="egolive", analytics_enabled=False, fill_width=True) as blocks:
        with gr.Tab("Live"):
            live_tab(watched=source is not None, think=engine.profile.think)
        with gr.Tab("Clip"):
            clip_tab(page, upload_mb=upload_mb)
        blocks.unload(page.leave)
    blocks.queue(max_size=16 * visitors, api_open=False)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=gr.themes.Base(font=_FONT, font_mono=_MONO),
        css=static_text("page.css"),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        show_error=False,
    )
    # Gradio checks the paths that its functions are given only in apps that `launch` started.
    blocks.has_launched = True
    gate = RequestGate(
        app,
        values=partial(_values_of, blocks),
        waiting=partial(_waiting_of, blocks),
        heard=lambda session: session in blocks._queue.pending_messages_per_session,
        streamed=frozenset({UPLOAD}),
        most_picture=MOST_BYTES,
    )
    return gate, sessions


def _waiting_of(blocks: Blocks, address: str) -> int:
    """How many calls of Gradio's functions wait for their turn, of one address."""
    queues = list(blocks._queue.event_queue_per_concurrency_id.values())
    clients = [event.request.client for queue in queues for event in list(queue.queue)]
    return sum(client is not None and client_network(client.host) == address for client in clients)


def _values_of(blocks: Blocks, number: int) -> int | None:
    """How many values one of Gradio's functions takes; None where the server has no such function."""
    function = blocks.fns.get(number)
    return None if function is None or function.fn is None else len(function.inputs)


@asynccontextmanager
async def _sweeping(sweep: Callable[[], None], _: object) -> AsyncIterator[None]:
    """Look again and again for what visitors left behind, while the server runs."""

    async def again() -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            try:
                await asyncio.to_thread(sweep)
            except (EgoliveError, OSError):
                # What could not be deleted now is tried again.
                _log.exception("what visitors left behind cannot be deleted")

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        task.cancel()
