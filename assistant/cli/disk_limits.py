"""What `--keep` says: how many bytes the segments of each folder may take.

--keep 20GB                                  each of the folders that are written
--keep out=5GB --keep record=20GB            some of them
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from egolive.streaming.errors import UsageError

__all__ = ["FOLDERS", "disk_limits"]

FOLDERS = ("out", "record", "memory")
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kKMGT]i?)B?")
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_LEAST = 1_000_000


def disk_limits(keep: Sequence[str]) -> Mapping[str, int]:
    """Bytes by the option that names the folder; what is not limited is left out.

    Raises:
        UsageError: A size or a name cannot be understood.
    """
    found: dict[str, int] = {}
    for given in keep:
        name, equals, size = given.rpartition("=")
        names = (name.strip().removeprefix("--"),) if equals else FOLDERS
        if not set(names) <= set(FOLDERS):
            raise UsageError(f"--keep limits {', '.join(FOLDERS)}, got {given!r}: as in record=20GB")
        match = _SIZE.fullmatch(size.strip())
        if match is None:
            raise UsageError(f"--keep needs a size such as 20GB or 500MB, got {given!r}")
        power = _POWERS[match["unit"][0].lower()]
        number = round(float(match["number"]) * (1024 if match["unit"].endswith("i") else 1000) ** power)
        if number < _LEAST:
            raise UsageError(f"--keep is 1MB or more, got {given!r}")
        found |= dict.fromkeys(names, number)
    return found
