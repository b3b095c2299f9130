"""Timed segments of EgoExoLearn and EPIC-KITCHENS as temporal rows: when in a clip did this happen?

Videos of these sets last minutes, a segment mostly seconds: a row shows a clip that holds the segment at a
place drawn by its seed, and ends before the same thing happens again. Segments that overlap one of the same
words have no clip with one right answer: where one answer is wanted they are left out and counted, unless one
of them is nearly the same stretch as the others and stands for them. A video of unknown length is taken to
end with its last segment; that one is left out, since the end of its clip would give the answer away. EPIC's
annotations are CC BY-NC 4.0, EgoExoLearn's MIT.
"""

from __future__ import annotations

import logging
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from egolive.streaming.errors import DataError
from egolive.streaming.frames import Interval
from egolive.streaming.json_files import read_json_value
from egolive.train.data.csv_lines import Line, finite, read_lines, read_table
from egolive.train.data.rows import RowError, Tally

__all__ = ["TAXONOMIES", "Segment", "read_egoexolearn", "read_epic", "temporal_rows", "video_lengths"]

TAXONOMIES = ("narration_verb_taxonomy.csv", "narration_noun_taxonomy.csv")
"""Names of EgoExoLearn's verbs and of its nouns, beside a file of its segments."""
_MOST_BYTES = 1024**3
"""Of a file of a data set, which its user has chosen."""
_LOGGER = logging.getLogger(__name__)
_NEARLY = 0.7
"""IoU from which on one stretch stands for another: either answer then counts as right at the strictest of
the usual thresholds. In EPIC's validation 0.5 would keep 25 rows more, of 9,668 segments."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One annotated stretch of a video."""

    id: str
    video: str
    """Name of the video without its suffix."""
    start: float
    """Seconds of the video; likewise the end."""
    end: float
    words: str = ""
    """What happens; empty where the file does not tell."""
    view: str = "ego"
    scene: str = ""


def read_epic(path: Path, tally: Tally) -> list[Segment]:
    """Segments of an EPIC-KITCHENS-100 file such as EPIC_100_validation.csv, with their narrations.

    Args:
        path: the file.
        tally: counts rows that cannot be read.

    Raises:
        DataError: it cannot be read, lacks a column or holds no row.
    """

    def segment(line: Line) -> Segment:
        return Segment(
            line.text("narration_id"),
            line.text("video_id"),
            line.clock("start_timestamp"),
            line.clock("stop_timestamp"),
            line.cells["narration"].strip(),
        )

    columns = ("narration_id", "video_id", "start_timestamp", "stop_timestamp", "narration")
    return read_lines(read_table(path, *columns), segment, tally)


def read_egoexolearn(path: Path, tally: Tally) -> list[Segment]:
    """Segments of an EgoExoLearn file; their words are put together from the taxonomies beside it.

    Files without verbs and nouns, such as fine_annotation_test.csv, give segments without words.

    Args:
        path: the file.
        tally: counts rows that cannot be read.

    Raises:
        DataError: it or a taxonomy cannot be read, lacks a column or holds no row.
    """
    lines = read_table(path, "annotation_id", "start_sec", "end_sec")
    columns = [column for column in lines[0].cells if column]
    video = "video_id" if "video_id" in columns else "video_uid"
    if video not in columns:
        raise DataError(f"{path}: has neither a column video_id nor video_uid, only {', '.join(columns)}")
    verbs, nouns = (
        _labels(path.with_name(name)) if column in columns else []
        for column, name in zip(("verb", "noun"), TAXONOMIES, strict=True)
    )

    def segment(line: Line) -> Segment:
        return Segment(
            line.text("annotation_id"),
            line.text(video),
            line.seconds("start_sec"),
            line.seconds("end_sec"),
            _words(line.names("verb", verbs), line.names("noun", nouns)),
            line.cells.get("view") or "ego",
            line.cells.get("scene") or line.cells.get("scenario") or "",
        )

    return read_lines(lines, segment, tally)


