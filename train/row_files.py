"""Files of rows, read from disk one row at a time: their index, and mixes of several by percentages.

A file is JSON lines or one JSON list, of any size: what is kept in memory is where each row begins and ends.
A mix is decided by its seed alone, so that every process and every resumed run sees the same rows in the same
order.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from datasets import IterableDataset
from numpy.typing import NDArray

from egolive.streaming.errors import DataError
from egolive.train.rows import BoxUnit, Row, RowError, Tally, row_from_dict

__all__ = ["RowFile", "RowMix", "mix_rows", "row_stream"]

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
_LINE = re.compile(rb"[^\n]*\S[^\n]*")
_BOXES_LOOKED_AT = 1000


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
        """The JSON value of a row.

        Raises:
            RowError: it is not JSON.
        """
        start, end = self._spans[number].tolist()
        with self.path.open("rb") as file:
            file.seek(start)
            text = file.read(end - start)
        try:
            return json.loads(text)
        except ValueError as error:
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
        """What the numbers of published boxes count, told by the first thousand of them together.

        All at most 1: fractions. One above 1000: pixels. Else thousandths; pixels of pictures that are no
        larger than 1000 pixels would be taken for them, so say `box` for those.
        """
        if self._unit is None:
            largest = 0.0
            for number in range(min(len(self), _BOXES_LOOKED_AT)):
                largest = max(largest, _largest(self, number))
            self._unit = "norm1" if largest <= 1 else "pixels" if largest > 1000 else "norm1000"
        return self._unit


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


def _largest(file: RowFile, number: int) -> float:
    """The largest coordinate of a published box; 0 where the row has none."""
    try:
        values = file.raw(number)
    except RowError:
        return 0.0
    corners = values.get("gt") if isinstance(values, dict) else None
    if not isinstance(corners, list):
        return 0.0
    return max((abs(float(value)) for value in corners if isinstance(value, int | float)), default=0.0)


def _share(source: str) -> tuple[Path, float]:
    """A path and the share of its rows that is taken."""
    name, mark, percent = source.rpartition("%")
    if not mark or Path(source).exists():
        return Path(source), 1.0
    try:
        share = float(percent) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise DataError(f"{source}: a percentage is more than 0 and at most 100, as in name.json%30")
    return Path(name), share
