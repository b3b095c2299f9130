"""The overlay: draws boxes in the colour of their role, the answers' texts above them, and their age.

The age of the boxes stands in a badge at the top right, which turns from white over amber to red.

OpenCV draws the boxes; text is rendered by Pillow once and blended in, since the same words stay for many
pictures. Everything that is passed in is drawn; the caller chooses the current answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from egolive.assistant.generation.domain import GUESSES
from egolive.assistant.live.box_tracking import is_lost
from egolive.assistant.schema.answers import Answer
from egolive.streaming.frames import Box, Frame, Image
from egolive.streaming.hands import Hand

__all__ = [
    "Colour",
    "Rectangle",
    "age_badge",
    "colour_of",
    "coloured_boxes",
    "draw",
    "draw_boxes",
    "draw_joints",
    "label_of",
    "place_labels",
    "short_phrase",
    "status_line",
]

Colour = tuple[int, int, int]
"""Red, green, blue in 0 to 255."""
Rectangle = tuple[int, int, int, int]
"""x, y, width, height in pixels."""

# Left is cold, right is warm, the object is the lighter one: told apart without telling red from green.
_COLOURS: dict[str, Colour] = {
    "left hand": (76, 201, 240),
    "right hand": (255, 159, 28),
    "object in the left hand": (128, 255, 219),
    "object in the right hand": (255, 225, 77),
}
_OTHER: Colour = (255, 150, 220)
_GREY: Colour = (150, 150, 150)
_WHITE: Colour = (255, 255, 255)
_KEY: Colour = (190, 190, 190)
_BLACK: Colour = (0, 0, 0)
_AMBER: Colour = (255, 191, 71)
_RED: Colour = (255, 99, 88)

_FINER = 4
"""Text is set this much larger and reduced: at 10 pixels, whole-pixel steps close the gaps between words."""
_FINGERS = (
    (0, 1, 2, 3, 4),
    (0, 5, 6, 7, 8),
    (5, 9, 10, 11, 12),
    (9, 13, 14, 15, 16),
    (13, 17, 18, 19, 20),
    (0, 17),
)
"""Joints that a line runs through, from the wrist or the palm to the tip."""
_FRESH = 1.0
"""Seconds up to which a box has its full colour."""
_OLD = 5.0
"""Seconds from which a box is almost grey."""


def draw(frame: Frame, answers: Sequence[Answer], now: float, hands: Sequence[Hand] = ()) -> Image:
    """Draw the answers on a copy of the frame's picture.

    Args:
        frame: The picture that is shown.
        answers: What is known: at most one for each question.
        now: Stream time in seconds, from which ages are counted.
        hands: Those of the hand detector, whose joints are drawn.

    Returns:
        The picture with boxes, labels and a text bar at the top, in the frame's size: hands come from below.
    """
    canvas = np.array(frame.image)
    style = _Style(max(11, round(frame.height * 0.036)), max(1, round(frame.height / 240)))
    boxes = coloured_boxes(answers, now)
    draw_joints(canvas, hands, style.line)
    draw_boxes(canvas, boxes, style.line)
    bar = _draw_bar(canvas, answers, now, style)
    _draw_labels(canvas, boxes, bar, style)
    return canvas


def coloured_boxes(answers: Iterable[Answer], now: float) -> list[tuple[Box, Colour]]:
    """All boxes with the RGB colour of their role, greyer with age; those that are not sure are left out.

    A box that is only guessed is grey, and its label says so; a score that means nothing is left out. Guesses
    that no hand supports are grey too, behind the others.
    """
    found, guesses = [], []
    for answer in answers:
        if answer.question.task == "ground":
            if not answer.unsure:
                found += [_with_colour(answer, box, now) for box in answer.boxes]
            guesses += [(replace(box, score=None), _GREY) for box in answer.guesses]
    return [*found, *guesses]


def _with_colour(answer: Answer, box: Box, now: float) -> tuple[Box, Colour]:
    if answer.guess:
        return replace(box, label=f"guess: {short_phrase(box.label)}", score=None), _GREY
    told = box if answer.calibrated else replace(box, score=None)
    return told, _faded(colour_of(answer.question.phrase), now - answer.time)


def draw_boxes(canvas: Image, boxes: Iterable[tuple[Box, Colour]], thickness: int) -> None:
    """Draw the outlines on the canvas itself, cut at its edges; those of guesses are dashed.

    Args:
        canvas: (H, W, 3) RGB bytes, changed in place.
        boxes: Each with its RGB colour.
        thickness: Of the lines, pixels.
    """
    height, width = canvas.shape[:2]
    for box, colour in boxes:
        x1, y1, x2, y2 = np.clip([*box], 0, [width - 1, height - 1] * 2).astype(int).tolist()
        if box.supported is False:
            _draw_dashed(canvas, (x1, y1, x2, y2), colour, thickness)
        else:
            cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thickness)


def _draw_dashed(canvas: Image, box: tuple[int, int, int, int], colour: Colour, thickness: int) -> None:
    x1, y1, x2, y2 = box
    dash = max(3, 4 * thickness)
    for x in range(x1, x2 + 1, 2 * dash):
        for y in (y1, y2):
            cv2.line(canvas, (x, y), (min(x + dash, x2), y), colour, thickness)
    for y in range(y1, y2 + 1, 2 * dash):
        for x in (x1, x2):
            cv2.line(canvas, (x, y), (x, min(y + dash, y2)), colour, thickness)


def draw_joints(canvas: Image, hands: Iterable[Hand], thickness: int) -> None:
    """Draw the fingers of hands on the canvas itself.

    Args:
        canvas: (H, W, 3) RGB bytes, changed in place.
        hands: With 21 joints each; those without are left out.
        thickness: Of the lines, pixels.
    """
    height, width = canvas.shape[:2]
    for hand in hands:
        if len(hand.landmarks) <= max(_FINGERS[-1]):
            continue
        points = np.clip(np.array(hand.landmarks), -width, (2 * width, 2 * height)).astype(np.int32)
        colour = colour_of(hand.box.label)
        lines = [points[list(finger)].reshape(-1, 1, 2) for finger in _FINGERS]
        cv2.polylines(canvas, lines, False, colour, max(1, thickness // 2), cv2.LINE_AA)


def colour_of(phrase: str) -> Colour:
    """RGB of what was looked for: one for each hand and each held object, one for everything else."""
    return _COLOURS.get(phrase, _OTHER)


def short_phrase(phrase: str) -> str:
    """The phrase as it fits on a label: "object in the left hand" becomes "in left hand"."""
    return phrase.replace("object in the ", "in ")


def place_labels(
    anchors: Sequence[Box], sizes: Sequence[tuple[int, int]], area: Rectangle
) -> list[Rectangle | None]:
    """Find a free place for each label, near its box and inside the area.

    Above the box is tried first, then inside its top edge, below it, inside its bottom edge, and then ever
    further down and up; a label that finds no room is left out.

    Args:
        anchors: The boxes that the labels belong to, the most important first.
        sizes: Width and height of each label, pixels.
        area: Where labels may stand.

    Returns:
        For each label its rectangle, none overlapping another, or None.
    """
    placed: list[Rectangle | None] = []
    taken: list[Rectangle] = []
    left, top, width, height = area
    for box, (label_width, label_height) in zip(anchors, sizes, strict=True):
        found = None
        if label_width <= width and label_height <= height:
            x = int(min(max(box.x1, left), left + width - label_width))
            near = [box.y1 - label_height, box.y1, box.y2, box.y2 - label_height]
            steps = range(1, height // max(label_height, 1) + 1)
            far = [box.y1 + sign * step * label_height for step in steps for sign in (1, -1)]
            for y in (round(y) for y in near + far):
                candidate = (x, y, label_width, label_height)
                inside = top <= y and y + label_height <= top + height
                if inside and not any(_overlap(candidate, other) for other in taken):
                    found = candidate
                    taken.append(candidate)
                    break
        placed.append(found)
    return placed


def status_line(answers: Sequence[Answer], now: float) -> str:
    """How old the words are, and what was looked for and is not there, or not in sight any more."""
    if not answers:
        return "waiting for the first answer"
    parts = []
    grounded = [answer for answer in answers if answer.question.task == "ground"]
    spoken = [answer for answer in answers if answer.question.task != "ground"]
    if spoken:
        parts.append(f"words {max(0.0, now - min(a.time for a in spoken)):.1f} s old")
    if any(answer.guess for answer in answers):
        parts.append(GUESSES)
    grounded = [answer for answer in grounded if not answer.guess]
    absent = {answer.question.phrase for answer in grounded if answer.absent and not answer.unsure}
    looked_for = {answer.question.phrase: bool(answer.boxes) for answer in grounded}
    for answer in grounded:
        phrase = answer.question.phrase
        hand = phrase.removeprefix("object in the ")
        if answer.status == "unparsed":
            parts.append(f"{short_phrase(phrase)} ?")
        elif answer.unknown:
            # Of a hand that is not in sight it goes without saying.
            if hand == phrase or looked_for.get(hand, True):
                parts.append(f"{short_phrase(phrase)} unknown")
        elif answer.unsure:
            parts.append(f"{short_phrase(phrase)} not sure")
        elif is_lost(answer):
            parts.append(f"{short_phrase(phrase)} lost")
        elif phrase in absent and hand == phrase:
            parts.append(f"no {phrase}")
        elif phrase in absent and looked_for.get(hand, False):
            parts.append(f"{hand} empty")
        elif phrase in absent and hand not in looked_for:
            parts.append(f"nothing {short_phrase(phrase)}")
    own = [answer for answer in grounded if answer.by == "model" and not answer.calibrated]
    if any(box.score is not None for answer in own for box in answer.boxes):
        parts.append("scores uncalibrated")
    return " · ".join(parts)


def age_badge(answers: Iterable[Answer], now: float) -> tuple[str, Colour] | None:
    """How old what is known about boxes is, at most, and in which colour that is told; None without any.

    Args:
        answers: What is known.
        now: Stream time in seconds.
    """
    grounded = [answer for answer in answers if answer.question.task == "ground"]
    # Where there are boxes, it is theirs: what was found nowhere has none to be old.
    times = [answer.time for answer in grounded if answer.boxes or answer.guesses]
    times = times or [answer.time for answer in grounded]
    if not times:
        return None
    age = max(0.0, now - min(times))
    colour = _WHITE if age <= _FRESH else _AMBER if age <= (_FRESH + _OLD) / 2 else _RED
    return f"boxes {age:.1f} s", colour


@dataclass(frozen=True, slots=True)
class _Style:
    """Sizes that follow the picture's height, in pixels."""

    font: int
    line: int


