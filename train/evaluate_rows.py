"""Asks a model about the examples of a file, one line of results each; goes on where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rich.progress import Progress

from egolive.assistant.answers import Question
from egolive.assistant.engine import Engine, Prompt, Vision
from egolive.assistant.grammar import guides_of
from egolive.assistant.jobs import Job, answer_jobs
from egolive.assistant.jobs import Sampling as TokenSampling
from egolive.assistant.profiles import Profile
from egolive.assistant.prompts import Message, build_prompt, chat_prompt, uses_thinking
from egolive.streaming.clock import MonotonicClock
from egolive.streaming.errors import ConfigError, DataError
from egolive.train.examples import Example, examples_in
from egolive.train.figures import Figures
from egolive.train.row_files import RowMix, mix_rows
from egolive.train.row_media import Sampling, Shown, show
from egolive.train.rows import RowError, Tally
from egolive.train.scoring import Record, figures_of, record_of

__all__ = ["FileOptions", "Results", "ask_examples", "evaluate_file", "read_records"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """What is asked of a file of rows, and how; results of other options are other results."""

    data: str
    media: Path
    limit: int | None
    think: bool
    grammar: bool
    frames: Sampling
    seed: int


def evaluate_file(
    engine: Engine, options: FileOptions, model: str, samples: Path | None, progress: Progress
) -> tuple[Figures, dict[str, int]]:
    """Ask about all rows of a file, but for those that `samples` has results of.

    Returns:
        The figures, and how many rows were left out, by reason.

    Raises:
        DataError: the file has nothing to ask.
    """
    mix = mix_rows([options.data], seed=options.seed, shuffle=False)
    if options.limit is not None and options.limit < len(mix):
        drawn = np.random.default_rng(options.seed).choice(len(mix), options.limit, replace=False)
        mix = RowMix(mix.files, mix.order[np.sort(drawn)])
    tally = Tally()
    examples = list(examples_in(mix, tally))
    if not examples:
        raise DataError(f"{options.data}: nothing to ask; {tally}")
    settings = {**asdict(options), "media": str(options.media), "model": model}
    results = Results(samples, settings)
    with closing(results):
        done = results.done
        waiting = [example for example in examples if example.id not in done]
        task = progress.add_task("questions", total=len(examples), completed=len(examples) - len(waiting))
        for records in ask_examples(
            engine,
            waiting,
            tally,
            media=options.media,
            think=options.think,
            grammar=options.grammar,
            sampling=options.frames,
        ):
            for record in records:
                results.add(record)
            progress.advance(task, max(1, len(records)))
    return figures_of(results.records), dict(tally.broken)


class Results:
    """Lines of results, kept in a file where one is given, so that a run can be taken up again.

    The first line of the file says what the results are of.

    Raises:
        ConfigError: the file holds results of something else.
        DataError: it cannot be read or written.
    """

    def __init__(self, path: Path | None, settings: dict[str, object]) -> None:
        self.records: list[Record] = []
        self._path = path
        self._file: TextIO | None = None
        if path is None:
            return
        header = {"type": "run", **settings}
        try:
            if path.exists() and path.stat().st_size:
                found, self.records = _read(path)
                if found != header:
                    raise ConfigError(f"{path} holds results of another run: give another file, or delete it")
            # Written anew: the last line may be half a line.
            lines = [header, *self.records]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror})") from error

    @property
    def done(self) -> set[str]:
        """Names of the examples that have their results."""
        return {record["id"] for record in self.records}

    def add(self, record: Record) -> None:
        """Keep one line of results."""
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


def ask_examples(
    engine: Engine,
    examples: Sequence[Example],
    tally: Tally,
    *,
    media: Path,
    think: bool = False,
    grammar: bool = True,
    sampling: Sampling | None = None,
) -> Iterator[list[Record]]:
    """Ask about examples; those that show the same and follow each other are asked together.

    Args:
        engine: stays the caller's to close.
        examples: what to ask.
        tally: counts the examples whose pictures or videos cannot be read.
        media: folder that their paths start from.
        think: ask for reasoning, where the model knows how.
        grammar: hold boxes and intervals to their form.
        sampling: frames of a video.

    Yields:
        The results of examples that were asked together; none where they could not be shown.

    Raises:
        EngineError: the engine failed.
    """
    profile = engine.profile
    guides = guides_of(engine, profile) if grammar else None
    with engine.session() as session:
        for _, group in groupby(examples, key=lambda example: example.shows):
            asked = list(group)
            try:
                shown = show(asked[0].row, media, profile, sampling)
                jobs = [_job(example, shown, profile, think=think) for example in asked]
            except RowError as error:
                for _ in asked:
                    tally.add(error)
                yield []
                continue
            session.forget()
            answers = dict(
                answer_jobs(session, jobs, profile, TokenSampling(), MonotonicClock(), guides=guides)
            )
            tally.good += len(asked)
            yield [
                record_of(example, answers[number], size=jobs[number].source_size)
                for number, example in enumerate(asked)
            ]


def _job(example: Example, shown: Shown, profile: Profile, *, think: bool) -> Job:
    row = example.row
    if row.question is not None:
        if row.question.task == "when" and shown.window is None:
            raise RowError(row.where, "a question about time, and no video")
        question = replace(row.question, think=think)
        prompt = build_prompt(profile, question, shown.visions, window=shown.window)
    else:
        question = Question("ask", example.text, think)
        prompt = _asked(example.text, shown.visions, profile, question)
    return Job(question=question, prompt=prompt, source_size=row.size or shown.size, window=shown.window)


def _asked(text: str, visions: Sequence[Vision], profile: Profile, question: Question) -> Prompt:
    """A whole question as it stands, line by line, with the profile's request for reasoning."""
    if profile.think_prompts is not None and uses_thinking(profile, question):
        text = profile.think_prompts.ask.replace("{phrase}", text)
    parts: tuple[str | Vision, ...] = (text, *visions) if profile.paper_prompt else (*visions, text)
    return chat_prompt(profile, [Message("user", parts)])


def _read(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """The first line, and all lines with values; half a last line is passed over."""
    header: dict[str, Any] = {}
    records = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        try:
            values = json.loads(line)
        except ValueError as error:
            if number == len(lines) - 1:
                break
            raise DataError(f"{path}: line {number + 1} is not JSON; it is no file of results") from error
        if isinstance(values, dict) and values.get("type") == "run":
            header = values
        elif isinstance(values, dict) and isinstance(values.get("values"), dict) and "id" in values:
            records.append(values)
    return header, records