def temporal_rows(
    segments: Sequence[Segment],
    tally: Tally,
    *,
    lengths: Mapping[str, float],
    clip: float = 60.0,
    suffix: str = ".mp4",
    seed: int = 0,
    one_answer: bool = False,
) -> Iterator[dict[str, Any]]:
    """Segments as rows, as JSON objects; those that cannot be used are counted, each with one reason.

    Left out are segments without words, outside of their video or without a length of time, and each with
    which a video of unknown length is taken to end: its clip would end exactly where the answer does.

    Args:
        segments: of any number of videos.
        tally: counts rows, and segments that are left out: together as many as there are segments.
        lengths: seconds of each video; a video that is missing here is taken to end with its last segment,
            and how many these are is logged.
        clip: seconds that a row shows; twice the segment's length where that is more.
        suffix: of the video files.
        seed: with the segment's id it decides where in the clip the segment lies.
        one_answer: also leave out segments that overlap one of the same words: two answers would be right.
    """
    guessed: dict[str, float] = defaultdict(float)
    for segment in segments:
        if segment.video not in lengths:
            end = segment.end if segment.start < segment.end else 0.0
            guessed[segment.video] = max(guessed[segment.video], end)
    _tell_guessed(segments, guessed, lengths)
    ends = {**lengths, **guessed}
    backwards = [number for number, segment in enumerate(segments) if segment.end <= segment.start]
    found = [f"{segment.start:g} to {segment.end:g} s of {segment.video}" for segment in segments]
    segments = [replace(segment, end=min(segment.end, ends[segment.video])) for segment in segments]
    # Segments that are left out bound the clips of others none the less: the thing does happen there.
    same: dict[tuple[str, str], list[Segment]] = defaultdict(list)
    for segment in segments:
        same[_asked(segment)].append(segment)
    reasons = _reasons(segments, one_answer)
    reasons.update(dict.fromkeys(backwards, "a segment that does not end after it starts"))
    for number, segment in enumerate(segments):
        if segment.end == guessed.get(segment.video):
            reasons.setdefault(number, "a segment with which a video of unknown length is taken to end")
        if number in reasons:
            tally.add(RowError(segment.id, reasons[number], found[number]))
            continue
        start, stop = _clip(segment, same[_asked(segment)], ends[segment.video], clip, seed)
        tally.good += 1
        yield {
            "id": segment.id,
            "video": segment.video + suffix,
            "clip": [round(start, 3), round(stop, 3)],
            "question": segment.words,
            "start": round(segment.start, 3),
            "end": round(segment.end, 3),
        }


def video_lengths(path: Path) -> dict[str, float]:
    """Seconds of each video, from EPIC_100_video_info.csv or EgoExoLearn's video_meta_downsampled.json.

    A row that cannot be read is logged, and its video has no length then.

    Raises:
        DataError: it cannot be read, or holds no length.
    """
    tally = Tally()
    if path.suffix == ".json":
        lengths = _json_lengths(path, tally)
    else:
        lengths = dict(read_lines(read_table(path, "video_id", "duration"), _length, tally))
    if not lengths:
        raise DataError(f"{path}: holds no lengths of videos; give a file as it comes with the data set")
    if tally.broken:
        tally.good = len(lengths)
        _LOGGER.warning("%s: %s", path, tally)
    return lengths


def _json_lengths(path: Path, tally: Tally) -> dict[str, float]:
    found = read_json_value(
        path,
        where=f"{path}: holds no lengths of videos",
        remedy="give a file as it comes with the data set",
        most=_MOST_BYTES,
        nan=True,
    )
    lengths = {}
    for number, one in enumerate(found if isinstance(found, list) else (), start=1):
        try:
            seconds = finite(one["num_frames"] / one["fps"])
            if seconds <= 0:
                raise ValueError
            lengths[str(one["video_uid"])] = seconds
        except (ArithmeticError, KeyError, TypeError, ValueError):
            reason = "video_uid, num_frames or fps is missing or cannot be right"
            tally.add(RowError(f"{path.name}, entry {number}", reason))
    return lengths


