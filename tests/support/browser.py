"""A headless Chromium for tests, steered through its DevTools pipe, with a camera that plays a file.

Debian's `chromium-headless-shell` or `chromium` does; no driver and no websocket is needed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from starlette.types import ASGIApp

from egolive.assistant.hands.hand_choice import HandSettings
from egolive.assistant.schema.engine import Engine
from egolive.demo.app import build_page
from egolive.demo.live.sessions import VisitorSessions
from egolive.demo.security.login import Login
from egolive.demo.security.middleware import SecurityMiddleware
from egolive.demo.security.names import HostNames

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser"))), None
)
MISSING = "no Chromium on this machine: apt-get install chromium-headless-shell"
BLOCKS = 16
"""Bits of the frame number that is written into a fake camera's pictures."""


@contextmanager
def built(engine: Engine, folder: Path, **options: Any) -> Iterator[tuple[ASGIApp, VisitorSessions]]:
    """The demo's page; built inside an event loop, without which Gradio opens some that it never closes.

    Hands are the model's, unless `hands` says otherwise: scripted boxes are not held against real looks.
    """
    options.setdefault("hands", HandSettings("model"))

    async def build() -> tuple[ASGIApp, VisitorSessions]:
        return build_page(engine, folder, **options)

    with pytest.MonkeyPatch.context() as variables:
        # Building a page sets both for the whole process: ours the first, Gradio the second.
        variables.setenv("GRADIO_TEMP_DIR", str(folder))
        variables.setenv("HF_HUB_DISABLE_TELEMETRY", "True")
        page, sessions = asyncio.run(build())
        try:
            yield page, sessions
        finally:
            sessions.close()


@contextmanager
def served(
    engine: Engine, folder: Path, *, allowed: Sequence[str] = (), login: Login | None = None, **options: Any
) -> Iterator[str]:
    """The demo's page on a port of this machine; gives its address."""
    with built(engine, folder, **options) as (app, sessions):
        guarded = SecurityMiddleware(app, login=login, names=HostNames(allowed=allowed))
        config = uvicorn.Config(guarded, host="127.0.0.1", port=0, log_level="warning", ws="none")
        config.timeout_graceful_shutdown = 1
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            sessions.close()
            server.should_exit = True
            thread.join(20)


