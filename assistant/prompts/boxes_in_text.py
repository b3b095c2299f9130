"""Finds boxes in a model's output, in many notations, also in broken JSON; units are left as they are.

One pass over tokens with a stack of open brackets, so the time is linear and broken JSON costs only the piece
that is broken. Read are lists of four numbers, also quoted ones, two pairs `(x1,y1),(x2,y2)`, numbers under
the names x1 .. y2, or x, y, width and height, quoted numbers under a box key, and four bare numbers; inside
tags of Qwen-VL, Qwen2-VL or DeepSeek-VL2 as well as without. Lists are corners, unless their key or a form in
words (`[x, y, w, h]`) says otherwise. Four percentages are shares of the picture. Lists of points, times,
sizes and colours are not boxes, nor are numbers whose names fit no form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from egolive.assistant.schema.coordinates import Corners
from egolive.assistant.schema.profiles import Unit

__all__ = ["FoundBox", "Span", "find_boxes"]

Span = tuple[int, int]
"""Start and end of a stretch of text, in characters."""


@dataclass(slots=True)
class FoundBox:
    """Four coordinates as they stand in the text."""

    corners: Corners
    """x1, y1, x2, y2 in the model's unit, or in `unit`."""
    spans: tuple[Span, ...]
    """Where the four numbers stand."""
    marked: bool
    """Inside box tags or under a key that names a box: a box also in an answer that was not asked for one."""
    key: str = ""
    """Key of the object entry that holds it; boxes of a video stand under their second."""
    label: str | None = None
    """What it is a box of, where the text tells."""
    unit: Unit | None = None
    """The unit that the text itself tells, by percent signs."""


_TOKEN = re.compile(
    r"""
      (?:<\|object_ref_start\|>|<\|ref\|>|<ref>)(?P<label>[^<\n]*)
    | (?P<begin><\|box_start\|>|<\|det\|>|<b?box>)
    | (?P<end><\|box_end\|>|<\|/det\|>|</b?box>)
    | "(?P<string>[^"\n]*)"
    | (?:(?<=[{\[(,:])|(?<=[{\[(,:]\s))'(?P<single>[^'\n]*)'(?=\s{0,3}[]})},:])
    | (?P<number>(?:(?<![\w.])-)?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3}(?!\d))?)
    | (?P<open>[\[({])
    | (?P<close>[\])}])
    | (?P<word>[^\W\d]\w*)
    | (?P<colon>[:=])
    | (?P<comma>[,;])
    """,
    re.VERBOSE,
)
_BETWEEN_PAIRS = re.compile(
    r"\s{0,4}(?:,|;|-|and|to)\s{0,8}(?:(?:and\s)?(?:to\s)?(?:the\s)?(?:bottom|lower)[-\s]right"
    r"(?:\scorner)?(?:\sis)?(?:\sat)?[:=]?\s{0,4})?",
    re.IGNORECASE,
)
_BETWEEN_NUMBERS = re.compile(r"(?:\s?%)?[\s,;]{1,8}")
_NUMBER = re.compile(r"-?(?:\d{1,9}\.?\d{0,9}|\.\d{1,9})")
_QUOTED_NUMBER = re.compile(rf"\s{{0,4}}({_NUMBER.pattern})(?:\s?%)?\s{{0,4}}")
_PERCENT = re.compile(r"\s?%")
_CENTRED = re.compile(
    r"\b(?:cx|x_?cent(?:er|re))\s?[,;]\s{0,2}(?:cy|y_?cent(?:er|re))\s?[,;]\s{0,2}"
    r"w(?:idth)?\s?[,;]\s{0,2}h(?:eight)?\b|\bcxcywh\b",
    re.IGNORECASE,
)
_SIZED = re.compile(
    r"\bx(?:1|_?min)?\s?[,;]\s{0,2}y(?:1|_?min)?\s?[,;]\s{0,2}w(?:idth)?\s?[,;]\s{0,2}h(?:eight)?\b"
    r"|\bxywh\b",
    re.IGNORECASE,
)
"""A form in words, as in "in the form [x, y, width, height]", that says what the lists of a text hold."""
_NO_BOX_KEYS = ("point", "time", "frame", "span", "second", "size", "color", "colour")
_LABEL_KEYS = (
    "label",
    "object",
    "name_en",
    "en",
    "name",
    "category",
    "class",
    "phrase",
    "text_content",
    "name_zh",
    "zh",
)
_NAMES = {
    **dict.fromkeys(("x1", "xmin", "x_min", "left"), "x1"),
    **dict.fromkeys(("y1", "ymin", "y_min", "top"), "y1"),
    **dict.fromkeys(("x2", "xmax", "x_max", "right"), "x2"),
    **dict.fromkeys(("y2", "ymax", "y_max", "bottom"), "y2"),
    **dict.fromkeys(("w", "width"), "w"),
    **dict.fromkeys(("h", "height"), "h"),
    **dict.fromkeys(("cx", "x_center", "x_centre", "xcenter", "center_x"), "cx"),
    **dict.fromkeys(("cy", "y_center", "y_centre", "ycenter", "center_y"), "cy"),
    **{name: name for name in ("x", "y", "x0", "y0")},
}
"""What the names of single numbers mean."""
_CORNERS = (("x1", "y1", "x2", "y2"), ("x0", "y0", "x1", "y1"))
_ORIGINS = (("x1", "y1"), ("x", "y"))
_LIST_NAMES = (("",) * 4, ("",) * 2, ("x", "y", "x", "y"), ("x", "y"))
"""Names that the numbers of a list or pair may have."""
_DEEPEST = 32
"""Open brackets that are kept; real answers nest four deep, a stutter of opening brackets does not stop."""

