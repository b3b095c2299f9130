"""Timed segments as rows: clips in which one answer is right; on the real files where they are at hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from paths import REAL, needs_real

from egolive.streaming.errors import DataError
from egolive.streaming.frames import Interval
from egolive.train.data.rows import Tally, row_from_dict
from egolive.train.data.rows_command import write_rows
from egolive.train.data.rows_segments import (
    TAXONOMIES,
    Segment,
    read_egoexolearn,
    read_epic,
    temporal_rows,
    video_lengths,
)

ANNOTATIONS = REAL / "annotations"
OVERLAPS = "a segment that overlaps another of the same words"
OUTSIDE = "a segment outside of its video"
BACKWARDS = "a segment that does not end after it starts"
LAST = "a segment with which a video of unknown length is taken to end"
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
    lengths = {"v": 400.0, "w": 90.0}
    tally = Tally()
    rows = {row["id"]: row for row in temporal_rows(segments, tally, lengths=lengths)}
    assert set(rows) == {"a", "b", "c", "g"}
    assert tally.broken == {OUTSIDE: 1, BACKWARDS: 1, "a segment without words": 1}
    for row in rows.values():
        start, end = row["clip"]
        assert 0 <= start <= row["start"] < row["end"] <= end
    assert rows["a"]["clip"][1] <= 110
    assert rows["b"]["clip"][0] >= 102
    assert rows["c"]["clip"][1] - rows["c"]["clip"][0] == pytest.approx(60)
    # Longer than half a clip, and as long as its video.
    assert rows["g"]["clip"] == [0, 90]
    again = {row["id"]: row for row in temporal_rows(segments, Tally(), lengths=lengths)}
    assert again == rows
    other = {row["id"]: row for row in temporal_rows(segments, Tally(), lengths=lengths, seed=1)}
    assert other["c"]["clip"] != rows["c"]["clip"]


def kept(*segments: Segment) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Rows by their segments' names, and how many were left out for each reason."""
    tally = Tally()
    found = temporal_rows(segments, tally, lengths={"v": 400.0, "w": 400.0}, one_answer=True)
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
    assert left_out == {STOOD_FOR: 2, OVERLAPS: 5, BACKWARDS: 1}


def test_a_segment_that_stops_before_it_starts_has_a_reason_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    segments = [
        Segment("a", "v", 30, 5, "stop before start"),
        Segment("b", "v", 401, 405, "after the end"),
        Segment("c", "v", -2, 5, "before the start"),
        Segment("d", "v", 390, 405, "cut at the end"),
        # Of unknown length: what runs backwards says nothing of it.
        Segment("e", "w", 900, 800, "stop before start"),
        Segment("f", "w", 10, 20, "stir"),
        Segment("g", "w", 30, 40, "stir"),
    ]
    tally = Tally()
    rows = {row["id"]: row for row in temporal_rows(segments, tally, lengths={"v": 400.0})}
    assert set(rows) == {"d", "f"}
    assert tally.broken == {BACKWARDS: 2, OUTSIDE: 2, LAST: 1}
    assert rows["d"]["end"] == rows["d"]["clip"][1] == 400
    assert f"left out: a: {BACKWARDS} (30 to 5 s of v)" in caplog.text
    assert f"left out: b: {OUTSIDE} (401 to 405 s of v)" in caplog.text


def test_the_last_segment_of_a_video_of_unknown_length_is_told_and_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    segments = [
        Segment("a", "v", 100, 110, "stir"),
        Segment("b", "v", 104, 120, "taste"),
        Segment("c", "v", 115, 120, "pour"),
        Segment("d", "w", 10, 20, "stir"),
    ]
    tally = Tally()
    rows = list(temporal_rows(segments, tally, lengths={"w": 20.0}))
    assert [row["id"] for row in rows] == ["a", "d"]
    assert tally.broken == {LAST: 2}
    assert tally.good == 2
    assert "the given lengths lack 1 of 2 videos, with 3 segments" in caplog.text
    caplog.clear()
    assert [row["id"] for row in temporal_rows(segments, Tally(), lengths={})] == ["a"]
    assert "no lengths (--lengths) are given for 2 videos with 4 segments" in caplog.text
    assert caplog.text.count("taken to end with its last segment") == 1
    caplog.clear()
    assert len(list(temporal_rows(segments, Tally(), lengths={"v": 130.0, "w": 20.0}))) == 4
    assert not caplog.text
    # It still tells that what overlaps it has no one answer.
    tally = Tally()
    two = [Segment("a", "v", 0, 10, "stir"), Segment("b", "v", 8, 30, "stir")]
    assert not list(temporal_rows(two, tally, lengths={}, one_answer=True))
    assert tally.broken == {OVERLAPS: 2}


