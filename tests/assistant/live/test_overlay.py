"""What is drawn on the picture, and that no text covers another."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egolive.assistant.live.overlay import Rectangle, age_badge, colour_of, draw, place_labels, status_line
from egolive.assistant.schema.answers import Answer, Question
from egolive.streaming.frames import Box, Frame


def frame(width: int = 448, height: int = 252) -> Frame:
    return Frame(np.full((height, width, 3), 90, np.uint8), 10.0, 300)


def grounded(phrase: str, *boxes: Box, time: float = 10.0) -> Answer:
    return Answer(Question("ground", phrase), "", boxes=boxes, absent=not boxes, time=time)


def words(task: str, text: str, time: float = 10.0) -> Answer:
    return Answer(Question(task), text, time=time)  # type: ignore[arg-type]


HAND = Box(200, 120, 300, 220, "right hand", 0.9)


def test_the_frame_itself_is_left_alone_and_the_size_kept() -> None:
    shown = frame()
    picture = draw(shown, [grounded("right hand", HAND), words("intent", "make tea")], 10.0)
    assert picture.shape == shown.image.shape
    assert (shown.image == 90).all()
    assert (picture != 90).any()


def test_a_box_has_the_colour_of_its_role_as_rgb() -> None:
    picture = draw(frame(), [grounded("right hand", HAND)], 10.0)
    assert tuple(picture[200, 200]) == colour_of("right hand")
    assert tuple(picture[170, 250]) == (90, 90, 90)


def test_hands_and_held_objects_have_four_different_colours() -> None:
    phrases = ("left hand", "right hand", "object in the left hand", "object in the right hand", "red mug")
    assert len({colour_of(phrase) for phrase in phrases}) == 5


def test_a_box_turns_grey_with_age() -> None:
    def strength(now: float) -> int:
        red, green, blue = (
            int(value) for value in draw(frame(), [grounded("right hand", HAND)], now)[200, 200]
        )
        return max(red, green, blue) - min(red, green, blue)

    assert strength(10.5) > strength(12.5) > strength(14.5)


@pytest.mark.parametrize(
    ("width", "height"),
    [(448, 252), (1920, 1080), (252, 448), (64, 64), (33, 17), (8, 8)],
    ids=lambda value: str(value),
)
def test_any_picture_size_can_be_drawn_on(width: int, height: int) -> None:
    answers = [
        words("intent", "make a cup of tea with honey and carry it over to the table " * 3),
        words("next", "pour"),
        grounded("right hand", Box(width / 2, height / 2, width - 1, height - 1, "right hand", 0.5)),
        grounded("left hand"),
    ]
    assert draw(frame(width, height), answers, 11.0).shape == (height, width, 3)


def test_a_box_beyond_the_picture_is_cut_at_its_edge() -> None:
    picture = draw(frame(), [grounded("right hand", Box(300, 150, 900, 700, "right hand"))], 10.0)
    assert tuple(picture[251, 350]) == colour_of("right hand")


def test_the_words_stand_in_a_dark_bar_that_leaves_most_of_the_picture_free() -> None:
    picture = draw(frame(), [words("intent", "make tea " * 20), words("next", "pour the water " * 20)], 10.0)
    changed = np.flatnonzero((picture != 90).any(axis=(1, 2)))
    assert changed[0] == 0
    assert 30 < changed[-1] < 252 / 2


def test_many_answers_never_fill_more_than_half_of_the_picture() -> None:
    asked = [Answer(Question("ask", f"question {i}"), "a long answer " * 10, time=10.0) for i in range(30)]
    picture = draw(frame(), asked, 10.0)
    assert (picture[252 // 2 :] == 90).all()


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], "waiting for the first answer"),
        ([words("intent", "x", time=8.0)], "words 2.0 s old"),
        ([grounded("left hand", HAND, time=9.5)], "scores uncalibrated"),
        ([replace(grounded("left hand", HAND, time=9.5), calibrated=True)], ""),
        ([grounded("left hand")], "no left hand"),
        (
            [replace(grounded("left hand", HAND), calibrated=True), grounded("object in the left hand")],
            "left hand empty",
        ),
        ([grounded("left hand"), grounded("object in the left hand")], "no left hand"),
    ],
    ids=[
        "nothing yet",
        "words",
        "boxes",
        "calibrated boxes",
        "no hand",
        "empty hand",
        "no hand, so nothing in it",
    ],
)
def test_the_status_tells_ages_and_what_is_not_there(answers: list[Answer], expected: str) -> None:
    assert status_line(answers, 10.0) == expected


def test_an_answer_that_was_not_understood_is_told_as_such() -> None:
    answer = Answer(Question("ground", "left hand"), "banana", status="unparsed", time=10.0)
    assert status_line([answer], 10.0).endswith("left hand ?")


def test_what_is_out_of_sight_is_told_as_lost() -> None:
    lost = Answer(Question("ground", "left hand"), "(1,2),(3,4)", time=10.0)
    assert status_line([lost], 10.0) == "left hand lost"


def test_the_badge_tells_the_oldest_boxes_and_reddens_with_age() -> None:
    assert age_badge([words("intent", "x", time=1.0)], 10.0) is None
    colours = []
    for age in (0.4, 2.4, 4.9):
        found = age_badge(
            [grounded("left hand", HAND, time=10.0 - age), grounded("mug", HAND, time=9.9)], 10.0
        )
        assert found is not None
        assert found[0] == f"boxes {age:.1f} s"
        colours.append(found[1])
    assert len(set(colours)) == 3
    drawn = draw(frame(), [grounded("left hand", HAND, time=5.1)], 10.0)
    assert (drawn[:40] == colours[-1]).all(-1).any()


corners = st.floats(-50, 500)
boxes = st.builds(Box, corners, corners, corners, corners)
sizes = st.tuples(st.integers(1, 200), st.integers(1, 40))


@given(st.lists(st.tuples(boxes, sizes), max_size=12), st.integers(0, 200))
def test_labels_stay_inside_and_never_overlap(labels: list[tuple[Box, tuple[int, int]]], top: int) -> None:
    area = (0, top, 448, 252 - top)
    placed = [r for r in place_labels([b for b, _ in labels], [s for _, s in labels], area) if r is not None]
    for x, y, width, height in placed:
        assert x >= 0
        assert x + width <= 448
        assert top <= y
        assert y + height <= 252
    assert not any(overlap(a, b) for a, b in combinations(placed, 2))


def test_five_boxes_in_one_place_all_get_their_label() -> None:
    placed = place_labels([HAND] * 5, [(90, 20)] * 5, (0, 60, 448, 192))
    assert all(placed)


def overlap(a: Rectangle, b: Rectangle) -> bool:
    columns = set(range(a[0], a[0] + a[2])) & set(range(b[0], b[0] + b[2]))
    rows = set(range(a[1], a[1] + a[3])) & set(range(b[1], b[1] + b[3]))
    return bool(columns and rows)
