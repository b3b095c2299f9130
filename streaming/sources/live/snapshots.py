"""Snapshot addresses: cameras that give their newest picture at each request, such as http://…/snapshot.jpg."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import numpy as np
import PIL.Image
import PIL.ImageOps

from egolive.streaming.clock import Clock
from egolive.streaming.errors import SourceError, SourceLost
from egolive.streaming.frames import Frame, Image
from egolive.streaming.sources.http_address import HttpCaller
from egolive.streaming.sources.source import Source

__all__ = ["DEFAULT_POLL", "Snapshots"]

DEFAULT_POLL = 0.5
"""Seconds from one request to the next."""
_MOST_BYTES = 32 << 20
"""Longest picture that is read."""


class Snapshots(Source):
    """A live source that asks for a picture again and again; one that is the same as before is left out.

    Frames carry the time at which their answer began: the picture is as old as the camera made it by then.

    Args:
        address: http or https, with user and password.
        poll: seconds from one request to the next.
        timeout: seconds without a picture after which it is lost.
        clock: what live time is read from.

    Raises:
        SourceError: it gives no picture that can be decoded.
    """

    def __init__(self, address: str, *, poll: float, timeout: float, clock: Clock) -> None:
        self.live = True
        self.fps: float | None = 1 / poll
        self.broken = 0
        self._poll = poll
        self._timeout = timeout
        self._clock = clock
        self._stop = threading.Event()
        # httpx must not close a connection that another thread is reading.
        self._asking = threading.Lock()
        self._caller = HttpCaller(address, timeout)
        self.name = self._caller.name
        self._tags: dict[str, str] = {}
        self._before = b""
        self._asked = clock.now()
        try:
            first = self._ask()
        except BaseException:
            self._caller.close()
            raise
        if first is None:
            self._caller.close()
            raise SourceError(f"{self.name}: not a picture that can be read; is it damaged?")
        self._first: tuple[Image, float] | None = first
        self.size: tuple[int, int] | None = (first[0].shape[1], first[0].shape[0])
        self._frames = self._read()

    def __iter__(self) -> Iterator[Frame]:
        """Frames until it is closed.

        Raises:
            SourceLost: it did not answer for the timeout.
        """
        return self._frames

    def close(self) -> None:
        """Stop asking; waits for an answer that is under way, at most the timeout."""
        self._stop.set()
        with self._asking:
            self._caller.close()

    def _read(self) -> Iterator[Frame]:
        origin, index = None, 0
        answered = self._clock.now()
        taken, self._first = self._first, None
        while True:
            if taken is not None:
                image, captured = taken
                origin = captured if origin is None else origin
                self.size = (image.shape[1], image.shape[0])
                yield Frame(image, captured - origin, index, captured=captured)
                index += 1
            # In step with the first request, unless an answer took longer than a step.
            self._asked = max(self._asked + self._poll, self._clock.now() - self._poll)
            if self._clock.wait(self._stop, max(0.0, self._asked - self._clock.now())):
                return
            try:
                taken = self._ask()
                answered = self._clock.now()
            except SourceError as error:
                if self._stop.is_set():
                    return
                taken = None
                if self._clock.now() - answered >= self._timeout:
                    raise SourceLost(str(error)) from None

    def _ask(self) -> tuple[Image, float] | None:
        """The picture and when its answer began; None where there is no new one, or it cannot be decoded.

        Raises:
            SourceError: no answer.
        """
        with self._asking:
            if self._stop.is_set():
                return None
            with self._caller.get(self._tags) as answer:
                captured = self._clock.now()
                if answer.status_code == 304:
                    return None
                data = bytearray()
                for piece in answer.iter_bytes():
                    data += piece
                    if len(data) > _MOST_BYTES or self._clock.now() - captured > self._timeout:
                        raise SourceError(
                            f"{self.name}: no picture ended within {self._timeout:g} s; check the address"
                        )
                headers = answer.headers
        if data == self._before:
            return None
        self._before = bytes(data)
        try:
            image = _decoded(self._before)
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
            self.broken += 1
            return None
        # Not by Last-Modified, which counts whole seconds: two pictures of one second would look the same.
        tag = headers.get("ETag")
        self._tags = {"If-None-Match": tag} if tag else {}
        return image, captured


def _decoded(data: bytes) -> Image:
    """Upright RGB pixels."""
    with PIL.Image.open(io.BytesIO(data)) as picture:
        upright = PIL.ImageOps.exif_transpose(picture)
        return np.asarray(upright.convert("RGB"))