EPIC_HEAD = "narration_id,video_id,start_timestamp,stop_timestamp,narration,verb"


def test_a_broken_row_of_epic_is_told_with_its_place_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "epic.csv", tmp_path / "rows.jsonl"
    lines = [
        EPIC_HEAD,
        "a,v,banana,00:00:02.00,take,x",
        "b,v,00:00:03.00,00:00:05.50,put,x",
        "c,v,00:00:03.00,00:00:nan,put,x",
        "d,,00:00:03.00,00:00:05.50,put,x",
        "e,v,00:00:03.00,00:00:05.50,put, then take,x",
        "f,v,00:00:50.00,00:00:55.50,cut,x",
        # The file ends early.
        "g,v,00:00:5",
    ]
    source.write_text("\n".join(lines))
    write_rows("epic", source, out)
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["b"]
    assert "epic.csv, line 2: start_timestamp is no time hh:mm:ss.ff ('banana')" in caplog.text
    assert "epic.csv, line 4: stop_timestamp is no time hh:mm:ss.ff ('00:00:nan')" in caplog.text
    assert "epic.csv, line 5: video_id is empty" in caplog.text
    assert "epic.csv, line 6: a row with fewer or more values than there are columns" in caplog.text
    assert "line 8: a row with fewer or more values than there are columns (no stop_timestamp)" in caplog.text
    told = capsys.readouterr().err
    assert "1 rows; 2 left out: a row with fewer or more values than there are columns; 1 left" in told
    assert f"1 left out: {LAST}" in told


def test_a_broken_row_of_egoexolearn_is_told_with_its_place_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "exo.csv"
    for name, labels in zip(TAXONOMIES, ("label\ncut\nstir_(mix)\n", "label\nknife\n"), strict=True):
        (tmp_path / name).write_text(labels)
    lines = [
        "video_id,annotation_id,start_sec,end_sec,verb,noun",
        'v,a,1.0,2.0,"[0, 1]",[0]',
        "v,b,banana,2.0,[0],[0]",
        "v,c,1.0,inf,[0],[0]",
        "v,d,1.0,2.0,[2],[0]",
        "v,e,1.0,2.0,[0],[-1]",
        "v,f,1.0,2.0,[0],banana",
        "v,g,1.0,2.0,7,[0]",
        "v,h,1.0",
    ]
    source.write_text("\n".join(lines))
    tally = Tally()
    assert read_egoexolearn(source, tally) == [Segment("a", "v", 1, 2, "cut and stir the knife")]
    assert tally.broken == {
        "start_sec is no number of seconds": 1,
        "end_sec is no number of seconds": 1,
        "verb is no list of numbers of its taxonomy": 2,
        "noun is no list of numbers of its taxonomy": 2,
        "a row with fewer or more values than there are columns": 1,
    }
    assert "exo.csv, line 7: noun is no list of numbers of its taxonomy ('banana')" in caplog.text
    # Numbers of classes count the rows of a taxonomy, so none of these may be left out.
    (tmp_path / TAXONOMIES[1]).write_text("group,label\nknife\nspoon,spoon\n")
    with pytest.raises(DataError, match=r"narration_noun_taxonomy\.csv, line 2: .*no label"):
        read_egoexolearn(source, Tally())


def test_a_broken_length_is_told_and_its_video_is_as_if_not_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "info.csv"
    table.write_text("video_id,duration,fps\nu,12.5,25\nv,banana,25\nw,0,25\nx,nan,25\ny,1")
    assert video_lengths(table) == {"u": 12.5}
    assert "info.csv, line 3: duration is no number of seconds ('banana')" in caplog.text
    assert "info.csv, line 4: duration is not more than 0 seconds (0)" in caplog.text
    assert "info.csv: 1 rows; 2 left out: duration is no number of seconds; 1 left out" in caplog.text
    listed = tmp_path / "info.json"
    good = {"video_uid": "u", "num_frames": 50.0, "fps": 25.0}
    broken: list[object] = [{**good, "fps": 0}, {**good, "num_frames": "banana"}, {"video_uid": "v"}, 5]
    listed.write_text(json.dumps([good, *broken]))
    assert video_lengths(listed) == {"u": 2.0}
    assert "info.json, entry 2: video_uid, num_frames or fps is missing or cannot be right" in caplog.text
    for path, content in ((listed, json.dumps(broken)), (listed, "5"), (table, "video_id,duration\nv,x\n")):
        path.write_text(content)
        with pytest.raises(DataError, match="holds no lengths"):
            video_lengths(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "its first line names no columns"),
        (f"{EPIC_HEAD}\n", "holds no row below the names of its columns"),
        ("narration_id,video_id\na,v\n", "has no column start_timestamp, only narration_id, video_id"),
    ],
)
def test_a_missing_column_and_a_missing_row_are_told_apart(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "epic.csv").write_text(content)
    with pytest.raises(DataError, match=told):
        read_epic(tmp_path / "epic.csv", Tally())


