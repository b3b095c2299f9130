"""VISOR's masks, multiple-choice files and simulated episodes as rows; the command that writes rows."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from paths import REAL, needs_real

from egolive.assistant.cli import main as cli
from egolive.assistant.schema.profiles import NANO
from egolive.streaming.errors import ConfigError, DataError
from egolive.streaming.frames import Interval
from egolive.train.data.row_files import mix_rows
from egolive.train.data.row_media import show
from egolive.train.data.rows import Tally, row_from_dict
from egolive.train.data.rows_command import write_rows
from egolive.train.data.rows_segments import TAXONOMIES
from egolive.train.data.rows_simulated import read_simulated
from egolive.train.data.rows_visor import read_visor
from egolive.train.data.simulated_data import load_simulated
from egolive.train.simulator.write import simulate

ANNOTATIONS = REAL / "annotations"


def square(x: float, y: float, side: float = 100) -> list[list[list[float]]]:
    """A mask of one polygon."""
    return [[[x, y], [x + side, y], [x + side, y + side], [x, y + side]]]


def thing(id: str, kind: int, name: str, x: float, **more: Any) -> dict[str, Any]:
    return {"id": id, "class_id": kind, "name": name, "segments": square(x, 10), "exhaustive": "y", **more}


def visor(folder: Path, *frames: list[dict[str, Any]], errata: dict[str, Any] | None = None) -> Any:
    """Rows of a VISOR file with these frames, by frame and phrase, and the tally."""
    path = folder / "P01_01.json"
    listed = [
        {"image": {"name": f"f{number}.jpg", "video": "P01_01"}, "annotations": things}
        for number, things in enumerate(frames)
    ]
    path.write_text(json.dumps({"info": {}, "video_annotations": listed}))
    correct = None
    if errata is not None:
        correct = folder / "correct.json"
        correct.write_text(json.dumps(errata))
    tally = Tally()
    rows = list(read_visor([path], tally, errata=correct))
    for row in rows:
        row_from_dict(row, where="visor:1")
    assert tally.good == len(rows)
    return [
        {row["object"]: row["box"] for row in rows if row["path"] == f"P01_01/f{number}.jpg"}
        for number in range(len(frames))
    ], tally


def test_hands_what_they_hold_and_other_things_become_rows(tmp_path: Path) -> None:
    (found,), _ = visor(
        tmp_path,
        [
            thing("h", 301, "right hand", 500, in_contact_object="k"),
            thing("k", 4, "knife", 550),
            thing("a", 2, "plate", 10),
            thing("b", 2, "plate", 900),
        ],
    )
    assert found == {
        "left hand": None,
        "right hand": [500, 10, 600, 110],
        "object in the right hand": [550, 10, 650, 110],
        "knife": [550, 10, 650, 110],
    }


@pytest.mark.parametrize(
    ("touches", "expected"),
    [
        ("hand-not-in-contact", {"object in the left hand": None}),
        ("inconclusive", {}),
        ("none-of-the-above", {}),
        (None, {}),
        ("gone", {}),
    ],
)
def test_a_free_hand_holds_nothing_and_of_an_unknown_one_nothing_is_said(
    tmp_path: Path, touches: str | None, expected: dict[str, Any]
) -> None:
    (found,), _ = visor(tmp_path, [thing("h", 300, "left hand", 500, in_contact_object=touches)])
    assert found == {"left hand": [500, 10, 600, 110], "right hand": None, **expected}


def test_a_worn_glove_is_the_hand_and_a_glove_that_lies_about_a_thing(tmp_path: Path) -> None:
    frames, _ = visor(
        tmp_path,
        # A hand in a glove that holds a pan: both are the hand, the pan is what it holds.
        [
            thing("h", 301, "right hand", 500, in_contact_object="g"),
            thing("g", 304, "right glove", 580, on_which_hand=["right hand"], in_contact_object="p"),
            thing("p", 5, "pan", 700),
        ],
        # Only gloves to be seen, one with the known misspelling, one without any field.
        [
            thing("g", 60, "glove", 100, on_which_hand=["rigth hand"], in_contact_object="p"),
            thing("l", 303, "left glove", 300),
            thing("p", 5, "pan", 700),
        ],
        [thing("g", 60, "oven glove", 100, on_which_hand=None, in_contact_object=None)],
    )
    assert frames[0]["right hand"] == [500, 10, 680, 110]
    assert frames[0]["object in the right hand"] == [700, 10, 800, 110]
    assert frames[1] == {
        "left hand": [300, 10, 400, 110],
        "right hand": [100, 10, 200, 110],
        "object in the right hand": [700, 10, 800, 110],
        "pan": [700, 10, 800, 110],
    }
    assert frames[2] == {"left hand": None, "right hand": None, "oven glove": [100, 10, 200, 110]}


@pytest.mark.parametrize("second", ["right hand", "rigth hand"])
@pytest.mark.parametrize(("kind", "name"), [(60, "oven glove"), (303, "left glove")])
def test_a_glove_on_both_hands_is_the_box_of_neither_and_is_counted(
    tmp_path: Path, second: str, kind: int, name: str
) -> None:
    glove = thing("g", kind, name, 500, on_which_hand=["left hand", second], in_contact_object="p")
    pan = thing("p", 5, "pan", 700)
    broken = {**glove, "segments": [[[5, 5], [6, 6]]]}
    frames, tally = visor(
        tmp_path,
        [glove, pan],
        # A bare part of a hand in it is not the whole hand either.
        [thing("h", 300, "left hand", 450, in_contact_object="g"), glove, pan],
        # Nor is the hand in it where the glove's mask cannot be used.
        [thing("h", 300, "left hand", 450, in_contact_object="p"), broken, pan],
        [thing("h", 300, "left hand", 450, in_contact_object="p"), pan],
    )
    assert frames[:3] == [{"pan": [700, 10, 800, 110]}] * 3
    assert set(frames[3]) == {"left hand", "right hand", "object in the left hand", "pan"}
    assert tally.broken == {
        "a glove on both hands, so no rows of hands in its frame": 3,
        "a mask without an area": 1,
    }


def test_wrong_relations_are_replaced_from_the_correction_file(tmp_path: Path) -> None:
    things = [
        thing("h", 300, "left hand", 500, in_contact_object="a"),
        thing("a", 2, "plate", 10),
        thing("b", 2, "cup", 900),
    ]
    (wrong,), _ = visor(tmp_path, things)
    (right,), _ = visor(tmp_path, things, errata={"f0.jpg": {"left hand": "b"}})
    assert wrong["object in the left hand"] == [10, 10, 110, 110]
    assert right["object in the left hand"] == [900, 10, 1000, 110]


def test_a_mask_of_several_parts_has_one_box_and_a_broken_one_hides_nothing_it_may_be(tmp_path: Path) -> None:
    parts = thing("c", 2, "cup", 0)
    parts["segments"] = square(10, 20) + square(300, 400, 50)
    broken = thing("h", 300, "left hand", 0, in_contact_object="hand-not-in-contact")
    broken["segments"] = [[[5, 5], [6, 6]]]
    outside = thing("p", 2, "pan", 1900)
    (found,), tally = visor(tmp_path, [parts, broken, outside])
    # The left hand is in the frame, but not to be read: it may not be called absent, nor may the right one.
    assert found == {"cup": [10, 20, 350, 450]}
    assert tally.broken == {"a mask without an area": 1, "a mask that reaches out of its frame": 1}
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(DataError, match="not an annotation file"):
        list(read_visor([tmp_path / "x.json"], tally))
    with pytest.raises(DataError, match=r"not VISOR-HOS's correct\.json"):
        list(read_visor([], tally, errata=tmp_path / "x.json"))


@pytest.mark.parametrize(
    "broken",
    [
        {"class_id": "banana"},
        {"class_id": None},
        {"name": ...},
        {"segments": ...},
        {"in_contact_object": ["k"]},
        {"segments": 5},
        {"segments": [[[1, 2], [3], [4, 5]]]},
        {"segments": [[[1, 2], ["banana", 3], [4, 5]]]},
        {"segments": [[[1, 2], [float("nan"), 3], [4, 5]]]},
    ],
)
def test_a_broken_annotation_is_told_with_its_place_and_hides_nothing_it_may_be(
    tmp_path: Path, broken: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    values = {**thing("b", 4, "knife", 50), **broken}
    values = {name: value for name, value in values.items() if value is not ...}
    frames, tally = visor(tmp_path, [values, thing("a", 2, "plate", 10)], [thing("a", 2, "plate", 10)])
    assert frames[0] == {"plate": [10, 10, 110, 110]}
    assert set(frames[1]) == {"plate", "left hand", "right hand"}
    assert tally.broken.total() == 1
    assert "f0.jpg" in caplog.text


def test_a_broken_frame_is_told_with_its_place_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = {"name": "f.jpg", "video": "P01_01"}
    whole = {"image": image, "annotations": [thing("a", 2, "plate", 10)]}
    frames = [{"annotations": []}, {"image": image}, {"image": image, "annotations": None}, 5, whole]
    (tmp_path / "x.json").write_text(json.dumps({"video_annotations": frames}))
    tally = Tally()
    assert len(list(read_visor([tmp_path / "x.json"], tally))) == 3
    assert tally.broken == {"a frame without a name, a video or annotations": 4}
    assert "x.json, frame 2: a frame without" in caplog.text


@needs_real
def test_the_real_multiple_choice_file_is_read_whole() -> None:
    mix = mix_rows(
        [ANNOTATIONS / "egoexolearn" / "vid_vqa_video_tag_egoexolearn_video_mcq.jsonl"], shuffle=False
    )
    tally = Tally()
    assert len(mix.checked(tally)) == 6832
    assert not tally.broken
    assert len({mix[number].videos for number in range(len(mix))}) == 707


def test_the_command_writes_rows_that_training_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    visor(annotations, [thing("h", 300, "left hand", 500, in_contact_object="hand-not-in-contact")])
    out = tmp_path / "rows.jsonl"
    write_rows("visor", annotations, out)
    assert "3 rows" in capsys.readouterr().err
    mix = mix_rows([out], shuffle=False)
    assert [mix[number].box is None for number in range(len(mix))] == [False, True, True]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \.json file"):
        write_rows("visor", tmp_path / "empty", out)
    with pytest.raises(DataError, match="no such file"):
        write_rows("epic", tmp_path / "none.csv", out)
    assert len(mix_rows([out])) == 3, "what was written before is kept until the new rows are whole"


EPIC = (
    "narration_id,video_id,start_timestamp,stop_timestamp,narration\n"
    "a,v,00:00:03.00,00:00:05.50,put\n"
    "b,v,00:00:10.00,00:00:15.50,cut\n"
)


def test_what_is_read_is_never_written_over(tmp_path: Path) -> None:
    source, lengths = tmp_path / "epic.csv", tmp_path / "info.csv"
    source.write_text(EPIC)
    lengths.write_text("video_id,duration\nv,20\n")
    linked = tmp_path / "linked.csv"
    linked.symlink_to(source)
    for out in (source, tmp_path / "." / "epic.csv", linked, lengths):
        with pytest.raises(ConfigError, match="is one of the files that are read"):
            write_rows("epic", source, out, lengths=lengths)
    taxonomy = tmp_path / TAXONOMIES[0]
    taxonomy.write_text("label\ncut\n")
    with pytest.raises(ConfigError, match="is one of the files that are read"):
        write_rows("egoexolearn", source, taxonomy)
    visor(tmp_path, [], errata={})
    for out in (tmp_path / "P01_01.json", tmp_path / "correct.json"):
        for given in (tmp_path, tmp_path / "P01_01.json"):
            with pytest.raises(ConfigError, match="is one of the files that are read"):
                write_rows("visor", given, out, errata=tmp_path / "correct.json")
    (tmp_path / "00000.mp4").touch()
    with pytest.raises(ConfigError, match="is one of the files that are read"):
        write_rows("simulator", tmp_path, tmp_path / "00000.mp4")
    with pytest.raises(ConfigError, match="is a folder: name the file to write"):
        write_rows("epic", source, tmp_path)
    with pytest.raises(ConfigError, match="is a folder: name the file to write"):
        write_rows("simulator", tmp_path, tmp_path)
    assert source.read_text() == EPIC
    out = tmp_path / "rows.jsonl"
    for _ in range(2):
        write_rows("epic", source, out, lengths=lengths)
    assert len(out.read_text().splitlines()) == 2


@pytest.mark.parametrize("clip", ["0", "-5", "nan"])
def test_a_clip_without_a_length_is_refused(
    tmp_path: Path, clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "epic.csv").write_text(EPIC)
    out = tmp_path / "rows.jsonl"
    assert cli.call(["rows", "epic", str(tmp_path / "epic.csv"), str(out), "--clip", clip]) == 2
    assert capsys.readouterr().err == f"egolive: --clip is more than 0, got {clip}\n"
    assert not out.exists()


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("simulator", ["--one-answer", "--errata", "x"], "no --errata and no --one-answer"),
        ("simulator", ["--clip", "60"], "no --clip"),
        ("simulator", ["--lengths", "x"], "no --lengths"),
        ("visor", ["--seed", "0"], "no --seed"),
        ("epic", ["--errata", "x"], "no --errata"),
        ("egoexolearn", ["--errata", "x"], "no --errata"),
    ],
)
def test_an_option_that_the_kind_does_not_take_is_refused(
    kind: str, options: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["rows", kind, "source", "out.jsonl", *options]) == 2
    told = f"egolive: rows of {kind} take {named}; see egolive rows --help\n"
    assert capsys.readouterr().err == told


def test_the_help_names_the_file_and_the_columns_of_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["rows", "--help"]) == 0
    told = capsys.readouterr().out
    names = (
        "narration_id video_id start_timestamp stop_timestamp narration annotation_id video_uid start_sec "
    )
    names += (
        "end_sec verb noun narration_verb_taxonomy.csv narration_noun_taxonomy.csv duration egoexolearn: "
    )
    names += "visor: epic: simulator:"
    assert [name for name in names.split() if name not in told] == []


def test_the_command_that_makes_missing_episodes_can_be_called(tmp_path: Path) -> None:
    readers: list[Callable[[Path], object]] = [
        lambda folder: list(read_simulated(folder)),
        partial(load_simulated, height=96, width=128),
    ]
    for read in readers:
        with pytest.raises(DataError, match="no simulated episodes") as caught:
            read(tmp_path)
        (suggested,) = re.findall("`egolive (.*)`", str(caught.value))
        command, bound, _ = cli.app.parse_args(suggested, exit_on_error=False, print_error=False)
        assert command is simulate
        assert bound.args == (tmp_path,)
    (tmp_path / "00000.mp4").touch()
    with pytest.raises(DataError, match="is a file: name the folder"):
        list(read_simulated(tmp_path / "00000.mp4"))


def test_simulated_episodes_become_rows_that_can_be_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no simulated episodes"):
        list(read_simulated(tmp_path))
    simulate(tmp_path, episodes=1, fps=2, size=(128, 96), workers=1)
    values = list(read_simulated(tmp_path, seed=1))
    assert values == list(read_simulated(tmp_path, seed=1))
    rows = [row_from_dict(value, where="sim:1") for value in values]
    tasks = Counter(row.question.task for row in rows if row.question)
    assert tasks["ground"] >= 15
    assert tasks["when"] >= 1
    for row in rows:
        if row.question and row.question.task == "when" and row.interval and row.stretch:
            assert Interval(0, row.stretch.duration).iou(row.interval) > 0
    pictured = next(row for row in rows if row.time is not None)
    assert show(pictured, tmp_path, NANO).size == (128, 96)
    window = next(row for row in rows if row.stretch is not None)
    assert show(window, tmp_path, NANO).window is not None
