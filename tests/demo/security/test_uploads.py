"""Limits of uploads, of visits, and of what decoding may cost."""

from __future__ import annotations

import asyncio
import io
import struct
import threading
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from clips import write_clip
from fakes import FakeEngine
from PIL import Image as PillowImage
from starlette.requests import ClientDisconnect

from egolive.assistant.runtime.engine_lock import SharedEngine
from egolive.demo.clips.isolated import IsolatedClip, clip_frames, clip_seconds
from egolive.demo.clips.uploads import UploadRefusedError, Uploads
from egolive.demo.live.browser_source import BrowserSource
from egolive.demo.live.sessions import Settings, VisitorSessions
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import SourceError
from egolive.streaming.sources.opening import open_source
from egolive.streaming.video_writer import VideoWriter

CLOCK = VirtualClock()


def uploads(folder: Path, clock: VirtualClock | None = None) -> Uploads:
    taken = folder / "clips"
    return Uploads(
        folder / "uploads",
        most_bytes=1000,
        total_bytes=2500,
        taken=taken,
        patience=0.2,
        clock=clock or VirtualClock(),
    )


def send(
    to: Uploads, *pieces: bytes, announced: int | None = None, name: str = "a.mp4", address: str = "a"
) -> str:
    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    length = len(b"".join(pieces)) if announced is None else announced
    return asyncio.run(to.receive(body(), name=name, announced=length, address=address))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_upload_is_taken_once(tmp_path: Path) -> None:
    place = uploads(tmp_path)
    token = send(place, b"abc", b"def", name="../../my\nclip.mp4")
    upload = place.claim(token)
    assert upload is not None
    assert upload.path.read_bytes() == b"abcdef"
    assert upload.path.parent == tmp_path / "uploads"
    assert upload.name == "../../myclip.mp4"
    assert place.claim(token) is None
    assert place.claim("guess") is None


@pytest.mark.parametrize(
    ("pieces", "announced", "status"),
    [
        ((b"x" * 1001,), None, 413),
        ((b"x" * 999, b"x" * 999), 1000, 413),
        ((b"x" * 10,), 1000, 400),
        ((b"",), 0, 413),
    ],
)
def test_what_is_not_as_announced_is_not_kept(
    tmp_path: Path, pieces: tuple[bytes, ...], announced: int | None, status: int
) -> None:
    with pytest.raises(UploadRefusedError) as refused:
        send(uploads(tmp_path), *pieces, announced=announced)
    assert refused.value.status == status
    assert files(tmp_path) == []


def test_an_upload_that_breaks_off_or_crawls_is_not_kept(tmp_path: Path) -> None:
    clock = VirtualClock()
    place = uploads(tmp_path, clock)

    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise ClientDisconnect

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(100):
            clock.advance(1)
            yield b"x"

    async def still() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(60)

    for body, told in ((broken(), "broke off"), (slow(), "too slow"), (still(), "stood still")):
        with pytest.raises(UploadRefusedError, match=told):
            asyncio.run(place.receive(body, name="a.mp4", announced=500, address="a"))
        assert files(tmp_path) == []
    assert send(place, b"x")


def test_all_clips_together_have_a_limit(tmp_path: Path) -> None:
    place = uploads(tmp_path)
    send(place, b"x" * 1000)
    taken = place.claim(send(place, b"x" * 1000))
    assert taken is not None
    (tmp_path / "clips").mkdir()
    taken.path.rename(tmp_path / "clips" / "clip.mp4")
    with pytest.raises(UploadRefusedError, match="as many clips as it may"):
        send(place, b"x" * 1000)


def test_what_nobody_takes_is_deleted(tmp_path: Path) -> None:
    clock = VirtualClock()
    place = uploads(tmp_path, clock)
    token = send(place, b"abc")
    clock.advance(119)
    place.sweep()
    assert len(files(tmp_path)) == 1
    clock.advance(2)
    place.sweep()
    assert files(tmp_path) == []
    assert place.claim(token) is None


def test_one_address_may_send_two_at_once_and_all_together_eight(tmp_path: Path) -> None:
    place = uploads(tmp_path)

    async def waits(gate: asyncio.Event) -> AsyncIterator[bytes]:
        yield b"x"
        await gate.wait()

    async def run() -> list[str]:
        gate = asyncio.Event()
        tasks = []
        refused = []
        for number in range(12):
            address = f"192.0.2.{number // 3}"
            task = asyncio.create_task(place.receive(waits(gate), name="a.mp4", announced=1, address=address))
            await asyncio.sleep(0.01)
            if task.done():
                refused.append(str(task.exception()))
            else:
                tasks.append(task)
        gate.set()
        await asyncio.gather(*tasks)
        assert len(tasks) == 8
        return refused

    assert all("too many uploads" in told for told in asyncio.run(run()))
    assert len(files(tmp_path)) == 8
    assert send(uploads(tmp_path / "other"), b"x")


# Visits.