Number = tuple[float, int, int]
"""Value, start, end."""
Form = Literal["corners", "size", "centre"]
"""What four numbers are: x1, y1, x2, y2; or x1, y1, width, height; or the centre, width, height."""


@dataclass(slots=True)
class _Scope:
    """An open bracket, an open box tag, or the text itself."""

    opener: str
    start: int
    key: str = ""
    label: str | None = None
    banned: bool = False
    marked: bool = False
    first_box: int = 0
    numbers: list[Number] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """Of each of the numbers; most have none."""
    pairs: list[_Scope] = field(default_factory=list)
    named: dict[str, Number] = field(default_factory=dict)
    """Numbers under names of `_NAMES`, by their meaning."""
    labels: dict[int, str] = field(default_factory=dict)
    end: int = 0


def find_boxes(text: str) -> list[FoundBox]:
    """All boxes of the text, in the order in which they end; never raises, linear in the text's length."""
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.boxes: list[FoundBox] = []
        self.stack = [_Scope("text", 0)]
        self.label: str | None = None
        self.word = ""
        self.key = ""
        self.form: Form = "corners"
        if _CENTRED.search(text):
            self.form = "centre"
        elif _SIZED.search(text):
            self.form = "size"

    def read(self) -> list[FoundBox]:
        self._tokens(0, len(self.text))
        # A number at the very end inside an open bracket may have been cut short: no box of it.
        cut = len(self.text.rstrip())
        while len(self.stack) > 1:
            scope = self.stack[-1]
            if scope.numbers and scope.numbers[-1][2] == cut:
                scope.numbers.clear()
                scope.names.clear()
            self._close(cut)
        root = self.stack[0]
        root.label = self.label
        self._pairs(root)
        self._named(root)
        if not self.boxes and self._one_run(root.numbers):
            self._add(root, root.numbers)
        return self.boxes

    def _tokens(self, start: int, end: int) -> None:
        for token in _TOKEN.finditer(self.text, start, end):
            kind, value = token.lastgroup, token[0]
            if kind == "number":
                self._number((_float(value), token.start(), token.end()))
            elif kind == "word":
                self.key, self.word = "", value
            elif kind in ("string", "single"):
                self._string(token[kind], token.start() + 1)
            elif kind == "colon":
                self.key, self.word = self.word.lower(), ""
            elif kind == "comma":
                self.key = self.word = ""
            elif kind == "open":
                self._open(value, token.start())
            elif kind == "close":
                self._close_to(value, token.end())
            elif kind == "label":
                self.label = token[kind].strip()
            elif kind == "begin":
                self.key = "box"
                self._open("tag", token.start())
            else:
                self._close_to("tag", token.end())

    def _number(self, number: Number) -> None:
        scope = self.stack[-1]
        name = _NAMES.get(self.key or self.word.lower(), "")
        if name:
            if name in scope.named:
                # The next box of a text that puts no brackets around them.
                self._named(scope)
            scope.named[name] = number
        if scope.opener != "{" and name in ("", "x", "y", "w", "h"):
            scope.numbers.append(number)
            scope.names.append(name)
        self.key = self.word = ""

    def _string(self, content: str, start: int) -> None:
        key, self.key, self.word = self.key, "", content
        if key in _LABEL_KEYS:
            self.stack[-1].labels.setdefault(_LABEL_KEYS.index(key), content.strip())
        elif "box" in key and (numbers := self._four(content, start)):
            self._add(self.stack[-1], numbers, key=key, marked=True)
        elif (quoted := _QUOTED_NUMBER.fullmatch(content)) and (
            key in _NAMES or (not key and self.stack[-1].opener in ("[", "("))
        ):
            self.key, self.word = key, ""
            self._number((float(quoted[1]), start + quoted.start(1), start + quoted.end(1)))
        elif key and ("[" in content or "(" in content):
            self.key = key
            self._tokens(start, start + len(content))

    def _four(self, content: str, start: int) -> list[Number]:
        """The numbers of a quoted box without brackets, `"310 94 658 132"`; empty for anything else."""
        pieces = re.split(r"[\s,;]+", content.strip()) if len(content) < 80 else []
        if len(pieces) != 4 or not all(_NUMBER.fullmatch(piece.removesuffix("%")) for piece in pieces):
            return []
        return [(float(n[0]), start + n.start(), start + n.end()) for n in _NUMBER.finditer(content)]

    def _open(self, opener: str, start: int) -> None:
        parent = self.stack[-1]
        named_box = "box" in self.key
        banned = any(part in self.key for part in _NO_BOX_KEYS)
        self.stack.append(
            _Scope(
                opener,
                start,
                key=self.key or parent.key,
                label=self.label,
                banned=(parent.banned or banned) and not named_box,
                marked=parent.marked or named_box,
                first_box=len(self.boxes),
            )
        )
        self.key = self.word = ""
        if len(self.stack) > _DEEPEST:
            del self.stack[1]

    def _close_to(self, closer: str, end: int) -> None:
        """Close the innermost scope that this closes; what was left open inside it closes with it."""
        self.key = self.word = ""
        openers = {"tag": ("tag",), "}": ("{",)}.get(closer, ("[", "("))
        depth = len(self.stack) - 1
        while depth > 0 and self.stack[depth].opener not in openers:
            depth -= 1
        while depth > 0 and len(self.stack) > depth:
            self._close(end)

    def _close(self, end: int) -> None:
        scope = self.stack.pop()
        scope.end = end
        parent = self.stack[-1]
        fits = tuple(scope.names) in _LIST_NAMES
        if fits and len(scope.numbers) == 4:
            self._add(scope, scope.numbers)
        elif fits and len(scope.numbers) == 2 and not scope.pairs and scope.opener in ("[", "("):
            parent.pairs.append(scope)
        self._pairs(scope)
        self._named(scope)
        if scope.opener == "{" and scope.labels:
            self._name(scope, parent)

    def _pairs(self, scope: _Scope) -> None:
        """Boxes from pairs that follow one another: `(x1,y1),(x2,y2)`, repeated at will, or `[[..],[..]]`."""
        runs: list[list[_Scope]] = []
        for pair in scope.pairs:
            if runs and _BETWEEN_PAIRS.fullmatch(self.text, runs[-1][-1].end, pair.start):
                runs[-1].append(pair)
            else:
                runs.append([pair])
        for run in runs:
            # Square brackets hold lists of points as well: only two of them alone are a box.
            if run[0].opener == "[" and len(run) != 2:
                continue
            for first, second in zip(run[0::2], run[1::2], strict=False):
                self._add(first, first.numbers + second.numbers)

    def _named(self, scope: _Scope) -> None:
        """The box of numbers that stand under names, where these make one of the forms; it is used up."""
        named = scope.named
        scope.named = {}
        for names in _CORNERS:
            if all(name in named for name in names):
                self._add(scope, [named[name] for name in names], form="corners")
                return
        if "w" not in named or "h" not in named or "x2" in named or "y2" in named:
            return
        for x, y in _ORIGINS:
            if x in named and y in named:
                self._add(scope, [named[name] for name in (x, y, "w", "h")], form="size")
                return
        if "cx" in named and "cy" in named:
            self._add(scope, [named[name] for name in ("cx", "cy", "w", "h")], form="centre")

    def _one_run(self, numbers: list[Number]) -> bool:
        """Whether these are four numbers that only commas or spaces keep apart."""
        return len(numbers) == 4 and all(
            _BETWEEN_NUMBERS.fullmatch(self.text, left[2], right[1]) for left, right in pairwise(numbers)
        )

    def _add(
        self,
        scope: _Scope,
        numbers: list[Number],
        *,
        key: str = "",
        marked: bool = False,
        form: Form | None = None,
    ) -> None:
        if scope.banned:
            return
        key = key or scope.key
        signs = [_PERCENT.match(self.text, number[2]) is not None for number in numbers]
        corners = _corners([number[0] for number in numbers], form or _form_of(key) or self.form)
        if corners is None or any(signs) != all(signs):
            return
        if all(signs):
            x1, y1, x2, y2 = corners
            corners = (x1 / 100, y1 / 100, x2 / 100, y2 / 100)
        spans = tuple((number[1], number[2]) for number in numbers)
        unit: Unit | None = "norm1" if all(signs) else None
        self.boxes.append(FoundBox(corners, spans, marked or scope.marked, key, scope.label, unit))

    def _name(self, scope: _Scope, parent: _Scope) -> None:
        """Give an object's label to its boxes, or, where it has none, to the object around it."""
        label = scope.labels[min(scope.labels)]
        if len(self.boxes) == scope.first_box:
            for rank, name in scope.labels.items():
                parent.labels.setdefault(rank, name)
        for box in self.boxes[scope.first_box :]:
            box.label = box.label or label


def _float(digits: str) -> float:
    """The value of a number; of a runaway one only that it is too large."""
    return float(digits) if len(digits) <= 32 else float("inf")


def _form_of(key: str) -> Form | None:
    """The form that the key of a list names, as `bbox_xywh` does."""
    if "cxcywh" in key:
        return "centre"
    return "size" if any(form in key for form in ("xywh", "ltwh", "tlwh")) else None


def _corners(numbers: list[float], form: Form) -> Corners | None:
    """Corners from four numbers; None where width or height is not above 0."""
    x, y, width, height = numbers
    if form == "corners":
        return (x, y, width, height)
    if width <= 0 or height <= 0:
        return None
    if form == "centre":
        x, y = x - width / 2, y - height / 2
    return (x, y, x + width, y + height)