class Page:
    """One page of the browser."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self.context = context
        self.requests: list[str] = []
        """Addresses of everything that it asked for."""

    def call(self, method: str, **params: object) -> dict[str, Any]:
        return self._browser.call(method, params, self._session)

    def evaluate(self, code: str) -> Any:
        """The value of an expression, awaited where it is a promise."""
        done = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            details = done["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", details["text"]))
        return done["result"].get("value")

    def wait(self, code: str, seconds: float = 30.0) -> Any:
        """The value of an expression once it is true.

        Raises:
            AssertionError: It did not become true in time.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.evaluate(code):
                return value
            time.sleep(0.1)
        text = self.evaluate("document.body.innerText.slice(0, 1500)")
        raise AssertionError(f"not true within {seconds:g} s: {code}\nThe page says: {text}")

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def click(self, text: str) -> None:
        """Press the button or tab that says so."""
        buttons = "[...document.querySelectorAll('button')].filter(one => one.checkVisibility())"
        find = f"{buttons}.findLast(one => one.textContent.trim() === {json.dumps(text)})"
        self.wait(f"!!{find}")
        self.evaluate(f"{find}.click()")

    def write(self, selector: str, text: str) -> None:
        """Fill in a field as typing does."""
        self.evaluate(
            f"(() => {{ const field = document.querySelector({json.dumps(selector)}); field.focus(); "
            f"field.value = {json.dumps(text)}; "
            "field.dispatchEvent(new Event('input', {bubbles: true})); "
            "field.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def attach(self, selector: str, path: Path) -> None:
        """Choose a file for a file field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def resize(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)


class Browser:
    """The program, and the thread that reads what it says."""

    def __init__(self, *switches: str) -> None:
        assert PROGRAM
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        program = [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        program += ["--no-first-run", "--disable-background-networking", "--mute-audio", *switches]
        # Chromium reads commands on 3 and writes on 4.
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *program, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out = os.fdopen(ours_out, "wb", buffering=0)
        self._in = os.fdopen(ours_in, "rb", buffering=0)
        self._number = 0
        self._replies: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def call(self, method: str, params: dict[str, object], session: str | None = None) -> dict[str, Any]:
        self._number += 1
        number = self._number
        self._replies[number] = queue.Queue()
        message: dict[str, object] = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        self._out.write(json.dumps(message).encode() + b"\0")
        reply = self._replies[number].get(timeout=60)
        del self._replies[number]
        if "error" in reply:
            raise AssertionError(f"{method}: {reply['error']}")
        result: dict[str, Any] = reply["result"]
        return result

    def page(self) -> Page:
        """A page with cookies and storage of its own, as another visitor's."""
        context = self.call("Target.createBrowserContext", {})["browserContextId"]
        target = self.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})
        attached = self.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        page = Page(self, attached["sessionId"], context)
        self._pages[attached["sessionId"]] = page
        for domain in ("Page", "Runtime", "Network"):
            page.call(f"{domain}.enable")
        return page

    def leave(self, page: Page) -> None:
        """Close a page."""
        self.call("Target.disposeBrowserContext", {"browserContextId": page.context})

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._out.close()
        self._reader.join(20)
        self._in.close()

    def _read(self) -> None:
        unfinished = b""
        while piece := self._in.read(65536):
            *messages, unfinished = (unfinished + piece).split(b"\0")
            for text in messages:
                message = json.loads(text)
                if "id" in message:
                    if message["id"] in self._replies:
                        self._replies[message["id"]].put(message)
                elif message["method"] == "Network.requestWillBeSent":
                    page = self._pages.get(message.get("sessionId", ""))
                    if page:
                        page.requests.append(message["params"]["request"]["url"])


@contextmanager
def browser(*switches: str, profile: Path) -> Iterator[Browser]:
    """A browser that ends with the block."""
    opened = Browser(f"--user-data-dir={profile}", *switches)
    try:
        yield opened
    finally:
        opened.close()


def camera(path: Path) -> tuple[str, ...]:
    """Switches for a camera that plays a file, and asks nobody."""
    return (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={path}",
    )


def write_coded_video(path: Path, *, frames: int, fps: int, size: tuple[int, int] = (320, 240)) -> Path:
    """A y4m video whose frames carry their number: a row of black and white blocks at the bottom."""
    width, height = size
    side = width // BLOCKS
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420jpeg\n".encode())
        chroma = np.full(height // 2 * (width // 2) * 2, 128, np.uint8).tobytes()
        # A pattern that stands still, for what follows pixels to hold on to.
        tiles = np.random.default_rng(0).integers(60, 190, (height // 8, width // 8), dtype=np.uint8)
        pattern = np.kron(tiles, np.ones((8, 8), np.uint8))
        for number in range(frames):
            luma = np.full((height, width), 120, np.uint8)
            luma[: pattern.shape[0], : pattern.shape[1]] = pattern
            for bit in range(BLOCKS):
                luma[height - side :, bit * side : (bit + 1) * side] = 235 if number >> bit & 1 else 16
            file.write(b"FRAME\n" + luma.tobytes() + chroma)
    return path


def read_code(image: np.ndarray[Any, Any]) -> int:
    """The number of the frame that a picture was taken of."""
    height, width = image.shape[:2]
    side = width / BLOCKS
    row = int(height - side / 2)
    values = [int(image[row, int((bit + 0.5) * side)].mean() > 125) for bit in range(BLOCKS)]
    return sum(value << bit for bit, value in enumerate(values))
