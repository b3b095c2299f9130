"""The detector on real pictures, and what it does with what its networks say."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from paths import REAL, needs_real
from PIL import Image as PillowImage

from egolive.assistant.hands.detector import MediaPipeHands, crops, sides_of, to_hands
from egolive.assistant.hands.hand_landmarks import FoundHand
from egolive.assistant.hands.model_file import find_model, has_runtime, read_networks
from egolive.assistant.model.media import load_video
from egolive.streaming.errors import ConfigError, EngineError
from egolive.streaming.frames import Box, Image

needs_hands = pytest.mark.skipif(
    not has_runtime() or find_model() is None, reason="the hand detector or its model is not installed"
)


def joints(x: float, y: float = 50.0) -> np.ndarray:
    steps = np.arange(21, dtype=np.float32)
    return np.stack([x + steps, y + 2 * steps], axis=1)


def test_of_two_hands_the_left_one_is_left_whatever_they_look_like() -> None:
    one, other = FoundHand(joints(200), 0.9, right=0.1), FoundHand(joints(20), 0.8, right=0.9)
    assert sides_of([one, other]) == ["right", "left"]
    assert sides_of([other, one]) == ["left", "right"]


@pytest.mark.parametrize(("right", "side"), [(0.1, "left"), (0.9, "right")])
def test_a_single_hand_is_what_it_looks_like(right: float, side: str) -> None:
    assert sides_of([FoundHand(joints(20), 0.9, right)]) == [side]


def test_a_box_is_a_tenth_wider_than_its_joints_and_inside_the_picture() -> None:
    (hand,) = to_hands([FoundHand(joints(100), 0.75, 0.9)], 320, 180)
    # Joints from (100, 50) to (120, 90): 1 and 2 pixels more on each side.
    assert [*hand.box] == pytest.approx([99, 48, 121, 92])
    assert (hand.box.label, hand.box.score, hand.box.by) == ("right hand", 0.75, "detector")
    assert hand.landmarks[0] == (100, 50)
    assert len(hand.landmarks) == 21
    (cut,) = to_hands([FoundHand(joints(310, 160), 0.75, 0.9)], 320, 180)
    assert [*cut.box] == pytest.approx([309, 158, 320, 180])
    assert to_hands([FoundHand(joints(400), 0.75, 0.9)], 320, 180) == []


@pytest.mark.parametrize(
    ("size", "centres", "side"),
    [
        ((320, 180), [(90, 90), (160, 90), (230, 90)], 180),
        ((180, 320), [(90, 90), (90, 160), (90, 230)], 180),
        ((200, 200), [(70, 70), (130, 70), (70, 130), (130, 130)], 140),
    ],
    ids=["wide", "tall", "square"],
)
def test_squares_cover_the_picture(
    size: tuple[int, int], centres: list[tuple[float, float]], side: float
) -> None:
    found = list(crops(*size))
    assert [(round(one.x, 3), round(one.y, 3)) for one in found] == centres
    assert {round(one.side, 3) for one in found} == {side}


@cache
def labelled() -> list[tuple[Image, list[tuple[Box, str]]]]:
    rows = json.loads((REAL / "annotations" / "hand_object_boxes.json").read_text(encoding="utf-8"))
    found = []
    for row in rows:
        with PillowImage.open(REAL / "images" / row["image"]) as picture:
            image = np.asarray(picture.convert("RGB"))
        hands = [(Box(*one["xyxy"]), one["side"]) for one in row["boxes"] if one["label"] == "hand"]
        found.append((image, hands))
    return found


@needs_hands
@needs_real
def test_hands_of_real_pictures_are_found_with_their_sides() -> None:
    detector = MediaPipeHands(model())
    hits = right_side = boxes = true_boxes = count = 0
    for image, truths in labelled():
        found = detector.detect(image)
        assert len(found) <= 2
        count += len(truths)
        boxes += len(found)
        true_boxes += sum(any(hand.box.iou(truth) >= 0.3 for truth, _ in truths) for hand in found)
        for truth, side in truths:
            best = max(found, key=lambda hand: hand.box.iou(truth), default=None)
            if best is not None and best.box.iou(truth) >= 0.3:
                hits += 1
                right_side += best.side == side
    # 14 of 14, 14 of 14 and 14 of 14 when this was written; the labels are by eye, within ten pixels.
    assert hits >= 0.85 * count
    assert true_boxes >= 0.9 * boxes
    assert right_side >= 0.9 * hits


@needs_hands
@needs_real
def test_the_second_look_finds_hands_that_the_first_one_misses() -> None:
    once, twice = (
        sum(len(detector.detect(image)) for image, _ in labelled())
        for detector in (MediaPipeHands(model(), again=False), MediaPipeHands(model()))
    )
    assert twice > once


@needs_hands
@needs_real
def test_a_hand_that_fills_the_picture_is_found_once() -> None:
    with PillowImage.open(REAL / "images" / "roboflow_hand_fist.png") as picture:
        image = np.asarray(picture.convert("RGB"))
    (hand,) = MediaPipeHands(model()).detect(image)
    assert hand.side == "right"


@needs_hands
@needs_real
def test_a_street_without_hands_has_none() -> None:
    frames = load_video(REAL / "video" / "codec" / "rf_example_video.mp4", nframes=16)
    detector = MediaPipeHands(model())
    # None when this was written; processors differ in the last digits.
    assert sum(bool(detector.detect(frame.image)) for frame in frames) <= 1


@needs_hands
@pytest.mark.parametrize("kind", ["black", "white", "noise", "tiny", "line"])
def test_pictures_without_hands_have_none(kind: str) -> None:
    size = {"tiny": (1, 1), "line": (1, 600)}.get(kind, (90, 160))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    if kind in ("black", "white"):
        image[:] = 0 if kind == "black" else 255
    assert MediaPipeHands(model()).detect(image) == []


@needs_hands
@needs_real
def test_in_a_stream_a_hand_is_followed_without_searching_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both hands of this picture are found by the first look.
    image, _ = labelled()[2]
    detector = MediaPipeHands(model(), stream=True)
    first = detector.detect(image)
    assert [hand.side for hand in first] == ["left", "right"]
    searched = 0
    search = detector._search

    def counted(*given: object) -> object:
        nonlocal searched
        searched += 1
        return search(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(detector, "_search", counted)
    again = detector.detect(image)
    assert searched == 0
    assert all(one.box.iou(two.box) > 0.7 for one, two in zip(first, again, strict=True))
    detector.detect(np.zeros_like(image))
    assert searched > 0
    searched = 0
    detector.detect(image)
    detector.forget()
    detector.detect(image)
    assert searched >= 2


@needs_hands
@needs_real
def test_in_a_stream_a_hand_that_is_not_sure_is_told_with_the_next_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, _ = labelled()[2]
    once = MediaPipeHands(model()).detect(image)
    assert len(once) == 2
    # Nothing is as sure as this.
    monkeypatch.setattr("egolive.assistant.hands.detector._SURE", 1.1)
    detector = MediaPipeHands(model(), stream=True)
    assert detector.detect(image) == []
    assert [hand.side for hand in detector.detect(image)] == ["left", "right"]
    # One that is gone by then was never told.
    detector.forget()
    assert detector.detect(image) == []
    assert detector.detect(np.zeros_like(image)) == []
    # A picture that stands alone is told as it is.
    assert MediaPipeHands(model()).detect(image) == once


@needs_hands
def test_a_detector_that_is_closed_says_so() -> None:
    detector = MediaPipeHands(model())
    detector.close()
    detector.close()
    with pytest.raises(EngineError, match="closed"):
        detector.detect(np.zeros((90, 160, 3), np.uint8))


@needs_hands
def test_other_networks_are_refused(tmp_path: Path) -> None:
    palms, hands = read_networks(model())
    for name, first, second in (("swapped", hands, palms), ("damaged", b"no network", hands)):
        with ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("hand_detector.tflite", first)
            archive.writestr("hand_landmarks_detector.tflite", second)
        with pytest.raises(ConfigError, match=r"give hand_landmarker\.task"):
            MediaPipeHands(tmp_path / name)


def model() -> Path:
    found = find_model()
    assert found is not None
    return found
