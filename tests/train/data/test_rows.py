"""Rows: what is read from the published forms, what is refused, and how files are indexed and mixed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from egolive.streaming.errors import DataError
from egolive.streaming.frames import Box, Interval
from egolive.train.data.row_files import RowFile, mix_rows, row_stream
from egolive.train.data.rows import Row, RowError, Tally, row_from_dict


def row(**values: Any) -> Row:
    return row_from_dict(values, where="rows.json:1")


def said(question: str, answer: str = "A mug.") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def test_a_published_conversation_keeps_its_turns_its_media_and_its_stretch() -> None:
    found = row(conversations=said("<video>\nWhat is it?"), video="a/b.mp4", start=2, end=5.5, num_tokens=9)
    assert [(turn.role, turn.text) for turn in found.turns] == [
        ("user", "<video>\nWhat is it?"),
        ("assistant", "A mug."),
    ]
    assert found.videos == ("a/b.mp4",)
    assert found.stretch == Interval(2, 5.5)
    assert found.question is None
    several = row(conversations=said("<image><image> Which?"), image=["1.jpg", "2.jpg"])
    assert several.images == ("1.jpg", "2.jpg")
    assert row(conversations=said("Hello.")).images == ()


def test_a_stretch_of_no_length_is_shown_for_half_a_second() -> None:
    assert row(conversations=said("What?"), video="a.mp4", start=3, end=3).stretch == Interval(3, 3.5)
    assert row(conversations=said("What?"), video="a", start=3, end=9, chunked=True).chunked


def test_a_video_that_is_named_inside_the_image_is_found() -> None:
    found = row(conversations=said("<video>\nWhat?"), image={"video": "x.mp4"})
    assert found.videos == ("x.mp4",)
    assert found.images == ()


def test_a_published_box_is_read_in_the_unit_of_its_file() -> None:
    values = {"path": "f.jpg", "object": "left hand", "gt": [0.1, 0.2, 0.3, 0.4]}
    fractions = row_from_dict(values, where="v:1", unit="norm1")
    assert fractions.size == (1000, 1000)
    assert fractions.box is not None
    assert tuple(fractions.box) == pytest.approx((100, 200, 300, 400))
    thousandths = row_from_dict({**values, "gt": [1, 2, 3, 4]}, where="v:1", unit="norm1000")
    assert (thousandths.box, thousandths.size) == (Box(1, 2, 3, 4), (1000, 1000))
    pixels = row_from_dict({**values, "gt": [1, 2, 3, 4]}, where="v:1", unit="pixels")
    assert (pixels.box, pixels.size, pixels.images) == (Box(1, 2, 3, 4), None, ("f.jpg",))
    assert pixels.question is not None
    assert pixels.question.phrase == "left hand"


def test_a_box_of_null_says_that_the_thing_is_not_there() -> None:
    absent = row(path="f.jpg", object="cup", box=None, size=[640, 480])
    assert absent.box is None
    assert absent.size == (640, 480)
    frame = row(path="f.mp4", time=1.5, object="cup", box=[0, 0, 5, 5], size=[640, 480])
    assert (frame.images, frame.videos, frame.time) == ((), ("f.mp4",), 1.5)


def test_an_interval_counts_from_the_start_of_the_clip_that_is_shown() -> None:
    whole = row(vid="v.mp4", question="open the door", start=12.0, end=15.0)
    assert (whole.interval, whole.stretch) == (Interval(12, 15), None)
    clip = row(video="v.mp4", question="open the door", start=12.0, end=35.0, clip=[10, 30])
    assert (clip.interval, clip.stretch) == (Interval(2, 20), Interval(10, 30))
    absent = row(video="v.mp4", question="open the door", start=None, end=None, clip=[10, 30])
    assert absent.interval is None
    unified = {"gt": None, "object": "", "video_path": "v.mp4", "question": "go", "start": 1, "end": 2}
    assert row(**unified, type="egoexo").interval == Interval(1, 2)
    visor = {"gt": [1, 2, 3, 4], "object": "cup", "video_path": "v.jpg", "question": "", "start": 0}
    assert row(**visor, type="visor").box == Box(1, 2, 3, 4)


def test_words_are_the_truth_of_intent_and_next_step() -> None:
    found = row(video="v.mp4", clip=[1, 9], task="intent", text="make tea")
    assert found.question is not None
    assert (found.question.task, found.text, found.stretch) == ("intent", "make tea", Interval(1, 9))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["a", "list"], "a row is a JSON object"),
        ({"id": 3}, "neither a conversation"),
        ({"conversations": []}, "does not end with an answer"),
        ({"conversations": said("What?", " ")}, "does not end with an answer"),
        ({"conversations": said("What?")[1:], "image": "a.png"}, "has no question"),
        ({"conversations": [{"from": "nobody", "value": "x"}]}, "without its speaker"),
        ({"conversations": [{"value": "x"}]}, "missing or of the wrong kind"),
        ({"conversations": said("<video><video> What?"), "video": "a.mp4"}, "other pictures than"),
        ({"conversations": said("<image> What?")}, "other pictures than"),
        ({"conversations": said("What?"), "video": "a.mp4", "start": 5, "end": 3}, "ends before it starts"),
        ({"conversations": said("What?"), "video": "a.mp4", "start": 5}, "ends before it starts"),
        ({"conversations": said("What?"), "image": [3]}, "paths of pictures"),
        ({"path": "", "object": "cup", "gt": [1, 2, 3, 4]}, "no path of a picture"),
        ({"path": "a.jpg", "object": " ", "gt": [1, 2, 3, 4]}, "missing or of the wrong kind"),
        ({"path": "a.jpg", "object": "cup"}, "missing or of the wrong kind"),
        ({"path": "a.jpg", "object": "cup", "gt": [1, 2, 3]}, "four numbers"),
        ({"path": "a.jpg", "object": "cup", "gt": ["1", "2", "3", "4"]}, "four numbers"),
        ({"path": "a.jpg", "object": "cup", "gt": [3, 2, 1, 4]}, "empty or its corners"),
        ({"path": "a.jpg", "object": "cup", "box": [0, 0, 9, 99], "size": [50, 50]}, "out of the picture"),
        ({"question": "go", "start": 1, "end": 2}, "no path of a video"),
        ({"vid": "a.mp4", "question": "go", "start": 3, "end": 2}, "ends before it starts"),
        ({"vid": "a.mp4", "question": "go", "start": 1, "end": 2, "clip": [5, 9]}, "outside the clip"),
        ({"video": "a.mp4", "task": "ground", "question": "x", "text": "y"}, "not a task"),
    ],
)
def test_a_row_that_cannot_be_right_is_refused_with_its_place_and_a_reason(values: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason) as caught:
        row_from_dict(values, where="rows.json:7")
    assert str(caught.value).startswith("rows.json:7: ")


def boxes(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"path": f"{n}.jpg", "object": "cup", "gt": [1, 2, 300, 400 + n], **more} for n in range(count)]


def write(path: Path, rows: list[Any], *, lines: bool = False) -> Path:
    text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, indent=1)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("lines", [True, False])
def test_a_file_is_indexed_whatever_its_texts_hold(tmp_path: Path, lines: bool) -> None:
    rows = boxes(3)
    rows[1]["object"] = 'a "cup" with } and ] and \\ in it, für Tee'
    file = RowFile(write(tmp_path / "rows.json", rows, lines=lines))
    assert len(file) == 3
    assert [file.raw(number) for number in range(3)] == rows
    assert file[2].where == "rows.json:3"
    with pytest.raises(IndexError):
        file[3]


def test_a_broken_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{json.dumps(boxes(1)[0])}\n{{"path": "x", \n\n{json.dumps(boxes(1)[0])}\n')
    file = RowFile(path)
    assert len(file) == 3
    with pytest.raises(RowError, match=r"rows.jsonl:2: not JSON"):
        file[1]
    assert file[2] == replace(file[0], where="rows.jsonl:3")


def test_a_file_that_is_missing_empty_or_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        RowFile(tmp_path / "none.json")
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(DataError, match="cannot be read"):
        RowFile(tmp_path / "empty.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="holds no row"):
        RowFile(tmp_path / "list.json")
    cut = json.dumps(boxes(3))[:-20]
    (tmp_path / "cut.json").write_text(cut)
    with pytest.raises(DataError, match="cut off after 2 rows"):
        RowFile(tmp_path / "cut.json")


def test_a_mix_takes_its_percentages_and_is_decided_by_its_seed_alone(tmp_path: Path) -> None:
    first = write(tmp_path / "first.json", boxes(200))
    second = write(tmp_path / "second.json", boxes(50), lines=True)
    mix = mix_rows([f"{first}%30", second], seed=3)
    places = [mix[number].where for number in range(len(mix))]
    assert len(places) == 60 + 50
    assert len(set(places)) == len(places)
    assert sum(place.startswith("first") for place in places) == 60
    again = mix_rows([f"{first}%30", second], seed=3)
    assert [again[number].where for number in range(len(again))] == places
    other = mix_rows([f"{first}%30", second], seed=4)
    assert [other[number].where for number in range(len(other))] != places
    # Mixed, not file after file.
    assert 10 < sum(place.startswith("second") for place in places[:55]) < 45
    # What is drawn of a file does not depend on what it is mixed with.
    alone = mix_rows([f"{first}%30"], seed=3)
    assert {alone[n].where for n in range(60)} == {place for place in places if place.startswith("first")}


@pytest.mark.parametrize("share", ["0", "101", "many", "-5"])
def test_a_percentage_that_is_none_is_refused(tmp_path: Path, share: str) -> None:
    path = write(tmp_path / "first.json", boxes(5))
    with pytest.raises(DataError, match="percentage"):
        mix_rows([f"{path}%{share}"])


def test_broken_rows_are_reported_and_counted_never_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "rows.json", [*boxes(4), {"id": 1}, {"id": 2}, *boxes(1, gt=[5, 5, 1, 1])])
    mix = mix_rows([path], shuffle=False)
    tally = Tally()
    with caplog.at_level("WARNING", logger="egolive"):
        given = [example["row"].where for example in row_stream(mix, tally)]
    assert given == [f"rows.json:{n}" for n in range(1, 5)]
    assert tally.good == 4
    assert sorted(tally.broken.values()) == [1, 2]
    assert "rows.json:5" in caplog.text
    assert str(tally).startswith("4 rows; 2 left out: neither a conversation")
    for number in range(4):
        (tmp_path / f"{number}.jpg").touch()
    (tmp_path / "2.jpg").unlink()
    kept = mix.checked(tally := Tally(), media=tmp_path)
    assert [kept[number].where for number in range(len(kept))] == [f"rows.json:{n}" for n in (1, 2, 4)]
    assert tally.broken["its picture or video is not there"] == 1


def test_a_stream_can_be_shuffled_and_taken_up_again_like_any_data_set(tmp_path: Path) -> None:
    mix = mix_rows([write(tmp_path / "rows.json", boxes(20))], seed=1)
    stream = row_stream(mix, Tally())
    places = [example["row"].where for example in stream]
    assert places == [mix[number].where for number in range(20)]
    assert [example["row"].where for example in stream.skip(15)] == places[15:]
    shuffled = [example["row"].where for example in stream.shuffle(seed=1, buffer_size=20)]
    assert sorted(shuffled) == sorted(places)
    assert shuffled != places
