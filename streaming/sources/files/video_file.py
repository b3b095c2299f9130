"""Video files, here or far away, read without loss and as fast as they can be decoded.

`test:` pictures come through here as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

import av

from egolive.streaming.errors import SourceError
from egolive.streaming.frames import Frame
from egolive.streaming.sources.decoder import Decoder, Picture, video_stream
from egolive.streaming.sources.files.timestamps import Timeline
from egolive.streaming.sources.source import Source

__all__ = ["VideoFile"]

_SEEK_SECONDS = 5.0
"""Pictures that lie further behind the start than this are reached by a jump to a key frame."""
_SAME_TIME = 1e-4
"""Seconds by which times that were rounded differently may differ."""


class VideoFile(Source):
    """A video file.

    Args:
        decoder: the opened file; closed with this.

    Raises:
        SourceError: it holds no picture that can be decoded.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.live = False
        self.name = decoder.name
        self._decoder = decoder
        # Decoding several frames at once is faster, but holds each back by some frames.
        decoder.stream.thread_type = "AUTO"
        self.fps = decoder.fps
        self._timeline = Timeline(step=1 / self.fps if self.fps else 1 / 30)
        self._numbers = count()
        self._rest = decoder.pictures()
        # Reading the first picture here is what tells a readable file from one that only has a header.
        self._first = next(self._rest, None)
        if self._first is None:
            decoder.close()
            raise SourceError(
                f"{self.name}: no picture can be decoded ({self.broken} broken pieces); is it damaged?"
            )

    @property
    def broken(self) -> int:  # type: ignore[override]  # counted by the decoder
        """Pieces that could not be decoded and were skipped, so far."""
        return self._decoder.broken

    @property
    def size(self) -> tuple[int, int] | None:  # type: ignore[override]
        """Width and height of the newest picture, pixels."""
        return self._decoder.size

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the end of the file."""
        for picture in iter(self._next, None):
            time, gap = self._timeline.place(picture.stamp)
            yield Frame(picture.pixels, time, next(self._numbers), gap)

    def catch_up(self) -> None:
        """Leave out what comes next, up to a key frame."""
        self._decoder.skip_to_key()

    @property
    def dropped(self) -> int:  # type: ignore[override]  # counted by the decoder
        """Pictures that were left out by `catch_up`, so far."""
        return self._decoder.skipped

    def stamps(self) -> list[float]:
        """Time stamps of all pictures of a file in seconds, rising, read without decoding; empty: unknown."""
        try:
            with self._decoder.open() as container:
                packets = (p for p in container.demux(video_stream(container)) if not p.is_discard)
                return sorted(float(p.pts * p.time_base) for p in packets if p.pts is not None)
        except av.FFmpegError:
            return []

    def frames_at(self, times: Sequence[float], origin: float) -> Iterator[Frame]:
        """Frames of a file at some of its times; to be read in place of its other frames.

        Args:
            times: Seconds from `origin`, rising. The first frame at or after each; none comes twice.
            origin: The time stamp at which time is 0, one of `stamps`.

        Raises:
            SourceError: No picture can be decoded there.
        """
        if times[0] > _SEEK_SECONDS and self._decoder.seek(origin + times[0]):
            self._first, self._rest = None, self._decoder.pictures()
        pending, numbers = deque(times), count()
        for picture in iter(self._next, None):
            time = (picture.stamp or 0.0) - origin
            if time + _SAME_TIME < pending[0]:
                continue
            pixels = picture.pixels
            yield Frame(pixels() if callable(pixels) else pixels, max(0.0, time), next(numbers))
            while time + _SAME_TIME >= pending[0]:
                pending.popleft()
                if not pending:
                    return
        if len(pending) == len(times):
            raise SourceError(f"{self.name}: no picture can be decoded there; the file is damaged or cut off")

    def close(self) -> None:
        """Close the file; waits for a read that is under way, at most the timeout."""
        self._decoder.close()

    def _next(self) -> Picture | None:
        """The next picture; None at the end."""
        first, self._first = self._first, None
        return first if first is not None else next(self._rest, None)
