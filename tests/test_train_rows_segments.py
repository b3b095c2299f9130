"""Timed segments as rows: clips in which one answer is right; on the real files where they are at hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from egolive.streaming.frames import Interval
from egolive.train.rows import Tally, row_from_dict
from egolive.train.rows_command import write_rows
from egolive.train.rows_segments import (
    Segment,
    read_egoexolearn,
    read_epic,
    temporal_rows,
    video_lengths,
)

REAL = Path(__file__).parents[2] / "shared" / "real" / "annotations"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real annotations are not beside this checkout")
OVERLAPS = "a segment that overlaps another of the same words"
STOOD_FOR = "a segment for which another of the same words and nearly the same times stands"


def test_a_clip_holds_its_segment_and_ends_before_the_same_thing_happens_again() -> None:
    segments = [
        Segment("a", "v", 100, 102, "wash the cup"),
        Segment("b", "v", 110, 111, "wash the cup"),
        Segment("c", "v", 105, 106, "take the cup"),
        Segment("d", "v", 300, 300, "take the cup"),
        Segment("e", "v", 10, 20, ""),
        Segment("f", "v", 900, 901, "beyond the end"),
        Segment("g", "w", 0, 90, "knead the dough"),
    ]
    tally = Tally()
    rows = {row["id"]: row for row in temporal_rows(segments, tally, lengths={"v": 400.0})}
    assert set(rows) == {"a", "b", "c", "g"}
    assert tally.broken == {"a segment outside of its video": 2, "a segment without words": 1}
    for row in rows.values():
        start, end = row["clip"]
        assert 0 <= start <= row["start"] < row["end"] <= end
    assert rows["a"]["clip"][1] <= 110
    assert rows["b"]["clip"][0] >= 102
    assert rows["c"]["clip"][1] - rows["c"]["clip"][0] == pytest.approx(60)
    # Longer than half a clip, and as long as its video.
    assert rows["g"]["clip"] == [0, 90]
    again = {row["id"]: row for row in temporal_rows(segments, Tally(), lengths={"v": 400.0})}
    assert again == rows
    other = {row["id"]: row for row in temporal_rows(segments, Tally(), lengths={"v": 400.0}, seed=1)}
    assert other["c"]["clip"] != rows["c"]["clip"]


def kept(*segments: Segment) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Rows by their segments' names, and how many were left out for each reason."""
    tally = Tally()
    found = temporal_rows(segments, tally, lengths={"v": 400.0}, one_answer=True)
    rows = {row["id"]: row for row in found}
    assert len(rows) + tally.broken.total() == len(segments)
    assert tally.good == len(rows)
    return rows, dict(tally.broken)


def test_segments_that_overlap_one_of_the_same_words_are_left_out_and_counted() -> None:
    rows, left_out = kept(
        # EPIC's P01_11: "Wash knife." twice at once, so that two answers would be right.
        Segment("a", "v", 243.99, 248.05, "wash knife"),
        Segment("b", "v", 245.20, 246.93, "Wash knife."),
        Segment("c", "v", 246.00, 246.50, "wash the plate"),
        Segment("d", "w", 245.20, 246.93, "wash knife"),
        Segment("e", "v", 260, 265, "wash knife"),
        Segment("f", "v", 265, 270, "wash  knife "),
    )
    assert set(rows) == {"c", "d", "e", "f"}
    assert left_out == {OVERLAPS: 2}
    # What was left out is still the same thing, which no other clip may show.
    assert rows["e"]["clip"][0] >= 248.05
    # To touch is not to overlap.
    assert rows["e"]["clip"][1] == rows["f"]["clip"][0] == 265


