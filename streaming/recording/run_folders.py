"""Where a recording goes when its folder holds others: each run gets a folder of its own there.

    session/                     a run in one piece, as without segments
    session/run-000001/          the first run in segments, or the one after a run that was cut off
    session/run-000002/

Nothing that is there is touched, so that a machine that lost power starts again without a question.
"""

from __future__ import annotations

import re
from pathlib import Path

from egolive.streaming.disk_budget import next_number
from egolive.streaming.errors import DataError
from egolive.streaming.recording.recording import is_recording

__all__ = ["new_run_folder", "recorded_run"]

_OURS = re.compile(r"run-\d{6,}|recording\.json(?:l|\.part)?|pictures-\d{3,}\.mkv")
_TAIL = 64 * 1024
"""Bytes at the end of a log, which hold its last line."""


def new_run_folder(folder: Path, *, segmented: bool) -> tuple[Path, int]:
    """Where the next run is recorded, and its number; 0 for the folder itself.

    Without segments a folder that holds something else than a recording that was cut off is named itself: a
    recorder refuses it.
    """
    entries = list(folder.iterdir()) if folder.is_dir() else []
    ours = all(_OURS.fullmatch(path.name) for path in entries)
    if (segmented and ours) or (entries and ours and not _has_end(folder)):
        number = next_number(folder, "run")
        return folder / f"run-{number:06d}", number
    return folder, 0


def recorded_run(folder: Path) -> Path:
    """The recording that a folder is or holds.

    Raises:
        DataError: It holds several.
    """
    if is_recording(folder):
        return folder
    runs = sorted(path for path in folder.glob("run-*") if is_recording(path)) if folder.is_dir() else []
    if len(runs) > 1:
        raise DataError(f"{folder}: holds {len(runs)} runs; name one of them, the last is {runs[-1]}")
    return runs[0] if runs else folder


def _has_end(folder: Path) -> bool:
    """Whether the recording in a folder came to its end."""
    log = folder / "recording.jsonl"
    if not log.is_file():
        return False
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = file.read().splitlines()
    return bool(lines) and lines[-1].startswith(b'{"end"')
