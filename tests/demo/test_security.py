"""Who may come in, what the page may fetch, and what the server gives out."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import built
from fakes import FakeEngine
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from egolive.assistant.cli.main import call
from egolive.demo.security import SecurityMiddleware, self_signed, user_and_password
from egolive.streaming.errors import UsageError

OPEN = SecurityMiddleware(PlainTextResponse("hello"))
LOCKED = SecurityMiddleware(PlainTextResponse("hello"), login=("wearer", "séc:ret"))


def test_without_the_password_nothing_is_given() -> None:
    client = TestClient(LOCKED)
    refused = client.get("/anything")
    assert refused.status_code == 401
    assert "Basic" in refused.headers["www-authenticate"]
    for login in (("wearer", "wrong"), ("", ""), ("wearer", "")):
        assert client.get("/", auth=login).status_code == 401
    assert client.get("/", headers={"authorization": "Basic !!!"}).status_code == 401
    assert client.get("/", headers={"authorization": "Bearer x"}).status_code == 401


def test_with_the_password_everything_is_given() -> None:
    encoded = "d2VhcmVyOnPDqWM6cmV0"  # wearer:séc:ret in UTF-8
    reply = TestClient(LOCKED).get("/", headers={"authorization": f"Basic {encoded}"})
    assert reply.text == "hello"


def test_a_user_and_a_password_are_both_needed() -> None:
    assert user_and_password("wearer:a:b") == ("wearer", "a:b")
    for text in ("wearer", "wearer:", ":secret", ""):
        with pytest.raises(UsageError, match="--auth"):
            user_and_password(text)


def test_other_sites_can_post_nothing() -> None:
    client = TestClient(OPEN)
    for site in ("cross-site", "same-site"):
        assert client.post("/live/open", headers={"sec-fetch-site": site}).status_code == 403
    for site in ("same-origin", "none"):
        assert client.post("/live/open", headers={"sec-fetch-site": site}).status_code == 200
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_the_page_may_fetch_from_nowhere_else() -> None:
    policy = TestClient(OPEN).get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_a_certificate_of_ones_own_can_be_served(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "192.168.1.7")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    assert trusting.cert_store_stats()["x509"] == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--auth", "nobody"], "--auth"),
        (["--certificate", "a.pem"], "--certificate and --key"),
        (["--visitors", "0"], "--visitors"),
        (["--upload-mb", "0"], "--upload-mb"),
        (["--source", "/nowhere.mp4"], "no such file"),
        (["--port", "99999999"], "--port"),
        (["--host", "192.0.2.1"], "cannot listen"),
    ],
)
def test_settings_that_cannot_work_are_told_before_a_model_is_loaded(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["demo", "--model", "/no/model", *options]) in (1, 2)
    assert told in capsys.readouterr().err


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with built(FakeEngine(), tmp_path, upload_mb=1) as (page, _), TestClient(page) as client:
        yield client


def test_the_page_is_served_whole_without_statistics_and_gives_no_other_files(
    client: TestClient, tmp_path: Path
) -> None:
    page = client.get("/").text
    config = client.get("/config").json()
    assert "egolive" in page
    assert config["analytics_enabled"] is False
    assert "requestVideoFrameCallback" in str(config["components"])
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    for path in (secret, Path("/etc/hostname"), Path(__file__), tmp_path / "uploads" / ".." / "secret.txt"):
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)
    large = client.post("/gradio_api/upload", files={"files": ("a.mp4", bytes(1_100_000), "video/mp4")})
    assert large.status_code == 413
    small = client.post("/gradio_api/upload", files={"files": ("a.mp4", bytes(1000), "video/mp4")})
    assert Path(small.json()[0]).is_relative_to(tmp_path / "uploads")
