"""What the person at the terminal sees: a live view, or one line an answer where there is no terminal.

The live view shows the picture as half-block cells where the terminal has the colours and the room for it.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.table import Table
from rich.text import Text

from egolive.assistant.cli.printing import note, printable
from egolive.assistant.live.answer_text import certainty, in_words
from egolive.assistant.live.overlay import (
    colour_of,
    coloured_boxes,
    draw_boxes,
    short_phrase,
)
from egolive.assistant.live.sinks import Shown
from egolive.assistant.schema.answers import Answer
from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.frames import Box

__all__ = ["LineView", "Picture", "Rates", "TerminalView"]

_DRAWS_A_SECOND = 6.0
"""More often only costs time that the engine needs."""
_PANEL = 48
"""Columns beside the picture."""
_NO_MARK = (0.0, 0.0, 0, 0)
_SPAN = 5.0
"""Seconds over which rates are taken."""


class Rates:
    """Pictures a second from the source and on the screen, and answers a second, over the last seconds."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or MonotonicClock()
        self._marks: deque[tuple[float, float, int, int]] = deque()
        self._answers = 0

    def count(self, shown: Shown) -> None:
        """Take one picture that is shown."""
        self._answers += len(shown.new)
        now = self._clock.now()
        self._marks.append((now, shown.now, shown.frame.index, self._answers))
        while now - self._marks[0][0] > _SPAN:
            self._marks.popleft()

    @property
    def source(self) -> float:
        """Pictures a second that the source made, dropped ones too, in stream time."""
        first, last = self._ends()
        return (last[2] - first[2]) / (last[1] - first[1]) if last[1] > first[1] else 0.0

    @property
    def shown(self) -> float:
        """Pictures a second that were shown."""
        first, last = self._ends()
        return (len(self._marks) - 1) / (last[0] - first[0]) if last[0] > first[0] else 0.0

    @property
    def answers(self) -> float:
        """Answers a second."""
        first, last = self._ends()
        return (last[3] - first[3]) / (last[0] - first[0]) if last[0] > first[0] else 0.0

    def _ends(self) -> tuple[tuple[float, float, int, int], tuple[float, float, int, int]]:
        return (self._marks[0], self._marks[-1]) if self._marks else (_NO_MARK, _NO_MARK)


