"""Visitors' clips: each in a folder of its own, under a word that cannot be guessed, gone with them."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse, Response

from egolive.demo.clip_jobs import Watched
from egolive.streaming.errors import UsageError

__all__ = ["ClipVisit", "Clips", "add_clip_routes"]

_SERVED = {
    "overlay.mp4": "video/mp4",
    "events.jsonl": "application/jsonl",
    "evidence.zip": "application/zip",
    "where.jpg": "image/jpeg",
}
"""Names and kinds of the files that are given out; there is no way to name another."""


@dataclass(slots=True)
class ClipVisit:
    """One visitor's clip and what came of it."""

    word: str
    folder: Path
    clip: Path | None = None
    watched: Watched | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    at_work: threading.Lock = field(default_factory=threading.Lock)
    """Held while the clip is looked at: its files stay until then."""
    unwanted: threading.Event = field(default_factory=threading.Event)
    """What is looked at is to be dropped as soon as that has stopped."""

    @contextmanager
    def emptied(self) -> Iterator[None]:
        """Stop what runs and drop the clip and everything made of it; nothing begins before this has ended.

        Raises:
            UsageError: The visit is over.
        """
        self.unwanted.set()
        self.stop.set()
        with self.at_work:
            self.unwanted.clear()
            if not self.folder.is_dir():
                raise UsageError("The page was closed meanwhile; open it again.")
            self.clip = self.watched = None
            for path in self.folder.iterdir():
                path.unlink()
            yield


class Clips:
    """All visitors' clips."""

    def __init__(self, folder: Path) -> None:
        """Keep them under a folder."""
        self._folder = folder
        self._changing = threading.Lock()
        self._visits: dict[str, ClipVisit] = {}

    def of(self, visitor: str) -> ClipVisit:
        """A visitor's own, made when first asked for."""
        with self._changing:
            if visitor not in self._visits:
                word = secrets.token_urlsafe(16)
                folder = self._folder / word
                folder.mkdir(parents=True)
                self._visits[visitor] = ClipVisit(word, folder)
            return self._visits[visitor]

    def file(self, word: str, name: str) -> Path | None:
        """A file that may be given out; None where there is none of that name."""
        with self._changing:
            visit = next((visit for visit in self._visits.values() if visit.word == word), None)
        if visit is None or name not in _SERVED:
            return None
        path = visit.folder / name
        return path if path.is_file() else None

    def leave(self, visitor: str) -> None:
        """The visit is over: stop what runs and delete everything."""
        with self._changing:
            visit = self._visits.pop(visitor, None)
        if visit is not None:
            with visit.emptied():
                shutil.rmtree(visit.folder, ignore_errors=True)


def add_clip_routes(app: FastAPI, clips: Clips) -> None:
    """Add the route under which results are seen and downloaded."""

    @app.get("/clip/{word}/{name}")
    def file(word: str, name: str) -> Response:
        path = clips.file(word, name)
        if path is None:
            return PlainTextResponse("There is no such file, or the visit is over.", status_code=404)
        return FileResponse(path, media_type=_SERVED[name], headers={"Cache-Control": "no-store"})
