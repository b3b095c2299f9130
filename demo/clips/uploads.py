"""Uploads of clips: streamed to disk within limits, and taken once by whoever holds their token."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from starlette.requests import ClientDisconnect

from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.errors import SourceError

__all__ = ["Upload", "UploadRefusedError", "Uploads"]

_UNCLAIMED = 120.0
"""Seconds for which an upload waits to be taken."""
_MOST_AT_ONCE = 8
_MOST_OF_ADDRESS = 2
_GRACE = 10.0
"""Seconds before an upload has to have its least speed."""
_LEAST_SPEED = 16_000
"""Bytes a second, on average."""
_LONGEST = 900.0
"""Seconds."""
_LONGEST_NAME = 120


class UploadRefusedError(SourceError):
    """An upload is not taken; `status` is the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Upload:
    """A clip that lies on the disk and was not taken yet."""

    path: Path
    name: str
    """What the visitor called it; shown, never used as a path."""
    since: float


class Uploads:
    """Clips under way and waiting.

    Args:
        folder: Where they are put; made when first needed.
        most_bytes: Of one clip.
        total_bytes: Of all files here and under `taken`.
        taken: Where clips and their results are kept.
        patience: Seconds to wait for the next piece of a clip.
        clock: What time is measured with; the machine's own without it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int,
        total_bytes: int,
        taken: Path,
        patience: float = _GRACE,
        clock: Clock | None = None,
    ) -> None:
        self._folder = folder
        self._most = most_bytes
        self._total = total_bytes
        self._patience = patience
        self._taken = taken
        self._clock = clock or MonotonicClock()
        self._changing = threading.Lock()
        self._waiting: dict[str, Upload] = {}
        self._under_way: Counter[str] = Counter()

    async def receive(self, pieces: AsyncIterator[bytes], *, name: str, announced: int, address: str) -> str:
        """Take a clip as it comes.

        Args:
            pieces: Its bytes.
            name: What the visitor calls it.
            announced: How long it is said to be, bytes.
            address: Whose it is; one address may send two at a time.

        Returns:
            The token under which it is taken.

        Raises:
            UploadRefusedError: It is too long, too slow, or there is no room for it.
        """
        if not 0 < announced <= self._most:
            raise UploadRefusedError(
                413, f"a clip has at most {self._most / 1e6:g} MB; cut it, or save it smaller"
            )
        if not PurePath(name).suffix:
            name += ".mp4"
        with self._place(address):
            used = sum(map(_bytes_under, (self._folder, self._taken)))
            if used + announced > self._total:
                raise UploadRefusedError(507, "the server holds as many clips as it may; try again later")
            path = self._folder / secrets.token_hex(16)
            try:
                await self._write(pieces, path, announced)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            token = secrets.token_urlsafe(24)
            with self._changing:
                shown = "".join(letter for letter in name if letter.isprintable())[-_LONGEST_NAME:]
                self._waiting[token] = Upload(path, shown, self._clock.now())
            return token

    def claim(self, token: str) -> Upload | None:
        """The clip of a token, which is the caller's from now on; None where there is none any more."""
        with self._changing:
            return self._waiting.pop(token, None)

    def sweep(self) -> None:
        """Delete what was not taken in time."""
        now = self._clock.now()
        with self._changing:
            for token, upload in list(self._waiting.items()):
                if now - upload.since > _UNCLAIMED:
                    del self._waiting[token]
                    upload.path.unlink(missing_ok=True)

    async def _write(self, pieces: AsyncIterator[bytes], path: Path, announced: int) -> None:
        began, written = self._clock.now(), 0
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:
                while (piece := await _next(pieces, self._patience)) is not None:
                    written += len(piece)
                    if written > announced:
                        raise UploadRefusedError(413, "more was sent than was announced")
                    file.write(piece)
                    took = self._clock.now() - began
                    if took > _LONGEST or (took > _GRACE and written < took * _LEAST_SPEED):
                        raise UploadRefusedError(
                            408, "the upload is too slow; try again with a better connection"
                        )
        except TimeoutError:
            raise UploadRefusedError(408, "the upload stood still; try again") from None
        except ClientDisconnect:
            raise UploadRefusedError(400, "the upload broke off; try again") from None
        except OSError as error:
            raise UploadRefusedError(507, f"the server cannot keep the clip ({error.strerror})") from error
        if written != announced:
            raise UploadRefusedError(400, "the upload broke off; try again")

    @contextmanager
    def _place(self, address: str) -> Iterator[None]:
        with self._changing:
            if self._under_way.total() >= _MOST_AT_ONCE or self._under_way[address] >= _MOST_OF_ADDRESS:
                raise UploadRefusedError(429, "too many uploads at once; wait until one has ended")
            self._under_way[address] += 1
        try:
            yield
        finally:
            with self._changing:
                self._under_way[address] -= 1
                self._under_way += Counter()


async def _next(pieces: AsyncIterator[bytes], seconds: float) -> bytes | None:
    async with asyncio.timeout(seconds):
        return await anext(pieces, None)


def _bytes_under(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        # It may be deleted at any time.
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total
