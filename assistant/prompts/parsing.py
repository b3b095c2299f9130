"""Parses a model's output into an `Answer`; a pure function that never raises, whatever the text.

Tags, reasoning and absence are read here, boxes in `boxes_in_text`, times in `times_in_text`; the model's
units become source pixels and stream seconds. Which task reads what: ground boxes, when intervals, ask boxes
that are marked as such, intent and next words alone.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal, TypeAlias

from egolive.assistant.prompts.boxes_in_text import FoundBox, Span, find_boxes
from egolive.assistant.prompts.times_in_text import find_times
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.coordinates import Size, resolve_unit, to_source
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.frames import Box, Interval, Window

__all__ = ["TokenProbability", "parse", "split_reasoning"]

TokenProbability: TypeAlias = float | Literal["forced"] | None
"""Of one token of an answer: None where nobody tells it, "forced" where the grammar allowed no other."""

_THINK = re.compile(r"<\s{0,4}(/?)\s{0,4}think(?:ing)?\s{0,4}>", re.IGNORECASE)
_ANSWER = re.compile(
    r"(?P<open><\s{0,4}answer\s{0,4}>)|<\s{0,4}/\s{0,4}answer\s{0,4}>?|/\s{0,4}answer\s{0,4}>", re.IGNORECASE
)
_MARKUP = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|</?(?:think|thinking|answer|ref|box|bbox)>|</a?n?s?w?e?r?$|```[a-z]{0,12}",
    re.IGNORECASE,
)
_EMPTY_VALUES = ("[]", "{}", "()", ":null", ":none", ':"none"', ":'none'")
_ABSENT_WORDS = frozenset(
    ["none", "no", "null", "n/a", "na", "nothing", "absent", "nowhere", "never", "empty"]
)
_ABSENT = re.compile(
    r"""
    \b(?:
        (?<!=)none | nothing | no\ such | n/a
      | there\ (?:is|are|was|were)\ (?:no|not)
      | no\ (?:\w{1,20}\ ){1,3}(?:visible|present|found|seen|detected|in\ (?:the|this|view))
      | not\ (?:\w{1,20}\ )?(?:visible|present|found|shown|seen|there|detected|holding|occur|happen
          |in\ (?:the|this|view))
      | (?:cannot|can't|can\ not|couldn't|could\ not|isn't|is\ not|aren't|are\ not|wasn't|was\ not
          |doesn't|does\ not|don't|do\ not|didn't|did\ not|never)
        \ (?:\w{1,20}\ ){0,2}
        (?:see|seen|find|found|visible|present|locate|located|identify|happens?|occurs?|appears?|exists?|shown|contain|hold)
      | (?:hand|hands)\ (?:is|are)\ empty
    )\b
    """,
    re.VERBOSE,
)
_ASCII = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | str.maketrans("【】，、〜−", "[];;~-")  # noqa: RUF001
"""Full-width characters, with those of the same meaning. Their comma is never a decimal comma."""
_LONGEST = 20_000
"""Characters of an answer that are searched for boxes and times; what runs on beyond is a loop."""
_MOST_BOXES = 200
"""Boxes or intervals of one answer that are kept; more are a loop that drifts."""
_ROUNDING = 1e-3
"""By how much rounding may lift a probability above 1."""
_LATE = 1.0
"""Seconds after the window's end at which a time still counts as the end."""


def parse(
    text: str,
    question: Question,
    profile: Profile,
    *,
    source_size: Size,
    seen_size: Size | None = None,
    window: Window | Interval | None = None,
    time: float = 0.0,
    token_probs: Sequence[tuple[str, TokenProbability]] | None = None,
) -> Answer:
    """Read a model's text as the answer to a question.

    Args:
        text: as generated, special tokens kept or not.
        question: what was asked.
        profile: the checkpoint's, for its coordinate unit.
        source_size: width and height of the frame that the boxes are drawn on.
        seen_size: width and height at which the model saw it, for the unit `pixels`; the source's where None.
        window: the stretch that was seen; the model's seconds count from its start. None: a single picture.
        time: capture time of the newest frame that was seen, seconds.
        token_probs: text and probability of each token, together the text; boxes get their score from it. A
            box one of whose tokens has no known probability has no score; forced tokens do not count.

    Returns:
        The answer. Its score is that of its first box; of words, intervals and "none" the probability of the
        whole answer, reasoning left out; free questions have none. Boxes with ordered corners inside the
        picture, repeated ones once; intervals inside the window. `absent` where the model said that there is
        none, status `unparsed` where nothing can be read.
    """
    seen = window.interval if isinstance(window, Window) else window
    reasoning, start, end = split_reasoning(text)
    body = text[start:end]
    words = _MARKUP.sub("", body).strip()

    # Full-width characters, and escapes of JSON inside JSON, become characters that read the same; lengths
    # stay, so positions hold.
    plain = body[:_LONGEST].translate(_ASCII).replace("\\n", "  ").replace('\\"', "''")
    boxes: tuple[Box, ...] = ()
    intervals: tuple[Interval, ...] = ()
    scores = _Scores(text, token_probs, start)
    if question.task in ("ground", "ask"):
        found = find_boxes(plain)
        if question.task == "ask":
            found = [box for box in found if box.marked]
        boxes = _boxes(found, question, profile, source_size, seen_size or source_size, scores)
    elif question.task == "when":
        intervals = _intervals(find_times(_without_boxes(plain)), seen)

    asked_for_place = question.task in ("ground", "when")
    absent = asked_for_place and not boxes and not intervals and _says_absent(words)
    if boxes and asked_for_place:
        words = ", ".join(dict.fromkeys(box.label for box in boxes))
    elif intervals:
        words = ", ".join(f"{stretch.start:.2f} to {stretch.end:.2f} s" for stretch in intervals)
    elif absent:
        words = "none"
    read = bool(boxes or intervals or absent) if asked_for_place else bool(words)
    score = None
    if question.task == "ground" and boxes:
        score = boxes[0].score
    elif read and question.task != "ask":
        score = scores.of_all(end - start)
    return Answer(
        question,
        words,
        reasoning=reasoning,
        boxes=boxes,
        intervals=intervals,
        absent=absent,
        status="ok" if read else "unparsed",
        time=time,
        window=seen,
        score=score,
    )


def split_reasoning(text: str) -> tuple[str, int, int]:
    """Part the reasoning from the answer.

    The answer is what the last complete <answer> block after the reasoning holds; else what follows an
    unclosed <answer>; else what follows the reasoning. Reasoning that never ends leaves no answer, unless an
    answer block stands in it. A lost opening or closing tag is made up for.

    Returns:
        The reasoning without its tags, and start and end of the answer in the text.
    """
    thinks = list(_THINK.finditer(text))
    closing = next((tag for tag in reversed(thinks) if tag[1]), None)
    after = 0
    reasoning = ""
    if closing:
        after = closing.end()
        reasoning = text[: closing.start()]
        if not text[after:].strip() and (block := _answer_block(text, 0)):
            # The whole answer was written inside the reasoning.
            after = block[0]
            reasoning = text[:after]
    elif thinks:
        block = _answer_block(text, thinks[0].end())
        after = block[0] if block else len(text)
        reasoning = text[thinks[0].end() : after]
    start, end = _answer_block(text, after) or (after, len(text))
    return _MARKUP.sub("", reasoning).strip(), start, end


def _answer_block(text: str, after: int) -> Span | None:
    """Where the content of the answer block stands; None where no answer tag follows."""
    tags = list(_ANSWER.finditer(text, after))
    for opening, closing in reversed(list(pairwise(tags))):
        if opening["open"] and not closing["open"]:
            return opening.end(), closing.start()
    if not tags:
        return None
    # One tag of the pair was lost, or the text was cut off inside the block.
    return (tags[-1].end(), len(text)) if tags[0]["open"] else (after, tags[0].start())


def _says_absent(words: str) -> bool:
    """Whether an answer without box or interval says that there is none."""
    said = words[:2000].lower().replace("’", "'")  # noqa: RUF001 - as models write it
    squeezed = "".join(said.split())
    if any(empty in squeezed for empty in _EMPTY_VALUES):
        return True
    return said.strip(" \n\t[](){}\"'.,!*`") in _ABSENT_WORDS or _ABSENT.search(said) is not None


def _boxes(
    found: Sequence[FoundBox],
    question: Question,
    profile: Profile,
    source_size: Size,
    seen_size: Size,
    scores: _Scores,
) -> tuple[Box, ...]:
    """Boxes on the source frame, each once: a repeated one stays where it stands under another key."""
    unit = resolve_unit(profile.unit, [box.corners for box in found if box.unit is None])
    boxes: dict[tuple[object, ...], Box] = {}
    for raw in found:
        corners = to_source(raw.corners, raw.unit or unit, source_size=source_size, seen_size=seen_size)
        label = raw.label or (question.phrase if question.task == "ground" else "")
        if corners and len(boxes) < _MOST_BOXES:
            boxes.setdefault(
                (corners, label, raw.key), Box(*corners, label, scores.of(raw.spans), by="model")
            )
    return tuple(boxes.values())


def _without_boxes(text: str) -> str:
    """The text with the coordinates of marked boxes blanked: they are no times."""
    characters = list(text)
    for box in find_boxes(text):
        for start, end in box.spans if box.marked else ():
            characters[start:end] = " " * (end - start)
    return "".join(characters)


def _intervals(found: Sequence[tuple[float, float]], seen: Interval | None) -> tuple[Interval, ...]:
    """Stretches of stream time inside the window, each once; a reversed or outlying one is no answer."""
    begin = seen.start if seen else 0.0
    length = seen.duration if seen else math.inf
    intervals: dict[tuple[float, float], Interval] = {}
    for start, end in found:
        if start <= end and end >= 0 and start <= length + _LATE:
            first, last = (begin + min(max(value, 0.0), length) for value in (start, end))
            intervals.setdefault((first, last), Interval(first, last))
    return tuple(intervals.values())[:_MOST_BOXES]


class _Scores:
    """How sure the model was of the numbers at some place of its text."""

    def __init__(
        self, text: str, token_probs: Sequence[tuple[str, TokenProbability]] | None, offset: int
    ) -> None:
        self._logs: list[float | Literal["forced"] | None] = []
        if token_probs is None or "".join(piece for piece, _ in token_probs) != text:
            return
        self._offset = offset
        self._ends = list(accumulate(len(piece) for piece, _ in token_probs))
        self._logs = [_log_of(probability) for _, probability in token_probs]

    def of(self, spans: Sequence[Span]) -> float | None:
        """Geometric mean of the probabilities of the tokens at these places; None where one is not known.

        Tokens that the grammar forced are left out; None where no other is there.
        """
        if not self._logs:
            return None
        known = self._known(spans)
        return math.exp(sum(known) / len(known)) if known else None

    def of_all(self, length: int) -> float | None:
        """Product of the probabilities of the first `length` characters' tokens; None where one is unknown.

        Tokens that the grammar forced are left out; None where no other is there.
        """
        known = self._known([(0, length)]) if self._logs and length > 0 else []
        return math.exp(sum(known)) if known else None

    def _known(self, spans: Sequence[Span]) -> list[float]:
        """Logarithms of the tokens at these places that were not forced; none where one is unknown."""
        tokens: set[int] = set()
        for start, end in spans:
            first = bisect_right(self._ends, start + self._offset)
            last = bisect_right(self._ends, end + self._offset - 1)
            tokens.update(range(first, min(last + 1, len(self._logs))))
        logs = [log for token in tokens if (log := self._logs[token]) != "forced"]
        known = [log for log in logs if log is not None]
        return known if len(known) == len(logs) else []


def _log_of(probability: TokenProbability) -> float | Literal["forced"] | None:
    """The logarithm of a probability; None where it is unknown, or is none."""
    if probability is None or probability == "forced":
        return probability
    # Rounding may lift a probability a little above 1.
    if not 0 <= probability <= 1 + _ROUNDING:
        return None
    return math.log(min(probability, 1.0)) if probability > 0 else -math.inf
