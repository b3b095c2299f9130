"""Turns a model's own scores into probabilities that were measured, by the calibration in its profile.

`egolive calibrate` measures them. The kinds of answers are the same there and here.
"""

from __future__ import annotations

from dataclasses import replace

from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.profiles import Calibration
from egolive.streaming.frames import Box

__all__ = ["KINDS", "calibrated", "kind_of"]

KINDS = {
    "hand": "a box of a hand has an IoU of 0.5 or more with the hand",
    "object": "a box of what a hand holds has an IoU of 0.5 or more with it",
    "box": "a box of anything else has an IoU of 0.5 or more with it",
    "none": "what was looked for is not there",
    "intent": "the words are the true ones",
    "next": "the words are the true ones",
    "when": "an interval has an IoU of 0.5 or more with the true one",
}
"""Kinds of answers, with what the probability of each is of."""

_HANDS = ("left hand", "right hand")


def kind_of(answer: Answer) -> str | None:
    """The kind of an answer; None for free questions and for what could not be read."""
    if answer.status not in ("ok", "expired"):
        return None
    if answer.question.task == "ground":
        return "none" if answer.absent else _box_kind(answer.question) if answer.boxes else None
    if answer.question.task == "when":
        return "when" if answer.intervals else None
    return answer.question.task if answer.question.task in ("intent", "next") else None


def calibrated(answer: Answer, calibration: Calibration | None) -> Answer:
    """The answer with measured probabilities in place of the model's own scores.

    It stays as it is where nothing was measured of its kind, or its score is unknown.
    """
    kind = kind_of(answer)
    curve = calibration.curve(kind) if calibration is not None and kind is not None else None
    if calibration is None or curve is None or answer.score is None:
        return answer
    score = curve.at(answer.score)

    def measured(box: Box) -> Box:
        return replace(box, score=None if box.score is None else curve.at(box.score))

    return replace(
        answer,
        boxes=tuple(measured(box) for box in answer.boxes),
        score=score,
        calibrated=True,
        unsure=score < calibration.threshold,
    )


def _box_kind(question: Question) -> str:
    phrase = question.phrase.removeprefix("the ")
    if phrase in _HANDS:
        return "hand"
    return "object" if phrase.removeprefix("object in the ") in _HANDS else "box"
