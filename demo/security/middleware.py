"""ASGI middleware in front of the whole page: names, password, other sites, and how much one address may ask.

No request passes by it. What the page's own requests look like is checked in three ways, for browsers leave
some headers out: `Sec-Fetch-Site` is not sent over plain HTTP, `Origin` not with most GET requests.
"""

from __future__ import annotations

import math
from collections import Counter
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from egolive.demo.security.login import Login
from egolive.demo.security.names import HostNames, client_network

__all__ = ["SecurityMiddleware"]

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
"""Gradio compiles templates in the browser, hence 'unsafe-eval'; nothing is fetched from anywhere else."""
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    # The page's requests name it as their referrer, those of others to other servers say nothing.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_GUARDED = ("/live/", "/clip/", "/gradio_api/")
"""Where pictures and answers are: asked for by the page alone. The rest is the page's own text and script."""
_MOST_AT_ONCE = 64
"""Requests of one address that are answered at once; a page keeps about four open."""


class SecurityMiddleware:
    """Lets through what the page itself asks for, from those who know the password.

    Args:
        app: The app.
        login: User and password; everybody may come in without it.
        names: The values of `Host` that are answered.
        most_at_once: Requests of one address that are answered at once.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        login: Login | None = None,
        names: HostNames | None = None,
        most_at_once: int = _MOST_AT_ONCE,
    ) -> None:
        self._app = app
        self._login = login
        self._names = names or HostNames()
        self._most = most_at_once
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "websocket":
            # Nothing of the page speaks it.
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        address = client_network((scope.get("client") or ("", 0))[0])
        refusal = self._refusal(scope, address)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        self._open[address] += 1
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    def _refusal(self, scope: Scope, address: str) -> Response | None:
        headers = Headers(scope=scope)
        # More than one may be read as one by us, and as the other by whoever comes after us.
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._names.know(hosts[0]):
            name = hosts[0][:80] if len(hosts) == 1 and hosts[0].isprintable() else "none, or several"
            return _no(421, f"This server has no such name ({name}); allow it with --allowed-host NAME.")
        if (told := _other_site(scope, headers, hosts[0])) is not None:
            return _no(403, told)
        if self._login is not None:
            right, wait = self._login.check(headers.get("authorization", ""), address)
            if wait:
                return _no(
                    429, f"Too many wrong passwords; try again in {math.ceil(wait)} s.", wait=math.ceil(wait)
                )
            if not right:
                refusal = _no(401, "This page asks for a user and a password.")
                refusal.headers["WWW-Authenticate"] = 'Basic realm="egolive", charset="UTF-8"'
                return refusal
        if self._open[address] >= self._most:
            return _no(503, "Too many requests of one address at once; close a page, or try again.", wait=2)
        return None


def _other_site(scope: Scope, headers: Headers, host: str) -> str | None:
    """Why a request is not the page's own; None where it is."""
    origins, site = headers.getlist("origin"), headers.get("sec-fetch-site", "").lower()
    origin = origins[0] if origins else None
    changing = scope["method"] not in ("GET", "HEAD")
    guarded = scope["path"].startswith(_GUARDED)
    if not all(_same(one, host) for one in origins):
        return "Another site made this request."
    if site in ("cross-site", "same-site"):
        # A link on another site may lead to the page; nothing else of it may be used from there.
        followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if changing or guarded or not followed:
            return "Another site made this request."
    if changing and origin is None:
        return "This request does not say of which page it is: send Origin, with the address of this server."
    if not guarded or origin is not None or site in ("same-origin", "none"):
        return None
    if _same(headers.get("referer", ""), host):
        return None
    return "This request does not come from the page: open the page, and take it from there."


def _same(address: str, host: str) -> bool:
    """Whether an address is of this server. Browsers leave the scheme's own port out in both."""
    try:
        found = urlsplit(address)
    except ValueError:
        return False
    return found.scheme in ("http", "https") and found.netloc.lower() == host.lower()


def _no(status: int, text: str, *, wait: int | None = None) -> Response:
    headers = {} if wait is None else {"Retry-After": str(wait)}
    return PlainTextResponse(text, status_code=status, headers=headers)
