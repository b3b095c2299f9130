"""Live streams from the network: RTSP, RTMP, MJPEG over HTTP, HLS, MPEG-TS, pipes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count

from egolive.streaming.errors import SourceError, SourceLost
from egolive.streaming.frames import Frame
from egolive.streaming.sources.decoder import Decoder
from egolive.streaming.sources.files.timestamps import Timeline
from egolive.streaming.sources.source import Source

__all__ = ["LiveStream"]


class LiveStream(Source):
    """A stream that goes on whether it is read or not.

    Args:
        decoder: the opened connection; closed with this.

    Raises:
        SourceError: it gives no picture that can be decoded.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.live = True
        self.name = decoder.name
        self._decoder = decoder
        decoder.live = True
        # Decoding several frames at once would hold each back by some frames.
        decoder.stream.thread_type = "SLICE"
        self.fps = decoder.fps
        self._timeline = Timeline(step=1 / self.fps if self.fps else 1 / 30)
        pictures = decoder.pictures()
        try:
            first = next(pictures, None)
        except SourceLost as error:
            decoder.close()
            raise SourceError(str(error)) from error
        if first is None:
            decoder.close()
            raise SourceError(
                f"{self.name}: no picture can be decoded ({self.broken} broken pieces); is it damaged?"
            )
        self._pictures = chain([first], pictures)
        self._numbers = count()

    @property
    def broken(self) -> int:  # type: ignore[override]  # counted by the decoder
        """Pieces that could not be decoded and were skipped, so far."""
        return self._decoder.broken

    @property
    def size(self) -> tuple[int, int] | None:  # type: ignore[override]
        """Width and height of the newest picture, pixels."""
        return self._decoder.size

    def __iter__(self) -> Iterator[Frame]:
        """Frames until it is closed.

        Raises:
            SourceLost: it stopped answering, or ended.
        """
        for picture in self._pictures:
            time, gap = self._timeline.place(picture.stamp)
            yield Frame(picture.pixels, time, next(self._numbers), gap)
        if not self._decoder.closed:
            raise SourceLost(f"{self.name}: the stream ended; check the camera and its network")

    def close(self) -> None:
        """Close the connection; waits for a read that is under way, at most the timeout."""
        self._decoder.close()
