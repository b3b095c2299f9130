"""Visitors' clips: each is watched once with the assistant and then asked about.

A visitor's clip and results are in a folder of their own, under a random name, and deleted with the session.
"""

from __future__ import annotations

import json
import math
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import av
import cv2

from egolive.assistant.hands.hand_choice import HandSettings
from egolive.assistant.live.assistant import Assistant, live_questions
from egolive.assistant.live.hands_beside import checked_by_detector, open_hands
from egolive.assistant.live.overlay import draw
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import CallbackSink, EventSink, Shown, VideoSink, answer_event
from egolive.assistant.model.media import window_of
from egolive.assistant.model.simulated_source import from_simulator
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Engine
from egolive.demo.clips.isolated import IsolatedClip, clip_frames
from egolive.demo.security.names import is_loopback
from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.errors import SinkError, SourceError, UsageError
from egolive.streaming.frames import Frame
from egolive.streaming.metrics import Metrics
from egolive.streaming.video_writer import VideoWriter

__all__ = [
    "SERVED",
    "ClipSession",
    "ClipSessions",
    "Watched",
    "find_when",
    "find_where",
    "watch_clip",
    "write_evidence",
]

SERVED = {
    "overlay.mp4": "video/mp4",
    "events.jsonl": "application/jsonl",
    "evidence.zip": "application/zip",
    "where.jpg": "image/jpeg",
}
"""Names and kinds of the files that are given out; there is no way to name another."""
_LEAST_PATIENCE = 120.0
_YIELDS = 300.0
_FORGOTTEN = 3600.0
"""Seconds without a question or a download."""
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


@dataclass(slots=True)
class ClipSession:
    """One visitor's clip and what came of it."""

    word: str
    folder: Path
    address: str = ""
    """Whose it is."""
    clip: Path | None = None
    seconds: float = 0.0
    """Length of the clip."""
    watched: Watched | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    at_work: threading.Lock = field(default_factory=threading.Lock)
    """Held while the clip is looked at: its files stay until then."""
    used: float = 0.0
    """When something was last asked of it, by the clock of `ClipSessions`."""
    unwanted: threading.Event = field(default_factory=threading.Event)
    """What is looked at is to be dropped as soon as that has stopped."""

    @contextmanager
    def emptied(self) -> Iterator[None]:
        """Stop what runs and drop the clip and everything made of it; nothing begins before this has ended.

        Raises:
            UsageError: The session is over.
        """
        self.unwanted.set()
        self.stop.set()
        with self.at_work:
            self.unwanted.clear()
            if not self.folder.is_dir():
                raise UsageError("The page was closed meanwhile; open it again.")
            self.clip = self.watched = None
            for path in self.folder.iterdir():
                path.unlink()
            yield


