"""Live streams from the network: RTSP, RTMP, MJPEG over HTTP, HLS, MPEG-TS, pipes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.errors import SourceError, SourceLost
from egolive.streaming.frames import Frame
from egolive.streaming.sources.decoder import Decoder, Picture
from egolive.streaming.sources.live.live_clock import LiveClock
from egolive.streaming.sources.source import Source

__all__ = ["LiveStream"]

_WAIT = 0.005
"""Seconds for which a read must have waited for data to show that nothing lay unread."""
_LONGEST_OPENING = 5.0
"""Seconds after which reading begins even if it never had to wait."""
_FAR_BEHIND = 3.0
"""Seconds behind, for as many seconds, at which decoding jumps to the next key frame."""


class LiveStream(Source):
    """A stream that goes on whether it is read or not.

    Its first frame is the newest that there is when reading begins: what the server, the network and the
    opening itself had buffered is decoded, counted in `dropped` and left out. From there each frame carries
    the time at which it was taken (`LiveClock`), however late it is read.

    Args:
        decoder: the opened connection, with the same clock; closed with this.
        clock: what live time is read from.

    Raises:
        SourceError: it gives no picture that can be decoded.
    """

    def __init__(self, decoder: Decoder, clock: Clock | None = None) -> None:
        self.live = True
        self.name = decoder.name
        self._clock = clock or MonotonicClock()
        self._decoder = decoder
        decoder.live = True
        # Decoding several frames at once would hold each back by some frames.
        decoder.stream.thread_type = "SLICE"
        self._live_clock = LiveClock(stamped=decoder.stamped)
        decoder.on_packet = self._live_clock.packet
        # Without time stamps the rate is FFmpeg's guess, 25 whatever the camera gives.
        self.fps = decoder.fps if decoder.stamped else None
        self._burst = 0
        self._pictures = decoder.pictures()
        try:
            self._first = next(self._pictures, None)
        except SourceLost as error:
            decoder.close()
            raise SourceError(str(error)) from error
        if self._first is None:
            decoder.close()
            raise SourceError(
                f"{self.name}: no picture can be decoded ({self.broken} broken pieces); is it damaged?"
            )
        self._frames = self._read()

    @property
    def broken(self) -> int:  # type: ignore[override]  # counted by the decoder
        """Pieces that could not be decoded and were skipped, so far."""
        return self._decoder.broken

    @property
    def dropped(self) -> int:  # type: ignore[override]
        """Pictures that were left out because reading was behind, so far."""
        return self._burst + self._decoder.skipped

    @property
    def size(self) -> tuple[int, int] | None:  # type: ignore[override]
        """Width and height of the newest picture, pixels."""
        return self._decoder.size

    def __iter__(self) -> Iterator[Frame]:
        """Frames until it is closed.

        Raises:
            SourceLost: it stopped answering, or ended.
        """
        return self._frames

    def catch_up(self) -> None:
        """Leave out what comes next, up to a key frame."""
        self._decoder.skip_to_key()

    def close(self) -> None:
        """Close the connection; waits for a read that is under way, at most the timeout."""
        self._decoder.close()

    def _read(self) -> Iterator[Frame]:
        origin, numbers = None, count()
        in_time = self._clock.now()
        for picture in self._newest_on():
            captured, gap = self._live_clock.place(picture.stamp, picture.arrived)
            if origin is None:
                origin, gap = captured, False
            now = self._clock.now()
            if now - captured < _FAR_BEHIND:
                in_time = now
            elif now - in_time > _FAR_BEHIND:
                # Decoding does not keep up; what it is given now would only come later still.
                self.catch_up()
                in_time = now
            yield Frame(picture.pixels, captured - origin, next(numbers), gap, captured)
        if not self._decoder.closed:
            raise SourceLost(f"{self.name}: the stream ended; check the camera and its network")

    def _newest_on(self) -> Iterator[Picture]:
        """Pictures from the first on that had to be waited for."""
        begun = self._clock.now()
        newest, self._first = self._first, None
        lost: SourceLost | None = None
        try:
            for picture in self._pictures:
                if newest is None:
                    yield picture
                    continue
                self._burst += 1
                waited = picture.waited >= _WAIT or self._clock.now() - begun >= _LONGEST_OPENING
                newest = None if waited else picture
                if waited:
                    yield picture
        except SourceLost as error:
            lost = error
        if newest is not None and not self._decoder.closed:
            # It ended, or was lost, before anything had to be waited for.
            yield newest
        if lost is not None:
            raise lost
