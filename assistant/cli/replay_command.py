"""`egolive replay`: a recorded run, or one answer's evidence, once more.

egolive run 0 --record session      keeps a run
egolive replay session --out again  the same windows, drops and answers, under a clock that does not run
egolive replay session --model DIR  the same windows, answered by another engine
egolive replay bundle               the same answer, byte for byte
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from egolive.assistant.cli.options import (
    GIVEN,
    MODEL,
    OUTPUT,
    DeviceOption,
    DtypeOption,
    ModelOptions,
    ThreadsOption,
)
from egolive.assistant.cli.printing import printable, wrote
from egolive.assistant.live.sinks import EventSink, Sink, VideoSink
from egolive.assistant.load import check_model
from egolive.assistant.recording.evidence import (
    EvidenceWriter,
    is_bundle,
    named_model,
    read_bundle,
    reproduce,
    weights_hash,
)
from egolive.assistant.recording.run_replay import recorded_hash, replay_run, settings_of
from egolive.assistant.schema.answers import Question
from egolive.streaming.errors import DataError, SinkError
from egolive.streaming.json_files import json_object
from egolive.streaming.paths import existing_path
from egolive.streaming.recording.recording import Recording, is_recording
from egolive.streaming.recording.run_folders import recorded_run
from egolive.streaming.video_writer import VideoWriter

__all__ = ["replay_command"]

_REMEDY = "copy the bundle again"
_TOLD = 5
"""Answers that differ are named up to so many."""


def replay_command(
    folder: Annotated[Path, Parameter(group=GIVEN)],
    *,
    model: Annotated[str | None, Parameter(alias="--engine", group=MODEL)] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    evidence: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    video: Annotated[bool, Parameter(group=OUTPUT)] = True,
    check: Annotated[bool, Parameter(group=OUTPUT)] = False,
) -> int:
    """Run a recording again, or give the answer of an evidence bundle again.

    Args:
        folder: What `egolive run --record` or `--evidence` wrote.
        model: What answers; without it the model that answered then, if it is nano or in a local folder.
            `--engine` says the same.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto, fp32 or bf16.
        threads: CPU threads of the model.
        out: Folder for events.jsonl and overlay.mp4, or for the bundle with its new answer.
        evidence: Folder for a bundle of every answer of a recording.
        video: Write overlay.mp4 where `--out` is given.
        check: Exit with 1 unless every answer is what it was. A bundle is always checked.
    """
    if existing_path(folder) is None:
        raise DataError(f"{printable(str(folder))}: there is no such folder; check the path")
    if model is not None:
        check_model(model)
    if is_bundle(folder):
        return _replay_bundle(folder, model, device, dtype, threads, out)
    folder = recorded_run(folder)
    if not is_recording(folder):
        raise DataError(f"{folder}: neither a recording nor a bundle; make one: egolive run --record DIR")
    for written in (out / "events.jsonl", out / "overlay.mp4") if out is not None else ():
        if written.is_symlink():
            # A folder of somebody else's, into which a link may have been put that leads to any file.
            raise SinkError(f"{written}: is a symbolic link, which is not written through; remove it")
    recording = Recording(folder)
    settings = settings_of(recording)
    named = model or named_model(settings.model, recorded_hash(recording), where=folder)
    options = ModelOptions(model=named, device=device, dtype=dtype, threads=threads)
    with closing(options.load()) as engine:
        sinks: list[Sink] = []
        if out is not None:
            sinks.append(EventSink(out / "events.jsonl"))
            if video:
                sinks.append(VideoSink(VideoWriter(out / "overlay.mp4")))
        observer = None
        if evidence is not None:
            observer = EvidenceWriter(
                evidence,
                model=named,
                info=engine.info,
                sha256=weights_hash(named),
                profile=engine.profile,
            )
        done = replay_run(recording, engine, sinks, observer=observer)
    drops = ", ".join(f"{count} {reason}" for reason, count in done.report.drops.items()) or "none"
    lines = [
        f"replayed {done.report.captured} pictures, {done.report.windows} windows, {done.report.gaps} gaps "
        f"({done.report.stream_seconds:.1f} s of stream)",
        f"drops    {drops}",
        f"times    those of the recorded run, in which {_answerer(recording)} answered",
        f"same     {done.same} of {done.answers} answers say what they said in the run",
    ]
    if done.differing:
        told = [f"{answer.time:.2f} s {_asked(answer.question)}" for answer in done.differing[:_TOLD]]
        more = len(done.differing) - len(told)
        lines.append(f"differ   {', '.join(told)}{f' and {more} more' if more else ''}")
    if recording.start is not None:
        lines.append(
            f"trimmed  {recording.start.captured} pictures before were removed; {done.lost} answers that saw "
            "some of them are not given again"
        )
    if recording.report is None:
        lines.append("cut      the recording has no end: the run was killed, or its files were cut off")
    if observer is not None:
        lines.append(f"evidence {len(observer.bundles)} bundles in {evidence}")
    sys.stdout.write("\n".join(lines) + "\n")
    if out is not None:
        wrote(out / "overlay.mp4" if video and done.report.shown else None, out / "events.jsonl")
    wrote(evidence)
    if check and not done.answers:
        raise DataError(f"{folder}: holds no answer, so nothing could be checked; record a longer run")
    return int(check and done.same != done.answers)


def _replay_bundle(
    folder: Path, model: str | None, device: str, dtype: str, threads: int | None, out: Path | None
) -> int:
    bundle = read_bundle(folder)
    named = model or named_model(bundle.engine["model"], bundle.engine["sha256"], where=folder)
    options = ModelOptions(model=named, device=device, dtype=dtype, threads=threads)
    with closing(options.load()) as engine:
        answer = reproduce(bundle, engine, out)
        same = answer == bundle.answer
        about = f"{engine.info.name} {engine.info.precision} on {engine.info.device}"
    verdict = "the same, byte for byte" if same else "another answer"
    sys.stdout.write(printable(f"{verdict}: {_asked(bundle.generation.question)} ({about})\n"))
    if not same:
        then, now = (
            _in_short(json_object(given, where="the answer", remedy=_REMEDY))
            for given in (bundle.answer, answer)
        )
        sys.stdout.write(printable(f"then     {then}\nnow      {now}\n"))
    wrote(out)
    return int(not same)


def _answerer(recording: Recording) -> str:
    """What answered in a recorded run."""
    engine = recording.settings.get("engine")
    about = engine if isinstance(engine, dict) else {}
    return " ".join(str(about[key]) for key in ("name", "precision") if key in about) or "another engine"


def _asked(question: Question) -> str:
    return f"{question.task} {question.phrase}".strip()


def _in_short(answer: Mapping[str, object]) -> str:
    places = answer.get("boxes") or answer.get("intervals") or ""
    return f"{answer.get('status')}: {answer.get('text')} {places}".strip()
