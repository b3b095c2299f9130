"""Finds time intervals in a model's output, in seconds as the model counts them.

Read are `(start,end)`, `start to end`, `start - end`, clock times (mm:ss.xx, h:mm:ss), `{"time": ..}`,
start and end keys, and single moments (a stretch of no length). Frame numbers and box coordinates are not
times. Linear in the text's length.
"""

from __future__ import annotations

import re

__all__ = ["find_times"]

_TIME = re.compile(
    r"""
    (?<![\w.:])
    (?:
        (?:(?P<hours>\d{1,2}):)?(?P<minutes>\d{1,3}):(?P<seconds>\d{2}(?:\.\d{1,6})?)(?!:\d)
      | (?P<sign>(?<=[(\[])-)?(?P<plain>\d{1,7}(?:\.\d{0,6})?)
    )
    (?:[ ]?(?P<unit>seconds?|secs?|s|minutes?|mins?)\b)?
    (?![\w])(?!\.\d)
    """,
    re.VERBOSE,
)
_TO = re.compile(
    r"""
    [\s"'*<>]{0,8}
    (?:(?:,|;|-|–|—|~|→|->|\.{2,3}|to|till|until|through|and)[\s"'*<>]{0,16}|(?=end))
    (?:
        (?:it\ )?(?:ends?|ending|stops?|finish(?:es)?|until|to)
        [\s_]{0,2}(?:at|time|seconds?|secs?|s)?["'\s]{0,4}[:=]?["'\s]{0,4}
    )?
    (?:(?:at|around|about)\ |t\ ?=\ ?)?
    """,  # noqa: RUF001 - dashes as models write them
    re.VERBOSE | re.IGNORECASE,
)
_TIME_KEY = re.compile(
    r"""
    (?<![a-z_])(?<!start\ )(?<!end\ )
    ["']?(?:times?|timestamps?|spans?|intervals?|segments?|time_range)["']?\s{0,4}[:=]
    """,
    re.VERBOSE | re.IGNORECASE,
)
_FRAME_BEFORE = re.compile(r"frames?\s{0,2}(?:number|no\.?|#)?\s{0,2}$", re.IGNORECASE)
_AT_BEFORE = re.compile(r"\b(?:at|around|about|time|start|second)\W{0,4}$", re.IGNORECASE)
_LONGEST_GAP = 48


def find_times(text: str) -> list[tuple[float, float]]:
    """Start and end of each stretch, as they stand; a reversed one stays reversed. Never raises."""
    values = _time_values(text)
    if values:
        return [stretch for value in values for stretch in _stretches(value, bare=True)]
    return _stretches(text, bare=False)


def _time_values(text: str) -> list[str]:
    """What stands under each time key: a bracket with all in it, or the rest of the entry."""
    values = []
    position = 0
    while key := _TIME_KEY.search(text, position):
        start = key.end()
        depth, position = 0, start
        # The entry ends at the bracket that closes its value, or at the end of a bare one.
        for position in range(start, len(text)):
            character = text[position]
            if character in "[({":
                depth += 1
            elif character in "])}":
                depth -= 1
            if depth < 0 or (depth == 0 and character in "])},;\n"):
                break
        position += 1
        values.append(text[start:position])
    return values


def _stretches(text: str, *, bare: bool) -> list[tuple[float, float]]:
    """Pairs of times that belong together; single times only where there is no pair.

    Args:
        text: to search.
        bare: whether a number alone is a time; else only with a unit, a colon, an "at", or nothing around it.
    """
    pairs: list[tuple[float, float]] = []
    singles: list[tuple[float, float]] = []
    pending: re.Match[str] | None = None
    for time in _TIME.finditer(text):
        if _FRAME_BEFORE.search(text[max(0, time.start() - 16) : time.start()]):
            pending = None
            continue
        gap = text[pending.end() : time.start()][:_LONGEST_GAP] if pending else ""
        if pending and _TO.fullmatch(gap):
            pairs.append(_pair(pending, time))
            pending = None
            continue
        if bare or _stands_alone(text, time):
            singles.append((_seconds(time), _seconds(time)))
        pending = time
    return pairs or singles


def _pair(first: re.Match[str], second: re.Match[str]) -> tuple[float, float]:
    """Both ends in seconds; a unit after the second holds for a first without one, as in "1 to 2 minutes"."""
    return (_seconds(first, unit=second["unit"] if first["plain"] else None), _seconds(second))


def _stands_alone(text: str, time: re.Match[str]) -> bool:
    if time["unit"] or time["minutes"]:
        return True
    if len(text) < 64 and text.strip(" \n()[]\"'.*") == time[0].rstrip("."):
        return True
    return bool(_AT_BEFORE.search(text[max(0, time.start() - 16) : time.start()]))


def _seconds(time: re.Match[str], *, unit: str | None = None) -> float:
    if time["minutes"]:
        return int(time["hours"] or 0) * 3600 + int(time["minutes"]) * 60 + float(time["seconds"])
    scale = 60 if (time["unit"] or unit or "").startswith("min") else 1
    return float(f"{time['sign'] or ''}{time['plain']}") * scale
