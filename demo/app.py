"""`egolive demo`: the page and its server.

    egolive demo                                  a browser's camera, the bundled model
    egolive demo --model hyf015/EgoThinker-v1
    egolive demo --source rtsp://camera/stream    a camera that the server reads; pages only watch
    egolive demo --host 0.0.0.0 --https           for a phone on the same network

A Gradio page is mounted in a FastAPI app, which has routes for the camera's pictures; one ASGI middleware
checks passwords and origins of all requests.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from egolive.assistant.cli.options import GIVEN, MODEL, ModelOptions
from egolive.assistant.cli.printing import note
from egolive.assistant.runtime.engine_lock import SharedEngine
from egolive.assistant.schema.engine import Engine
from egolive.demo.security import SecurityMiddleware, self_signed, user_and_password
from egolive.demo.sessions import VisitorSessions
from egolive.streaming.errors import ConfigError, SourceError, UsageError
from egolive.streaming.sources.opening import open_source
from egolive.streaming.sources.source import Source

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["build_page", "demo"]

_MODEL = ModelOptions()
_SERVER = Parameter(group=Group("Server", sort_key=4))
_FONT = ["system-ui", "sans-serif"]
"""What the machine has: a page that fetches nothing has no fonts of others."""
_MONO = ["ui-monospace", "monospace"]


def demo(
    *,
    source: Annotated[str | None, Parameter(group=GIVEN)] = None,
    model: Annotated[ModelOptions, Parameter(name="*", group=MODEL)] = _MODEL,
    host: Annotated[str, _SERVER] = "127.0.0.1",
    port: Annotated[int, _SERVER] = 7860,
    auth: Annotated[str | None, _SERVER] = None,
    https: Annotated[bool, _SERVER] = False,
    certificate: Annotated[Path | None, _SERVER] = None,
    key: Annotated[Path | None, _SERVER] = None,
    visitors: Annotated[int, _SERVER] = 4,
    upload_mb: Annotated[int, _SERVER] = 200,
) -> None:
    """Show it all on a web page: live camera, clips, questions.

    Args:
        source: A camera, address or file that the server reads and all pages watch ("0", "rtsp://...");
            without it each page brings its own camera.
        model: Which model answers.
        host: Address to listen on; 0.0.0.0 lets other machines in.
        port: Port to listen on.
        auth: "user:password" that the page asks for.
        https: Serve over HTTPS, which browsers want before they give a camera to a page of another machine;
            with a certificate of its own where none is given.
        certificate: Certificate file for HTTPS.
        key: Key file of the certificate.
        visitors: Visitors with a camera at once; further ones wait.
        upload_mb: Most megabytes of a clip.
    """
    login = None if auth is None else user_and_password(auth)
    if (certificate is None) != (key is None):
        raise UsageError("HTTPS with a certificate of yours needs --certificate and --key")
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
    # Imported here, as below: it needs a package that an installation may lack, and takes seconds.
    import uvicorn

    with ExitStack() as stack:
        listening = stack.enter_context(_listen(host, port))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="egolive-demo-")))
        if https and certificate is None:
            certificate, key = self_signed(folder, host)
        engine = model.load()
        stack.callback(engine.close)
        page, sessions = build_page(engine, folder, source=opening, visitors=visitors, upload_mb=upload_mb)
        stack.callback(sessions.close)
        config = uvicorn.Config(
            SecurityMiddleware(page, login=login),
            log_level="warning",
            ws="none",
            ssl_certfile=certificate,
            ssl_keyfile=key,
            timeout_graceful_shutdown=2,
        )
        scheme = "http" if certificate is None else "https"
        shown = "localhost" if host in ("127.0.0.1", "0.0.0.0") else host
        sys.stdout.write(
            f"{engine.info.name} on {engine.info.device}: {scheme}://{shown}:{port}  (Ctrl-C ends)\n"
        )
        sys.stdout.flush()
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


def build_page(
    engine: Engine,
    folder: Path,
    *,
    source: Callable[[], Source] | None = None,
    visitors: int = 4,
    upload_mb: int = 200,
) -> tuple[ASGIApp, VisitorSessions]:
    """The page as an ASGI app.

    Args:
        engine: What answers; stays the caller's to close.
        folder: For what visitors bring and what is made of it; the only place of which files are served.
        source: Opens the server's own source.
        visitors: Visitors with a camera at once.
        upload_mb: Most megabytes of a clip.

    Returns:
        The app, and the sessions, to be closed at the end.
    """
    import gradio as gr
    from fastapi import FastAPI

    from egolive.demo.clip_jobs import ClipSessions, add_clip_routes
    from egolive.demo.clip_tab import ClipPage, clip_tab
    from egolive.demo.live_tab import live_tab, static_text
    from egolive.demo.routes import add_live_routes

    # Gradio keeps uploads there until they are taken out, and serves no other files.
    uploads = folder / "uploads"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    sessions = VisitorSessions(SharedEngine(engine), source, most=visitors)
    clips = ClipSessions(folder / "clips")
    page = ClipPage(sessions.engine, clips, uploads)
    app = FastAPI(openapi_url=None)
    add_live_routes(app, sessions)
    add_clip_routes(app, clips)
    with gr.Blocks(title="egolive", analytics_enabled=False, fill_width=True) as blocks:
        with gr.Tab("Live"):
            live_tab(watched=source is not None, think=engine.profile.think)
        with gr.Tab("Clip"):
            clip_tab(page, upload_mb=upload_mb)
        blocks.unload(page.leave)
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
        max_file_size=f"{upload_mb}mb",
    )
    return app, sessions
