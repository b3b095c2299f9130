"""JSON that is read from files: what does not fit ends in one line, however absurd it is."""

import json
import os
from pathlib import Path
from typing import Any, Literal

import pytest

from egolive.streaming.errors import ConfigError, DataError
from egolive.streaming.json_files import (
    Count,
    JsonModel,
    Seconds,
    json_bytes,
    json_object,
    json_value,
    read_json,
    read_json_object,
)


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
        ('{"format": 3, "format": 3}', "the key 'format' stands twice"),
        ('{"format": 3, "anything": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
        ('{"format": 3, "anything": NaN}', "Invalid JSON"),
        ('{"format": 3, "anything": -1e999}', "the number -1e999 is out of range"),
        ('{"format": 3, "anything": [' + "{}," * 200_000 + "{}]}", "more than 131072 values"),
        ('{"format": 3, "anything": "' + "x" * 5_000_000 + '"}', "larger than 4 MiB"),
        ('{"format": 3, "inner": {"time": 0, "' + "x" * 3000 + '\\n": 1}, "count": "\\u001b"}', "count"),
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


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"[" * 100_000, b"9" * 10_000, b"NaN", b"\xff\xfe[]", b'{"a": 1, "a": 1}', b"[1e999]"),
        *(b'"\\ud800"', b"[" + b"[]," * 200_000 + b"0]", b" " * 5_000_000 + b"0", b"7", b"[]"),
    ],
    ids=lambda text: str(text[:12]),
)
def test_a_request_that_is_no_object_is_one_line_of_the_kind_that_its_caller_wants(text: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        json_object(text, where="the request", remedy="send an object", error=ConfigError)
    told = str(caught.value)
    assert told.startswith("the request (")
    assert told.endswith("; send an object")
    assert len(told.splitlines()) == 1
    assert len(told) < 200


def test_depth_does_not_hang_on_how_deep_the_caller_is() -> None:
    def inside(levels: int) -> object:
        return json_value(b"[" * 150 + b"]" * 150, where="", remedy="") if not levels else inside(levels - 1)

    assert str(inside(300)) == "[" * 150 + "]" * 150


def test_text_with_a_byte_order_mark_is_read() -> None:
    assert json_value(b'\xef\xbb\xbf{"a": 1.5}', where="", remedy="") == {"a": 1.5}


def test_only_plain_files_are_read_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "\0"):
        with pytest.raises(DataError, match="cannot be read as JSON"):
            read_json_object(tmp_path / name, remedy="copy it")


def test_of_a_file_that_is_too_long_no_more_is_read_than_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    with path.open("wb") as file:
        # Sparse: 1 TB that takes no place.
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=r"larger than 1 KiB\); copy it"):
        read_json_object(path, remedy="copy it", most=1024)
