"""What is left of a run that was killed or ran out of disk: whether every file opens, and how far it goes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import av

from egolive.assistant.memory.memory_file import FILE
from egolive.assistant.memory.moment_store import Memory
from egolive.assistant.recording.evidence import is_bundle, read_bundle
from egolive.streaming.errors import EgoliveError
from egolive.streaming.recording.recording import Recording, is_recording

__all__ = ["Kept", "kept_files"]


@dataclass(slots=True, kw_only=True)
class Kept:
    """What opens, and what does not."""

    wrong: list[str] = field(default_factory=list)
    """One line for each file that does not open."""
    video: float = float("-inf")
    """Stream time of the last picture of overlay.mp4, seconds."""
    recorded: float = float("-inf")
    """Stream time of the last frame of the recording that has its picture, seconds."""
    events: int = 0
    bundles: int = 0
    moments: int = 0
    torn: int = 0
    """Lines of events.jsonl without their end: a kill may interrupt the writing of one."""


def kept_files(root: Path) -> Kept:
    """Open everything that a run left.

    Args:
        root: With what `egolive run` wrote to its folders out, record, evidence and memory.
    """
    kept = Kept()
    _look_at_out(root / "out", kept)
    _look_at_recording(root / "record", kept)
    _look_at_evidence(root / "evidence", kept)
    _look_at_memory(root / "memory", kept)
    return kept


def _look_at_out(out: Path, kept: Kept) -> None:
    events, video = out / "events.jsonl", out / "overlay.mp4"
    if events.is_file():
        *lines, rest = events.read_text(encoding="utf-8").split("\n")
        try:
            kept.events = len([json.loads(line) for line in lines])
        except ValueError as error:
            kept.wrong.append(f"events.jsonl: {error}")
        kept.torn = int(bool(rest))
    if video.is_file() and video.stat().st_size:
        try:
            with av.open(str(video)) as container:
                for picture in container.decode(video=0):
                    kept.video = picture.time or 0.0
        except (av.FFmpegError, OSError, IndexError) as error:
            kept.wrong.append(f"overlay.mp4: {error}")


def _look_at_recording(folder: Path, kept: Kept) -> None:
    if not is_recording(folder):
        # It is none before its source was opened.
        return
    try:
        for frame in Recording(folder).frames():
            kept.recorded = frame.time
    except EgoliveError as error:
        kept.wrong.append(f"record: {error}")


def _look_at_evidence(folder: Path, kept: Kept) -> None:
    for bundle in sorted(folder.iterdir()) if folder.is_dir() else ():
        if bundle.suffix == ".part":
            # Its name says that it is none yet.
            continue
        try:
            if not is_bundle(bundle):
                raise EgoliveError("is no bundle")
            read_bundle(bundle)
            kept.bundles += 1
        except EgoliveError as error:
            kept.wrong.append(f"evidence: {bundle.name}: {error}")


def _look_at_memory(folder: Path, kept: Kept) -> None:
    if not (folder / FILE).is_file() or not (folder / FILE).stat().st_size:
        # A kill may come before its tables are there.
        return
    try:
        # Of a full disk it can be read, and not written.
        with Memory(folder, read_only=True) as memory:
            kept.moments = len(memory.newest(limit=100_000))
            memory.search("tea")
    except EgoliveError as error:
        kept.wrong.append(f"memory: {error}")
