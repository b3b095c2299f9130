"""`egolive rows`: the annotations of a data set, written as rows that training and evaluation read.

egolive rows visor GroundTruth-SparseAnnotations/annotations/train visor.jsonl --errata correct.json
egolive rows epic EPIC_100_train.csv epic.jsonl --lengths EPIC_100_video_info.csv
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from egolive.streaming.errors import DataError
from egolive.train.rows import Tally
from egolive.train.rows_segments import read_egoexolearn, read_epic, temporal_rows, video_lengths
from egolive.train.rows_simulated import read_simulated
from egolive.train.rows_visor import read_visor

__all__ = ["write_rows"]

Kind = Literal["visor", "epic", "egoexolearn", "simulator"]


def write_rows(
    kind: Kind,
    source: Path,
    out: Path,
    *,
    errata: Path | None = None,
    lengths: Path | None = None,
    clip: float = 60.0,
    one_answer: bool = False,
    seed: int = 0,
) -> None:
    """Turn a data set's annotations into rows, and tell how many there are and what was left out.

    Args:
        kind: visor (masks to boxes), epic or egoexolearn (segments to intervals), or simulator (a folder that
            `egolive simulate` wrote).
        source: the annotation file, or a folder of VISOR's or the simulator's.
        out: file of rows to write, one JSON line each.
        errata: VISOR-HOS's correct.json, with relations that are wrong in VISOR.
        lengths: EPIC_100_video_info.csv, or EgoExoLearn's video_meta_downsampled.json.
        clip: seconds of video that a row of a segment shows.
        one_answer: leave out segments that overlap one of the same words, where two answers would be right.
        seed: of what is drawn.
    """
    tally = Tally()
    rows = _rows(kind, source, tally, errata, lengths, clip, one_answer, seed)
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
    Console(stderr=True).print(f"{out}: {tally}", soft_wrap=True, markup=False, highlight=False)


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
    segments = read_epic(source) if kind == "epic" else read_egoexolearn(source)
    return temporal_rows(
        segments,
        tally,
        lengths=video_lengths(lengths) if lengths else {},
        clip=clip,
        one_answer=one_answer,
        suffix=".MP4" if kind == "epic" else ".mp4",
        seed=seed,
    )
