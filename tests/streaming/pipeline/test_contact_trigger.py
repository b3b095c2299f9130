"""The trigger on drawn pictures: a hand is a patch that moves over a textured scene."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import cv2
import numpy as np
import pytest

from egolive.streaming.frames import Box, Frame
from egolive.streaming.pipeline.contact_trigger import ContactTrigger

_WIDTH, _HEIGHT, _HAND = 320, 180, 40
_STEP = 0.1


def _texture(seed: int, width: int, height: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


_SCENE, _PATCH = _texture(1, 2 * _WIDTH, _HEIGHT), _texture(2, _HAND, _HAND)


def _frames(
    places: Iterable[tuple[int, int] | None], *, pan: int = 0, gap_at: int | None = None
) -> Iterator[tuple[Frame, Box | None]]:
    """A picture every tenth of a second, with a patch at a place, and its box."""
    for index, place in enumerate(places):
        picture = np.roll(_SCENE, -pan * index, axis=1)[:, :_WIDTH].copy()
        box = None
        if place is not None:
            x, y = place
            picture[y : y + _HAND, x : x + _HAND] = _PATCH
            box = Box(x, y, x + _HAND, y + _HAND)
        yield Frame(picture, index * _STEP, index, gap=index == gap_at), box


def _told(
    frames: Iterable[tuple[Frame, Box | None]], *, known: bool = True, watched: bool = False
) -> dict[float, str]:
    """What the trigger says, by the time at which it does."""
    trigger = ContactTrigger()
    found = {}
    for frame, box in frames:
        hands = {"right hand": box} if known and box is not None else {}
        if reason := trigger.push(frame, hands, watched=watched):
            found[round(frame.time, 1)] = reason
    return found


_REST = [(100, 60)] * 8
_REACH = [(100 + 16 * step, 60) for step in range(6)]
_THERE = [(180, 60)] * 8


def test_a_hand_that_comes_to_rest_is_told_once_it_has_settled() -> None:
    # Seen at rest first, then on its way from 0.8 to 1.3 s, at rest again in the picture of 1.4 s.
    told = _told(_frames([*_REST, *_REACH[1:], *_THERE]))
    assert list(told.values()) == ["the right hand has come to rest"] * 2
    assert list(told)[1] == pytest.approx(1.5, abs=0.11)


def test_a_hand_that_slows_down_on_its_way_is_told() -> None:
    slow = [(180 + step, 60) for step in range(4)]
    away = [(183 + 16 * step, 60) for step in range(1, 5)]
    told = _told(_frames([*_REACH, *slow, *away]), watched=True)
    assert list(told.values()) == ["the right hand has come to rest"]


def test_a_head_that_turns_is_no_movement_of_hands() -> None:
    # The whole picture moves by 0.5 of its width a second, the hand with it.
    places = [(200 - 16 * index, 60) for index in range(10)]
    told = _told(_frames(places, pan=16))
    # The first rest is that of a hand that has just come into sight.
    assert list(told) == [pytest.approx(0.4, abs=0.11)]


def test_a_box_that_jumps_is_no_movement() -> None:
    trigger = ContactTrigger()
    told = []
    for index, (frame, box) in enumerate(_frames(_REST * 3)):
        assert box is not None
        moved = 20.0 if index % 4 < 2 else -20.0
        given = Box(box.x1 + moved, box.y1, box.x2 + moved, box.y2)
        told.append(trigger.push(frame, {"left hand": given}))
    assert [reason for reason in told if reason] == ["the left hand has come to rest"]


def test_what_moves_where_no_hand_is_known_counts_unless_a_detector_looks() -> None:
    entering = [*[None] * 5, *_REACH, *_THERE]
    told = _told(_frames(entering), known=False)
    # What it does within half a second is one reason to ask, the first.
    assert list(told.values()) == ["something moves"]
    longer = [*[None] * 5, *[(100 + 14 * step, 60) for step in range(12)], *[(254, 60)] * 8]
    told = _told(_frames(longer), known=False)
    assert list(told.values()) == ["something moves", "something has come to rest"]
    assert _told(_frames(entering), known=False, watched=True) == {}


def test_a_hand_lost_in_the_middle_is_told_and_one_that_leaves_is_not() -> None:
    lost = [*_REST, *[None] * 6]
    told = _told(_frames(lost), watched=True)
    assert list(told.values())[1:] == ["the right hand is lost from sight"]
    leaves = [*[(280, 60)] * 8, *[None] * 6]
    assert len(_told(_frames(leaves), watched=True)) == 1


def test_contacts_close_together_are_one() -> None:
    trigger = ContactTrigger()
    times = []
    for index, (frame, box) in enumerate(_frames([(100 + 16 * (index % 2), 60) for index in range(40)])):
        assert box is not None
        if trigger.push(frame, {f"hand {index // 2}": box}, watched=True):
            times.append(frame.time)
    assert times
    assert all(later - earlier >= 0.7 - 1e-6 for earlier, later in pairwise(times))


def test_a_gap_begins_anew_even_where_no_frame_says_so() -> None:
    # Behind a gap the hand has just come into sight again.
    assert len(_told(_frames([*_REST, *_REST], gap_at=len(_REST)))) == 2
    trigger = ContactTrigger()
    for frame, _ in _frames(_REST[:6]):
        trigger.push(frame, {"right hand": Box(100, 60, 140, 100)})
    late = Frame(_SCENE[:, :_WIDTH].copy(), 10.0, 100)
    assert trigger.push(late, {}) is None
    # Times that run back begin anew, too, and do not end it.
    told = [trigger.push(frame, {"right hand": Box(100, 60, 140, 100)}) for frame, _ in _frames(_REST)]
    assert [reason for reason in told if reason] == ["the right hand has come to rest"]


def test_pictures_between_two_looks_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    trigger = ContactTrigger()
    reasons = ContactTrigger._reasons

    def counted(self: ContactTrigger, *given: object, **named: object) -> list[str]:
        looked.append(given)
        return reasons(self, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ContactTrigger, "_reasons", counted)
    for index in range(31):
        trigger.push(Frame(_SCENE[:, :_WIDTH].copy(), index / 30, index), {})
    assert len(looked) == 10
