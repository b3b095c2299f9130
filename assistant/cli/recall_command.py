"""`egolive recall` and `egolive forget`: a memory that a run left behind.

egolive run 0 --memory mine
egolive recall mine "where did I put the cup?" --thumbnail cup.jpg
egolive forget mine 10
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cv2
from cyclopts import Parameter

from egolive.assistant.cli.options import ASKED, GIVEN, MODEL, OUTPUT, ModelOptions
from egolive.assistant.cli.printing import check_folders, json_text, printable, readable, wrote
from egolive.assistant.memory.memory_file import FILE
from egolive.assistant.memory.moment_store import Memory
from egolive.streaming.errors import DataError, SinkError, UsageError
from egolive.streaming.paths import existing_path

if TYPE_CHECKING:
    from egolive.assistant.memory.recall import Recalled

__all__ = ["forget_command", "recall_command"]

_MODEL = ModelOptions()


def recall_command(
    folder: Annotated[Path, Parameter(group=GIVEN)],
    question: Annotated[str, Parameter(group=GIVEN)],
    *,
    model: Annotated[ModelOptions, Parameter(name="*", group=MODEL)] = _MODEL,
    looks: Annotated[int, Parameter(group=ASKED)] = 64,
    thumbnail: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    json_line: Annotated[bool, Parameter(name="--json", negative="", group=OUTPUT)] = False,
) -> int:
    """Find where something was put, by asking the model about remembered moments again.

    Args:
        folder: What `egolive run --memory` wrote.
        question: "where did I put the cup?", or only "cup".
        model: Which model looks again.
        looks: Pictures that it may be asked about.
        thumbnail: File for the picture of the moment with the box, a JPEG or PNG.
        json_line: Print one JSON object instead of words.
    """
    question = readable(question)
    if not question.strip():
        raise UsageError('the question is empty; write for example "where did I put the cup?"')
    if looks < 1:
        raise UsageError(f"--looks is 1 or more, got {looks}")
    check_folders(thumbnail)
    model.check()
    _check(folder)
    # Imported here: these need torch, which what is told above does not wait for.
    from egolive.assistant.memory.live_memory import in_words
    from egolive.assistant.memory.recall import recall, thing_asked_for

    with Memory(folder, read_only=True) as memory, closing(model.chosen().load()) as engine:
        found = recall(memory, engine, question, looks=looks)
        spoken = () if found else memory.search(thing_asked_for(question), limit=1)
    if found is not None and thumbnail is not None:
        _write(found, thumbnail)
    if json_line:
        values = None
        if found is not None:
            values = {
                "phrase": found.phrase,
                "at": found.at,
                "t": found.time,
                "put": found.put,
                "box": [round(value, 2) for value in found.box],
                "size": list(found.size),
                "looks": found.looks,
                "probability": found.box.score,
                "guess": found.guess,
            }
        sys.stdout.write((json_text(values) if values else "null") + "\n")
    else:
        sys.stdout.write(printable(in_words(found, spoken)) + "\n")
    wrote(thumbnail if found is not None else None)
    return int(found is None)


def forget_command(folder: Path, minutes: float) -> int:
    """Forget the last minutes of a memory for good.

    Args:
        folder: What `egolive run --memory` wrote.
        minutes: How many, counted back from the last thing that it remembers.
    """
    if not 0 < minutes < float("inf"):
        raise UsageError(f"minutes is more than 0, got {minutes:g}")
    _check(folder)
    with Memory(folder) as memory:
        gone = memory.forget_last(minutes * 60)
    sys.stdout.write(f"forgot {gone} moments\n")
    return 0


def _check(folder: Path) -> None:
    if existing_path(folder / FILE) is None:
        raise DataError(f"{folder}: holds no memory; egolive run SOURCE --memory {folder}")


def _write(found: Recalled, path: Path) -> None:
    from egolive.assistant.memory.recall import picture_of

    image = picture_of(found.picture)
    across = image.shape[1] / found.size[0]
    down = image.shape[0] / found.size[1]
    x1, y1, x2, y2 = found.box
    corners = [round(x1 * across), round(y1 * down)], [round(x2 * across), round(y2 * down)]
    drawn = cv2.rectangle(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), *corners, (60, 220, 250), 2)
    done, data = cv2.imencode(path.suffix or ".jpg", drawn)
    try:
        if not done:
            raise SinkError(f"{path}: is no kind of picture that can be written; name it .jpg or .png")
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror or error}") from error