def test_a_file_of_egoexolearn_that_names_no_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "exo.csv").write_text("annotation_id,start_sec,end_sec\na,1,2,3\n")
    with pytest.raises(DataError, match="neither a column video_id nor video_uid, only annotation_id, start"):
        read_egoexolearn(tmp_path / "exo.csv", Tally())


@needs_real
def test_the_real_epic_file_converts_without_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    segments = read_epic(ANNOTATIONS / "epic100" / "EPIC_100_validation.csv", tally)
    assert len(segments) == 9668
    assert segments[0] == Segment("P01_11_0", "P01_11", 0.0, 1.89, "take plate")
    lengths_file = ANNOTATIONS / "epic100" / "EPIC_100_video_info.csv"
    lengths = video_lengths(lengths_file)
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
    source = ANNOTATIONS / "epic100" / "EPIC_100_validation.csv"
    write_rows("epic", source, tmp_path / "epic.jsonl", one_answer=True, lengths=lengths_file)
    told = capsys.readouterr().err
    assert f"9111 rows; 513 left out: {OVERLAPS}; 44 left out: {STOOD_FOR}" in told
    tally = Tally()
    rows = list(temporal_rows(segments, tally, lengths={}))
    assert (len(rows), tally.broken) == (9668 - 138, {LAST: 138}), "one of each of the 138 videos"
    # What happens again at once still ends a clip there.
    assert sum(row["clip"][1] - row["end"] < 2e-3 for row in rows) == 5


@needs_real
@pytest.mark.parametrize("file", ["epic100/EPIC_100_validation.csv", "egoexolearn/ego_val_valid.csv"])
def test_no_clip_of_a_real_file_shows_what_is_asked_for_at_another_time(file: str) -> None:
    segments = (read_epic if "epic" in file else read_egoexolearn)(ANNOTATIONS / file, Tally())
    same: dict[tuple[str, str], list[Segment]] = {}
    for segment in segments:
        same.setdefault((segment.video, segment.words.lower().strip(" .")), []).append(segment)
    for row in temporal_rows(segments, Tally(), lengths={}, suffix="", one_answer=True):
        truth, shown = Interval(row["start"], row["end"]), Interval(*row["clip"])
        for other in same[row["video"], row["question"].lower().strip(" .")]:
            if min(other.end, shown.end) - max(other.start, shown.start) > 1e-3:
                assert truth.iou(Interval(other.start, other.end)) > 0.699, row["id"]


@needs_real
def test_the_real_egoexolearn_files_convert_without_loss() -> None:
    folder = ANNOTATIONS / "egoexolearn"
    tally = Tally()
    every = read_egoexolearn(folder / "fine_annotation_test.csv", tally)
    assert len(every) == 23174
    assert Counter(segment.view for segment in every) == {"ego": 18244, "exo": 4930}
    assert len({segment.video for segment in every if segment.view == "ego"}) == 421
    worded = read_egoexolearn(folder / "ego_val_valid.csv", tally)
    assert len(worded) == 7701
    assert worded[0].words == "cut, operate and press the knife and the onion"
    assert worded[2].words == "adjust"
    assert all(segment.words for segment in worded)
    lengths = video_lengths(folder / "video_meta_downsampled.json")
    assert len(lengths) == 745
    rows = list(temporal_rows(worded, tally, lengths=lengths))
    assert tally.good == len(rows) == 7701
    assert not tally.broken
    assert all(row_from_dict(row, where="x").interval for row in rows)
    tally = Tally()
    assert not list(temporal_rows(every, tally, lengths=lengths))
    assert sum(tally.broken.values()) == 23174