def test_a_visit_without_a_picture_does_not_keep_its_place() -> None:
    sessions = VisitorSessions(SharedEngine(FakeEngine()), most=4, first_picture=0.2)
    try:
        words = [sessions.open(Settings()) for _ in range(4)]
        assert all(words)
        assert sessions.open(Settings()) is None
        time.sleep(0.3)
        sessions.sweep()
        deadline = time.monotonic() + 10
        while sessions.open(Settings()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        sessions.close()


def test_one_address_of_the_network_has_half_of_the_places() -> None:
    sessions = VisitorSessions(SharedEngine(FakeEngine()), most=4)
    try:
        assert [bool(sessions.open(Settings(), "192.0.2.1")) for _ in range(3)] == [True, True, False]
        assert sessions.open(Settings(), "192.0.2.2")
        assert sessions.open(Settings())
    finally:
        sessions.close()


def test_a_place_is_free_only_when_its_thread_has_ended() -> None:
    held = threading.Event()

    class Stuck(BrowserSource):
        def __iter__(self) -> Iterator[object]:  # type: ignore[override]
            held.wait(20)
            return iter(())

    sessions = VisitorSessions(SharedEngine(FakeEngine()), most=1)
    sessions._open = Stuck
    try:
        word = sessions.open(Settings())
        assert word
        sessions.leave(word)
        assert sessions.get(word) is None
        assert sessions.open(Settings()) is None
        assert len(sessions) == 1
        held.set()
        deadline = time.monotonic() + 10
        while len(sessions):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        held.set()
        sessions.close()


# Decoding.


def huge_png(side: int) -> bytes:
    """A picture of one bit a pixel: 20 kB for 13,000 squared."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + (side + 7) // 8)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def bomb() -> bytes:
    return huge_png(13_000)


def test_a_picture_of_a_gigabyte_is_refused_by_its_header(tmp_path: Path, bomb: bytes) -> None:
    path = tmp_path / "big.png"
    path.write_bytes(bomb)
    assert len(bomb) < 25_000
    before = psutil.Process().memory_info().rss
    with pytest.raises(SourceError, match=r"13000x13000 pixels.*save it smaller"):
        open_source(path)
    assert psutil.Process().memory_info().rss - before < 50e6


def test_a_video_of_huge_pictures_costs_neither_memory_nor_minutes(tmp_path: Path, bomb: bytes) -> None:
    path = tmp_path / "big.avi"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        for number in range(20):
            packet = av.Packet(bomb)
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base = Fraction(1, 10)
            out.mux(packet)
    before, begun = psutil.Process().memory_info().rss, time.process_time()
    for read in (open_source, clip_seconds):
        with pytest.raises(SourceError, match=r"million pixels"):
            read(path)
    assert psutil.Process().memory_info().rss - before < 100e6
    assert time.process_time() - begun < 10


def test_a_progressive_jpeg_of_many_scans_is_refused() -> None:
    picture = PillowImage.new("RGB", (1600, 1200), (90, 120, 30))
    file = io.BytesIO()
    picture.save(file, "JPEG", progressive=True, quality=30)
    data = file.getvalue()
    source = BrowserSource()
    assert source.put(data, 1.0) == 0
    # Each further scan makes a decoder go over all pixels once more.
    scan = data.rindex(b"\xff\xda")
    with pytest.raises(SourceError, match="takes too long to decode"):
        source.put(data[:-2] + data[scan:-2] * 40 + b"\xff\xd9", 2.0)
    source.close()


def test_frames_come_from_a_process_of_its_own_as_they_are(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    with open_source(clip) as plain, IsolatedClip(clip) as isolated:
        assert (isolated.fps, isolated.size, isolated.live) == (plain.fps, plain.size, False)
        here, there = list(plain), list(isolated)
    assert [(frame.time, frame.index) for frame in here] == [(frame.time, frame.index) for frame in there]
    assert all(np.array_equal(one.image, other.image) for one, other in zip(here, there, strict=True))
    assert [frame.time for frame in clip_frames(clip, nframes=4)] == sorted(
        frame.time for frame in clip_frames(clip, nframes=4)
    )


def test_large_pictures_are_handed_on_smaller_and_thin_ones_not_at_all(tmp_path: Path) -> None:
    for size, told in (((3000, 1000), (1920, 640)), ((16, 4000), None), ((8, 8), None)):
        clip = tmp_path / f"{size[0]}.mkv"
        with VideoWriter(clip) as writer:
            for number in range(3):
                writer.write(np.full((size[1], size[0], 3), 90, np.uint8), number / 10)
        if told is None:
            with pytest.raises(SourceError, match="too small or too thin"):
                IsolatedClip(clip)
            continue
        with IsolatedClip(clip) as source:
            assert source.size == told
            assert {(frame.width, frame.height) for frame in source} == {told}


def test_a_decoder_that_hangs_is_ended(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    before = set(psutil.Process().children())
    # No process starts within a hundredth of a second.
    with pytest.raises(SourceError, match="took longer than"):
        clip_seconds(clip, step_seconds=0.01)
    assert set(psutil.Process().children()) == before


def test_closing_ends_the_process(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", seconds=20)
    before = set(psutil.Process().children())
    source = IsolatedClip(clip)
    assert set(psutil.Process().children()) != before
    next(iter(source))
    source.close()
    source.close()
    assert set(psutil.Process().children()) == before
