"""The `Source` protocol. Each kind of source has a module; `opening.py` chooses among them."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from egolive.streaming.frames import Frame

__all__ = ["Source"]


class Source(Protocol):
    """Frames in order of time, read once: iterating a second time goes on where the first stopped.

    Opening has already succeeded when one exists, and its first picture is on its way. One thread iterates;
    `close` may be called by any.

    Example:
        >>> import egolive
        >>> with egolive.open_source("test:64x36@10") as source:
        ...     frame = next(iter(source))
        >>> source.live, frame.image.shape
        (True, (36, 64, 3))
    """

    live: bool
    """True: time passes whether it is read or not, so readers keep the newest. False: nothing may be lost."""
    name: str
    """What people call it: an address without its password, a path, a camera."""
    fps: float | None
    """Nominal frames a second, None where the source does not say; frame times are what counts."""
    size: tuple[int, int] | None
    """Width and height in pixels as the frames come, None before it is known."""
    broken: int
    """Pieces of the stream that could not be decoded and were skipped, so far."""
    dropped: int = 0
    """Pictures of a live source that were left out because reading was behind, so far."""

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the end.

        Raises:
            SourceError: it cannot be read any more.
            SourceLost: it is live and stopped answering.
        """
        ...

    def catch_up(self) -> None:
        """Leave out what comes next, up to a picture that can be decoded alone; where that can be done.

        Example:
            >>> import egolive
            >>> with egolive.open_source("test:64x36@10") as source:
            ...     source.catch_up()
        """
        # An empty body would count as abstract.
        return

    def close(self) -> None:
        """Stop iteration at the next frame and free the device or file; closing twice does nothing.

        Example:
            >>> import egolive
            >>> source = egolive.open_source(egolive.example_clip())
            >>> source.close()
            >>> len(list(source)) <= 1
            True
        """
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
