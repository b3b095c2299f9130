"""`egolive run`: the assistant on a camera, an address or a file, to the screen and to files.

    egolive run                            the bundled clip with the bundled model
    egolive run 0 --model hyf015/EgoThinker-v1
    egolive run rtsp://camera/stream --out out
    egolive run kitchen.mp4 --json         the events on standard output, and nothing else there

Nothing is written unless `--out` names a folder. At a terminal, a line that is typed while a live source runs
is a question of the wearer.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from egolive.assistant.cli.disk_limits import disk_limits
from egolive.assistant.cli.event_stream import EventStream
from egolive.assistant.cli.options import ASKED, GIVEN, MODEL, OUTPUT, HandOptions, ModelOptions
from egolive.assistant.cli.printing import note, readable
from egolive.assistant.cli.segment_files import BudgetSink, SegmentSink, put_aside
from egolive.assistant.cli.stopping import stopped_by_signal
from egolive.assistant.cli.summary import GuessCount, tell
from egolive.assistant.cli.terminal_view import LineView, TerminalView
from egolive.assistant.cli.typed_questions import lines_to
from egolive.assistant.generation.audit import Audit
from egolive.assistant.generation.domain import advice, check_question
from egolive.assistant.generation.generate import AnswerObserver, Sampling
from egolive.assistant.live.assistant import Assistant, live_questions
from egolive.assistant.live.governing import governed, held_by
from egolive.assistant.live.hands_beside import open_hands
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import EventSink, Sink, VideoSink
from egolive.assistant.model.media import bundled_clip
from egolive.assistant.model.simulated_source import from_simulator
from egolive.assistant.recording.run_replay import RunSettings, record_into
from egolive.assistant.schema.answers import Answer, Question, Task
from egolive.assistant.schema.engine import Engine
from egolive.streaming.disk_budget import DiskBudget, room_maker
from egolive.streaming.errors import EngineError, SinkError, UsageError
from egolive.streaming.metrics import Metrics
from egolive.streaming.paths import existing_path
from egolive.streaming.recording.recording import Recorder, Segments
from egolive.streaming.recording.run_folders import new_run_folder
from egolive.streaming.sources.opening import open_source
from egolive.streaming.sources.source import Source
from egolive.streaming.video_writer import VideoWriter

__all__ = ["run"]

LiveTask = Literal["intent", "next", "ground"]
_MODEL, _HANDS = ModelOptions(), HandOptions()
_SEGMENT = 10.0
"""Minutes of a segment where `--keep` is given alone."""
_IN, _ASK, _OUT = (Parameter(group=group) for group in (GIVEN, ASKED, OUTPUT))


def run(
    source: Annotated[str | None, _IN] = None,
    *,
    model: Annotated[ModelOptions, Parameter(name="*", group=MODEL)] = _MODEL,
    out: Annotated[Path | None, _OUT] = None,
    tasks: Annotated[tuple[LiveTask, ...], Parameter(consume_multiple=True, negative="", group=ASKED)] = (
        "intent",
        "next",
        "ground",
    ),
    phrase: Annotated[tuple[str, ...], Parameter(negative="", group=ASKED)] = (),
    hands: Annotated[HandOptions, Parameter(name="*", group=ASKED)] = _HANDS,
    realtime: Annotated[bool, _IN] = False,
    seconds: Annotated[float | None, _IN] = None,
    fps: Annotated[float | None, _IN] = None,
    slices: Annotated[int | None, _ASK] = None,
    think: Annotated[bool | None, _ASK] = None,
    paper_prompt: Annotated[bool | None, _ASK] = None,
    max_tokens: Annotated[int | None, _ASK] = None,
    every: Annotated[int | None, _ASK] = None,
    fixed: Annotated[bool, Parameter(negative="", group=ASKED)] = False,
    on_contact: Annotated[bool, Parameter(negative="", group=ASKED)] = False,
    deadline: Annotated[float | None, _OUT] = None,
    reconnect_timeout: Annotated[float | None, Parameter(alias="--give-up", group=GIVEN)] = None,
    rtsp_transport: Annotated[Literal["auto", "tcp", "udp"], _IN] = "auto",
    poll: Annotated[float | None, _IN] = None,
    source_fps: Annotated[float | None, _IN] = None,
    engine_timeout: Annotated[float | None, Parameter(alias="--patience", group=MODEL)] = None,
    audit: Annotated[float, _ASK] = 0.0,
    record: Annotated[Path | None, _OUT] = None,
    evidence: Annotated[Path | None, _OUT] = None,
    memory: Annotated[Path | None, _OUT] = None,
    memory_encodings: Annotated[bool, _OUT] = False,
    segment: Annotated[float | None, _OUT] = None,
    keep: Annotated[tuple[str, ...], Parameter(negative="", group=OUTPUT)] = (),
    grammar: Annotated[bool, _ASK] = True,
    ask: Annotated[bool, _ASK] = True,
    view: Annotated[bool, _OUT] = True,
    video: Annotated[bool, _OUT] = True,
    json_lines: Annotated[bool, Parameter(name="--json", negative="", group=OUTPUT)] = False,
) -> int:
    """Run the assistant on a camera, an address or a file.

    Args:
        source: A camera ("0", "/dev/video0"), an address ("rtsp://..."), a file, a folder of pictures or
            "test:"; the bundled clip without it.
        model: Which model answers.
        out: Folder for overlay.mp4 and events.jsonl; nothing is written without it.
        tasks: What is asked: intent, next (step), ground (the hands and what they hold).
        phrase: One more thing to find; may be given several times.
        hands: Who is asked about hands.
        realtime: Play a file at its own speed and drop what comes too fast, as a camera does.
        seconds: Stop at this time of the stream.
        fps: Frames a second that the model sees; the model's own rate without it.
        slices: Pairs of frames in a full window; the model's own number without it.
        think: Let the model reason before it answers, or not; the model's own habit without it.
        paper_prompt: Text before the pictures, as EgoThinker's last training stage had it.
        max_tokens: Most tokens of an answer; enough for the task without it.
        every: Slices (pairs of frames) from one intent and next step to the following ones; 2 without it, for
            a recording 1.
        fixed: Do not govern a live source. Without it what is asked when, the length of windows and the size
            of pictures follow what answers cost, the load of the machine and whether anything moves;
            --every, --slices and --fps hold what they say.
        on_contact: Ask of a live source when a hand has touched, taken or left something, and otherwise only
            before answers are out of date: fewer questions, asked when they matter.
        deadline: Seconds after which an answer about a live source is not shown as current any more; without
            it 5 for boxes and 15 for words.
        reconnect_timeout: Seconds for which a lost camera or address is tried again; for ever without it.
        rtsp_transport: How an RTSP camera sends: by TCP, by UDP, or UDP only where it refuses TCP (auto).
        poll: Seconds from one request to the next, of an address that gives single pictures
            (http://.../snapshot.jpg); 0.5 without it.
        source_fps: Frames a second of a video file without time stamps of its own, such as raw H.264.
        engine_timeout: Seconds without a token after which the engine counts as hung: the run ends and its
            files are finished; 300 without it.
        audit: Percentage of the answers that are given once more without any reuse, and compared token by
            token; costs time.
        record: Folder that keeps the run, pictures included, for `egolive replay`.
        evidence: Folder for a bundle of every answer, pictures included, for `egolive replay`.
        memory: Folder of a memory that the run adds to, small pictures included, for `egolive recall`. What
            is typed as "where ..." or "forget the last 5 minutes" is for the memory.
        memory_encodings: Keep the pictures as the model sees them too, so that nothing is encoded again.
        segment: Minutes of stream after which the files of `--out` and `--record` go on in new ones
            (overlay-000001.mp4, ...); without it one file each, with `--keep` 10.
        keep: Most that a folder may take, such as 20GB, for each of `--out`, `--record` and `--memory`, or
            for one, as in record=20GB; the oldest segments and moments are removed, which is told.
        grammar: Hold boxes, intervals and reasoning to their form.
        ask: Take questions from the terminal while a live source runs, one a line.
        view: Show answers: in a live view on a terminal; elsewhere, on standard output, one line an answer,
            and one when the hand detector sees other hands than before.
        video: Write overlay.mp4 where `--out` is given.
        json_lines: Print the events (the lines of events.jsonl) on standard output, and nothing else there.
    """
    _check(
        tasks,
        phrase,
        least_one={"slices": slices, "max-tokens": max_tokens, "every": every},
        above_zero={
            "seconds": seconds,
            "fps": fps,
            "deadline": deadline,
            "reconnect-timeout": reconnect_timeout,
            "poll": poll,
            "source-fps": source_fps,
            "engine-timeout": engine_timeout,
            "segment": segment,
        },
        audit=audit,
    )
    if on_contact and fixed:
        raise UsageError("--on-contact is the governor's work: leave out --fixed")
    limits = disk_limits(keep)
    model.check()
    for folder in (out, record, evidence, memory):
        if folder is not None and existing_path(folder) is not None and not folder.is_dir():
            raise SinkError(f"cannot write to {folder}: it is a file; name a folder")
    phrase = tuple(readable(words) for words in phrase)
    if record is not None and memory is not None:
        raise UsageError("what is recorded cannot be forgotten: give --record or --memory, not both")
    spec = bundled_clip() if source is None else source
    # A source that is not there is told before the model is loaded, which may take minutes.
    opened = open_source(
        spec, realtime=realtime, rtsp_transport=rtsp_transport, poll=poll, source_fps=source_fps
    )
    if opened.live:
        opened.close()
    elif on_contact:
        opened.close()
        raise UsageError("--on-contact is for live sources; play a file as one with --realtime")
    try:
        # So is a hand detector that is not there.
        hands.choose(live_questions(tasks, phrase), spec)
        model = model.chosen()
        engine = model.load()
    except BaseException:
        opened.close()
        raise
    if opened.live:
        # Its time runs from when it is opened.
        opened = open_source(
            spec,
            realtime=realtime,
            rtsp_transport=rtsp_transport,
            poll=poll,
            source_fps=source_fps,
            reconnect_timeout=math.inf if reconnect_timeout is None else reconnect_timeout,
        )
    if segment is None and (limits.get("out") or limits.get("record")):
        segment = _SEGMENT
    budgets = [
        DiskBudget(folder, limits[name])
        for name, folder in (("out", out), ("record", record))
        if folder is not None and name in limits
    ]
    asked = live_questions(tasks, phrase, think=engine.profile.think if think is None else think)
    chosen = hands.choose(asked, spec, tell=False)
    questions = chosen.questions
    metrics = Metrics()
    checked = Audit(engine, audit / 100) if audit else None
    settings = RunSettings(
        model=model.model,
        questions=questions,
        fps=fps or engine.profile.fps,
        slices=slices or engine.profile.window_slices,
        seconds=seconds,
        every=every or (2 if opened.live else 1),
        deadline=deadline,
        max_tokens=max_tokens,
        paper_prompt=paper_prompt,
        grammar=grammar,
        hands=chosen.answered,
        simulated=from_simulator(spec),
    )
    knows = "" if settings.simulated else advice(engine.profile)
    if knows:
        note(f"{knows}; answers about other scenes are marked as guesses")
    with ExitStack() as stack:
        stack.callback(engine.close)
        stack.callback(opened.close)
        recorder = _recorder(record, settings, engine, segment, budgets) if record else None
        observer: AnswerObserver | None = _observer(evidence, model.model, engine) if evidence else None
        remembered = None
        played = opened
        if memory is not None:
            # Imported here, as below: a run without them does not wait for what they need.
            from egolive.assistant.memory.live_memory import LiveMemory
            from egolive.assistant.memory.moment_store import Limits, Memory

            most = Limits(total_bytes=limits["memory"]) if "memory" in limits else None
            kept = stack.enter_context(Memory(memory, most, make_room=room_maker(memory, budgets)))
            also = (observer,) if observer else ()
            remembered = LiveMemory(kept, engine, encodings=memory_encodings, also=also)
            observer, played = remembered, remembered.watch(opened)
        beside = open_hands(chosen, engine.profile, live=opened.live, metrics=metrics)
        if beside is not None:
            stack.callback(beside.watch.close)
        files = _files(out, segment, budgets, video=video)
        guesses = GuessCount()
        sinks = [*_sinks(opened, engine, files, view=view, json_lines=json_lines), guesses]
        if budgets:
            sinks.append(BudgetSink(budgets, tuple(sinks)))
        stop = stack.enter_context(stopped_by_signal())
        assistant = stack.enter_context(
            Assistant(
                engine,
                questions=questions,
                sampling=Sampling(max_tokens=max_tokens),
                paper_prompt=paper_prompt,
                every=settings.every,
                deadline=deadline,
                metrics=metrics,
                grammar=grammar,
                audit=checked,
                observer=observer,
                simulated=settings.simulated,
            )
        )
        if remembered is not None:
            remembered.attend(assistant)
            stack.enter_context(remembered)

        def take(line: str) -> None:
            if remembered is not None and remembered.take(line, note):
                return
            try:
                check_question(line, engine.profile)
            except UsageError as error:
                note(str(error))
            else:
                assistant.put(Question("ask", line))

        # A terminal cannot be waited for like this on Windows.
        if ask and opened.live and sys.stdin.isatty() and os.name == "posix":
            stack.enter_context(lines_to(take, sys.stdin))
        governor = None
        if opened.live and not fixed:
            governor = stack.enter_context(
                governed(
                    assistant,
                    fps=settings.fps,
                    slices=settings.slices,
                    every=settings.every,
                    held=held_by(every=every, slices=slices),
                    on_contact=on_contact,
                )
            )
        report = run_stream(
            played,
            assistant,
            sinks,
            fps=settings.fps,
            slices=settings.slices,
            seconds=seconds,
            stop=stop,
            metrics=metrics,
            audit=checked.counts if checked else None,
            recorder=recorder,
            timeout=engine_timeout,
            governor=governor,
            hands=beside,
        )
    tell(
        report,
        metrics,
        None if segment else out,
        video=video,
        drawn=(video and out is not None) or any(isinstance(sink, TerminalView) for sink in sinks),
        audit=checked.counts if checked else None,
        others=(out if segment else None, record, evidence, memory),
        guesses=guesses,
        knows=advice(engine.profile),
    )
    if (broken := report.requests.get("broken", 0)) and not report.results:
        raise EngineError(f"no answer became complete, the engine broke off {broken}; look at its log")
    return stop.exit_code


def _check(
    tasks: Sequence[Task],
    phrase: Sequence[str],
    *,
    least_one: Mapping[str, int | None],
    above_zero: Mapping[str, float | None],
    audit: float,
) -> None:
    for name, value in least_one.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name} is 1 or more, got {value}")
    for name, number in above_zero.items():
        # Written so that "nan" is refused too.
        if number is not None and not 0 < number < math.inf:
            raise UsageError(f"--{name} is more than 0, got {number:g}")
    if not 0 <= audit <= 100:
        raise UsageError(f"--audit is a percentage from 0 to 100, got {audit:g}")
    if any(not words.strip() for words in phrase):
        raise UsageError("--phrase needs words: what to find")
    if not tasks and not phrase:
        raise UsageError("nothing is asked: give --tasks or --phrase")


def _recorder(
    folder: Path,
    settings: RunSettings,
    engine: Engine,
    minutes: float | None,
    budgets: Sequence[DiskBudget],
) -> Recorder[Question, Answer]:
    from egolive.assistant.recording.evidence import local_hash

    place, run = new_run_folder(folder, segmented=minutes is not None)
    if place != folder and minutes is None:
        note(f"recording into {place}: {folder} holds a run that was cut off")
    budget = next((budget for budget in budgets if budget.folder == folder), None)
    return record_into(
        place,
        settings,
        engine,
        sha256=local_hash(settings.model),
        segments=Segments(seconds=60 * minutes, run=run, budget=budget) if minutes else None,
        make_room=room_maker(folder, budgets),
    )


def _observer(folder: Path, model: str, engine: Engine) -> AnswerObserver:
    from egolive.assistant.recording.evidence import EvidenceWriter, weights_hash

    return EvidenceWriter(
        folder, model=model, info=engine.info, sha256=weights_hash(model), profile=engine.profile
    )


def _files(
    out: Path | None, minutes: float | None, budgets: Sequence[DiskBudget], *, video: bool
) -> list[Sink]:
    """What writes into `--out`."""
    if out is None:
        return []
    if left := put_aside(out):
        note(f"a run that was cut off left its files here: they are {', '.join(map(str, left))} now")
    if minutes is None:
        events = EventSink(out / "events.jsonl")
        return [events, VideoSink(VideoWriter(out / "overlay.mp4"))] if video else [events]
    budget = next((budget for budget in budgets if budget.folder == out), None)
    room = room_maker(out, budgets)
    return [SegmentSink(out, 60 * minutes, video=video, budget=budget, make_room=room)]


def _sinks(
    source: Source, engine: Engine, files: Sequence[Sink], *, view: bool, json_lines: bool
) -> list[Sink]:
    sinks: list[Sink] = [*([EventStream()] if json_lines else []), *files]
    console, answers_seen = Console(stderr=True), sys.stdout.isatty()
    live = view and console.is_terminal and not (json_lines and answers_seen)
    if live:
        title = f"{source.name} · {engine.info.name} {engine.info.precision} on {engine.info.device}"
        sinks.append(TerminalView(console, title=title, advice=advice(engine.profile)))
    if view and not json_lines and not (live and answers_seen):
        sinks.append(LineView())
    return sinks
