"""Formats an answer as a few words, for the terminal, the web page and the command line."""

from __future__ import annotations

import re

from egolive.assistant.live.box_tracking import is_lost
from egolive.assistant.schema.answers import Answer
from egolive.streaming.frames import Box

__all__ = ["certainty", "in_words"]

_CORNERS = re.compile(r"\s*\(\d{1,9},\s?\d{1,9}\),\s?\(\d{1,9},\s?\d{1,9}\)")
"""A box as Qwen2-VL writes it, in the model's unit."""


def in_words(answer: Answer) -> str:
    """The answer in a few words; boxes in pixels. What is only guessed begins with "guess"."""
    if answer.status == "unparsed":
        return "not understood"
    if answer.unknown:
        guesses = ", ".join(map(_corners, answer.guesses or answer.boxes))
        guess = f"a guess at {guesses}; " if guesses else ""
        return f"unknown ({guess}{answer.unknown})"
    if answer.unsure:
        return "not sure"
    return f"guess: {_said(answer)}" if answer.guess else _said(answer)


def certainty(answer: Answer) -> str:
    """How probably it is right, in a few characters; "" where nobody knows.

    A model's own score stands with "uncalibrated", since its 90 % may be anything; that of the hand detector,
    which nobody has measured either, is left out.
    """
    if answer.by == "detector" or answer.guess or answer.unsure or answer.unknown or is_lost(answer):
        return ""
    score = answer.boxes[0].score if answer.boxes else answer.score
    if score is None:
        return ""
    return f"{score:.0%}" if answer.calibrated else f"{score:.2f} uncalibrated"


def _said(answer: Answer) -> str:
    if answer.absent:
        return "none"
    if is_lost(answer):
        return "lost from sight"
    if answer.question.task == "ground":
        return ", ".join(_boxes(answer)) or "none"
    if answer.question.task == "when":
        return ", ".join(f"{span.start:.1f} to {span.end:.1f} s" for span in answer.intervals) or "none"
    # What a model writes may hold control characters, which a terminal would obey.
    text = _in_pixels(answer) if answer.question.task == "ask" and answer.boxes else answer.text
    words = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return f"{words} …" if answer.cut else words


def _boxes(answer: Answer) -> list[str]:
    return [_corners(box) for box in answer.boxes]


def _corners(box: Box) -> str:
    return f"[{', '.join(f'{value:.0f}' for value in box)}]"


def _in_pixels(answer: Answer) -> str:
    """The text with each box in pixels; behind the text where it has boxes in another notation, or twice."""
    boxes = _boxes(answer)
    if len(_CORNERS.findall(answer.text)) != len(boxes):
        return f"{answer.text} (in pixels: {', '.join(boxes)})"
    found = iter(boxes)
    return _CORNERS.sub(lambda _: f" {next(found)}", answer.text)
