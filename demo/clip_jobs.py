"""A clip from beginning to end: watched once with the assistant, then asked about. Knows no page."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import av
import cv2

from egolive.assistant.ask import ClipOptions, ask_task
from egolive.assistant.live.assistant import Assistant, live_questions
from egolive.assistant.live.overlay import draw
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import CallbackSink, EventSink, Shown, VideoSink, answer_event
from egolive.assistant.model.media import load_video
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Engine
from egolive.streaming.errors import SourceError, UsageError
from egolive.streaming.frames import Frame
from egolive.streaming.metrics import Metrics
from egolive.streaming.sources.opening import open_source
from egolive.streaming.video_writer import VideoWriter

__all__ = ["Watched", "find_when", "find_where", "length_of", "watch_clip", "write_evidence"]

_LOOKS = 8
"""Pictures of a clip in which a thing is looked for, the newest first."""


@dataclass(slots=True)
class Watched:
    """What came of a clip."""

    clip: Path
    folder: Path
    """Holds overlay.mp4 and events.jsonl."""
    seconds: float
    """How much of it was watched."""
    answers: list[Answer]
    cut: bool = False
    """It was stopped, or is longer than what is watched."""
    asked: list[Answer] = field(default_factory=list)
    """Answers to the visitor's questions about it."""


class _Progress:
    """A sink that tells how far it is."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell = tell
        self.time = 0.0

    def emit(self, shown: Shown) -> None:
        self.time = shown.frame.time
        self._tell(self.time)

    def note(self, event: Mapping[str, object]) -> None: ...

    def close(self) -> None: ...


def length_of(clip: Path) -> float:
    """Seconds of a video.

    Raises:
        SourceError: It is none, or does not tell.
    """
    # Told by what reads it later, in words for people.
    open_source(clip).close()
    with av.open(str(clip.absolute())) as container:
        if container.duration is None or not container.streams.video:
            raise SourceError(f"{clip.name}: does not tell how long it is; save it as MP4")
        return float(container.duration / av.time_base)


def watch_clip(
    engine: Engine,
    clip: Path,
    folder: Path,
    *,
    most_seconds: float,
    tell: Callable[[float], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Watched:
    """Run the assistant over a clip, as `egolive run` does.

    Args:
        engine: What answers.
        clip: The video.
        folder: Where overlay.mp4 and events.jsonl go.
        most_seconds: How much of it is watched.
        tell: Called with the time of each picture that is done, seconds.
        stop: Ends it early.

    Raises:
        EgoliveError: The clip cannot be read, the engine failed, or the disk is full.
    """
    length = length_of(clip)
    answers: list[Answer] = []
    progress = _Progress(tell)
    profile, metrics = engine.profile, Metrics()
    raw = folder / "overlay.part.mp4"
    questions = live_questions(("intent", "next", "ground"), think=profile.think)
    with Assistant(engine, questions=questions, metrics=metrics) as assistant:
        report = run_stream(
            open_source(clip),
            assistant,
            [
                EventSink(folder / "events.jsonl"),
                VideoSink(VideoWriter(raw)),
                CallbackSink(answers.append),
                progress,
            ],
            fps=profile.fps,
            slices=profile.window_slices,
            seconds=most_seconds,
            stop=stop,
            metrics=metrics,
        )
    if not report.shown:
        raise SourceError(f"{clip.name}: nothing was watched; start again")
    _make_seekable(raw, folder / "overlay.mp4")
    cut = report.ended == "stop" or length > most_seconds
    return Watched(clip, folder, min(length, most_seconds) if not cut else progress.time, answers, cut)


def find_when(engine: Engine, watched: Watched, event: str) -> Answer:
    """Ask when something happened in what was watched.

    Raises:
        UsageError: Nothing is asked.
        EgoliveError: The clip cannot be read, or the engine failed.
    """
    question = _question("when", event, "write what you did, for example: open the fridge")
    answer = ask_task(question, engine, video=watched.clip, clip=ClipOptions(end=watched.seconds))
    watched.asked.append(answer)
    return answer


def find_where(engine: Engine, watched: Watched, thing: str) -> tuple[Answer, Frame]:
    """Look for a thing, from the end of what was watched backwards.

    Returns:
        The answer with its box, and the picture that it was found in; the last look where it is nowhere.

    Raises:
        UsageError: Nothing is asked.
        EgoliveError: The clip cannot be read, or the engine failed.
    """
    question = _question("ground", thing, "write what you look for, for example: red mug")
    frames = load_video(watched.clip, nframes=_LOOKS, end=watched.seconds)
    with Assistant(engine) as assistant:
        for frame in reversed(frames):
            (answer,) = assistant.answer([question], picture=frame)
            if answer.boxes:
                break
    watched.asked.append(answer)
    picture = cv2.cvtColor(draw(frame, [answer], frame.time), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(watched.folder / "where.jpg"), picture)
    return answer, frame


def write_evidence(engine: Engine, watched: Watched) -> Path:
    """Pack what was answered, by what, and the picture of the last search; returns the file's path."""
    path = watched.folder / "evidence.zip"
    asked = [answer_event(answer, answer.time) for answer in watched.asked]
    with ZipFile(path, "w", ZIP_DEFLATED) as bundle:
        bundle.writestr("engine.json", json.dumps(asdict(engine.info), indent=2))
        bundle.writestr("asked.json", json.dumps(asked, indent=2, ensure_ascii=False))
        for name in ("events.jsonl", "where.jpg"):
            if (watched.folder / name).exists():
                bundle.write(watched.folder / name, name)
    return path


def _question(task: str, words: str, hint: str) -> Question:
    words = " ".join(words.split())[:300]
    if not words:
        raise UsageError(f"the question is empty; {hint}")
    return Question("when" if task == "when" else "ground", words)


def _make_seekable(raw: Path, path: Path) -> None:
    """Copy a video that was written in fragments into one that browsers can jump in."""
    with av.open(str(raw)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    raw.unlink()
