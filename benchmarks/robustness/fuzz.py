"""`egolive bench fuzz`: spoilt input of every kind, and whether anything but one clear line comes of it.

    egolive bench fuzz --inputs 100000
    egolive bench fuzz --answers recorded.jsonl

An input is made again by its target, its number and the seed.
"""

from __future__ import annotations

import logging
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.progress import Progress
from rich.table import Table

from egolive.benchmarks.output import check_places, tell
from egolive.benchmarks.robustness.fuzz_parser import ANSWERS, fuzz_parser, read_answers
from egolive.streaming.errors import ConfigError, EgoliveError

__all__ = ["SHARES", "Find", "arranged", "feed", "fuzz", "measure"]

SHARES = {
    "parser": 0.6,
    "engine.json": 0.1,
    "recipe": 0.06,
    "source": 0.1,
    "recording": 0.03,
    "evidence": 0.03,
    "picture": 0.04,
    "settings": 0.03,
    "route": 0.01,
}
"""How the inputs are divided; those that take files or a server are dear."""


@dataclass(frozen=True, slots=True)
class Find:
    """An exception that nobody wrote a line for; the first input of each kind."""

    target: str
    number: int
    error: str
    place: str
    """File and line in this package that raised it, or called what did."""


def fuzz(
    *,
    inputs: int = 100_000,
    seed: int = 0,
    answers: Path | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> int:
    """Feed spoilt input to all that reads any; prints a table, then one JSON line; 1 where it found any.

    Args:
        inputs: How many, over all targets; 100,000 take some ten minutes.
        seed: Of all choices.
        answers: Recorded answers of a model to spoil as well, one JSON object with "text" a line.
        json_file: Also write the JSON object here.
    """
    if inputs < 1:
        raise ConfigError("at least one input is needed")
    check_places(json_file)
    figures = measure(inputs=inputs, seed=seed, answers=read_answers(answers) if answers else ())
    tell(figures, _tables(figures), json_file)
    return int(bool(figures["finds"]))


def measure(*, inputs: int, seed: int = 0, answers: Sequence[str] = ()) -> dict[str, Any]:
    """Feed so many inputs.

    Args:
        inputs: Over all targets; each gets one at least.
        seed: Of all choices.
        answers: Good ones beside our own.

    Returns:
        Counts by target, and what was found, under the names that other programs read.
    """
    started = time.perf_counter()
    counts = {name: max(1, round(share * inputs)) for name, share in SHARES.items()}
    told: dict[str, dict[str, int]] = {}
    finds: dict[tuple[str, str, str], Find] = {}
    with arranged(answers) as targets, Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("inputs", total=sum(counts.values()))
        for name, count in counts.items():
            told[name] = {"inputs": count, "refused": 0, "finds": 0}
            for number in range(count):
                try:
                    told[name]["refused"] += not feed(targets, name, number, seed)
                except Exception as error:
                    told[name]["finds"] += 1
                    find = _find(name, number, error)
                    finds.setdefault((find.target, find.error.partition(":")[0], find.place), find)
                progress.advance(task)
    return {
        "inputs": sum(counts.values()),
        "seed": seed,
        "answers": len(ANSWERS) + len(answers),
        "targets": told,
        "finds": [asdict(find) for find in finds.values()],
        "wall_s": round(time.perf_counter() - started, 1),
    }


@contextmanager
def arranged(answers: Sequence[str] = ()) -> Iterator[Mapping[str, Any]]:
    """All targets by name, ready to be fed."""
    # Imported here: who only wants the help does not wait for the demo.
    from egolive.benchmarks.robustness.fuzz_page import arrange_page
    from egolive.benchmarks.robustness.fuzz_targets import arrange

    logger = logging.getLogger("egolive")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as folder, arrange_page() as page:
            parser = partial(fuzz_parser, answers=[*ANSWERS, *answers])
            yield {"parser": parser, **arrange(Path(folder)), **page}
    finally:
        logger.setLevel(level)


def feed(targets: Mapping[str, Any], name: str, number: int, seed: int = 0) -> bool:
    """Make one input and feed it in.

    Args:
        targets: From `arranged`.
        name: Of the target.
        number: Of the input.
        seed: Of all choices.

    Returns:
        Whether it was taken; not where it was refused in one line.

    Raises:
        AssertionError: It was refused without a word, or what came of it cannot be.
        BaseException: Whatever else it led to: a find.
    """
    try:
        targets[name](Random(f"{seed} {name} {number}"))
    except EgoliveError as error:
        if not str(error).strip():
            raise AssertionError(f"{type(error).__name__} says nothing") from error
        return False
    return True


def _find(target: str, number: int, error: Exception) -> Find:
    ours = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "egolive" in frame.filename and "fuzz" not in frame.filename
    ]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "fuzz"
    message = " ".join(str(error).split())[:200]
    return Find(target, number, f"{type(error).__name__}: {message}", place)


def _tables(figures: Mapping[str, Any]) -> RenderableType:
    drawn = Table(title=f"{figures['inputs']} spoilt inputs, seed {figures['seed']}, {figures['wall_s']} s")
    drawn.add_column("target")
    for column in ("inputs", "refused in one line", "finds"):
        drawn.add_column(column, justify="right")
    for name, counts in figures["targets"].items():
        drawn.add_row(name, *(str(counts[key]) for key in ("inputs", "refused", "finds")))
    if not figures["finds"]:
        return drawn
    found = Table(title="Finds, the first of each kind")
    for column in ("target", "number", "error", "place"):
        found.add_column(column, overflow="fold")
    for find in figures["finds"]:
        found.add_row(*(str(find[key]) for key in ("target", "number", "error", "place")))
    return Group(drawn, found)
