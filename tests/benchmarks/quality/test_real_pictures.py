"""Boxes on real pictures: what counts as found, what chance gives, and what is shown over a video."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine, nano_script
from paths import REAL, needs_real
from PIL import Image as PillowImage

from egolive.assistant.cli import main as cli
from egolive.assistant.cli import options
from egolive.assistant.hands.model_file import find_model
from egolive.benchmarks.quality.real_pictures import (
    DetectorLook,
    ModelBoxes,
    labelled_pictures,
    look_at,
    measure_source,
)
from egolive.benchmarks.quality.real_scores import (
    Label,
    Labelled,
    Shown,
    difference_of,
    figures_of,
    video_figures,
)
from egolive.streaming.errors import DataError
from egolive.streaming.frames import Box, Frame
from egolive.streaming.video_writer import VideoWriter

LEFT, RIGHT = Box(0, 50, 40, 100), Box(60, 50, 100, 100)
CUP = Box(30, 60, 50, 80)


def truth(*labels: Label, found: tuple[Box, ...] = (), size: tuple[int, int] = (100, 100)) -> Labelled:
    return Labelled(size, labels, found)


def hand(box: Box, side: str) -> Label:
    return Label(box, True, (side,))


def named(box: Box, label: str) -> Box:
    return Box(box.x1, box.y1, box.x2, box.y2, label)


def test_a_hand_is_found_whatever_its_side_and_the_side_is_a_figure_of_its_own() -> None:
    crossed = (named(LEFT, "right hand"), named(RIGHT, "left hand"))
    found = figures_of([truth(hand(LEFT, "left"), hand(RIGHT, "right"), found=crossed)])
    assert (found["hand_iou30"], found["hand_iou50"], found["hand_precision"]) == (1.0, 1.0, 1.0)
    assert (found["side_acc"], found["hand_side_iou30"]) == (0.0, 0.0)
    right = (named(LEFT, "left hand"), named(RIGHT, "right hand"))
    found = figures_of([truth(hand(LEFT, "left"), hand(RIGHT, "right"), found=right)])
    assert (found["side_acc"], found["hand_side_iou30"], found["hand_iou30_n"]) == (1.0, 1.0, 2)


def test_two_boxes_on_one_hand_find_one_hand_and_one_is_wrong() -> None:
    twice = (named(LEFT, "left hand"), named(Box(2, 52, 40, 100), "right hand"))
    found = figures_of([truth(hand(LEFT, "left"), hand(RIGHT, "right"), found=twice)])
    assert (found["hand_iou30"], found["hand_precision"]) == (0.5, 0.5)


def test_a_box_that_lies_poorly_is_found_at_three_tenths_alone() -> None:
    half = Box(0, 50, 40, 70)
    assert LEFT.iou(half) == pytest.approx(0.4)
    found = figures_of([truth(hand(LEFT, "left"), found=(named(half, "left hand"),))])
    assert (found["hand_iou30"], found["hand_iou50"], found["hand_miou"]) == (1.0, 0.0, 0.4)


def test_held_things_belong_to_the_hand_that_holds_them() -> None:
    cup = Label(CUP, False, ("left",))
    mine = truth(hand(LEFT, "left"), cup, found=(named(CUP, "object in the left hand"),))
    other = truth(hand(LEFT, "left"), cup, found=(named(CUP, "object in the right hand"),))
    both = truth(Label(CUP, False, ("left", "right")), found=other.found)
    assert [figures_of([one])["object_iou30"] for one in (mine, other, both)] == [1.0, 0.0, 1.0]
    # It is no hand.
    assert figures_of([mine])["hand_precision"] is None


def test_boxes_in_pictures_without_hands_are_counted_and_unknown_without_such_pictures() -> None:
    labelled = truth(hand(LEFT, "left"), found=(named(LEFT, "left hand"),))
    free = truth(found=(named(LEFT, "left hand"), named(CUP, "object in the left hand")))
    found = figures_of([labelled, free, truth()])
    assert (found["false_hand_boxes"], found["hand_free_n"], found["n"]) == (1, 2, 3)
    assert found["hand_precision"] == 1.0
    assert figures_of([labelled])["false_hand_boxes"] is None


def test_the_control_takes_the_boxes_of_all_other_pictures_in_this_ones_size() -> None:
    one = truth(hand(LEFT, "left"), found=(named(LEFT, "left hand"),))
    # The same place of a picture twice as large, and another place.
    same = truth(
        hand(Box(0, 100, 80, 200), "left"), found=(named(Box(0, 100, 80, 200), "left hand"),), size=(200, 200)
    )
    away = truth(hand(RIGHT, "right"), found=(named(RIGHT, "right hand"),))
    control = figures_of([one, same, away])["shuffled"]
    assert control["hand_iou30"] == pytest.approx(2 / 6, abs=1e-4)
    assert figures_of([one])["shuffled"]["hand_iou30"] is None


def test_a_video_is_measured_by_what_is_shown() -> None:
    steady, jumped = named(LEFT, "left hand"), named(RIGHT, "left hand")
    shown = [
        Shown(0.0, ()),
        Shown(0.1, ((steady, 0.1),)),
        Shown(0.2, ((steady, 0.5),)),
        Shown(0.3, ((jumped, 0.1),)),
        Shown(0.4, ()),
    ]
    found = video_figures(shown)
    assert (found["pictures"], found["pictures_per_s"]) == (5, 10.0)
    assert (found["hand_share"], found["fresh_share"]) == (0.6, 0.4)
    # It stays once, jumps once, and vanishes once.
    assert found["flicker"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["age_p95"] == pytest.approx(0.46)
    assert video_figures([])["hand_share"] is None


def folder_of(tmp_path: Path, entries: list[dict[str, object]]) -> Path:
    for name in ("a.png", "b.png"):
        PillowImage.fromarray(np.full((50, 100, 3), 90, np.uint8)).save(tmp_path / name)
    (tmp_path / "hand_object_boxes.json").write_text(json.dumps(entries))
    return tmp_path


ENTRY = {
    "image": "a.png",
    "width": 200,
    "height": 100,
    "boxes": [
        {"label": "hand", "side": "right", "xyxy": [100, 50, 150, 100]},
        {"label": "mug", "side": "both", "xyxy": [1, 2, 3, 4]},
    ],
}


def test_labels_are_read_in_the_size_of_the_picture_itself(tmp_path: Path) -> None:
    ((first, labels), (_, none)) = labelled_pictures(
        folder_of(tmp_path, [ENTRY, {"image": "b.png", "width": 100, "height": 50, "boxes": []}])
    )
    assert (first.width, first.height) == (100, 50)
    assert tuple(labels[0].box) == (50, 25, 75, 50)
    assert (labels[0].hand, labels[0].sides, labels[1].hand, labels[1].sides) == (
        True,
        ("right",),
        False,
        ("left", "right"),
    )
    assert none == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "c.png"}, "is not there"),
        ({"width": 0}, "no labelled picture"),
        ({"boxes": [{"label": "hand", "side": "up", "xyxy": [1, 2, 3, 4]}]}, "no labelled picture"),
        ({"boxes": [{"label": "hand", "side": "left", "xyxy": [1, 2, 3]}]}, "no labelled picture"),
        ({"boxes": None}, "no labelled picture"),
    ],
)
def test_labels_that_cannot_be_understood_are_one_line(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        labelled_pictures(folder_of(tmp_path, [{**ENTRY, **change}]))
    assert "entry 1" in str(error.value)


def test_the_command_measures_a_folder_with_labels_a_video_and_hand_free_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine(nano_script)
    monkeypatch.setattr(options, "load_any_engine", lambda *_, **__: engine)
    folder = folder_of(tmp_path, [ENTRY])
    with VideoWriter(folder / "clip.mp4") as writer:
        for index in range(10):
            writer.write(np.full((90, 160, 3), 60 + index, np.uint8), index / 10)
    free = tmp_path / "free"
    free.mkdir()
    PillowImage.fromarray(np.full((50, 100, 3), 30, np.uint8)).save(free / "street.png")
    out = tmp_path / "real.json"
    command = ["bench", "real", str(folder), "--hand-free", str(free), "--json", str(out)]
    assert cli.call([*command, "--hands", "model"]) == 0
    found = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    # It always finds a right hand in the lower right quarter.
    assert (found["hand_iou30"], found["hand_iou50"], found["side_acc"], found["hand_precision"]) == (
        1.0,
        1.0,
        1.0,
        1.0,
    )
    assert (found["false_hand_boxes"], found["n"], found["object_iou30"]) == (1, 2, 0.0)
    assert found["sources"][0]["source"] == "nano"
    assert found["sources"][0]["videos"]["clip.mp4"]["pictures"] > 0


def test_with_the_detector_what_it_does_not_see_is_no_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine(nano_script)
    monkeypatch.setattr(options, "load_any_engine", lambda *_, **__: engine)
    out = tmp_path / "real.json"
    assert cli.call(["bench", "real", str(folder_of(tmp_path, [ENTRY])), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [entry["source"] for entry in found["sources"]] == [
        "nano + detector",
        "nano",
        "detector, one look",
    ]
    # One grey picture: the model says that there is a hand, the detector sees none.
    assert (found["hand_iou30"], found["hand_precision_n"]) == (0.0, 0)
    assert found["sources"][1]["hand_iou30"] == 1.0
    assert found["sources"][1]["ahead_of_one_look"] == {
        "hand_iou30": 1.0,
        "hand_iou30_ci": [1.0, 1.0],
        "hand_iou50": 1.0,
        "hand_iou50_ci": [1.0, 1.0],
    }
    assert "nano + det" in capsys.readouterr().err


def test_sources_are_compared_hand_by_hand() -> None:
    both = (hand(LEFT, "left"), hand(RIGHT, "right"))
    one = [truth(*both, found=(named(LEFT, "left hand"),)), truth(*both)]
    other = [truth(*both), truth(*both, found=(named(LEFT, "left hand"), named(RIGHT, "right hand")))]
    found = difference_of(one, other)
    assert found["hand_iou30"] == pytest.approx(-0.25)
    assert found["hand_iou30_ci"] == [-1.0, 0.5]


@needs_real
def test_the_detector_finds_the_hands_of_the_shared_frames() -> None:
    pictures = labelled_pictures(REAL / "images", REAL / "annotations" / "hand_object_boxes.json")
    file = find_model()
    assert file is not None
    found = figures_of(look_at(DetectorLook(file), pictures))
    assert found["hand_iou30"] >= 0.65
    assert found["hand_precision"] >= 0.9


def test_a_folder_without_labels_and_videos_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["bench", "real", str(tmp_path)]) == 1
    assert "name the labels with --boxes" in capsys.readouterr().err
    assert cli.call(["bench", "real", str(tmp_path / "missing")]) == 2
    assert "is no folder" in capsys.readouterr().err


@needs_real
def test_the_shared_frames_are_read_and_measured() -> None:
    pictures = labelled_pictures(REAL / "images", REAL / "annotations" / "hand_object_boxes.json")
    assert len(pictures) == 7
    assert sum(label.hand for _, labels in pictures for label in labels) == 14

    class Truth:
        """Finds what the labels say."""

        name = "labels"

        def find(self, frame: Frame) -> tuple[Box, ...]:
            labels = pictures[frame.index][1]
            hands = [named(one.box, f"{one.sides[0]} hand") for one in labels if one.hand]
            held = [
                named(one.box, f"object in the {side} hand")
                for one in labels
                if not one.hand
                for side in one.sides[:1]
            ]
            return (*hands, *held)

        def watch(self, video: Path, seconds: float) -> list[Shown]:
            return []

    found = measure_source(Truth(), look_at(Truth(), pictures), [], 1.0)
    assert (found["hand_iou50"], found["hand_precision"], found["side_acc"], found["object_iou50"]) == (
        1,
        1,
        1,
        1,
    )
    assert found["shuffled"]["hand_iou50"] < 0.3


def test_a_model_is_asked_for_both_hands_and_what_they_hold() -> None:
    source = ModelBoxes(FakeEngine(nano_script), "fake")
    boxes = source.find(Frame(np.full((100, 200, 3), 90, np.uint8), 0.0, 0))
    assert [box.label for box in boxes] == ["right hand", "object in the right hand"]
    assert source.looks == 1
