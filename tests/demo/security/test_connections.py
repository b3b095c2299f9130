"""Connections that are held open, and what a killed server leaves behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from egolive.demo.app import _remove_leftovers
from egolive.demo.security.connections import ImpatientProtocol


class Hasty(ImpatientProtocol):
    """Waits less long."""

    head_seconds = 0.4


@pytest.fixture
def port() -> Iterator[int]:
    config = uvicorn.Config(
        PlainTextResponse("hello"), port=0, log_level="warning", ws="none", http=Hasty, timeout_keep_alive=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def ends(port: int, *pieces: bytes, apart: float = 0.1) -> tuple[bytes, float]:
    """What is answered until the server hangs up, and after how many seconds it does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    begun = time.monotonic()

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(apart)

    sending = asyncio.create_task(send())
    try:
        answered = await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:
        answered = b""
    sending.cancel()
    writer.close()
    return answered, time.monotonic() - begun


def test_a_connection_that_sends_nothing_or_crawls_is_closed(port: int) -> None:
    crawling = [bytes([one]) for one in REQUEST]
    for pieces in ((), (b"GET /",), crawling):
        answered, took = asyncio.run(ends(port, *pieces))
        assert answered == b""
        assert took < 2
    # Neither is one that crawls after its first request.
    answered, took = asyncio.run(ends(port, REQUEST, *crawling))
    assert answered.count(b"200 OK") == 1
    assert took < 3


def test_requests_that_come_whole_are_all_answered(port: int) -> None:
    answered, _ = asyncio.run(ends(port, REQUEST, REQUEST * 2, REQUEST, apart=0.3))
    assert answered.count(b"200 OK") == 4


def test_one_address_has_a_limit_of_connections(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hasty, "most_of_network", 2)

    async def several() -> list[bytes]:
        return [answered for answered, _ in await asyncio.gather(*(ends(port, REQUEST) for _ in range(5)))]

    assert sum(b"200 OK" in answered for answered in asyncio.run(several())) == 2
    # Their places are free again.
    assert b"200 OK" in asyncio.run(ends(port, REQUEST))[0]


def test_what_a_killed_server_left_is_deleted(tmp_path: Path) -> None:
    import os

    dead, mine = tmp_path / "egolive-demo-999999999-abc", tmp_path / f"egolive-demo-{os.getpid()}-abc"
    other, elsewhere = tmp_path / "egolive-demo-notes-abc", tmp_path / "elsewhere"
    for folder in (dead, mine, other, elsewhere):
        folder.mkdir()
        (folder / "clip.mp4").write_bytes(b"x")
    (tmp_path / "egolive-demo-999999998-link").symlink_to(elsewhere)
    _remove_leftovers(tmp_path)
    assert not dead.exists()
    assert all((folder / "clip.mp4").exists() for folder in (mine, other, elsewhere))
