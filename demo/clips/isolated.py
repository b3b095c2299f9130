"""Clips of visitors, decoded by `decode_worker` in a process that is ended when it takes too long."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from egolive.demo.clips.decode_worker import FRAME_HEAD, LONGEST, RECORD_HEAD
from egolive.streaming.errors import SourceError
from egolive.streaming.frames import Frame
from egolive.streaming.json_files import JsonModel, Positive, Seconds, parse_json
from egolive.streaming.sources.source import Source

__all__ = ["IsolatedClip", "clip_frames", "clip_seconds"]

_STEP_SECONDS = 15.0
"""For one record: the start of the process, or one picture."""
_MOST_RECORD = FRAME_HEAD.size + 3 * LONGEST**2
_PIECE = 1 << 20
_at_once = threading.BoundedSemaphore(4)
"""Processes at once; each may take 2 GB."""


class _Facts(JsonModel):
    """What the worker tells of a clip before its frames."""

    fps: Positive | None
    size: tuple[int, int]
    seconds: Seconds


class _Worker:
    """The process, and what it writes."""

    def __init__(self, clip: Path, *, step_seconds: float, **wanted: object) -> None:
        self._clip = clip
        self._step = step_seconds
        self._closing = threading.Lock()
        _at_once.acquire()
        try:
            argument = json.dumps({"path": str(clip.absolute()), **wanted})
            self._process = subprocess.Popen(
                [sys.executable, "-m", "egolive.demo.clips.decode_worker", argument],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except BaseException:
            _at_once.release()
            raise
        self._closed = False

    def records(self) -> Iterator[tuple[bytes, memoryview]]:
        """Kind and content of each record, until the process has written all.

        Raises:
            SourceError: The clip cannot be decoded, or takes too long.
        """
        assert self._process.stdout is not None
        while head := self._read(self._process.stdout, RECORD_HEAD.size):
            kind, length = RECORD_HEAD.unpack(head)
            if length > _MOST_RECORD:
                raise self._broken()
            body = self._read(self._process.stdout, length)
            if body is None:
                raise self._broken()
            if kind == b"E":
                raise SourceError(bytes(body).decode(errors="replace"))
            yield kind, body
        if self._process.wait(self._step) and not self._closed:
            raise self._broken()

    def close(self) -> None:
        """End the process; twice does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        _at_once.release()

    def _read(self, pipe: IO[bytes], length: int) -> memoryview | None:
        """So many bytes; None at the end."""
        found, end = bytearray(length), time.monotonic() + self._step
        view, filled = memoryview(found), 0
        while filled < length:
            if self._closed:
                return None
            left = end - time.monotonic()
            # Woken twice a second, to see that it was closed.
            if left > 0 and not select.select([pipe], [], [], min(left, 0.5))[0]:
                continue
            if left <= 0:
                raise SourceError(
                    f"{self._clip.name}: a picture took longer than {self._step:g} s to decode; "
                    "save it smaller"
                )
            count = os.readv(pipe.fileno(), [view[filled : filled + _PIECE]])
            if not count:
                return None
            filled += count
        return view

    def _broken(self) -> SourceError:
        return SourceError(f"{self._clip.name}: its decoder broke down; save it as MP4")


class IsolatedClip(Source):
    """A clip as a source.

    Args:
        clip: The file.
        step_seconds: For the start of the process, and for each picture.

    Raises:
        SourceError: It is no video, or cannot be decoded.
    """

    def __init__(self, clip: Path, *, step_seconds: float = _STEP_SECONDS) -> None:
        self.live = False
        self.name = clip.name
        self.broken = 0
        self._worker = _Worker(clip, step_seconds=step_seconds)
        try:
            self._records = self._worker.records()
            facts = _facts(clip, self._records)
        except BaseException:
            self._worker.close()
            raise
        self.fps: float | None = facts.fps
        self.size: tuple[int, int] | None = facts.size
        self.seconds = facts.seconds
        """Length of the clip."""

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the end.

        Raises:
            SourceError: It cannot be decoded any more, or takes too long.
        """
        for _, body in self._records:
            yield _frame(body, self.name)

    def close(self) -> None:
        """End the process."""
        self._worker.close()


def clip_seconds(clip: Path, *, step_seconds: float = _STEP_SECONDS) -> float:
    """Length of a video.

    Raises:
        SourceError: It is no video, cannot be decoded, or its length is not known.
    """
    worker = _Worker(clip, step_seconds=step_seconds, facts_alone=True)
    try:
        return _facts(clip, worker.records()).seconds
    finally:
        worker.close()


def clip_frames(clip: Path, *, step_seconds: float = _STEP_SECONDS, **chosen: float | None) -> list[Frame]:
    """Some frames of a clip.

    Args:
        clip: The file.
        step_seconds: For each picture.
        **chosen: Arguments of `egolive.assistant.model.media.load_video`.

    Raises:
        SourceError: It cannot be decoded, or takes too long.
    """
    worker = _Worker(clip, step_seconds=step_seconds, chosen=chosen)
    try:
        return [_frame(body, clip.name) for _, body in worker.records()]
    finally:
        worker.close()


def _facts(clip: Path, records: Iterator[tuple[bytes, memoryview]]) -> _Facts:
    kind, body = next(records, (b"", memoryview(b"")))
    if kind != b"H":
        raise SourceError(f"{clip.name}: its decoder broke down; save it as MP4")
    where = f"{clip.name}: its decoder broke down"
    return parse_json(_Facts, bytes(body), where=where, remedy="save it as MP4")


def _frame(body: memoryview, name: str) -> Frame:
    if len(body) < FRAME_HEAD.size:
        raise SourceError(f"{name}: its decoder broke down; save it as MP4")
    seconds, index, width, height = FRAME_HEAD.unpack(body[: FRAME_HEAD.size])
    pixels = body[FRAME_HEAD.size :]
    if len(pixels) != 3 * width * height or not pixels:
        raise SourceError(f"{name}: its decoder broke down; save it as MP4")
    return Frame(np.frombuffer(pixels, np.uint8).reshape(height, width, 3), seconds, index)
