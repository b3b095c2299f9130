"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from egolive.streaming.errors import ConfigError, SinkError, UsageError
from egolive.streaming.metrics import known

__all__ = [
    "check_folders",
    "json_line",
    "json_text",
    "loading",
    "note",
    "printable",
    "readable",
    "working",
    "wrote",
]


def note(line: str) -> None:
    """Print one line for the user on standard error."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


def wrote(*places: Path | None) -> None:
    """Tell which files or folders a command wrote; those that are None are left out."""
    if named := [str(place) for place in places if place is not None]:
        note(f"wrote {', '.join(named)}")


def loading(name: str) -> AbstractContextManager[None]:
    """Tell at once that a model is being loaded."""
    return working(f"loading {name} ...")


@contextmanager
def working(line: str) -> Iterator[None]:
    """Tell at once what is done meanwhile: a spinner on a terminal, one line elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(escape(printable(line))):
            yield
    else:
        note(line)
        yield


def json_line(values: Mapping[str, object], json_file: Path | None = None) -> None:
    """Print one JSON object as a line on standard output, and write it into a file where one is named.

    Raises:
        SinkError: The file cannot be written.
    """
    line = json.dumps(known(values)) + "\n"
    if json_file is not None:
        try:
            json_file.write_text(line, encoding="utf-8")
        except OSError as error:
            raise SinkError(f"cannot write {json_file}: {error.strerror or error}") from error
    sys.stdout.write(line)
    sys.stdout.flush()
    wrote(json_file)


def json_text(values: Mapping[str, object]) -> str:
    """One JSON object in one line that standard output can hold, letters of other scripts as they are."""
    unicode = (getattr(sys.stdout, "encoding", None) or "").lower() in ("utf-8", "utf8")
    return printable(json.dumps(known(values), ensure_ascii=not unicode))


def check_folders(*files: Path | None, kind: type[ConfigError] = UsageError) -> None:
    """Refuse files that could not be written at the end of a long command.

    Args:
        files: What is to be written; those that are None are left out.
        kind: The error that is raised, which decides the exit code.

    Raises:
        ConfigError: The folder of one of them is not there, or it is a folder itself.
    """
    for file in files:
        if file is None:
            continue
        if not file.parent.is_dir():
            raise kind(f"cannot write {file}: there is no folder {file.parent}")
        if file.is_dir():
            raise kind(f"cannot write {file}: it is a folder; name a file in it")


def printable(text: str) -> str:
    """The text with characters that UTF-8 cannot hold (parts of surrogate pairs) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def readable(text: str) -> str:
    """What a user typed, as characters: an argument in another encoding than UTF-8 is read as Latin-1.

    Python hands bytes that are not UTF-8 on as lone surrogates, which no tokenizer and no file takes.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeDecodeError:
        return text.encode("utf-8", "surrogateescape").decode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
