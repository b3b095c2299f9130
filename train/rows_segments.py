"""Timed segments of EgoExoLearn and EPIC-KITCHENS as temporal rows: when in a clip did this happen?

Videos of these sets last minutes, a segment mostly seconds: a row shows a clip that holds the segment at a
place drawn by its seed, and ends before the same thing happens again. EPIC's annotations are CC BY-NC 4.0,
EgoExoLearn's MIT.
"""

from __future__ import annotations

import ast
import csv
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egolive.streaming.errors import DataError
from egolive.train.rows import RowError, Tally

__all__ = ["Segment", "read_egoexolearn", "read_epic", "temporal_rows", "video_lengths"]


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
) -> Iterator[dict[str, Any]]:
    """Segments as rows, as JSON objects; those without words, or outside of their video, are counted.

    Args:
        segments: of any number of videos.
        tally: counts rows, and segments that cannot be used.
        lengths: seconds of each video; a video that is missing here is taken to end with its last segment.
        clip: seconds that a row shows; twice the segment's length where that is more.
        suffix: of the video files.
        seed: with the segment's id it decides where in the clip the segment lies.
    """
    ends: dict[str, float] = defaultdict(float)
    same: dict[tuple[str, str], list[Segment]] = defaultdict(list)
    for segment in segments:
        ends[segment.video] = max(ends[segment.video], segment.end)
        same[segment.video, segment.words].append(segment)
    for segment in segments:
        length = lengths.get(segment.video, ends[segment.video])
        if not segment.words:
            tally.add(RowError(segment.id, "a segment without words"))
        elif not 0 <= segment.start < segment.end or segment.start >= length:
            tally.add(RowError(segment.id, "a segment outside of its video"))
        else:
            end = min(segment.end, length)
            start, stop = _clip(segment, end, same[segment.video, segment.words], length, clip, seed)
            tally.good += 1
            yield {
                "id": segment.id,
                "video": segment.video + suffix,
                "clip": [round(start, 3), round(stop, 3)],
                "question": segment.words,
                "start": round(segment.start, 3),
                "end": round(end, 3),
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


def _clip(
    segment: Segment, end: float, same: Sequence[Segment], length: float, clip: float, seed: int
) -> tuple[float, float]:
    """Where the clip of a segment begins and ends: in the video, and without the same thing a second time."""
    first = max((other.end for other in same if other.end <= segment.start), default=0.0)
    last = min((other.start for other in same if other.start >= segment.end), default=length)
    last = max(min(last, length), end)
    duration = min(max(clip, 2 * (end - segment.start)), last - first)
    low, high = max(first, end - duration), min(segment.start, last - duration)
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