def _draw_labels(canvas: Image, boxes: Sequence[tuple[Box, Colour]], bar: int, style: _Style) -> None:
    height, width = canvas.shape[:2]
    texts = [_label(box) for box, _ in boxes]
    padding = max(2, style.font // 5)
    masks = [_set(text, style.font, width - 2 * padding) for text in texts]
    sizes = [(mask.shape[1] + 2 * padding, mask.shape[0] + padding) for mask in masks]
    rectangles = place_labels([box for box, _ in boxes], sizes, (0, bar, width, height - bar))
    for (_, colour), text, rectangle in zip(boxes, texts, rectangles, strict=True):
        if rectangle is not None:
            x, y, label_width, label_height = rectangle
            canvas[y : y + label_height, x : x + label_width] = colour
            _write(canvas, text, style.font, width - 2 * padding, (x + padding, y + padding // 2), _BLACK)


def _draw_bar(canvas: Image, answers: Sequence[Answer], now: float, style: _Style) -> int:
    """Draw the text bar; returns its height in pixels."""
    height, width = canvas.shape[:2]
    padding = style.font // 2
    room = width - 2 * padding
    line_height = round(style.font * 1.35)
    small = max(10, round(style.font * 0.85))
    most = max(0, (height // 2 - padding) // line_height)
    rows: list[list[tuple[str, int, Colour]]] = []
    statements = list(_statements(answers))
    keys = [_fit(key, style.font, room // 2) for key, _, _ in statements]
    indent = max((_width(f"{key}  ", style.font) for key in keys), default=0)
    for key, (_, text, colour) in zip(keys, statements, strict=True):
        for number, line in enumerate(_wrap(text, style.font, room - indent, lines=2)):
            rows.append([(key if number == 0 else "", style.font, _KEY), (line, style.font, colour)])
    rows = rows[: max(0, most - 1)]
    badge = age_badge(answers, now)
    mask = _set(badge[0], small, room) if badge else None
    status = _fit(
        status_line(answers, now), small, room - (mask.shape[1] + 2 * padding if mask is not None else 0)
    )
    if most and (status or badge):
        rows.append([(status, small, _KEY)])
    bar = len(rows) * line_height + padding if rows else 0
    # A quarter of the picture shines through: dark enough for white text on any background.
    canvas[:bar] >>= 2
    for number, row in enumerate(rows):
        x, y = padding, padding // 2 + number * line_height
        for text, size, colour in row:
            _write(canvas, text, size, width - x, (x, y), colour)
            x += indent
    if badge and mask is not None and rows:
        x, y = width - padding - mask.shape[1], padding // 2 + (len(rows) - 1) * line_height
        edge = max(1, padding // 2)
        canvas[y : y + mask.shape[0], max(0, x - edge) : x + mask.shape[1] + edge] = badge[1]
        _write(canvas, badge[0], small, room, (x, y), _BLACK)
    return bar


def _statements(answers: Iterable[Answer]) -> Iterable[tuple[str, str, Colour]]:
    """What stands in words on the bar: key, text and colour of each line, in order."""
    for answer in answers:
        question = answer.question
        if question.task == "ground":
            continue
        key = question.task if question.task in ("intent", "next") else question.phrase
        if answer.status == "unparsed":
            yield key, "not understood", _GREY
        elif answer.unsure:
            yield key, "not sure", _GREY
        elif answer.guess:
            yield key, f"guess: {_plain(answer)}", _GREY
        elif question.task == "when" and not answer.absent:
            yield key, ", ".join(f"{span.start:.1f} to {span.end:.1f} s" for span in answer.intervals), _WHITE
        elif answer.absent:
            yield key, "none", _GREY
        else:
            sure = f"  {answer.score:.0%}" if answer.calibrated and answer.score is not None else ""
            yield key, f"{answer.text} …" if answer.cut else f"{answer.text}{sure}", _WHITE


def _plain(answer: Answer) -> str:
    """The words of an answer, whatever they are worth."""
    if answer.absent:
        return "none"
    if answer.question.task == "when":
        return ", ".join(f"{span.start:.1f} to {span.end:.1f} s" for span in answer.intervals)
    return f"{answer.text} …" if answer.cut else answer.text


def _label(box: Box) -> str:
    return label_of(box)


def label_of(box: Box) -> str:
    """What stands at a box: what it is, how likely, and who found it; a guess is told as one."""
    name = short_phrase(box.label)
    if box.supported is False:
        return f"{name}? guess"
    likely = "" if box.score is None else f" {box.score:.0%}"
    return f"{name}{likely} {box.finder}".rstrip()


def _faded(colour: Colour, age: float) -> Colour:
    share = 0.75 * min(max((age - _FRESH) / (_OLD - _FRESH), 0.0), 1.0)
    red, green, blue = (round(c + (g - c) * share) for c, g in zip(colour, _GREY, strict=True))
    return red, green, blue


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _FINER)


def _width(text: str, size: int) -> int:
    return int(np.ceil(_font(size).getlength(text) / _FINER))


@lru_cache(maxsize=512)
def _fit(text: str, size: int, room: int) -> str:
    """The text, cut with an ellipsis where it is wider than the room."""
    if _width(text, size) <= room:
        return text
    while text and _width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""


@lru_cache(maxsize=128)
def _wrap(text: str, size: int, room: int, *, lines: int) -> tuple[str, ...]:
    """The text in at most so many lines, the last one cut where it has to be."""
    rows: list[str] = []
    words = text.split()
    while words and len(rows) < lines - 1:
        count = 1
        while count < len(words) and _width(" ".join(words[: count + 1]), size) <= room:
            count += 1
        rows.append(_fit(" ".join(words[:count]), size, room))
        words = words[count:]
    if words:
        rows.append(_fit(" ".join(words), size, room))
    return tuple(rows) or ("",)


@lru_cache(maxsize=256)
def _set(text: str, size: int, room: int) -> NDArray[np.uint8]:
    """Set one line of text as coverage, (H, W) in 0 to 255."""
    text = _fit(text, size, room)
    mask = PillowImage.new("L", (max(1, _width(text, size)) * _FINER, round(size * 1.3) * _FINER))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=_font(size))
    return np.asarray(mask.reduce(_FINER))


@lru_cache(maxsize=256)
def _inked(text: str, size: int, room: int, colour: Colour) -> tuple[Image, Image]:
    """What a line of text leaves of the picture under it, in 0 to 255, and what it adds; both (H, W, 3)."""
    cover = np.repeat(_set(text, size, room)[:, :, None], 3, axis=2)
    return 255 - cover, (cover.astype(np.uint16) * np.array(colour, np.uint16) // 255).astype(np.uint8)


def _write(canvas: Image, text: str, size: int, room: int, place: tuple[int, int], colour: Colour) -> None:
    """Write a line of text, its top left corner at (x, y), cut at the canvas's edges."""
    x, y = place
    left, added = _inked(text, size, room, colour)
    height, width = min(left.shape[0], canvas.shape[0] - y), min(left.shape[1], canvas.shape[1] - x)
    if height <= 0 or width <= 0:
        return
    under = canvas[y : y + height, x : x + width]
    # OpenCV's products are saturated bytes; numpy's would need wider ones, and twice the time.
    under[:] = cv2.add(cv2.multiply(under, left[:height, :width], scale=1 / 255), added[:height, :width])
