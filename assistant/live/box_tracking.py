"""Answers about now: boxes carried to the frame that is shown, those without a target taken away.

`streaming.tracking` follows pixels; here is what the boxes mean: a thing in a hand that stays behind when the
hand moves on is not in the hand any more. Words only grow older, which is the overlay's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from egolive.assistant.schema.answers import Answer, Question
from egolive.streaming.frames import Box, Frame
from egolive.streaming.tracking import Track, Tracker

__all__ = ["BoxTracker", "is_lost"]

_APART = 0.3
"""Share of a hand's size by which it may move against what it holds. Stirring and sawing stay below it."""


@dataclass(slots=True)
class _Carried:
    """One answer with the tracks of its boxes."""

    answer: Answer
    tracks: Sequence[Track]


class BoxTracker:
    """Carries the boxes of current answers to the newest frame. Not thread-safe."""

    def __init__(self, *, seconds: float = 8.0) -> None:
        """Start with nothing seen.

        Args:
            seconds: How old a picture may be for its boxes still to be carried; older ones count as lost.
        """
        self._seconds = seconds
        self._tracker = Tracker(seconds=seconds)
        self._carried: dict[Question, _Carried] = {}

    def carry(self, frame: Frame, answers: Sequence[Answer]) -> list[Answer]:
        """Take the frame that is shown, and the answers as the model gave them.

        Args:
            frame: The newest one; every frame that is shown has to come by here, in order.
            answers: What is current: at most one for each question.

        Returns:
            The same answers. Those with boxes have them in pixels of this frame, each with its score times
            the confidence that it is still there, and without those whose target is lost.
        """
        if frame.gap:
            self.forget()
        self._tracker.push(frame)
        self._follow(answers)
        self._let_go(frame.time)
        return [self._about_now(answer) for answer in answers]

    def forget(self) -> None:
        """Drop all frames and all tracks: what comes next has nothing to do with what was seen."""
        self._tracker.forget()
        self._carried.clear()

    def _follow(self, answers: Iterable[Answer]) -> None:
        """Follow the boxes of answers that are new in place of those that they replace."""
        wanted = {answer.question: answer for answer in answers if answer.boxes}
        for question, carried in list(self._carried.items()):
            if wanted.get(question) is not carried.answer:
                self._tracker.release(carried.tracks)
                del self._carried[question]
        new = [answer for question, answer in wanted.items() if question not in self._carried]
        for time in sorted({answer.time for answer in new}):
            group = [answer for answer in new if answer.time == time]
            # Together: taking points through the pictures since then costs little more for many.
            tracks = self._tracker.follow([box for answer in group for box in answer.boxes], time)
            for answer in group:
                count = len(answer.boxes)
                self._carried[answer.question] = _Carried(answer, (tracks or [])[:count])
                tracks = tracks and tracks[count:]

    def _let_go(self, now: float) -> None:
        """Lose what is too old, and what its hand has left behind."""
        for question, carried in self._carried.items():
            if now - carried.answer.time > self._seconds:
                self._lose(carried)
            hand = self._hand_of(question)
            if hand is None or hand.answer.time != carried.answer.time:
                continue
            for held, holding in zip(carried.tracks, hand.tracks, strict=False):
                # A hand that is lost counts where it was last seen: most are lost on their way out.
                if _apart(held, holding) > _APART:
                    self._lose(carried)

    def _hand_of(self, question: Question) -> _Carried | None:
        phrase = question.phrase.removeprefix("object in the ")
        if phrase == question.phrase or not phrase.endswith(" hand"):
            return None
        return self._carried.get(replace(question, phrase=phrase))

    def _lose(self, carried: _Carried) -> None:
        for track in carried.tracks:
            track.lose()

    def _about_now(self, answer: Answer) -> Answer:
        carried = self._carried.get(answer.question)
        if carried is None:
            return answer
        return replace(answer, boxes=tuple(_box(track) for track in carried.tracks if not track.lost))


def is_lost(answer: Answer) -> bool:
    """Whether the model found something of which the sight has been lost since."""
    found = answer.question.task == "ground" and answer.status == "ok" and not answer.absent
    return found and not answer.boxes


def _box(track: Track) -> Box:
    score = track.found.score
    # A score that nobody told is not 1: it stays unknown.
    return replace(track.box, score=None if score is None else score * track.confidence)


def _apart(held: Track, hand: Track) -> float:
    """How far a thing has moved against its hand since they were found, in sizes of the hand."""
    across, down = (
        (one - other) - (one_found - other_found)
        for one, other, one_found, other_found in zip(
            _centre(held.box), _centre(hand.box), _centre(held.found), _centre(hand.found), strict=True
        )
    )
    return math.hypot(across, down) / math.sqrt(max(hand.found.area, 1.0))


def _centre(box: Box) -> tuple[float, float]:
    return (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2
