"""`egolive run`: the assistant on a camera, an address or a file, to the screen and to files.

    egolive run                            the bundled clip with the bundled model
    egolive run 0 --model hyf015/EgoThinker-v1
    egolive run rtsp://camera/stream --out out

Nothing is written unless `--out` names a folder.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from egolive.assistant.answers import Answer, Question, Task
from egolive.assistant.engine import Engine
from egolive.assistant.options import ModelOptions
from egolive.assistant.session import Assistant, Sampling, live_questions
from egolive.assistant.sinks import EventSink, Shown, Sink, VideoSink
from egolive.assistant.view import LineView, TerminalView
from egolive.streaming import pipeline
from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.errors import SourceError, UsageError
from egolive.streaming.frames import Frame, Interval
from egolive.streaming.opening import open_source
from egolive.streaming.source import Source
from egolive.streaming.writer import VideoWriter

__all__ = ["bundled_clip", "play", "run"]

LiveTask = Literal["intent", "next", "ground"]
_MODEL = ModelOptions()


def run(
    source: str | None = None,
    *,
    model: Annotated[ModelOptions, Parameter(name="*")] = _MODEL,
    out: Path | None = None,
    tasks: Annotated[tuple[LiveTask, ...], Parameter(consume_multiple=True, negative="")] = (
        "intent",
        "next",
        "ground",
    ),
    phrase: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    realtime: bool = False,
    seconds: float | None = None,
    fps: float | None = None,
    slices: int | None = None,
    think: bool | None = None,
    paper_prompt: bool | None = None,
    max_tokens: int | None = None,
    view: bool = True,
    video: bool = True,
) -> int:
    """Run the assistant on a camera, an address or a file.

    Args:
        source: A camera ("0", "/dev/video0"), an address ("rtsp://..."), a file, a folder of pictures or
            "test:"; the bundled clip without it.
        model: Which model answers.
        out: Folder for overlay.mp4 and events.jsonl; nothing is written without it.
        tasks: What is asked: intent, next (step), ground (the hands and what they hold).
        phrase: One more thing to find; may be given several times.
        realtime: Play a file at its own speed and drop what comes too fast, as a camera does.
        seconds: Stop at this time of the stream.
        fps: Frames a second that the model sees; the model's own rate without it.
        slices: Pairs of frames in a full window; the model's own number without it.
        think: Let the model reason before it answers, or not; the model's own habit without it.
        paper_prompt: Text before the pictures, as EgoThinker's last training stage had it.
        max_tokens: Most tokens of an answer; enough for the task without it.
        view: Show answers in the terminal.
        video: Write overlay.mp4 where `--out` is given.
    """
    _check(tasks=tasks, phrase=phrase, seconds=seconds, fps=fps, slices=slices, max_tokens=max_tokens)
    spec = bundled_clip() if source is None else source
    # A source that is not there is told before the model is loaded, which may take minutes.
    opened = open_source(spec, realtime=realtime)
    if opened.live:
        opened.close()

    try:
        engine = model.load()
    except BaseException:
        opened.close()
        raise
    if opened.live:
        # Its time runs from when it is opened.
        opened = open_source(spec, realtime=realtime)
    questions = live_questions(tasks, phrase, think=engine.profile.think if think is None else think)
    with ExitStack() as stack:
        stack.callback(engine.close)
        stack.callback(opened.close)
        sinks: list[Sink] = _sinks(Console(stderr=True), opened, engine, out=out, view=view, video=video)
        stop = stack.enter_context(_stopped_by_signal())
        assistant = stack.enter_context(
            Assistant(
                engine,
                questions=questions,
                sampling=Sampling(max_tokens=max_tokens),
                paper_prompt=paper_prompt,
            )
        )
        report = play(
            opened,
            assistant,
            sinks,
            fps=fps or engine.profile.fps,
            slices=slices or engine.profile.window_slices,
            seconds=seconds,
            stop=stop,
        )
    _tell(report, out, video=video)
    return stop.exit_code


def play(
    source: Source,
    assistant: Assistant,
    sinks: Sequence[Sink],
    *,
    fps: float,
    slices: int,
    seconds: float | None = None,
    stop: threading.Event | None = None,
    clock: Clock | None = None,
) -> pipeline.Report:
    """Play a source through the assistant into sinks; closes the sinks, whatever happens.

    Args:
        source: What is seen; closed at the end.
        assistant: Its questions are asked of each new picture and window.
        sinks: Where pictures and answers go.
        fps: Frames a second that the model sees.
        slices: Slices of a full window.
        seconds: End at this time of the stream.
        stop: Ends the run when set.
        clock: What rates are measured with.

    Returns:
        Counts and rates of the run.

    Raises:
        EgoliveError: The source, the engine or a sink failed; the files of the other sinks are finished.
    """
    clock = clock or MonotonicClock()
    current: dict[Question, Answer] = {}

    def show(frame: Frame, new: Sequence[Answer]) -> None:
        current.update((answer.question, answer) for answer in new)
        answers = [current[question] for question in assistant.questions if question in current]
        shown = Shown(frame, answers, new)
        for sink in sinks:
            sink.emit(shown)

    def note(event: Mapping[str, object]) -> None:
        for sink in sinks:
            sink.note(event)

    def on_gap(gap: Interval) -> None:
        # What was seen before it says nothing about what comes after it.
        current.clear()
        note({"type": "gap", "start": round(gap.start, 4), "end": round(gap.end, 4)})

    with ExitStack() as stack:
        for sink in reversed(sinks):
            stack.callback(sink.close)
        report = pipeline.run(
            source,
            assistant,
            show,
            fps_sampled=fps,
            slices=slices,
            seconds=seconds,
            stop=stop,
            on_gap=on_gap,
            clock=clock,
        )
        note(_metrics(report))
    return report


def bundled_clip() -> Path:
    """The clip that comes with the package.

    Raises:
        SourceError: The installation came without it.
    """
    folder = Path(str(resources.files("egolive.assistant"))) / "clips"
    clips = sorted(folder.glob("*.mp4"))
    if not clips:
        raise SourceError("this installation came without the bundled clip; name a source: egolive run FILE")
    return clips[0]


class _Stop(threading.Event):
    """Set by a signal, which decides the exit code."""

    exit_code = 0


@contextmanager
def _stopped_by_signal() -> Iterator[_Stop]:
    """An event that Ctrl-C and a termination set; a second Ctrl-C interrupts at once."""
    stop = _Stop()
    before: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}

    def on_signal(number: int, _: FrameType | None) -> None:
        stop.exit_code = 128 + number
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check(
    *,
    tasks: Sequence[Task],
    phrase: Sequence[str],
    seconds: float | None,
    fps: float | None,
    slices: int | None,
    max_tokens: int | None,
) -> None:
    for name, value, least in (("slices", slices, 1), ("max-tokens", max_tokens, 1)):
        if value is not None and value < least:
            raise UsageError(f"--{name} is {least} or more, got {value}")
    for name, number in (("seconds", seconds), ("fps", fps)):
        # Written so that "nan" is refused too.
        if number is not None and not 0 < number < float("inf"):
            raise UsageError(f"--{name} is more than 0, got {number:g}")
    if any(not words.strip() for words in phrase):
        raise UsageError("--phrase needs words: what to find")
    if not tasks and not phrase:
        raise UsageError("nothing is asked: give --tasks or --phrase")


def _sinks(
    console: Console, source: Source, engine: Engine, *, out: Path | None, view: bool, video: bool
) -> list[Sink]:
    sinks: list[Sink] = []
    if out is not None:
        sinks.append(EventSink(out / "events.jsonl"))
        if video:
            sinks.append(VideoSink(VideoWriter(out / "overlay.mp4")))
    if view and console.is_terminal:
        title = f"{source.name} · {engine.info.name} {engine.info.precision} on {engine.info.device}"
        sinks.append(TerminalView(console, title=title))
    elif view:
        sinks.append(LineView(console))
    return sinks


def _metrics(report: pipeline.Report) -> dict[str, object]:
    """The run in figures, for `events.jsonl`."""
    return {
        "type": "metrics",
        "captured": report.captured,
        "shown": report.shown,
        "answers": report.results,
        "windows": report.windows,
        "gaps": report.gaps,
        "drops": report.drops,
        "seconds": round(report.seconds, 3),
        "stream_seconds": round(report.stream_seconds, 3),
        "source_per_s": round(report.source_rate, 3),
        "shown_per_s": round(report.shown_rate, 3),
        "engine_per_s": round(report.think_rate, 3),
        "answers_per_s": round(report.results / report.seconds, 3) if report.seconds else 0.0,
        "ended": report.ended,
    }


def _tell(report: pipeline.Report, out: Path | None, *, video: bool) -> None:
    """Write the summary for people."""
    answers = report.results / report.seconds if report.seconds else 0.0
    drops = ", ".join(f"{count} {reason}" for reason, count in report.drops.items()) or "none"
    lines = [
        f"picture  {report.source_rate:.1f}/s from the source, {report.shown_rate:.1f}/s shown "
        f"({report.shown} of {report.captured} pictures, {report.stream_seconds:.1f} s of stream)",
        f"engine   {report.think_rate:.2f} pictures a second answered, {answers:.2f} answers a second "
        f"({report.results} answers in {report.seconds:.1f} s)",
        f"drops    {drops}",
    ]
    if out is not None:
        names = ("overlay.mp4", "events.jsonl") if video and report.shown else ("events.jsonl",)
        lines.append(f"written  {', '.join(str(out / name) for name in names)}")
    sys.stdout.write("\n".join(lines) + "\n")
