"""Who is let in: names of the server, other sites, passwords and their limit, and how a server is started."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from egolive.assistant.cli.main import call
from egolive.demo.security.certificate import self_signed
from egolive.demo.security.login import VARIABLE, Login, read_login, user_and_password
from egolive.demo.security.middleware import SecurityMiddleware
from egolive.demo.security.names import HostNames, client_network, is_loopback, own_addresses, own_names
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import UsageError

HERE = "http://localhost:7860"
ENCODED = "Basic d2VhcmVyOnPDqWM6cmV0"  # wearer:séc:ret in UTF-8


def client(login: Login | None = None, *, names: HostNames | None = None) -> TestClient:
    guarded = SecurityMiddleware(PlainTextResponse("hello"), login=login, names=names)
    return TestClient(guarded, base_url=HERE)


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LOCALHOST.:7860", True),
        ("127.0.0.1:7860", True),
        ("[::1]:7860", True),
        ("192.168.1.7", True),
        (f"{socket.gethostname()}:1", True),
        ("glasses.example", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("evil.example:7860@localhost", False),
        ("glasses.example.evil", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("localhost localhost", False),
        ("[::1", False),
        ("localhost:port", False),
    ],
)
def test_only_names_of_this_server_are_answered(host: str, known: bool) -> None:
    page = client(names=HostNames(allowed=["Glasses.example"]))
    for path in ("/", "/live/x/view", "/gradio_api/queue/data"):
        reply = page.get(path, headers={"host": host, "sec-fetch-site": "same-origin"})
        assert reply.status_code == (200 if known else 421)
    assert "--allowed-host" in page.get("/", headers={"host": "evil.example"}).text


def test_two_names_in_one_request_are_none() -> None:
    headers = [("host", "localhost"), ("host", "evil.example")]
    assert client().get("/", headers=headers).status_code == 421


def test_other_sites_can_change_nothing_whatever_their_browser_says() -> None:
    page = client()
    # Over plain HTTP from another machine, browsers send Origin and no Sec-Fetch-Site.
    foreign: list[dict[str, str]] = [
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:7861"},
        {"origin": "null"},
        {"origin": "http://localhost:7860.evil.example"},
        {"origin": "http://evil.example", "sec-fetch-site": "same-origin"},
        {"origin": HERE, "sec-fetch-site": "cross-site"},
        {"origin": HERE, "sec-fetch-site": "Cross-Site"},
        {"origin": HERE, "sec-fetch-site": "same-site"},
        {},
    ]
    for headers in foreign:
        for path in ("/live/open", "/clip/upload", "/gradio_api/queue/join"):
            assert page.post(path, headers=headers).status_code == 403
    assert page.post("/live/open", headers={"origin": HERE}).status_code == 200
    assert (
        page.post("/live/open", headers={"origin": HERE, "sec-fetch-site": "same-origin"}).status_code == 200
    )


def test_pictures_and_answers_are_given_to_the_page_alone() -> None:
    page = client()
    foreign: list[dict[str, str]] = [
        {},
        {"referer": "http://evil.example/live"},
        {"referer": "http://localhost:7860@evil.example/"},
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
        {"sec-fetch-site": "same-site"},
    ]
    ours = [
        {"referer": f"{HERE}/"},
        {"origin": HERE},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ]
    for path in ("/live/x/view", "/clip/x/where.jpg", "/gradio_api/queue/data"):
        assert [page.get(path, headers=headers).status_code for headers in foreign] == [403] * len(foreign)
        assert [page.get(path, headers=headers).status_code for headers in ours] == [200] * len(ours)


def test_a_link_on_another_site_leads_to_the_page_and_nothing_more() -> None:
    page = client()
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert page.get("/", headers=followed).status_code == 200
    for headers in ({**followed, "sec-fetch-dest": "iframe"}, {"sec-fetch-site": "cross-site"}):
        assert page.get("/", headers=headers).status_code == 403


def test_the_page_may_fetch_from_nowhere_else_and_is_shown_in_no_other() -> None:
    reply = client().get("/")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    assert reply.headers["referrer-policy"] == "same-origin"


def test_without_the_password_nothing_is_given() -> None:
    page = client(Login("wearer", "séc:ret"))
    refused = page.get("/anything")
    assert refused.status_code == 401
    assert "Basic" in refused.headers["www-authenticate"]
    for header in ("Basic !!!", "Bearer x", "Basic d2VhcmVyOg=="):
        assert page.get("/", headers={"authorization": header}).status_code == 401
    assert page.get("/", headers={"authorization": ENCODED}).text == "hello"


def test_wrong_passwords_make_their_sender_wait_longer_and_longer() -> None:
    clock = VirtualClock()
    login = Login("wearer", "secret", clock=clock)
    waits: list[float] = []
    for _ in range(16):
        assert login.check("Basic d3Jvbmc6d3Jvbmc=", "192.0.2.1")[0] is False
        right, wait = login.check("Basic d2VhcmVyOnNlY3JldA==", "192.0.2.1")
        # While it waits, the right one is no better: else guessing would go on.
        assert right is (wait == 0)
        if right:
            # The right password between them begins anew: only wrong ones in a row count.
            break
        waits.append(wait)
        clock.advance(wait)
    assert waits == []
    for _ in range(16):
        _, wait = login.check("Basic d3Jvbmc6d3Jvbmc=", "192.0.2.1")
        waits.append(wait)
        clock.advance(wait)
    assert waits[:8] == [0, 0, 0, 0, 1, 2, 4, 8]
    assert max(waits) == 900
    assert login.check("Basic d2VhcmVyOnNlY3JldA==", "192.0.2.2") == (True, 0)
    clock.advance(901)
    assert login.check("Basic d3Jvbmc6d3Jvbmc=", "192.0.2.1") == (False, 0)


def test_thirty_wrong_passwords_at_once_are_not_all_looked_at() -> None:
    page = client(Login("wearer", "secret", clock=VirtualClock()))
    statuses = [page.get("/", auth=("wearer", f"guess {number}")).status_code for number in range(30)]
    assert statuses == [401] * 4 + [429] * 26
    told = page.get("/", auth=("wearer", "secret"))
    assert told.status_code == 429
    assert told.headers["retry-after"] == "1"


def test_a_user_and_a_password_are_both_needed() -> None:
    assert user_and_password("wearer:a:b", "x") == ("wearer", "a:b")
    for text in ("wearer", "wearer:", ":secret", ""):
        with pytest.raises(UsageError, match="x: write a user and a password"):
            user_and_password(text, "x")


def test_the_password_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_login(None) is None
    monkeypatch.setenv(VARIABLE, "wearer:séc:ret")
    login = read_login(None)
    assert login is not None
    assert login.check(ENCODED, "192.0.2.1")[0]
    file = tmp_path / "login.txt"
    file.write_text("wearer:séc:ret\nmore\n")
    file.chmod(0o644)
    login = read_login(str(file))
    assert login is not None
    assert login.check(ENCODED, "192.0.2.1")[0]
    assert "chmod 600" in capsys.readouterr().err
    file.chmod(0o600)
    read_login(str(file))
    assert capsys.readouterr().err == ""


def test_the_password_is_not_inherited_by_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "wearer:secret")
    read_login(None)
    assert subprocess.run(["env"], capture_output=True, text=True, check=True).stdout.count(VARIABLE) == 0


def test_many_requests_of_one_address_leave_room_for_others() -> None:
    app = SecurityMiddleware(PlainTextResponse("hello"), most_at_once=0)
    assert TestClient(app, base_url=HERE).get("/").status_code == 503


def test_addresses_count_by_network() -> None:
    assert client_network("2001:db8::1") == client_network("2001:db8::ffff:2")
    assert client_network("2001:db8::1") != client_network("2001:db8:0:1::1")
    assert client_network("::ffff:192.0.2.1") == "192.0.2.1"
    assert client_network(None) == client_network("testclient") == "None"
    assert [is_loopback(one) for one in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "box")] == [
        *(True, True, True),
        *(False, False),
    ]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_a_certificate_of_ones_own_names_what_the_page_is_reached_by(tmp_path: Path) -> None:
    names = [*own_names(), "192.168.1.7", "2001:db8::1", "glasses.example", *own_addresses()]
    certificate, key = self_signed(tmp_path, names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    assert key.stat().st_mode & 0o077 == 0
    told = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
    assert {("DNS", "localhost"), ("IP Address", "192.168.1.7"), ("DNS", "glasses.example")} <= set(
        told["subjectAltName"]
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--auth", "wearer:secret"], "every program of this machine sees a password"),
        (["--auth", "/nowhere.txt"], "there is no such file"),
        (["--host", "0.0.0.0"], "--auth FILE or EGOLIVE_AUTH"),
        (["--host", "192.168.1.7"], "--open"),
        (["--http", "--https"], "--http"),
        (["--certificate", "a.pem"], "--certificate and --key"),
        (["--visitors", "0"], "--visitors"),
        (["--upload-mb", "0"], "--upload-mb"),
        (["--source", "/nowhere.mp4"], "no such file"),
        (["--port", "99999999"], "--port"),
        (["--host", "192.0.2.1", "--open"], "cannot listen"),
    ],
)
def test_settings_that_cannot_work_are_told_before_a_model_is_loaded(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert call(["demo", "--model", "/no/model", *options]) in (1, 2)
    assert told in capsys.readouterr().err