def test_one_of_segments_with_nearly_the_same_times_stands_for_all() -> None:
    rows, left_out = kept(
        Segment("a", "v", 10, 20, "wash knife"),
        Segment("b", "v", 11, 20.5, "wash knife"),
        Segment("c", "v", 12, 20, "wash knife"),
        Segment("d", "v", 100, 110, "stir"),
        Segment("e", "v", 103.1, 110, "stir"),
        # A chain: its ends are not alike, though both are like the middle.
        Segment("f", "v", 200, 210, "peel"),
        Segment("g", "v", 201, 211, "peel"),
        Segment("h", "v", 210.5, 220, "peel"),
        Segment("i", "v", 300, 300, "pour"),
        Segment("j", "v", 299, 301, "pour"),
    )
    # The one that is most like all others; a segment without a length takes no part.
    assert set(rows) == {"b", "j"}
    assert (rows["b"]["start"], rows["b"]["end"]) == (11, 20.5)
    assert left_out == {STOOD_FOR: 2, OVERLAPS: 5, "a segment outside of its video": 1}


@real
def test_the_real_epic_file_converts_without_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segments = read_epic(REAL / "epic100" / "EPIC_100_validation.csv")
    assert len(segments) == 9668
    assert segments[0] == Segment("P01_11_0", "P01_11", 0.0, 1.89, "take plate")
    lengths = video_lengths(REAL / "epic100" / "EPIC_100_video_info.csv")
    tally = Tally()
    rows = list(temporal_rows(segments, tally, lengths=lengths, suffix=".MP4"))
    assert tally.good == len(rows) == 9668
    assert not tally.broken
    by_id = {segment.id: segment for segment in segments}
    for values in rows:
        row = row_from_dict(values, where=values["id"])
        truth = by_id[values["id"]]
        assert row.interval is not None
        assert row.stretch is not None
        end = min(truth.end, lengths[truth.video])
        assert row.interval.start + row.stretch.start == pytest.approx(truth.start, abs=2e-3)
        assert row.interval.end + row.stretch.start == pytest.approx(end, abs=2e-3)
        assert row.stretch.end <= lengths[truth.video] + 1e-3
    source = REAL / "epic100" / "EPIC_100_validation.csv"
    write_rows("epic", source, tmp_path / "epic.jsonl", one_answer=True)
    told = capsys.readouterr().err
    assert f"9111 rows; 513 left out: {OVERLAPS}; 44 left out: {STOOD_FOR}" in told


@real
@pytest.mark.parametrize("file", ["epic100/EPIC_100_validation.csv", "egoexolearn/ego_val_valid.csv"])
def test_no_clip_of_a_real_file_shows_what_is_asked_for_at_another_time(file: str) -> None:
    segments = read_epic(REAL / file) if "epic" in file else read_egoexolearn(REAL / file)
    same: dict[tuple[str, str], list[Segment]] = {}
    for segment in segments:
        same.setdefault((segment.video, segment.words.lower().strip(" .")), []).append(segment)
    for row in temporal_rows(segments, Tally(), lengths={}, suffix="", one_answer=True):
        truth, shown = Interval(row["start"], row["end"]), Interval(*row["clip"])
        for other in same[row["video"], row["question"].lower().strip(" .")]:
            if min(other.end, shown.end) - max(other.start, shown.start) > 1e-3:
                assert truth.iou(Interval(other.start, other.end)) > 0.699, row["id"]


@real
def test_the_real_egoexolearn_files_convert_without_loss() -> None:
    folder = REAL / "egoexolearn"
    every = read_egoexolearn(folder / "fine_annotation_test.csv")
    assert len(every) == 23174
    assert Counter(segment.view for segment in every) == {"ego": 18244, "exo": 4930}
    assert len({segment.video for segment in every if segment.view == "ego"}) == 421
    worded = read_egoexolearn(folder / "ego_val_valid.csv")
    assert len(worded) == 7701
    assert worded[0].words == "cut, operate and press the knife and the onion"
    assert worded[2].words == "adjust"
    assert all(segment.words for segment in worded)
    lengths = video_lengths(folder / "video_meta_downsampled.json")
    assert len(lengths) == 745
    tally = Tally()
    rows = list(temporal_rows(worded, tally, lengths=lengths))
    assert tally.good == len(rows) == 7701
    assert not tally.broken
    assert all(row_from_dict(row, where="x").interval for row in rows)
    tally = Tally()
    assert not list(temporal_rows(every, tally, lengths=lengths))
    assert sum(tally.broken.values()) == 23174
