"""JSON that is read from files: what does not fit ends in one line, however absurd it is."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from egolive.streaming.errors import DataError
from egolive.streaming.json_files import Count, JsonModel, Seconds, json_bytes, read_json


class Inner(JsonModel):
    """An object inside another."""

    time: Seconds


class Outer(JsonModel):
    """A file with a format number."""

    format: Literal[3]
    count: Count = 0
    inner: Inner | None = None
    anything: Any = None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Invalid JSON"),
        ("7", "object"),
        ("[" * 100_000, "recursion limit"),
        ('{"format": 3, "anything": ' + "[" * 500 + "]" * 500 + "}", "recursion limit"),
        ('{"format": 3, "count": ' + "9" * 10_000 + "}", "out of range"),
        (b"\xff\xfe", "Invalid JSON"),
        ('{"format": 3, "anything": "\\ud800"}', "hex escape"),
        ("{}", "format: Field required"),
        ('{"format": 9876, "count": true}', "format 9876, which another egolive wrote"),
        ('{"format": 3, "count": true}', "count: Input should be a valid integer"),
        ('{"format": 3, "count": -1}', "count: Input should be greater"),
        ('{"format": 3, "inner": {"time": NaN}}', "inner.time: Input should be a finite number"),
        ('{"format": 3, "inner": {"time": 1e999}}', "inner.time: Input should be"),
        ('{"format": 3, "inner": {"time": "0"}}', "inner.time: Input should be a valid number"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_does_not_fit_is_one_line_with_file_field_and_remedy(
    tmp_path: Path, text: str | bytes, told: str
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        read_json(Outer, path, kind="thing", remedy="make it again")
    message = str(caught.value)
    assert message.startswith(f"{path}: no thing that can be read (")
    assert told in message
    assert message.endswith("; make it again")
    assert len(message.splitlines()) == 1
    assert len(message) < len(str(path)) + 200


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.json: no thing .*No such file.*; make it again"):
        read_json(Outer, tmp_path / "x.json", kind="thing", remedy="make it again")


def test_keys_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(json_bytes({"format": 3, "count": 2, "new": 1}))
    assert read_json(Outer, tmp_path / "x.json", kind="thing", remedy="").count == 2


def test_what_is_written_is_json_whatever_the_text() -> None:
    assert json.loads(json_bytes({"name": "caf\udce9 \u4f60\u2028"})) == {"name": "caf? \u4f60\u2028"}
