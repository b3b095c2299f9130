"""Files of rows, read from disk one row at a time: their index, and mixes of several by percentages.

A file is JSON lines or one JSON list, of any size: what is kept in memory is where each row begins and ends.
A mix is decided by its seed alone, so that every process and every resumed run sees the same rows in the same
order.
"""

from __future__ import annotations

import logging
import math
import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import IterableDataset
from numpy.typing import NDArray

from egolive.streaming.errors import DataError
from egolive.streaming.json_files import json_value
from egolive.streaming.paths import existing_path
from egolive.train.data.rows import BoxUnit, Row, RowError, Tally, row_from_dict

__all__ = ["RowFile", "RowMix", "mix_rows", "row_stream"]

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
_LINE = re.compile(rb"[^\n]*\S[^\n]*")
_MOST_BYTES = 64 * 1024**2
"""Of one row."""
_LOGGER = logging.getLogger(__name__)
_LOOKED_AT = 1000
"""Rows, evenly spread over a file, that tell the unit of its boxes."""
_EDGES: dict[BoxUnit, float] = {"norm1": 1.0, "norm1000": 1000.0, "pixels": math.inf}
"""The largest coordinate that a box can have in a unit."""
_SLACK = 0.002
"""How far over the edge of its picture rounding may carry a box, as a share of the picture's side."""
_ODD = 0.01
"""Share of the boxes of a file of thousandths that may lie beyond 1000."""
_FEW = 0.1
"""Share of boxes beyond 1000 up to which a file of pixels is worth a second look."""


