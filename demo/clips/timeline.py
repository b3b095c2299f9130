"""What happened when, as rows under a video: intents, next steps, what each hand held, findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from egolive.assistant.live.answer_text import in_words
from egolive.assistant.live.overlay import colour_of
from egolive.assistant.schema.answers import Answer, Task

__all__ = ["Row", "Span", "rows_of", "timeline"]

_SHORTEST = 0.5
"""Per cent of the strip that a span takes at least, so that it can be seen and pressed."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that lasts, in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the strip."""

    name: str
    spans: tuple[Span, ...]
    colour: str
    """Of CSS."""


def rows_of(answers: Sequence[Answer], asked: Sequence[Answer], seconds: float) -> list[Row]:
    """The rows of a clip.

    Args:
        answers: To the assistant's own questions, in order of time.
        asked: To the visitor's questions.
        seconds: Length of what was watched.
    """
    rows = [
        Row("intent", _said(answers, "intent", seconds), "#60a5fa"),
        Row("next step", _said(answers, "next", seconds), "#a78bfa"),
    ]
    for side in ("left", "right"):
        phrase = f"object in the {side} hand"
        red, green, blue = colour_of(phrase)
        rows.append(Row(f"{side} hand holds", _held(answers, phrase, seconds), f"rgb({red} {green} {blue})"))
    for answer in asked:
        question = answer.question
        if question.task == "when":
            found = [Span(span.start, span.end, in_words(answer)) for span in answer.intervals]
            rows.append(Row(f"when: {question.phrase}", tuple(found), "#34d399"))
        elif answer.boxes:
            sure = "not sure: " if answer.unsure else "guess: " if answer.guess else ""
            mark = Span(answer.time, answer.time, f"{sure}seen at {answer.time:.1f} s")
            rows.append(Row(f"where: {question.phrase}", (mark,), "#f472b6"))
    return rows


def timeline(rows: Iterable[Row], seconds: float) -> str:
    """The rows as markup; pressing a span means to go to its `data-start`, in seconds.

    Args:
        rows: From top to bottom.
        seconds: Length of the strip.
    """
    seconds = max(seconds, 0.1)
    lines = "".join(_line(row, seconds) for row in rows)
    return f'<div class="ego-timeline" data-seconds="{seconds:.3f}">{lines}</div>'


def _line(row: Row, seconds: float) -> str:
    bars = "".join(_bar(span, row, seconds) for span in row.spans)
    nothing = "" if row.spans else '<span class="ego-old">nothing</span>'
    return (
        f'<div class="ego-track"><span class="ego-track-name">{escape(row.name)}</span>'
        f'<div class="ego-track-bar">{bars}{nothing}</div></div>'
    )


def _bar(span: Span, row: Row, seconds: float) -> str:
    left = min(max(100 * span.start / seconds, 0.0), 100 - _SHORTEST)
    width = min(max(100 * (span.end - span.start) / seconds, _SHORTEST), 100 - left)
    label = f"{span.text} ({span.start:.1f} to {span.end:.1f} s)"
    return (
        f'<button type="button" class="ego-span" data-start="{span.start:.3f}" title="{escape(label)}" '
        f'aria-label="{escape(f"{row.name}: {label}")}" '
        f'style="left:{left:.2f}%;width:{width:.2f}%;background:{row.colour}">{escape(span.text)}</button>'
    )


def _said(answers: Iterable[Answer], task: Task, seconds: float) -> tuple[Span, ...]:
    """What was said until something else was."""
    said = [(answer.time, in_words(answer)) for answer in answers if answer.question.task == task]
    return _merged(said, seconds)


def _held(answers: Iterable[Answer], phrase: str, seconds: float) -> tuple[Span, ...]:
    """Stretches in which something was seen in a hand; guesses do not count."""
    states = [
        (answer.time, _holding(answer))
        for answer in answers
        if answer.question.task == "ground" and answer.question.phrase == phrase
    ]
    return tuple(span for span in _merged(states, seconds) if span.text)


def _holding(answer: Answer) -> str:
    if answer.found != "yes":
        return ""
    return "not sure" if answer.unsure else "guess: holds" if answer.guess else "holds"


def _merged(states: Sequence[tuple[float, str]], seconds: float) -> tuple[Span, ...]:
    changes = [one for number, one in enumerate(states) if number == 0 or one[1] != states[number - 1][1]]
    ends = [*(later[0] for _, later in pairwise(changes)), max(seconds, changes[-1][0])] if changes else []
    return tuple(Span(start, end, text) for (start, text), end in zip(changes, ends, strict=True))
