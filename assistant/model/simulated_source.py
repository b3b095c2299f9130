"""Whether a source is known to show the simulator's world: the bundled clip, or an episode that it wrote."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from egolive.assistant.model.media import bundled_clip
from egolive.streaming.errors import DataError, SourceError
from egolive.streaming.json_files import read_json_object
from egolive.streaming.paths import existing_path, without_file_scheme

__all__ = ["from_simulator"]

_MANIFEST = "manifest.json"
_TOLD = {"split", "seed", "look"}
"""What `egolive simulate` says of its episodes, beside much else."""
_MOST_FACTS = 64 * 1024
"""Bytes of a manifest."""


def from_simulator(source: object) -> bool:
    """Whether a source is the bundled clip or a copy of it, or an episode of `egolive simulate`.

    Args:
        source: A path or `file:` address, or the name of a source; of anything else nothing is known.
    """
    if not isinstance(source, str | Path):
        return False
    path = existing_path(without_file_scheme(str(source)))
    if path is None or not path.is_file():
        return False
    # The clip may be missing from an installation.
    with suppress(OSError, SourceError):
        clip = bundled_clip()
        if path.stat().st_size == clip.stat().st_size and path.read_bytes() == _bytes_of(clip):
            return True
    manifest = path.parent / _MANIFEST
    if not manifest.is_file() or not path.with_suffix(".json").is_file():
        return False
    try:
        found = read_json_object(manifest, remedy="write the episodes again", most=_MOST_FACTS)
    except DataError:
        return False
    return found.keys() >= _TOLD


@lru_cache(maxsize=1)
def _bytes_of(clip: Path) -> bytes:
    return clip.read_bytes()