def _length(line: Line) -> tuple[str, float]:
    seconds = line.seconds("duration")
    if seconds <= 0:
        raise RowError(line.where, "duration is not more than 0 seconds", f"{seconds:g}")
    return line.text("video_id"), seconds


def _tell_guessed(
    segments: Sequence[Segment], guessed: Mapping[str, float], lengths: Mapping[str, float]
) -> None:
    """Log how many videos are taken to end with their last segment, if there are any."""
    if not guessed:
        return
    videos = len({segment.video for segment in segments})
    count = sum(segment.video in guessed for segment in segments)
    if lengths:
        told = f"the given lengths lack {len(guessed)} of {videos} videos, with {count} segments"
    else:
        told = f"no lengths (--lengths) are given for {videos} videos with {count} segments"
    does = "each is taken to end with its last segment, which is left out: its clip would give it away"
    _LOGGER.warning("%s: %s", told, does)


def _asked(segment: Segment) -> tuple[str, str]:
    """Equal for segments that the same question asks for: upper case and a final full stop say nothing."""
    return segment.video, " ".join(segment.words.lower().split()).rstrip(" .")


def _reasons(segments: Sequence[Segment], one_answer: bool) -> dict[int, str]:
    """The numbers of the segments that are left out, and why; their ends lie in their videos."""
    reasons = {}
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, segment in enumerate(segments):
        if not segment.words:
            reasons[number] = "a segment without words"
        elif not 0 <= segment.start < segment.end:
            reasons[number] = "a segment outside of its video"
        else:
            alike[_asked(segment)].append(number)
    for numbers in alike.values() if one_answer else ():
        for group in _overlapping(numbers, segments):
            likeness = {number: _likeness(number, group, segments) for number in group}
            standing = max(group, key=likeness.__getitem__)
            if likeness[standing] >= _NEARLY:
                group.remove(standing)
                reason = "a segment for which another of the same words and nearly the same times stands"
            else:
                reason = "a segment that overlaps another of the same words"
            reasons.update(dict.fromkeys(group, reason))
    return reasons


def _overlapping(numbers: Sequence[int], segments: Sequence[Segment]) -> list[list[int]]:
    """Groups of two and more that hang together by their overlaps; to touch is not to overlap."""
    groups: list[list[int]] = []
    end = -math.inf
    for number in sorted(numbers, key=lambda number: segments[number].start):
        if segments[number].start >= end:
            groups.append([])
        groups[-1].append(number)
        end = max(end, segments[number].end)
    return [group for group in groups if len(group) > 1]


def _likeness(number: int, group: Sequence[int], segments: Sequence[Segment]) -> float:
    """IoU of a segment with that of its group that is least like it."""
    times = [Interval(segments[other].start, segments[other].end) for other in group]
    return min(Interval(segments[number].start, segments[number].end).iou(other) for other in times)


def _clip(
    segment: Segment, same: Sequence[Segment], length: float, clip: float, seed: int
) -> tuple[float, float]:
    """Where the clip of a segment begins and ends: in the video, and without the same thing a second time."""
    first = max((other.end for other in same if other.end <= segment.start), default=0.0)
    last = min([length, *(other.start for other in same if other.start >= segment.end)])
    duration = min(max(clip, 2 * (segment.end - segment.start)), last - first)
    low, high = max(first, segment.end - duration), min(segment.start, last - duration)
    start = random.Random(f"{seed} {segment.id}").uniform(low, max(low, high))
    return start, start + duration


def _words(verbs: Sequence[str], nouns: Sequence[str]) -> str:
    things = _listed([f"the {noun}" for noun in nouns])
    if not verbs:
        return f"use {things}" if things else ""
    return f"{_listed(verbs)} {things}".strip()


def _listed(words: Sequence[str]) -> str:
    """a, b and c."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _labels(path: Path) -> list[str]:
    """Names of the classes, synonyms in brackets left out: "turn_(spin,_rotate)" is "turn"."""

    def label(line: Line) -> str:
        return line.text("label").partition("_(")[0].replace("_", " ")

    return read_lines(read_table(path, "label"), label)
