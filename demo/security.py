"""Security of the page: password, content security policy, refusal of cross-site requests, certificates."""

from __future__ import annotations

import base64
import binascii
import hmac
import shutil
import subprocess
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from egolive.streaming.errors import ConfigError, UsageError

__all__ = ["SecurityMiddleware", "self_signed", "user_and_password"]

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
"""Gradio compiles templates in the browser, hence 'unsafe-eval'; nothing is fetched from anywhere else."""
_DAYS = "365"


class SecurityMiddleware:
    """ASGI middleware: asks for a password where one is set, refuses cross-site requests, sets a policy."""

    def __init__(self, app: ASGIApp, *, login: tuple[str, str] | None = None) -> None:
        """Wrap an app.

        Args:
            app: The app; no request passes by the middleware.
            login: User and password.
        """
        self._app = app
        self._login = None if login is None else f"{login[0]}:{login[1]}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "websocket":
            # Nothing of the page speaks it.
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._login is not None and not _knows(headers.get("authorization", ""), self._login):
            refusal = PlainTextResponse(
                "This page asks for a user and a password.",
                status_code=401,
                headers={"WWW-Authenticate": 'Basic realm="egolive", charset="UTF-8"'},
            )
            await refusal(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD") and headers.get("sec-fetch-site") in (
            "cross-site",
            "same-site",
        ):
            await PlainTextResponse("Another site made this request.", status_code=403)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                sent["Content-Security-Policy"] = _POLICY
                sent["Referrer-Policy"] = "no-referrer"
                sent["X-Content-Type-Options"] = "nosniff"
                sent["Permissions-Policy"] = "camera=(self), microphone=(), geolocation=()"
            await send(message)

        await self._app(scope, receive, send_with_headers)


def user_and_password(text: str) -> tuple[str, str]:
    """Part "user:password".

    Raises:
        UsageError: One of the two is missing.
    """
    user, colon, password = text.partition(":")
    if not colon or not user or not password:
        raise UsageError("--auth is a user and a password with a colon between: --auth wearer:secret")
    return user, password


def self_signed(folder: Path, host: str) -> tuple[Path, Path]:
    """Make a certificate of one's own, which browsers accept after a warning.

    Args:
        folder: Where to.
        host: Name or address that it is for, besides localhost.

    Returns:
        Paths of the certificate and its key.

    Raises:
        ConfigError: There is no openssl to make it with.
    """
    program = shutil.which("openssl")
    if program is None:
        raise ConfigError(
            "making a certificate needs the program openssl; install it, or give --certificate and --key"
        )
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    kind = "IP" if host.replace(".", "").isdigit() or ":" in host else "DNS"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1" + ("" if host == "0.0.0.0" else f",{kind}:{host}")
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", _DAYS, "-subj", "/CN=egolive"]
    done = subprocess.run([*command, "-addext", names], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"openssl could not make a certificate: {done.stderr.strip()[-200:]}")
    return certificate, key


def _knows(header: str, login: bytes) -> bool:
    kind, _, value = header.partition(" ")
    try:
        given = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False
    return kind.lower() == "basic" and hmac.compare_digest(given, login)
