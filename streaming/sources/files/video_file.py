"""Video files, here or far away, read without loss and as fast as they can be decoded.

`test:` pictures come through here as well.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from egolive.streaming.errors import ConfigError, SourceError
from egolive.streaming.frames import Frame
from egolive.streaming.sources.decoder import Decoder, Picture
from egolive.streaming.sources.files.timestamps import Timeline
from egolive.streaming.sources.files.video_index import SAME_TIME, index_of
from egolive.streaming.sources.limits import most_pixels
from egolive.streaming.sources.source import Source

__all__ = ["VideoFile"]

_log = logging.getLogger(__name__)

_RAW = frozenset({"h264", "hevc", "vvc", "m4v", "mjpeg", "mpegvideo", "obu", "vc1", "cavsvideo", "h261"})
"""Formats that are pictures alone, without times."""
_SEEK_SECONDS = 5.0
"""Pictures that lie further behind the start than this are reached by a jump to a key frame."""


class VideoFile(Source):
    """A video file.

    Args:
        decoder: the opened file; closed with this.
        source_fps: frames a second of a file without time stamps; guessed without it, with a warning.

    Raises:
        SourceError: it holds no picture that can be decoded.
        ConfigError: it has time stamps, and `source_fps` was given.
    """

    def __init__(self, decoder: Decoder, *, source_fps: float | None = None) -> None:
        self.live = False
        self.name = decoder.name
        self._decoder = decoder
        # Decoding several frames at once is faster, but holds each back by some frames.
        decoder.stream.thread_type = "AUTO"
        self._clockless = not decoder.stamped
        if source_fps is not None and not self._clockless:
            decoder.close()
            raise ConfigError(f"source_fps: {self.name} brings its own times; leave it out")
        self.fps = source_fps or decoder.fps
        self._guessed = source_fps is None and self._clockless and decoder.container.format.name in _RAW
        self._step = 1 / self.fps if self.fps else 1 / 30
        self._timeline = Timeline(self._step)
        self._numbers = count()
        self._rest = decoder.pictures()
        # Reading the first picture here is what tells a readable file from one that only has a header.
        self._first = next(self._rest, None)
        if self._first is None:
            decoder.close()
            raise SourceError(
                f"{self.name}: no picture can be decoded ({self.broken} broken pieces); it is damaged, "
                f"or its pictures have more than {most_pixels() / 1e6:g} million pixels"
            )
        self._index = index_of(decoder, self._first.stamp or 0.0, self._step)

    def _warn(self) -> None:
        """Tell once that times are guessed, when they are asked for."""
        if self._guessed and not self._index.guess_told:
            self._index.guess_told = True
            _log.warning(
                "%s holds no times; %g pictures a second are assumed: give --source-fps if that is wrong",
                self.name,
                1 / self._step,
            )

    @property
    def broken(self) -> int:  # type: ignore[override]  # counted by the decoder
        """Pieces that could not be decoded and were skipped, so far."""
        return self._decoder.broken

    @property
    def size(self) -> tuple[int, int] | None:  # type: ignore[override]
        """Width and height of the newest picture, pixels."""
        return self._decoder.size

    @property
    def seconds(self) -> float | None:
        """Length of the file, None where it does not say."""
        return self._decoder.seconds

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the end of the file."""
        self._warn()
        for picture in iter(self._next, None):
            time, gap = self._place(picture)
            yield Frame(picture.pixels, time, next(self._numbers), gap)

    def catch_up(self) -> None:
        """Leave out what comes next, up to a key frame."""
        self._decoder.skip_to_key()

    @property
    def dropped(self) -> int:  # type: ignore[override]  # counted by the decoder
        """Pictures that were left out by `catch_up`, so far."""
        return self._decoder.skipped

    def times(
        self, start: float = 0.0, end: float = math.inf, *, first_only: bool = False
    ) -> NDArray[np.float64]:
        """Times of the pictures of a stretch, read without decoding; empty where the file does not tell.

        Only the stretch is read of a large file.

        Args:
            start: seconds from the first picture.
            end: seconds from the first picture.
            first_only: whether the first of them is enough.
        """
        self._warn()
        if self._clockless:
            number = self._index.count(self._decoder)
            times = np.arange(number, dtype=np.float64) * self._step
            return times[(times >= start - SAME_TIME) & (times <= end + SAME_TIME)]
        return self._index.times(self._decoder, start, end, first_only=first_only)

    def frames_at(self, times: Sequence[float], *, end: float = math.inf) -> Iterator[Frame]:
        """Frames of a file at some of its times; to be read in place of its other frames.

        Args:
            times: Some of `times()`, rising. The first frame at or after each; none comes twice.
            end: No frame behind this time, where one cannot be decoded.

        Raises:
            SourceError: No picture can be decoded there.
        """
        pending, numbers = deque(times), count()
        # Where order alone tells the time, counting begins at the start.
        in_order = not self._clockless and not self._decoder.unordered
        through = in_order and self._index.runs_through(self._decoder)
        may_jump, position, found = through, 0.0, False
        while pending:
            jumped = may_jump and pending[0] > position + _SEEK_SECONDS
            if jumped:
                self._decoder.seek(self._index.origin + pending[0])
                self._first, self._rest = None, self._decoder.pictures()
            for picture in iter(self._next, None):
                time = self._time(picture, position) if through else self._place(picture)[0]
                # A file without an index is read from its start after each jump: once is enough.
                may_jump = may_jump and not (jumped and 0 < position >= time)
                position, jumped = max(position, time), False
                if time + SAME_TIME >= pending[0]:
                    break
            else:
                break
            if time > end + SAME_TIME:
                break
            found = True
            pixels = picture.pixels
            yield Frame(pixels() if callable(pixels) else pixels, max(0.0, time), next(numbers))
            while pending and time + SAME_TIME >= pending[0]:
                pending.popleft()
        if not found:
            raise SourceError(f"{self.name}: no picture can be decoded there; the file is damaged or cut off")

    def _time(self, picture: Picture, before: float) -> float:
        """Seconds from the first picture, in a file with one clock."""
        return before + self._step if picture.stamp is None else picture.stamp - self._index.origin

    def _place(self, picture: Picture) -> tuple[float, bool]:
        """Seconds from the first picture when played from the start, and whether the clock was set anew."""
        return self._timeline.place(None if self._clockless else picture.stamp)

    def close(self) -> None:
        """Close the file; waits for a read that is under way, at most the timeout."""
        self._decoder.close()

    def _next(self) -> Picture | None:
        """The next picture; None at the end."""
        first, self._first = self._first, None
        return first if first is not None else next(self._rest, None)
