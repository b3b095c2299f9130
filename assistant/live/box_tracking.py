"""Box tracking: moves the boxes of answers to the frame that is shown, and drops boxes whose target is lost.

`egolive.streaming.tracking` tracks pixels. Here a held object counts as lost when its hand has moved away
from it, and boxes of old pictures are dropped. Texts are not changed; the overlay shows their age.
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
"""Distance that a hand may move against the object in it, in sizes of the hand. Stirring stays below it."""


@dataclass(slots=True)
class _TrackedAnswer:
    """An answer with the tracks of its boxes."""

    answer: Answer
    tracks: Sequence[Track]


class BoxTracker:
    """Tracks the boxes of current answers to the newest frame. Not thread-safe."""

    def __init__(self, *, seconds: float = 8.0) -> None:
        """Start without frames.

        Args:
            seconds: Largest age of a picture whose boxes are tracked; older boxes count as lost.
        """
        self._seconds = seconds
        self._tracker = Tracker(seconds=seconds)
        self._tracked: dict[Question, _TrackedAnswer] = {}

    def carry(self, frame: Frame, answers: Sequence[Answer]) -> list[Answer]:
        """Move the boxes of answers to a frame.

        Args:
            frame: The newest one; every frame that is shown has to be given here, in order.
            answers: What is current: at most one for each question.

        Returns:
            The same answers. Those with boxes have them in pixels of this frame, each with its score times
            the confidence that it is still there, and without those whose target is lost.
        """
        if frame.gap:
            self.forget()
        self._tracker.push(frame)
        self._follow(answers)
        self._drop_lost(frame.time)
        return [self._moved(answer, frame.time) for answer in answers]

    def forget(self) -> None:
        """Drop all frames and tracks, for a stream that begins anew."""
        self._tracker.forget()
        self._tracked.clear()

    def _follow(self, answers: Iterable[Answer]) -> None:
        """Start tracks for new answers, and end those of the answers that they replace."""
        wanted = {answer.question: answer for answer in answers if answer.boxes}
        for question, tracked in list(self._tracked.items()):
            if wanted.get(question) is not tracked.answer:
                self._tracker.release(tracked.tracks)
                del self._tracked[question]
        new = [answer for question, answer in wanted.items() if question not in self._tracked]
        for time in sorted({answer.time for answer in new}):
            group = [answer for answer in new if answer.time == time]
            # Together: taking points through the pictures since then costs little more for many.
            tracks = self._tracker.follow([box for answer in group for box in answer.boxes], time)
            for answer in group:
                count = len(answer.boxes)
                self._tracked[answer.question] = _TrackedAnswer(answer, (tracks or [])[:count])
                tracks = tracks and tracks[count:]

    def _drop_lost(self, now: float) -> None:
        """End the tracks of boxes that are too old, and of objects that their hand has left."""
        for question, tracked in self._tracked.items():
            if now - tracked.answer.time > self._seconds:
                self._lose(tracked)
            hand = self._hand_of(question)
            if hand is None or hand.answer.time != tracked.answer.time:
                continue
            for held, holding in zip(tracked.tracks, hand.tracks, strict=False):
                # A hand that is lost counts where it was last seen: most are lost on their way out.
                if _apart(held, holding) > _APART:
                    self._lose(tracked)

    def _hand_of(self, question: Question) -> _TrackedAnswer | None:
        phrase = question.phrase.removeprefix("object in the ")
        if phrase == question.phrase or not phrase.endswith(" hand"):
            return None
        return self._tracked.get(replace(question, phrase=phrase))

    def _lose(self, tracked: _TrackedAnswer) -> None:
        for track in tracked.tracks:
            track.lose()

    def _moved(self, answer: Answer, now: float) -> Answer:
        tracked = self._tracked.get(answer.question)
        if tracked is None:
            return answer
        carried = now > answer.time
        boxes = tuple(_box(track, carried=carried) for track in tracked.tracks if not track.lost)
        return replace(answer, boxes=boxes)


def is_lost(answer: Answer) -> bool:
    """Whether the model found something whose tracks have all been lost since."""
    found = answer.question.task == "ground" and answer.status == "ok" and not answer.absent
    return found and not answer.boxes and not answer.unknown


def _box(track: Track, *, carried: bool) -> Box:
    score = track.found.score
    # A score that nobody told is not 1: it stays unknown.
    box = replace(track.box, score=None if score is None else score * track.confidence)
    return replace(box, by="tracker", found_by=track.found.finder) if carried else box


def _apart(held: Track, hand: Track) -> float:
    """How far an object has moved against its hand since both were found, in sizes of the hand."""
    across, down = (
        (one - other) - (one_found - other_found)
        for one, other, one_found, other_found in zip(
            _centre(held.box), _centre(hand.box), _centre(held.found), _centre(hand.found), strict=True
        )
    )
    return math.hypot(across, down) / math.sqrt(max(hand.found.area, 1.0))


def _centre(box: Box) -> tuple[float, float]:
    return (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2