class RowFile:
    """The rows of one file, in its order; each is read from disk when it is asked for.

    Raises:
        DataError: the file cannot be read or holds no row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                self._spans = _spans(content)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}); give a file of rows") from error
        if not len(self._spans):
            raise DataError(f"{path}: holds no row; give JSON lines, or a JSON list of objects")
        self._unit: BoxUnit | None = None

    def __len__(self) -> int:
        return len(self._spans)

    def raw(self, number: int) -> object:
        """The JSON value of a row; a box that rounding carried over the edge of its picture is cut to it.

        Raises:
            RowError: it is not JSON, or its box is in another unit than the file's.
        """
        values = self._read(number)
        return _fitted(values, self.unit, self.where(number)) if _largest(values) else values

    def _read(self, number: int) -> object:
        start, end = self._spans[number].tolist()
        with self.path.open("rb") as file:
            file.seek(start)
            text = file.read(end - start)
        try:
            return json_value(text, where="not JSON", remedy="", most=_MOST_BYTES)
        except DataError as error:
            raise RowError(self.where(number), "not JSON", str(error)) from error

    def __getitem__(self, number: int) -> Row:
        """A row.

        Raises:
            RowError: it cannot be used.
        """
        if not 0 <= number < len(self):
            raise IndexError(number)
        return row_from_dict(self.raw(number), where=self.where(number), unit=self.unit)

    def where(self, number: int) -> str:
        """What messages call a row; counted from 1."""
        return f"{self.path.name}:{number + 1}"

    @property
    def unit(self) -> BoxUnit:
        """What the numbers of published boxes count, told by those of a thousand rows together, and logged.

        Half of them at most 1: fractions. Else more than one in a hundred above 1000: pixels. Else
        thousandths; pixels of pictures that are no larger than 1000 pixels would be taken for them, so say
        `box` for those.
        """
        if self._unit is None:
            count = min(len(self), _LOOKED_AT)
            reaches = [self._reach(number * len(self) // count) for number in range(count)]
            boxes = np.array([largest for largest in reaches if largest])
            small = int((boxes <= 1 + _SLACK).sum())
            beyond = int((boxes > _EDGES["norm1000"] * (1 + _SLACK)).sum())
            if small >= len(boxes) / 2:
                self._unit = "norm1"
            else:
                self._unit = "pixels" if beyond > _ODD * len(boxes) else "norm1000"
            if len(boxes):
                doubtful = 0 < small < len(boxes) or 0 < beyond < _FEW * len(boxes)
                _LOGGER.log(
                    logging.WARNING if doubtful else logging.INFO,
                    "%s: boxes are read as %s; of %d looked at, %d reach to 1 at most and %d beyond 1000",
                    self.path.name,
                    self._unit,
                    len(boxes),
                    small,
                    beyond,
                )
        return self._unit

    def _reach(self, number: int) -> float:
        try:
            return _largest(self._read(number))
        except RowError:
            return 0.0


class RowMix:
    """Rows of several files in one shuffled order."""

    def __init__(self, files: Sequence[RowFile], order: NDArray[np.int64]) -> None:
        """Take the files, and (n, 2) numbers of file and row in the order in which they are given out."""
        self.files = list(files)
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, number: int) -> Row:
        """A row.

        Raises:
            RowError: it cannot be used.
        """
        file, row = (int(value) for value in self.order[number])
        return self.files[file][row]

    def checked(self, tally: Tally, *, media: Path | None = None) -> RowMix:
        """The mix without the rows that cannot be used, each reported and counted.

        Args:
            tally: counts them.
            media: also leave out rows whose pictures or videos are not in this folder.
        """
        kept = []
        for number in range(len(self)):
            try:
                row = self[number]
                missing = [
                    name
                    for name in (*row.images, *row.videos)
                    if media is not None and not (media / name).exists()
                ]
                if missing:
                    raise RowError(row.where, "its picture or video is not there", missing[0])
            except RowError as error:
                tally.add(error)
            else:
                kept.append(number)
        tally.good += len(kept)
        return RowMix(self.files, self.order[kept])


def mix_rows(sources: Sequence[str | Path], *, seed: int = 0, shuffle: bool = True) -> RowMix:
    """Rows of several files, each wholly or in part.

    Args:
        sources: paths; "name.json%30" takes 30 percent of the rows of a file, drawn once by the seed.
        seed: of the draw and of the order.
        shuffle: put the rows of all files into one random order; else file after file.

    Raises:
        DataError: a file cannot be read, or a percentage is none.
    """
    files, parts = [], []
    for number, source in enumerate(sources):
        path, share = _share(str(source))
        file = RowFile(path)
        rows = np.arange(len(file))
        if share < 1:
            # The draw depends on the file's own name, not on what else is in the mix.
            draw = np.random.default_rng([seed, *path.name.encode()])
            rows = np.sort(draw.choice(rows, max(1, round(share * len(file))), replace=False))
        files.append(file)
        parts.append(np.stack([np.full(len(rows), number), rows], axis=1))
    order = np.concatenate(parts) if parts else np.zeros((0, 2), np.int64)
    if shuffle:
        order = np.random.default_rng(seed).permutation(order)
    return RowMix(files, order)


def row_stream(mix: RowMix, tally: Tally) -> IterableDataset:
    """The rows of a mix as a data set of Hugging Face's that is read from disk as it is used.

    Its examples are `{"row": Row}`. Rows that cannot be used are reported, counted and left out.
    """
    return IterableDataset.from_generator(_examples, gen_kwargs={"mix": mix, "tally": tally})


def _examples(mix: RowMix, tally: Tally) -> Iterator[dict[str, Row]]:
    for number in range(len(mix)):
        try:
            row = mix[number]
        except RowError as error:
            tally.add(error)
        else:
            tally.good += 1
            yield {"row": row}


def _spans(content: mmap.mmap) -> NDArray[np.int64]:
    """(n, 2) where the rows begin and end, in bytes."""
    head = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*(.)", re.DOTALL).match(content)
    if head is None:
        return np.zeros((0, 2), np.int64)
    if head[1] != b"[":
        # One row a line: a broken one spoils no other.
        spans = [found.span() for found in _LINE.finditer(content)]
        return np.array(spans, np.int64).reshape(-1, 2)
    spans = []
    depth = start = 0
    for token in _TOKEN.finditer(content, head.start(1) + 1):
        mark = token[0]
        if mark in (b"{", b"["):
            if depth == 0:
                start = token.start()
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
            if depth < 0:
                return np.array(spans, np.int64).reshape(-1, 2)
            if depth == 0:
                spans.append((start, token.end()))
    raise ValueError(f"its list does not end; it is cut off after {len(spans)} rows")


def _largest(values: object) -> float:
    """The largest coordinate of a row's published box; 0 where it has none that could be right."""
    if not isinstance(values, dict) or "object" not in values or values.keys() & {"box", "conversations"}:
        return 0.0
    corners = values.get("gt")
    if not isinstance(corners, list) or not all(isinstance(value, int | float) for value in corners):
        return 0.0
    largest = max((abs(float(value)) for value in corners), default=0.0)
    return largest if math.isfinite(largest) else 0.0


def _fitted(values: Any, unit: BoxUnit, where: str) -> object:
    """A row with a published box, cut to the picture where it reaches over its edge by no more than rounding.

    Raises:
        RowError: the box cannot be in this unit, so it is likely in another one.
    """
    largest, edge = _largest(values), _EDGES[unit]
    # No box of a file of pixels or thousandths is as small as one of them.
    if largest > edge * (1 + _SLACK) or (unit != "norm1" and largest <= 1 + _SLACK):
        raise RowError(
            where, "a box in another unit than its file's", f"it reaches to {largest:g}, not {unit}"
        )
    if unit == "pixels":
        return values
    over = edge * _SLACK
    cut = [min(edge, value if value < -over else max(0, value)) for value in values["gt"]]
    return {**values, "gt": cut}


def _share(source: str) -> tuple[Path, float]:
    """A path and the share of its rows that is taken."""
    name, mark, percent = source.rpartition("%")
    if not mark or existing_path(source) is not None:
        return Path(source), 1.0
    try:
        share = float(percent) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise DataError(f"{source}: a percentage is more than 0 and at most 100, as in name.json%30")
    return Path(name), share
