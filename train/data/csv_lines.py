"""Rows of a CSV file of annotations; errors name the line, and the other rows are still read."""

from __future__ import annotations

import ast
import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from egolive.streaming.errors import DataError
from egolive.train.data.rows import RowError, Tally

__all__ = ["Line", "finite", "read_lines", "read_table"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a CSV file; what it is asked for and does not hold is a RowError."""

    where: str
    """File, and number of the line that the row ends on."""
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        """Never empty."""
        if not self.cells[column].strip():
            raise RowError(self.where, f"{column} is empty")
        return self.cells[column]

    def seconds(self, column: str) -> float:
        """A finite number."""
        try:
            return finite(float(self.cells[column]))
        except ValueError:
            raise RowError(self.where, f"{column} is no number of seconds", self._found(column)) from None

    def clock(self, column: str) -> float:
        """Seconds of hh:mm:ss.ff."""
        try:
            hours, minutes, seconds = self.cells[column].split(":")
            return finite(int(hours) * 3600 + int(minutes) * 60 + float(seconds))
        except (ValueError, OverflowError):
            raise RowError(self.where, f"{column} is no time hh:mm:ss.ff", self._found(column)) from None

    def names(self, column: str, labels: Sequence[str]) -> list[str]:
        """The labels whose numbers are listed there; none where the column is not there or empty."""
        try:
            numbers = ast.literal_eval(self.cells.get(column) or "[]")
            if not all(0 <= number < len(labels) for number in numbers):
                raise IndexError
            return [labels[number] for number in numbers]
        except (ValueError, SyntaxError, TypeError, IndexError):
            reason = f"{column} is no list of numbers of its taxonomy"
            raise RowError(self.where, reason, self._found(column)) from None

    def _found(self, column: str) -> str:
        return repr(self.cells[column][:50])


def finite(seconds: float) -> float:
    """The number itself; a ValueError where it is nan or infinite."""
    if not math.isfinite(seconds):
        raise ValueError
    return seconds


def read_lines(lines: Sequence[Line], read: Callable[[Line], T], tally: Tally | None = None) -> list[T]:
    """What is read from each line. A line that cannot be read is counted; without a tally it is an error."""
    found = []
    for line in lines:
        try:
            # The csv module puts None for what a row has too few of, and under None what it has too many of.
            lacking = [column for column, value in line.cells.items() if value is None]
            if lacking or None in line.cells:
                told = f"no {lacking[0]}" if lacking else ""
                raise RowError(line.where, "a row with fewer or more values than there are columns", told)
            found.append(read(line))
        except RowError as error:
            if tally is None:
                raise
            tally.add(error)
    return found


def read_table(path: Path, *columns: str) -> list[Line]:
    """The rows of a CSV file, of which there is at least one, with these columns and maybe others."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            there = reader.fieldnames
            lines = [Line(f"{path.name}, line {reader.line_num}", cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error
    if not there:
        raise DataError(f"{path}: its first line names no columns")
    for column in columns:
        if column not in there:
            raise DataError(f"{path}: has no column {column}, only {', '.join(there)}")
    if not lines:
        raise DataError(f"{path}: holds no row below the names of its columns")
    return lines