class _Progress:
    """A sink that reports the time of each picture, and ends a run that takes too long."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report
        self.time = 0.0
        self._end = math.inf
        self._stop = threading.Event()

    def limit(self, seconds: float, stop: threading.Event) -> None:
        """Set `stop` at the first picture after so many seconds."""
        self._end, self._stop = time.monotonic() + seconds, stop

    def emit(self, shown: Shown) -> None:
        self.time = shown.frame.time
        self._report(self.time)
        if time.monotonic() > self._end:
            self._stop.set()

    def note(self, event: Mapping[str, object]) -> None: ...

    def close(self) -> None: ...


def watch_clip(
    engine: Engine,
    clip: Path,
    folder: Path,
    *,
    most_seconds: float,
    progress: Callable[[float], None] = lambda _: None,
    stop: threading.Event | None = None,
    patience: float = 10.0,
    hands: HandSettings | None = None,
) -> Watched:
    """Run the assistant over a clip, as `egolive run` does.

    Args:
        engine: What answers.
        clip: The video.
        folder: Where overlay.mp4 and events.jsonl go.
        most_seconds: How much of it is watched.
        progress: Called with the time of each picture that is done, seconds.
        stop: Ends it early.
        patience: It ends early, too, when it has taken so many times the length of the clip, and two minutes:
            others wait.
        hands: Who is asked about hands.

    Raises:
        EgoliveError: The clip cannot be read, the engine failed, or the disk is full.
    """
    answers: list[Answer] = []
    reached = _Progress(progress)
    profile, metrics = engine.profile, Metrics()
    raw = folder / "overlay.part.mp4"
    asked = live_questions(("intent", "next", "ground"), think=profile.think)
    choice = (hands or HandSettings()).choose(asked, clip)
    stop = stop or threading.Event()
    with (
        IsolatedClip(clip) as source,
        Assistant(
            engine, questions=choice.questions, metrics=metrics, simulated=from_simulator(clip)
        ) as assistant,
    ):
        length = source.seconds
        reached.limit(_LEAST_PATIENCE + patience * min(length, most_seconds), stop)
        report = run_stream(
            source,
            assistant,
            [
                EventSink(folder / "events.jsonl"),
                VideoSink(VideoWriter(raw)),
                CallbackSink(answers.append),
                reached,
            ],
            fps=profile.fps,
            slices=profile.window_slices,
            seconds=most_seconds,
            stop=stop,
            metrics=metrics,
            hands=open_hands(choice, profile, live=False, metrics=metrics),
        )
    if not report.shown:
        raise SourceError(f"{clip.name}: nothing was watched; start again")
    _make_seekable(raw, folder / "overlay.mp4")
    cut = report.ended == "stop" or length > most_seconds
    return Watched(clip, folder, min(length, most_seconds) if not cut else reached.time, answers, cut)


def find_when(engine: Engine, watched: Watched, event: str) -> Answer:
    """Ask when something happened in what was watched.

    Raises:
        UsageError: Nothing is asked.
        EgoliveError: The clip cannot be read, or the engine failed.
    """
    question = _question("when", event, "write what you did, for example: open the fridge")
    profile = engine.profile
    # As many frames as the longest rolling window has.
    most = 2 * (2 * profile.window_slices - 1)
    frames = clip_frames(watched.clip, fps=profile.fps, max_frames=most, end=watched.seconds)
    with Assistant(engine, simulated=from_simulator(watched.clip)) as assistant:
        (answer,) = assistant.answer([question], window=window_of(frames))
    watched.asked.append(answer)
    return answer


def find_where(
    engine: Engine, watched: Watched, thing: str, hands: HandSettings | None = None
) -> tuple[Answer, Frame]:
    """Look for a thing, from the end of what was watched backwards.

    Args:
        engine: What answers.
        watched: What was watched.
        thing: What is looked for.
        hands: Who is asked about hands.

    Returns:
        The answer with its box, and the picture that it was found in; the last look where it is nowhere.

    Raises:
        UsageError: Nothing is asked.
        EgoliveError: The clip cannot be read, or the engine failed.
    """
    question = _question("ground", thing, "write what you look for, for example: red mug")
    frames = clip_frames(watched.clip, nframes=_LOOKS, end=watched.seconds)
    detector = (hands or HandSettings()).choose([question], watched.clip).detector(stream=False)
    with Assistant(engine, simulated=from_simulator(watched.clip)) as assistant, ExitStack() as stack:
        if detector is not None:
            stack.callback(detector.close)
        for frame in reversed(frames):
            (answer,) = assistant.answer([question], picture=frame)
            if detector is not None:
                answer = checked_by_detector(answer, frame.image, detector, guesses=False)
            if answer.boxes:
                break
    watched.asked.append(answer)
    picture = cv2.cvtColor(draw(frame, [answer], frame.time), cv2.COLOR_RGB2BGR)
    encoded, jpeg = cv2.imencode(".jpg", picture)
    if not encoded:
        raise SourceError(f"{watched.clip.name}: its picture cannot be saved as JPEG")
    with _told_full_disk():
        (watched.folder / "where.jpg").write_bytes(jpeg.tobytes())
    return answer, frame


def write_evidence(engine: Engine, watched: Watched) -> Path:
    """Pack what was answered, by what, and the picture of the last search; returns the file's path."""
    path = watched.folder / "evidence.zip"
    asked = [answer_event(answer, answer.time) for answer in watched.asked]
    with _told_full_disk(), ZipFile(path, "w", ZIP_DEFLATED) as bundle:
        bundle.writestr("engine.json", json.dumps(asdict(engine.info), indent=2))
        bundle.writestr("asked.json", json.dumps(asked, indent=2, ensure_ascii=False))
        for name in ("events.jsonl", "where.jpg"):
            if (watched.folder / name).exists():
                bundle.write(watched.folder / name, name)
    return path


