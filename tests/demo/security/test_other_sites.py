"""Pages of other sites, in a real browser: they read nothing of the camera and change nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import browser as chromium
import pytest
from browser import Browser, Page, served
from fakes import FakeEngine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PROGRAM is None, reason=chromium.MISSING),
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """All names under .example lead to this machine, as with a name server of an attacker."""
    names = "--host-resolver-rules=MAP *.example 127.0.0.1"
    with chromium.browser(names, profile=tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def evil() -> Iterator[int]:
    """The port of an attacker's site."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title><body>")

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def page(opened: Browser) -> Iterator[Page]:
    page = opened.page()
    yield page
    opened.leave(page)


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # The page's builder sets it; undone after the test.
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    with served(FakeEngine(), tmp_path, allowed=["glasses.example"]) as address:
        yield address


POST = """fetch({to!r}, {{method: "POST", mode: {mode!r}, body: "{{}}"}})
    .then(reply => reply.type + " " + reply.status, error => "failed")"""


def visits(page: Page, address: str) -> int:
    """How many visits the server has: a full one says so."""
    page.open(address)
    return sum(
        not page.evaluate(f"fetch('{address}/live/open', {{method: 'POST', body: '{{}}'}}).then(r => r.ok)")
        for _ in range(4)
    )


def test_a_name_that_an_attacker_points_here_is_not_answered(page: Page, address: str) -> None:
    # DNS rebinding: the attacker's own origin, so nothing in the browser stands in its way.
    rebound = address.replace("127.0.0.1", "evil.example")
    page.call("Page.navigate", url=rebound)
    page.wait("document.body?.innerText.includes('--allowed-host')")
    assert page.evaluate(POST.format(to="/live/open", mode="cors")) == "basic 421"
    assert page.evaluate("fetch('/config').then(reply => reply.status)") == 421
    assert visits(page, address) == 0


@pytest.mark.parametrize("own", ["127.0.0.1", "glasses.example"])
def test_another_site_opens_no_visit_over_plain_http(page: Page, address: str, evil: int, own: str) -> None:
    ours = address.replace("127.0.0.1", own)
    page.open(f"http://evil.example:{evil}/")
    assert page.evaluate("isSecureContext") is False
    for mode in ("no-cors", "cors"):
        for path in ("/live/open", "/clip/upload", "/gradio_api/queue/join"):
            said = page.evaluate(POST.format(to=ours + path, mode=mode))
            assert said in ("failed", "opaque 0")
    # A form and a beacon are sent without asking the server first.
    page.evaluate(f"navigator.sendBeacon('{ours}/live/open', '{{}}')")
    page.evaluate(
        f"""(() => {{ const form = document.createElement('form'); form.method = 'post';
        form.action = '{ours}/live/open'; form.enctype = 'text/plain'; document.body.append(form);
        form.submit(); }})()"""
    )
    page.wait("document.body?.innerText.includes('Another site')")
    time.sleep(0.3)
    assert visits(page, address) == 0


def test_another_site_shows_no_picture_and_no_page(
    page: Page, address: str, evil: int, opened: Browser
) -> None:
    mine = opened.page()
    mine.open(address)
    begun = "fetch('/live/open', {method: 'POST', body: '{}'})"
    word = mine.evaluate(f"{begun}.then(reply => reply.json()).then(told => told.visit)")
    assert mine.evaluate(f"fetch('/live/{word}/view?after=-1').then(reply => reply.status)") == 200
    page.open(f"http://evil.example:{evil}/")
    # Even whoever knows a visit's word gets nothing from another site.
    for path in (f"/live/{word}/view", f"/clip/{word}/where.jpg"):
        seen = page.evaluate(
            f"fetch('{address}{path}', {{mode: 'no-cors'}})"
            ".then(reply => reply.type + reply.status, () => 'failed')"
        )
        assert seen in ("failed", "opaque0")
        shown = page.evaluate(
            f"""new Promise(done => {{ const image = new Image(); image.onload = () => done('shown');
            image.onerror = () => done('refused'); image.src = '{address}{path}'; }})"""
        )
        assert shown == "refused"
    page.evaluate(
        "new Promise(done => { const frame = document.createElement('iframe'); frame.onload = done;"
        f"frame.src = '{address}/'; document.body.append(frame); }})"
    )
    assert page.evaluate("document.querySelector('iframe').contentDocument") is None
    opened.leave(mine)
