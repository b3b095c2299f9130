"""Timed segments of EgoExoLearn and EPIC-KITCHENS as temporal rows: when in a clip did this happen?

Videos of these sets last minutes, a segment mostly seconds: a row shows a clip that holds the segment at a
place drawn by its seed, and ends before the same thing happens again. Segments that overlap one of the same
words have no clip with one right answer: where one answer is wanted they are left out and counted, unless one
of them is nearly the same stretch as the others and stands for them. EPIC's annotations are CC BY-NC 4.0,
EgoExoLearn's MIT.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from egolive.streaming.errors import DataError
from egolive.streaming.frames import Interval
from egolive.train.rows import RowError, Tally

__all__ = ["Segment", "read_egoexolearn", "read_epic", "temporal_rows", "video_lengths"]

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


def read_epic(path: Path) -> list[Segment]:
    """Segments of an EPIC-KITCHENS-100 file such as EPIC_100_validation.csv, with their narrations.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    return [
        Segment(
            row["narration_id"],
            row["video_id"],
            _clock(row["start_timestamp"]),
            _clock(row["stop_timestamp"]),
            row["narration"].strip(),
        )
        for row in _table(path, "narration_id", "video_id", "start_timestamp", "stop_timestamp", "narration")
    ]


def read_egoexolearn(path: Path) -> list[Segment]:
    """Segments of an EgoExoLearn file; their words are put together from the taxonomies beside it.

    Files without verbs and nouns, such as fine_annotation_test.csv, give segments without words.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    rows = _table(path, "annotation_id", "start_sec", "end_sec")
    verbs, nouns = [], []
    if rows and "verb" in rows[0]:
        verbs = _labels(path.with_name("narration_verb_taxonomy.csv"))
        nouns = _labels(path.with_name("narration_noun_taxonomy.csv"))
    return [
        Segment(
            row["annotation_id"],
            row.get("video_id") or row["video_uid"],
            float(row["start_sec"]),
            float(row["end_sec"]),
            _words(_named(row.get("verb"), verbs), _named(row.get("noun"), nouns)),
            row.get("view") or "ego",
            row.get("scene") or row.get("scenario") or "",
        )
        for row in rows
    ]


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

    Left out are segments without words or outside of their video.

    Args:
        segments: of any number of videos.
        tally: counts rows, and segments that are left out: together as many as there are segments.
        lengths: seconds of each video; a video that is missing here is taken to end with its last segment.
        clip: seconds that a row shows; twice the segment's length where that is more.
        suffix: of the video files.
        seed: with the segment's id it decides where in the clip the segment lies.
        one_answer: also leave out segments that overlap one of the same words: two answers would be right.
    """
    ends: dict[str, float] = defaultdict(float)
    for segment in segments:
        ends[segment.video] = max(ends[segment.video], segment.end)
    ends.update(lengths)
    segments = [replace(segment, end=min(segment.end, ends[segment.video])) for segment in segments]
    # Segments that are left out bound the clips of others none the less: the thing does happen there.
    same: dict[tuple[str, str], list[Segment]] = defaultdict(list)
    for segment in segments:
        same[_asked(segment)].append(segment)
    reasons = _reasons(segments, one_answer)
    for number, segment in enumerate(segments):
        if number in reasons:
            tally.add(RowError(segment.id, reasons[number]))
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

    Raises:
        DataError: it cannot be read.
    """
    if path.suffix == ".json":
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {one["video_uid"]: one["num_frames"] / one["fps"] for one in found}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: holds no lengths of videos ({error})") from error
    return {row["video_id"]: float(row["duration"]) for row in _table(path, "video_id", "duration")}


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


def _named(numbers: str | None, labels: Sequence[str]) -> list[str]:
    return [labels[number] for number in ast.literal_eval(numbers or "[]")]


def _labels(path: Path) -> list[str]:
    """Names of the classes, synonyms in brackets left out: "turn_(spin,_rotate)" is "turn"."""
    return [row["label"].partition("_(")[0].replace("_", " ") for row in _table(path, "label")]


def _clock(text: str) -> float:
    """Seconds of hh:mm:ss.ff."""
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _table(path: Path, *columns: str) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error
    missing = [column for column in columns if not rows or column not in rows[0]]
    if missing:
        raise DataError(f"{path}: has no column {missing[0]}, or no row")
    return rows