class ClipSessions:
    """All visitors' clips.

    Args:
        folder: They are kept under it.
        most: Visitors with a clip at once. Where there are so many, whoever has asked nothing for
            five minutes gives way.
        clock: What that is measured with; the machine's own without it.
    """

    def __init__(self, folder: Path, *, most: int = 16, clock: Clock | None = None) -> None:
        self._folder = folder
        self._most = most
        self._clock = clock or MonotonicClock()
        self._changing = threading.Lock()
        self._sessions: dict[str, ClipSession] = {}

    def find(self, visitor: str, *, uses: bool = True) -> ClipSession | None:
        """A visitor's own; None where no clip was brought.

        Args:
            visitor: Whose.
            uses: Whether the visitor wants something of it, and so keeps the place.
        """
        with self._changing:
            session = self._sessions.get(visitor)
            if session is not None and uses:
                session.used = self._clock.now()
            return session

    def begin(self, visitor: str, address: str = "127.0.0.1") -> ClipSession:
        """A visitor's own, made where there is none.

        Args:
            visitor: Whose.
            address: Where that one is. One address of the network may have half of the places.

        Raises:
            UsageError: There are as many as may be.
        """
        unused = None
        with self._changing:
            theirs = sum(session.address == address for session in self._sessions.values())
            greedy = not is_loopback(address) and theirs >= max(1, self._most // 2)
            if visitor not in self._sessions and (greedy or len(self._sessions) >= self._most):
                unused = self._longest_unused(_YIELDS, address if greedy else None)
                if unused is None:
                    raise UsageError(f"{self._most} clips are being looked at; try again in a few minutes")
        if unused is not None:
            self.leave(unused)
        with self._changing:
            if visitor not in self._sessions:
                word = secrets.token_urlsafe(16)
                folder = self._folder / word
                folder.mkdir(parents=True)
                self._sessions[visitor] = ClipSession(word, folder, address)
            session = self._sessions[visitor]
            session.used = self._clock.now()
            return session

    def file(self, word: str, name: str) -> Path | None:
        """A file that may be given out; None where there is none of that name."""
        with self._changing:
            session = next((session for session in self._sessions.values() if session.word == word), None)
        if session is None or name not in SERVED:
            return None
        session.used = self._clock.now()
        path = session.folder / name
        return path if path.is_file() else None

    def leave(self, visitor: str) -> None:
        """The page was closed: stop what runs and delete everything."""
        with self._changing:
            session = self._sessions.pop(visitor, None)
        # Where its folder is gone already, there is nothing to delete.
        if session is not None and session.folder.is_dir():
            with session.emptied():
                shutil.rmtree(session.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Delete what nobody has asked anything of for an hour; a page that was closed tells so itself."""
        while True:
            with self._changing:
                unused = self._longest_unused(_FORGOTTEN)
            if unused is None:
                return
            self.leave(unused)

    def _longest_unused(self, seconds: float, address: str | None = None) -> str | None:
        """Whose clip nobody has used for so long, of one address or of all."""
        idle = [
            one
            for one, session in self._sessions.items()
            if not session.at_work.locked() and address in (None, session.address)
        ]
        found = min(idle, key=lambda one: self._sessions[one].used, default=None)
        return found if found and self._clock.now() - self._sessions[found].used > seconds else None


@contextmanager
def _told_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SinkError(
            f"the server cannot keep the result ({error.strerror}); its disk may be full"
        ) from error


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
