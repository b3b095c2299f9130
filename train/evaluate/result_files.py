"""Result files: one JSON line for each answer, appended as it comes, so that a run can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.schema.engine import Engine
from egolive.assistant.schema.profiles import profile_to_dict
from egolive.streaming.errors import ConfigError, DataError
from egolive.streaming.json_files import json_value

__all__ = ["Record", "Results", "engine_settings", "model_stamp", "read_records", "results_of_run"]

_MOST_BYTES = 16 * 1024**2
"""Of one line."""
Record = dict[str, Any]
"""One line of results: `id`, what was asked, `truth`, `said`, and `values` by measure."""


class Results:
    """Lines of results, kept in a file where one is given, so that a run can be taken up again.

    The first line of the file says what the results are of.

    Raises:
        ConfigError: the file holds results of something else.
        DataError: it cannot be read or written.
    """

    def __init__(self, path: Path | None, settings: dict[str, object], *, whole: str = "") -> None:
        """Open the file, or begin it.

        Args:
            path: keeps the lines; None keeps them in memory alone.
            settings: what the results are of.
            whole: lines that share this value are written together; the last ones are dropped if they do not
                end with one that was added as `last`.
        """
        self.records: list[Record] = []
        self._file: TextIO | None = None
        if path is None:
            return
        # As it is read again: JSON knows no tuples.
        header = json.loads(json.dumps({"type": "run", **settings}))
        try:
            if path.exists() and path.stat().st_size:
                found, self.records = _read(path)
                if found != header:
                    raise ConfigError(f"{path} holds results of another run: give another file, or delete it")
            if whole and self.records and not self.records[-1].get("last"):
                last = self.records[-1].get(whole)
                self.records = [record for record in self.records if record.get(whole) != last]
            # Written anew: the last line may be half a line.
            lines = [header, *self.records]
            part = path.with_name(f".{path.name}.part")
            part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
            part.replace(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror})") from error

    @property
    def done(self) -> set[str]:
        """Names of the examples that have their results."""
        return {record["id"] for record in self.records}

    def add(self, record: Record, *, last: bool = False) -> None:
        """Keep one line of results; `last` of those that are written together."""
        if last:
            record = {**record, "last": True}
        self.records.append(record)
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def read_records(path: Path) -> list[Record]:
    """The lines of a file of results that have values.

    Raises:
        DataError: it cannot be read, or holds none.
    """
    try:
        _, records = _read(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not records:
        raise DataError(f"{path}: holds no results; give a file that egolive evaluate --samples wrote")
    return records


def results_of_run(path: Path) -> tuple[dict[str, Any], list[Record]] | None:
    """What a file of results is of, and its lines; None where a file is none.

    Raises:
        DataError: it is one, and is damaged.
    """
    try:
        with path.open("rb") as file:
            first = file.readline(_MOST_BYTES)
        if not first.startswith(b'{"type": "run"'):
            return None
        return _read(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def model_stamp(model: str) -> dict[str, object]:
    """Name and file stamps of a model, which change when it is trained again in the same folder."""
    files = sorted(resolve_model(model).iterdir())
    stamps = [path.stat() for path in files if path.suffix in (".safetensors", ".onnx", ".data", ".engine")]
    return {"model": model, "weights": [[stamp.st_size, stamp.st_mtime_ns] for stamp in stamps]}


def engine_settings(engine: Engine) -> dict[str, object]:
    """The settings of an engine that influence its answers: profile and precision."""
    return {"profile": profile_to_dict(engine.profile), "precision": engine.info.precision}


def _read(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """The first line, and all lines with values; half a last line is passed over."""
    header: dict[str, Any] = {}
    records = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines):
        where = f"{path}: line {number + 1} is not JSON"
        try:
            values = json_value(line, where=where, remedy="it is no file of results", most=_MOST_BYTES)
        except DataError:
            if number == len(lines) - 1:
                break
            raise
        if isinstance(values, dict) and values.get("type") == "run":
            header = values
        elif isinstance(values, dict) and isinstance(values.get("values"), dict) and "id" in values:
            records.append(values)
    return header, records
