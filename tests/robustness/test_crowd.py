"""A crowd at the page: hundreds of visitors and slow uploads beside one who has the camera on.

Seconds with the crowd by EGOLIVE_CROWD_SECONDS: 20 without it; figures to be told are of 600.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image as PillowImage

pytestmark = [pytest.mark.robustness, pytest.mark.timeout(3600)]

SECONDS = float(os.environ.get("EGOLIVE_CROWD_SECONDS", "20"))
VISITORS, UPLOADS = 200, 100
_ALONE = 120.0
"""Seconds alone are enough to count."""


def pictures() -> list[bytes]:
    """Some JPEGs of a moving square."""
    made = []
    for number in range(20):
        image = np.full((240, 320, 3), 90, np.uint8)
        image[100:140, 10 * number : 10 * number + 40] = (200, 60, 40)
        file = io.BytesIO()
        PillowImage.fromarray(image).save(file, "JPEG")
        made.append(file.getvalue())
    return made


class Wearer:
    """The visitor with the camera on: posts a picture whenever the one before was answered."""

    def __init__(self, address: str) -> None:
        self._client = httpx.AsyncClient(base_url=address, headers={"origin": address}, timeout=30)
        self._pictures = pictures()
        self._number = 0
        self._visit = ""

    async def start(self) -> None:
        self._visit = (await self._client.post("/live/open", json={})).json()["visit"]

    async def watch(self, seconds: float) -> int:
        """How many answers came in this time."""
        answers: set[tuple[Any, ...]] = set()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._number += 1
            path = f"/live/{self._visit}/picture?time={time.monotonic():.6f}"
            picture = self._pictures[self._number % len(self._pictures)]
            try:
                reply = await self._client.post(path, content=picture)
            except (httpx.RemoteProtocolError, httpx.ReadError):
                # An idle connection that the server closed: browsers send again, too.
                continue
            told = reply.json()
            assert reply.status_code == 200, told
            assert not told["over"], told
            answers |= {(one["task"], one["phrase"], one["t"]) for one in told["answers"]}
            await asyncio.sleep(0.03)
        return len(answers)

    async def stop(self) -> None:
        await self._client.post(f"/live/{self._visit}/close")
        await self._client.aclose()


def client_of(address: str, number: int) -> httpx.AsyncClient:
    """A client with an address of its own: each of 127.0.0.0/8 is this machine."""
    local = f"127.0.{1 + number // 250}.{1 + number % 250}"
    transport = httpx.AsyncHTTPTransport(local_address=local)
    return httpx.AsyncClient(base_url=address, headers={"origin": address}, timeout=30, transport=transport)


async def visitor(address: str, number: int, end: float) -> int:
    """Opens the page, keeps its stream open, and asks for a place again and again."""
    refused = 0
    async with client_of(address, number) as client:
        assert (await client.get("/")).status_code == 200
        beat = asyncio.create_task(heartbeat(client, number))
        # As the page does.
        pause = 2.0
        while time.monotonic() < end:
            reply = await client.post("/live/open", json={})
            refused += reply.status_code == 503
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(15, 1.5 * pause)
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)
    return refused


async def heartbeat(client: httpx.AsyncClient, number: int) -> None:
    async with client.stream("GET", f"/gradio_api/heartbeat/crowd{number}") as stream:
        async for _ in stream.aiter_bytes():
            pass


async def slow_upload(address: str, number: int, end: float) -> int:
    """Sends a clip a kilobyte a second, and begins again when it is refused."""
    refused = 0

    async def body() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1000)
            await asyncio.sleep(1)

    async with client_of(address, 300 + number) as client:
        while time.monotonic() < end:
            try:
                headers = {"content-length": "100000000"}
                reply = await client.post("/clip/upload?name=a.mp4", content=body(), headers=headers)
                refused += reply.status_code in (408, 429)
                await asyncio.sleep(int(reply.headers.get("retry-after", "1")))
            except httpx.TransportError:
                # The server has hung up before all was sent.
                refused += 1
                await asyncio.sleep(10)
    return refused


async def crowd(address: str, seconds: float) -> int:
    """All of them; how often the server refused."""
    end = time.monotonic() + seconds
    tasks = [asyncio.create_task(visitor(address, number, end)) for number in range(VISITORS)]
    tasks += [asyncio.create_task(slow_upload(address, number, end)) for number in range(UPLOADS)]
    await asyncio.sleep(seconds)
    for task in tasks[VISITORS:]:
        task.cancel()
    counts = await asyncio.gather(*tasks, return_exceptions=True)
    return sum(count for count in counts if isinstance(count, int))


async def crowded(address: str, seconds: float) -> tuple[float, float, int]:
    """Answers a second of the wearer alone, and with the crowd; how often that was refused."""
    wearer = Wearer(address)
    await wearer.start()
    await wearer.watch(5)
    alone = await wearer.watch(min(seconds, _ALONE)) / min(seconds, _ALONE)
    # In a process of its own, as those at other machines.
    others = await asyncio.create_subprocess_exec(
        sys.executable, __file__, address, str(seconds + 10), stdout=subprocess.PIPE
    )
    # Coming in is over before it is counted.
    await wearer.watch(8)
    among = await wearer.watch(seconds) / seconds
    told, _ = await others.communicate()
    await wearer.stop()
    return alone, among, int(told)


def state(process: psutil.Process) -> tuple[float, int]:
    """Megabytes and threads."""
    return process.memory_info().rss / 1e6, process.num_threads()


def test_a_crowd_does_not_take_the_answers_of_who_is_there(tmp_path: Path) -> None:
    port = 17860 + os.getpid() % 1000
    command = [sys.executable, "-m", "egolive", "demo", "--port", str(port), "--visitors", "1"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as server:
        try:
            assert server.stdout is not None
            said = ""
            while "http://" not in said:
                said = server.stdout.readline()
                assert said, server.stderr and server.stderr.read()
            address = re.sub("localhost", "127.0.0.1", said.strip())
            process = psutil.Process(server.pid)
            for _ in range(100):
                try:
                    httpx.get(address, timeout=60)
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            # The first visit brings the model into memory.
            asyncio.run(crowded(address, 2))
            time.sleep(15)
            before = state(process)
            alone, among, refused = asyncio.run(crowded(address, SECONDS))
            time.sleep(20)
            after = state(process)
            left = [path for path in tmp_path.rglob("*") if path.is_file()]
            print(  # noqa: T201  # the figures of the note
                f"\n{SECONDS:g} s: {alone:.2f} answers a second alone, {among:.2f} in the crowd, "
                f"{refused} refused; "
                f"memory {before[0]:.0f} -> {after[0]:.0f} MB, threads {before[1]} -> {after[1]}, "
                f"{len(left)} files left"
            )
            assert refused >= VISITORS
            assert among >= 0.9 * alone
            assert after[0] <= 1.1 * before[0]
            assert after[1] <= before[1]
            assert left == []
        finally:
            server.terminate()
            server.wait(20)


if __name__ == "__main__":
    sys.stdout.write(str(asyncio.run(crowd(sys.argv[1], float(sys.argv[2])))))
