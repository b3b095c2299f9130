"""Evaluates a model on the examples of a file, with one result line each; an interrupted run resumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.progress import Progress

from egolive.assistant.generation.generate import GenerationRequest, Sampling, generate_answers
from egolive.assistant.prompts.grammar import matchers_of
from egolive.assistant.prompts.prompts import Message, build_prompt, chat_prompt, uses_thinking
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Engine, Prompt, Vision
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.clock import MonotonicClock
from egolive.streaming.errors import DataError
from egolive.train.data.row_files import RowMix, mix_rows
from egolive.train.data.row_media import FrameSampling, Shown, show
from egolive.train.data.rows import RowError, Tally
from egolive.train.evaluate.examples import Example, examples_in
from egolive.train.evaluate.figures import Figures
from egolive.train.evaluate.result_files import Record, Results, engine_settings, model_stamp
from egolive.train.evaluate.scoring import figures_of, record_of

__all__ = ["FileOptions", "ask_examples", "evaluate_file", "records_of_file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """What is asked of a file of rows, and how; results of other options are other results."""

    data: str
    media: Path
    limit: int | None
    think: bool
    grammar: bool
    frames: FrameSampling
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
    records, left_out = records_of_file(engine, options, model, samples, progress)
    return figures_of(records), left_out


def records_of_file(
    engine: Engine,
    options: FileOptions,
    model: str,
    samples: Path | None,
    progress: Progress,
    *,
    profile: Profile | None = None,
) -> tuple[list[Record], dict[str, int]]:
    """The results of `evaluate_file` themselves, in place of their figures.

    Args:
        engine: stays the caller's to close.
        options: what is asked.
        model: name of the engine's model.
        samples: keeps the results.
        progress: told of each group of rows.
        profile: in place of the engine's own.
    """
    mix = mix_rows([options.data], seed=options.seed, shuffle=False)
    if options.limit is not None and options.limit < len(mix):
        drawn = np.random.default_rng(options.seed).choice(len(mix), options.limit, replace=False)
        mix = RowMix(mix.files, mix.order[np.sort(drawn)])
    tally = Tally()
    examples = list(examples_in(mix, tally))
    if not examples:
        raise DataError(f"{options.data}: nothing to ask; {tally}")
    settings = {
        **asdict(options),
        "media": str(options.media),
        **model_stamp(model),
        **engine_settings(engine),
    }
    # A file that was written anew has other rows under the same names.
    stamps = [file.path.stat() for file in mix.files]
    settings["rows"] = [[stamp.st_size, stamp.st_mtime_ns] for stamp in stamps]
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
            profile=profile,
        ):
            for record in records:
                results.add(record)
            progress.advance(task, max(1, len(records)))
    if not results.records:
        raise DataError(f"{options.data}: no question could be asked, so nothing is measured; {tally}")
    return results.records, dict(tally.broken)


def ask_examples(
    engine: Engine,
    examples: Sequence[Example],
    tally: Tally,
    *,
    media: Path,
    think: bool = False,
    grammar: bool = True,
    sampling: FrameSampling | None = None,
    profile: Profile | None = None,
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
        profile: in place of the engine's own.

    Yields:
        The results of examples that were asked together; none where they could not be shown.

    Raises:
        EngineError: the engine failed.
    """
    profile = profile or engine.profile
    matchers = matchers_of(engine, profile) if grammar else None
    with engine.session() as session:
        for _, group in groupby(examples, key=lambda example: example.shows):
            asked = list(group)
            try:
                shown = show(asked[0].row, media, profile, sampling)
                requests = [_generation_request(example, shown, profile, think=think) for example in asked]
            except RowError as error:
                for _ in asked:
                    tally.add(error)
                yield []
                continue
            session.forget()
            answers = dict(
                generate_answers(session, requests, profile, Sampling(), MonotonicClock(), matchers=matchers)
            )
            tally.good += len(asked)
            yield [
                record_of(example, answers[number], size=requests[number].source_size)
                for number, example in enumerate(asked)
            ]


def _generation_request(
    example: Example, shown: Shown, profile: Profile, *, think: bool
) -> GenerationRequest:
    row = example.row
    if row.question is not None:
        if row.question.task == "when" and shown.window is None:
            raise RowError(row.where, "a question about time, and no video")
        question = replace(row.question, think=think)
        prompt = build_prompt(profile, question, shown.visions, window=shown.window)
    else:
        question = Question("ask", example.text, think)
        prompt = _asked(example.text, shown.visions, profile, question)
    return GenerationRequest(
        question=question, prompt=prompt, source_size=row.size or shown.size, window=shown.window
    )


def _asked(text: str, visions: Sequence[Vision], profile: Profile, question: Question) -> Prompt:
    """A whole question as it stands, line by line, with the profile's request for reasoning."""
    if profile.think_prompts is not None and uses_thinking(profile, question):
        text = profile.think_prompts.ask.replace("{phrase}", text)
    parts: tuple[str | Vision, ...] = (text, *visions) if profile.paper_prompt else (*visions, text)
    return chat_prompt(profile, [Message("user", parts)])
