"""`egolive rows`: the annotations of a data set, written as rows that training and evaluation read.

egolive rows visor GroundTruth-SparseAnnotations/annotations/train visor.jsonl --errata correct.json
egolive rows epic EPIC_100_train.csv epic.jsonl --lengths EPIC_100_video_info.csv
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from egolive.assistant.cli.options import GIVEN, OUTPUT
from egolive.assistant.cli.printing import check_folders, note, wrote
from egolive.streaming.errors import DataError, UsageError
from egolive.streaming.paths import existing_path
from egolive.train.data.rows import Tally
from egolive.train.data.rows_segments import (
    TAXONOMIES,
    read_egoexolearn,
    read_epic,
    temporal_rows,
    video_lengths,
)
from egolive.train.data.rows_simulated import read_simulated
from egolive.train.data.rows_visor import read_visor

__all__ = ["write_rows"]

Kind = Literal["visor", "epic", "egoexolearn", "simulator"]

_SEGMENTS = ("--lengths", "--clip", "--one-answer", "--seed")
_TAKES: dict[Kind, Sequence[str]] = {
    "visor": ("--errata",),
    "epic": _SEGMENTS,
    "egoexolearn": _SEGMENTS,
    "simulator": ("--seed",),
}
"""The options of each kind."""


def write_rows(
    kind: Annotated[Kind, Parameter(group=GIVEN)],
    source: Annotated[Path, Parameter(group=GIVEN)],
    out: Annotated[Path, Parameter(group=OUTPUT)],
    *,
    errata: Annotated[Path | None, Parameter(group=GIVEN)] = None,
    lengths: Annotated[Path | None, Parameter(group=GIVEN)] = None,
    clip: Annotated[float | None, Parameter(group=OUTPUT)] = None,
    one_answer: Annotated[bool, Parameter(group=OUTPUT)] = False,
    seed: Annotated[int | None, Parameter(group=OUTPUT)] = None,
) -> None:
    """Turn a data set's annotations into rows, and tell how many there are and what was left out.

    Args:
        kind: visor (masks to boxes), epic or egoexolearn (segments to intervals), or simulator.
        source: visor: a .json of its sparse annotations, or a folder of them;
            epic: a CSV with narration_id, video_id, start_timestamp, stop_timestamp (hh:mm:ss.ff), narration;
            egoexolearn: a CSV with annotation_id, video_id or video_uid, start_sec, end_sec, verb, noun,
            beside its narration_verb_taxonomy.csv and narration_noun_taxonomy.csv;
            simulator: a folder that `egolive simulate` wrote.
        out: file of rows to write, one JSON line each.
        errata: VISOR-HOS's correct.json, with relations that are wrong in VISOR; for visor.
        lengths: EPIC_100_video_info.csv (video_id, duration in seconds), for epic, or EgoExoLearn's
            video_meta_downsampled.json; the last segment of a video that is not named there is left out.
        clip: seconds of video that a row of a segment shows, or twice the segment's length if that is more;
            for epic and egoexolearn; 60 where it is not given.
        one_answer: leave out segments that overlap one of the same words, where two answers would be right;
            for epic and egoexolearn.
        seed: of what is drawn; for all but visor; 0 where it is not given.

    Raises:
        UsageError: an option is not for this kind, or out is a folder or would overwrite what is read.
        DataError: a file cannot be read or written.
    """
    given = {
        "--errata": errata,
        "--lengths": lengths,
        "--clip": clip,
        "--one-answer": one_answer or None,
        "--seed": seed,
    }
    wrong = [name for name, value in given.items() if value is not None and name not in _TAKES[kind]]
    if wrong:
        raise UsageError(f"rows of {kind} take no {' and no '.join(wrong)}; see egolive rows --help")
    if clip is not None and not clip > 0:
        raise UsageError(f"--clip is more than 0, got {clip:g}")
    for path in (source, errata, lengths):
        if path is not None and existing_path(path) is None:
            raise DataError(f"{path}: there is no such file or folder; check the path")
    _check_out(out, _read_files(kind, source, errata, lengths))
    check_folders(out)
    tally = Tally()
    rows = _rows(kind, source, tally, errata, lengths, 60.0 if clip is None else clip, one_answer, seed or 0)
    part = out.with_name(f".{out.name}.part")
    written = 0
    try:
        with part.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                written += 1
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror}") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(out)
    tally.good = written
    note(f"{out}: {tally}")
    wrote(out)


def _read_files(kind: Kind, source: Path, errata: Path | None, lengths: Path | None) -> list[Path]:
    """All files that are read, as far as they are there."""
    files = [source, *(path for path in (errata, lengths) if path)]
    if kind == "visor":
        files += source.glob("*.json")
    elif kind == "simulator":
        files += [*source.glob("[0-9]*"), *source.glob("manifest.json")]
    elif kind == "egoexolearn":
        files += [source.parent / name for name in TAXONOMIES]
    return [path for path in files if existing_path(path) is not None]


def _check_out(out: Path, read: Sequence[Path]) -> None:
    """Refuse to write where something is that a user would miss.

    Raises:
        UsageError: it is a folder or one of the files that are read.
    """
    if out.is_dir():
        raise UsageError(f"{out} is a folder: name the file to write, as in {out / 'rows.jsonl'}")
    if out.exists() and any(out.samefile(path) for path in read):
        raise UsageError(f"{out} is one of the files that are read, and would be lost: write another one")


def _rows(
    kind: Kind,
    source: Path,
    tally: Tally,
    errata: Path | None,
    lengths: Path | None,
    clip: float,
    one_answer: bool,
    seed: int,
) -> Iterator[dict[str, Any]]:
    if kind == "visor":
        files = [source] if source.is_file() else sorted(source.glob("*.json"))
        if not files:
            raise DataError(f"{source}: holds no .json file of VISOR's sparse annotations")
        return read_visor(files, tally, errata=errata)
    if kind == "simulator":
        return read_simulated(source, seed=seed)
    return temporal_rows(
        read_epic(source, tally) if kind == "epic" else read_egoexolearn(source, tally),
        tally,
        lengths=video_lengths(lengths) if lengths else {},
        clip=clip,
        one_answer=one_answer,
        suffix=".MP4" if kind == "epic" else ".mp4",
        seed=seed,
    )
