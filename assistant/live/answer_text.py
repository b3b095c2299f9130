"""Formats an answer as a few words, for the terminal, the web page and the command line."""

from __future__ import annotations

from egolive.assistant.live.box_tracking import is_lost
from egolive.assistant.schema.answers import Answer

__all__ = ["in_words"]


def in_words(answer: Answer) -> str:
    """The answer in a few words."""
    if answer.status == "unparsed":
        return "not understood"
    if answer.absent:
        return "none"
    if is_lost(answer):
        return "lost from sight"
    if answer.question.task == "ground":
        boxes = (f"[{', '.join(f'{value:.0f}' for value in box)}]" for box in answer.boxes)
        return ", ".join(boxes) or "none"
    if answer.question.task == "when":
        return ", ".join(f"{span.start:.1f} to {span.end:.1f} s" for span in answer.intervals) or "none"
    # What a model writes may hold control characters, which a terminal would obey.
    words = " ".join("".join(sign if sign.isprintable() else " " for sign in answer.text).split())
    return f"{words} …" if answer.cut else words
