"""The unit of published boxes, which their files do not name: how it is told, and what is refused or cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from egolive.streaming.frames import Box
from egolive.train.data.row_files import RowFile, mix_rows
from egolive.train.data.rows import RowError, Tally
from egolive.train.evaluate.examples import examples_in

FRACTIONS, THOUSANDTHS, PIXELS = [0.1, 0.2, 0.5, 0.9], [10, 20, 500, 900], [10, 20, 1500, 900]


def boxes(count: int, gt: Sequence[float]) -> list[dict[str, Any]]:
    return [{"path": f"{number}.jpg", "object": "cup", "gt": gt} for number in range(count)]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("most", "odd", "unit"),
    [
        (FRACTIONS, [0, 0, 1, 1], "norm1"),
        (THOUSANDTHS, [0, 0, 1, 1], "norm1000"),
        (THOUSANDTHS, [0, 0, 1000, 1000], "norm1000"),
        (PIXELS, [0, 0, 1, 1], "pixels"),
        # Most boxes of a picture end left of its thousandth pixel.
        (THOUSANDTHS, PIXELS, "pixels"),
    ],
)
def test_the_unit_of_published_boxes_is_told_by_all_of_them_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, most: list[float], odd: list[float], unit: str
) -> None:
    rows = [*boxes(28, most), *boxes(2, odd), {"broken": True}]
    with caplog.at_level("INFO", logger="egolive"):
        file = RowFile(write(tmp_path / "visor.json", rows))
        assert file.unit == file.unit == unit
    (told,) = caplog.messages
    assert told.startswith(f"visor.json: boxes are read as {unit}; of 30 looked at, ")


@pytest.mark.parametrize(
    ("most", "odd", "cut", "unit"),
    [
        (FRACTIONS, [-0.0005, 0.2, 0.5, 1.0005], Box(0, 200, 500, 1000), "norm1"),
        (THOUSANDTHS, [-1, 20, 500, 1001], Box(0, 20, 500, 1000), "norm1000"),
    ],
)
def test_a_box_that_rounding_carried_over_the_edge_is_cut_and_turns_no_unit(
    tmp_path: Path, most: list[float], odd: list[float], cut: Box, unit: str
) -> None:
    # A single one among few, so that only the slack can tell.
    mix = mix_rows([write(tmp_path / "visor.json", [*boxes(9, most), *boxes(1, odd)])], shuffle=False)
    assert mix.files[0].unit == unit
    assert mix[9].box == cut
    assert [found.row.box for found in examples_in(mix, Tally())] == [mix[n].box for n in range(10)]


@pytest.mark.parametrize(
    ("most", "odd", "unit"),
    [
        (FRACTIONS, [0.1, 0.2, 0.5, 1.1], "norm1"),
        (FRACTIONS, THOUSANDTHS, "norm1"),
        (FRACTIONS, PIXELS, "norm1"),
        (THOUSANDTHS, PIXELS, "norm1000"),
        (THOUSANDTHS, FRACTIONS, "norm1000"),
        (PIXELS, FRACTIONS, "pixels"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_box_in_another_unit_than_its_file_is_counted_and_turns_no_other(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    most: list[float],
    odd: list[float],
    unit: str,
    first: bool,
) -> None:
    rows = [*boxes(199, most), *boxes(1, odd)]
    mix = mix_rows([write(tmp_path / "visor.json", rows[::-1] if first else rows)], shuffle=False)
    with caplog.at_level("WARNING", logger="egolive"):
        assert mix.files[0].unit == unit
    # The command line shows warnings; a unit that all boxes agree on is only worth an info.
    assert f"boxes are read as {unit}; of 200 looked at, " in caplog.text
    kept = mix.checked(tally := Tally())
    assert (len(kept), tally.broken) == (199, {"a box in another unit than its file's": 1})
    assert len({kept[number].box for number in range(199)}) == 1
    with pytest.raises(RowError, match=f"another unit .*not {unit}"):
        mix[0 if first else 199]


def test_boxes_beyond_the_first_thousand_rows_help_to_tell_the_unit(tmp_path: Path) -> None:
    said = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A mug."}]
    talk = [{"conversations": said, "gt": [0, 0, 5000, 1]} for _ in range(1500)]
    file = RowFile(write(tmp_path / "rows.json", [*talk, *boxes(500, THOUSANDTHS)]))
    assert file.unit == "norm1000"
    assert file[0].turns
    assert file[1999].box == Box(10, 20, 500, 900)
