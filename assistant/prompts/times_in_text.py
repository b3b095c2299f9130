"""Finds stretches of time in a model's output, in seconds as the model counts them.

Read are `(start,end)`, `start to end`, `start - end`, clock times (mm:ss.xx, h:mm:ss, SRT's hh:mm:ss,mmm),
hours, minutes and seconds in words (`3 min 2 s`), decimal commas where nothing else can be meant
(`3,5 to 7,2`), `{"time": ..}`, start and end keys, and single moments (a stretch of no length); also
`3.5秒到7.2秒`. Frame numbers and box coordinates are not times; `1,200 to 1,500` and `1 min 30` are not read,
for they can be meant in two ways. Linear in the text's length.
"""

from __future__ import annotations

import re

__all__ = ["find_times"]

_TIME = re.compile(
    r"""
    (?:(?<![\w.:])|(?<=[从從自在于於第约約到至]))
    (?:
        (?:(?P<hours>\d{1,2}):)?(?P<minutes>\d{1,3}):(?P<seconds>\d{2}(?:[.,]\d{1,6}(?![\d:]))?)(?!:\d)
      | (?:(?P<word_hours>\d{1,2})\s?(?:hours?|hrs?|h|小时|小時)[,\s]{0,2}(?:and\s)?)?
        (?P<word_minutes>\d{1,3})\s?(?:minutes?|mins?|m|分钟?|分鐘?)
        (?:(?:,?\s{0,2}(?:and\s)?(?P<word_seconds>\d{1,2}(?:\.\d{1,6})?)\s?(?:seconds?|secs?|s|秒钟?|秒鐘?))
          |\s?(?P<unclear>\d{1,2}(?:\.\d{1,6})?)(?![\d:.%]))
      | (?P<sign>(?<=[(\[])-)?(?P<plain>\d{1,7}(?:\.\d{0,6})?)
    )
    (?:[ ]?(?P<unit>seconds?|secs?|s|minutes?|mins?)\b|\s?(?P<sign_unit>秒钟?|秒鐘?|分钟?|分鐘?))?
    (?:(?<=[秒钟鐘分])|(?![\w])|(?=[到至]))(?!\.\d)
    """,
    re.VERBOSE,
)
_COMMA_TIME = re.compile(
    r"""
    (?<![\w:.,])
    (?P<first>\d{1,7}(?:,\d{1,7})?)(?P<unit>\s?(?:seconds?|secs?|s))?
    (?:\s{0,4}(?:-{1,3}>?|–|—|~|→|到|至)\s{0,4}|\s{1,4}(?:to|till|until|through)\s{1,4}|(?P<and>\s{1,4}and\s{1,4}))
    (?P<second>\d{1,7}(?:,\d{1,7})?)
    (?!\w|:\d|[.,]\d)(?=(?P<last_unit>\s?(?:seconds?|secs?|s)\b)?)
    """,  # noqa: RUF001 - dashes as models write them
    re.VERBOSE,
)
"""A stretch of which an end may have a decimal comma."""
_COMMA_SECONDS = re.compile(r"(?<![\w:.,])\d{1,7},\d{1,2}(?=\s?(?:seconds?|secs?|s|秒)(?![a-z]))")
_TO = re.compile(
    r"""
    [\s"'*<>]{0,8}
    (?:(?:-{1,3}>|,|;|-|–|—|~|→|\.{2,3}|到|至|to|till|until|through|and)[\s"'*<>]{0,16}|(?=end))
    (?:
        (?:it\ )?(?:ends?|ending|stops?|finish(?:es)?|until|to)
        [\s_]{0,2}(?:at|time|seconds?|secs?|s)?["'\s]{0,4}[:=]?["'\s]{0,4}
    )?
    (?:(?:at|around|about)\ |t\ ?=\ ?|第)?
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
_BETWEEN_BEFORE = re.compile(r"\bbetween\s{1,4}$", re.IGNORECASE)
_CLOSED = re.compile(r"\s?[a-z秒]{1,7}\s?[)\]]")
_AT_BEFORE = re.compile(r"\b(?:at|around|about|time|start|second)\W{0,4}$", re.IGNORECASE)
_LONGEST_GAP = 48


def find_times(text: str) -> list[tuple[float, float]]:
    """Start and end of each stretch, as they stand; a reversed one stays reversed. Never raises."""
    text = _with_points(text)
    values = _time_values(text)
    if values:
        return [stretch for value in values for stretch in _stretches(value, bare=True)]
    return _stretches(text, bare=False)


def _with_points(text: str) -> str:
    """Decimal commas as points; stretches that can be meant in two ways are blanked. Lengths stay."""
    text = _COMMA_TIME.sub(_point_of_stretch, text)
    return _COMMA_SECONDS.sub(_point_of_seconds, text)


def _point_of_stretch(found: re.Match[str]) -> str:
    first, second = found["first"], found["second"]
    decimals = [len(number.partition(",")[2]) for number in (first, second)]
    if not any(decimals):
        return found[0]
    if found["and"] and not (found["unit"] or _BETWEEN_BEFORE.search(_before(found))):
        # Two stretches, 2,5 and 7,9.
        return found[0]
    if all(1 <= count <= 2 for count in decimals):
        return found[0].replace(",", ".")
    # Thousands, or an end of a list beside the start of a stretch.
    return re.sub(r"[\d,]", " ", found[0])


def _before(found: re.Match[str]) -> str:
    return found.string[max(0, found.start() - 16) : found.start()]


def _point_of_seconds(found: re.Match[str]) -> str:
    if _before(found).endswith(("(", "[")) and _CLOSED.match(found.string, found.end()):
        # A pair in brackets, (2,5 s).
        return found[0]
    return found[0].replace(",", ".")


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
        if time["unclear"]:
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
    return (_seconds(first, unit=_unit(second) if first["plain"] else ""), _seconds(second))


def _unit(time: re.Match[str]) -> str:
    return time["unit"] or time["sign_unit"] or ""


def _stands_alone(text: str, time: re.Match[str]) -> bool:
    if _unit(time) or time["minutes"] or time["word_minutes"]:
        return True
    if len(text) < 64 and text.strip(" \n()[]\"'.*") == time[0].rstrip("."):
        return True
    return bool(_AT_BEFORE.search(text[max(0, time.start() - 16) : time.start()]))


def _seconds(time: re.Match[str], *, unit: str = "") -> float:
    for hours, minutes, seconds in (
        ("hours", "minutes", "seconds"),
        ("word_hours", "word_minutes", "word_seconds"),
    ):
        if time[minutes]:
            rest = float(time[seconds].replace(",", "."))
            return int(time[hours] or 0) * 3600 + int(time[minutes]) * 60 + rest
    scale = 60 if (_unit(time) or unit).startswith(("min", "分")) else 1
    return float(f"{time['sign'] or ''}{time['plain']}") * scale