class TerminalView:
    """A live view in a terminal: picture, intent, next step, boxes, rates, drops and ages.

    rich draws the newest state on a thread of its own: a slow terminal delays its view, never the pictures.
    """

    def __init__(self, console: Console, *, title: str, advice: str = "", clock: Clock | None = None) -> None:
        """Take over the terminal until `close`.

        Args:
            console: An interactive one.
            title: First line: what is watched, and by which model.
            advice: Stands over answers that are only guesses: what the model knows.
            clock: What rates are measured with.
        """
        self._console = console
        self._title = title
        self._advice = advice
        self._lock = threading.Lock()
        self._shown: Shown | None = None
        self._rates = Rates(clock)
        self._dropped = 0
        self._gaps = 0
        self._warning = ""
        self._live = Live(
            console=console,
            get_renderable=self._newest,
            refresh_per_second=_DRAWS_A_SECOND,
            # Answers that go into a file or a pipe are not for the terminal.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._live.start()

    def emit(self, shown: Shown) -> None:
        """Count the picture, and leave it for the next drawing."""
        with self._lock:
            self._rates.count(shown)
            if self._shown is not None:
                self._dropped += max(0, shown.frame.index - self._shown.frame.index - 1)
            self._shown = shown

    def note(self, event: Mapping[str, object]) -> None:
        """Count gaps, and keep the last warning."""
        with self._lock:
            if event.get("type") == "gap":
                self._gaps += 1
            elif event.get("type") == "warning":
                self._warning = str(event["text"])

    def close(self) -> None:
        """Give the terminal back; the last view stays."""
        self._live.stop()

    def _newest(self) -> RenderableType:
        with self._lock:
            shown, figures = self._shown, self._figures()
        if shown is None:
            return Text(self._title, style="bold")
        panel = Group(
            Text(self._title, style="bold", overflow="ellipsis", no_wrap=True),
            Text(self._advice if any(answer.guess for answer in shown.answers) else "", style="bold yellow"),
            _words(shown.answers, shown.now),
            Text(""),
            _boxes(shown.answers, shown.now),
            Text(""),
            figures,
        )
        columns, rows = self._console.width - _PANEL - 2, self._console.height - 2
        colourful = self._console.color_system in ("truecolor", "256")
        if not colourful or columns < 40 or rows < 10:
            return panel
        return Picture(shown, panel, columns, rows)

    def _figures(self) -> RenderableType:
        rates = self._rates
        return Text(
            f"source {rates.source:.1f}/s · shown {rates.shown:.1f}/s · answers {rates.answers:.1f}/s\n"
            f"not shown {self._dropped} · gaps {self._gaps}\n{self._shown.figures if self._shown else ''}"
            f"\n{self._shown.governor if self._shown else ''}"
            f"{f'{chr(10)}{self._warning}' if self._warning else ''}",
            style="dim",
        )


class LineView:
    """One line an answer on standard output, for logs and pipes; what is no answer goes to standard error."""

    only_new = True

    def __init__(self) -> None:
        self._sides: tuple[str, ...] | None = None

    def emit(self, shown: Shown) -> None:
        """Write a line for each new answer, and one when other hands are seen than before."""
        for look in shown.looks:
            sides = tuple(hand.side for hand in look.hands)
            if sides != self._sides:
                self._sides = sides
                seen = ", ".join(f"{hand.box.label} {_corners(hand.box)}" for hand in look.hands) or "none"
                self._write(f"{look.time:7.2f} s  hands seen: {seen}  (detector)")
        for answer in shown.new:
            question = answer.question
            key = f"{question.task} {question.phrase}".strip()
            sure = f"{told}, " if (told := certainty(answer)) else ""
            age = f"age {shown.now - answer.time:.1f} s"
            self._write(f"{answer.time:7.2f} s  {key}: {in_words(answer)}  ({sure}{age})")

    def _write(self, line: str) -> None:
        sys.stdout.write(printable(line) + "\n")
        sys.stdout.flush()

    def note(self, event: Mapping[str, object]) -> None:
        """Write a line for a gap, and for a warning."""
        if event.get("type") == "gap":
            note("the source was interrupted: a new window begins")
        elif event.get("type") == "warning":
            note(str(event["text"]))

    def close(self) -> None:
        """Nothing to finish."""


class Picture:
    """A picture with its boxes as terminal cells, and a panel to the right of it.

    The upper half block carries two pixels. Rows go out as ready escape codes: thousands of cells through
    rich's own styles take a tenth of a second, in which no picture is shown.
    """

    def __init__(self, shown: Shown, panel: RenderableType, columns: int, rows: int) -> None:
        """Fit the picture into so many cells, its proportions kept."""
        frame = shown.frame
        scale = min(columns / frame.width, 2 * rows / frame.height)
        self._panel = panel
        self._columns = max(1, int(frame.width * scale))
        self._rows = max(1, int(frame.height * scale / 2))
        size = (self._columns, 2 * self._rows)
        self._pixels = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        boxes = [(_scaled(box, scale), colour) for box, colour in coloured_boxes(shown.answers, shown.now)]
        draw_boxes(self._pixels, boxes, 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._panel, options.update(width=_PANEL, height=None))
        for row in range(max(self._rows, len(lines))):
            # A control segment counts as no cells, so that rich neither wraps nor cuts it.
            yield Segment(self._row(row, console.color_system == "truecolor"), None, [(ControlType.BELL,)])
            yield Segment("  ")
            yield from lines[row] if row < len(lines) else ()
            yield Segment.line()

    def _row(self, row: int, truecolor: bool) -> str:
        if row >= self._rows:
            return " " * self._columns
        upper, lower = (_codes(line, truecolor) for line in self._pixels[2 * row : 2 * row + 2])
        cells = (f"\x1b[38;{top};48;{bottom}m▀" for top, bottom in zip(upper, lower, strict=True))
        return "".join(cells) + "\x1b[0m"


def _codes(line: NDArray[np.uint8], truecolor: bool) -> list[str]:
    """Colour codes of one row of pixels: 24 bits, or the 6 x 6 x 6 colours of older terminals."""
    if truecolor:
        return [f"2;{red};{green};{blue}" for red, green, blue in line.tolist()]
    numbers = 16 + (line.astype(np.int64) * 6 // 256) @ (36, 6, 1)
    return [f"5;{number}" for number in numbers.tolist()]


def _corners(box: Box) -> str:
    return f"[{', '.join(f'{value:.0f}' for value in box)}]"


def _scaled(box: Box, scale: float) -> Box:
    return replace(box, x1=box.x1 * scale, y1=box.y1 * scale, x2=box.x2 * scale, y2=box.y2 * scale)


def _words(answers: Sequence[Answer], now: float) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    for answer in answers:
        question = answer.question
        if question.task != "ground":
            key = question.task if question.task in ("intent", "next") else question.phrase
            table.add_row(key, Text(in_words(answer), style="bold"))
            sure = f"{told}, " if (told := certainty(answer)) else ""
            table.add_row("", Text(f"{sure}{now - answer.time:.1f} s old{_length(answer)}", style="dim"))
    return table if table.row_count else Text("waiting for the first answer", style="dim")


def _length(answer: Answer) -> str:
    return f", of {answer.window.duration:.1f} s seen" if answer.window else ""


def _boxes(answers: Sequence[Answer], now: float) -> RenderableType:
    table = Table.grid(padding=(0, 1, 0, 0))
    for column in ("find", "where", "age"):
        table.add_column(no_wrap=True, justify="right" if column == "age" else "left")
    uncalibrated = False
    for answer in answers:
        if answer.question.task == "ground":
            red, green, blue = colour_of(answer.question.phrase)
            name = Text(short_phrase(answer.question.phrase), style=f"rgb({red},{green},{blue})")
            # Said once below, for want of room.
            told = certainty(answer).removesuffix(" uncalibrated")
            uncalibrated |= told != certainty(answer)
            finder = answer.boxes[0].finder or "" if answer.boxes else ""
            where = " ".join(filter(None, (in_words(answer), told, finder)))
            table.add_row(name, where, Text(f"{now - answer.time:.1f} s", style="dim"))
    if uncalibrated:
        table.add_row("", Text("scores uncalibrated", style="dim"), "")
    return table
