"""A source of the pictures that a page posts: the newest wins, and each carries the time of its capture."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage

from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.errors import SourceError
from egolive.streaming.frames import Frame
from egolive.streaming.pipeline.mailbox import Mailbox
from egolive.streaming.sources.live.live_clock import LiveClock
from egolive.streaming.sources.source import Source

__all__ = ["MOST_BYTES", "BrowserSource", "StreamEndedError"]

MOST_BYTES = 4_000_000
"""Of one picture."""
_MOST_PIXELS = 4096 * 2304
_MOST_SCANNED = 40_000_000
"""Pixels times scans of a progressive JPEG: each scan costs as much as a picture."""
_SCAN = b"\xff\xda"
"""Begins a scan. In what is between markers, 0xff is always followed by 0 or a restart marker."""
_LATEST = 1e12
"""Seconds: no clock of a page is later, and sums of two are still finite."""
_LEAST_SIDE = 32
"""Pixels: what is smaller shows no hand."""


@dataclass(frozen=True, slots=True)
class _Posted:
    """One picture as it came."""

    jpeg: bytes
    time: float
    index: int
    captured: float


class StreamEndedError(SourceError):
    """Nothing more is taken."""


class BrowserSource(Source):
    """A live source that others put JPEG pictures into.

    Args:
        name: What people call it.
        timeout: Seconds without a picture after which it ends.
        clock: What arrival is read from; the machine's own without it.
    """

    def __init__(
        self, name: str = "browser camera", *, timeout: float = 60.0, clock: Clock | None = None
    ) -> None:
        self.live = True
        self.name = name
        self.fps = None
        self.size: tuple[int, int] | None = None
        self.broken = 0
        self.origin: float | None = None
        """Capture time of the first picture by the page's clock, seconds: the stream's zero."""
        self._timeout = timeout
        self._clock = clock or MonotonicClock()
        self._live_clock = LiveClock()
        self._made = self._clock.now()
        self._arrived: float | None = None
        self._box: Mailbox[_Posted] = Mailbox(live=True)
        # Requests may come in on several threads.
        self._posting = threading.Lock()
        self._index = 0
        self._last = -math.inf

    @property
    def drops(self) -> int:
        """Pictures for which a newer one came before they were decoded."""
        return self._box.drops.get("busy", 0)

    @property
    def quiet(self) -> float:
        """Seconds since the newest picture, or since it was made where none has come."""
        return self._clock.now() - (self._made if self._arrived is None else self._arrived)

    def put(self, jpeg: bytes, time: float) -> int:
        """Take a picture; never waits.

        Args:
            jpeg: The picture.
            time: When it was captured, by the page's clock, seconds.

        Returns:
            Its running number, which its frame will carry.

        Raises:
            StreamEndedError: The source has ended.
            SourceError: It is no JPEG, too small or too large, or older than one before it.
        """
        if not abs(time) <= _LATEST:
            raise SourceError("the picture's time is not a number; send its capture time in seconds")
        _check(jpeg)
        with self._posting:
            if time <= self._last:
                raise SourceError("the picture is older than one that was posted before it; it is left out")
            if self.origin is None:
                self.origin = time
            arrived = self._clock.now()
            waited = 0.0 if self._arrived is None else arrived - self._arrived
            self._arrived = arrived
            # The page's clock is its own; how late a picture came shows against those that came fastest.
            self._live_clock.packet(time, arrived, waited)
            captured, _ = self._live_clock.place(time, arrived)
            posted = _Posted(jpeg, time - self.origin, self._index, captured)
            if not self._box.put(posted):
                raise StreamEndedError("this stream has ended; start it again")
            self._last = time
            self._index += 1
            return posted.index

    def __iter__(self) -> Iterator[Frame]:
        """Frames until nothing has been posted for a while."""
        while True:
            try:
                posted = self._box.get(self._timeout)
            except TimeoutError:
                return
            if posted is None:
                return
            try:
                with PillowImage.open(io.BytesIO(posted.jpeg), formats=("JPEG",)) as picture:
                    image = np.asarray(picture.convert("RGB"))
            except OSError:
                self.broken += 1
                continue
            self.size = (image.shape[1], image.shape[0])
            yield Frame(image, posted.time, posted.index, captured=posted.captured)

    def close(self) -> None:
        """End it; what is inside is dropped."""
        self._box.close()


def _check(jpeg: bytes) -> None:
    """Look at the header alone: pixels are decoded by the thread that reads."""
    if len(jpeg) > MOST_BYTES:
        raise SourceError(
            f"the picture has {len(jpeg) / 1e6:.1f} MB, at most {MOST_BYTES / 1e6:.0f} are taken"
        )
    try:
        with PillowImage.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
            width, height = picture.size
    # Pillow refuses pictures of absurd size with an error of its own.
    except (OSError, PillowImage.DecompressionBombError) as error:
        raise SourceError("what was posted is not a JPEG picture") from error
    if min(width, height) < _LEAST_SIDE or width * height > _MOST_PIXELS:
        raise SourceError(
            f"the picture has {width}x{height} pixels; sides of {_LEAST_SIDE} or more and at most "
            f"{_MOST_PIXELS / 1e6:.0f} million pixels are taken"
        )
    scans = jpeg.count(_SCAN)
    if scans > 1 and scans * width * height > _MOST_SCANNED:
        raise SourceError(
            f"the picture has {width}x{height} pixels in {scans} scans, which takes too long to decode; "
            "send baseline JPEG"
        )
