"""Recordings of the assistant's runs: the settings and answers that they hold, and their replay.

The format and the order of events are those of `egolive.streaming.recording`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, field_validator

from egolive.assistant.generation.generate import AnswerObserver, Sampling
from egolive.assistant.hands.hand_choice import draws_guesses
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.hand_fusion import HandsBeside
from egolive.assistant.live.runner import Runner, metrics_event, say_the_same, totals
from egolive.assistant.live.schedule import recurring_rules
from egolive.assistant.live.sinks import Sink
from egolive.assistant.schema.answers import Answer, Question, Timing
from egolive.assistant.schema.engine import Engine
from egolive.streaming.clock import VirtualClock
from egolive.streaming.durable_files import MakeRoom
from egolive.streaming.errors import DataError
from egolive.streaming.json_files import AtLeastOne, JsonModel, Positive, json_bytes, parse_json
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.results import Result
from egolive.streaming.pipeline.run_report import Report
from egolive.streaming.pipeline.scheduler import Work
from egolive.streaming.recording.recording import (
    Outcome,
    RecordedHands,
    RecordedWork,
    Recorder,
    Recording,
    Segments,
)
from egolive.streaming.recording.replay import replay

__all__ = ["Replayed", "RunSettings", "record_into", "recorded_hash", "replay_run", "settings_of"]

M = TypeVar("M", bound=BaseModel)

_LONGEST_QUESTION = 128 * 1024
"""Characters; as many as the prompt of a bundle may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What decides a run beside its frames and its engine."""

    model: str
    """As it was named on the command line; what answers again unless another is named."""
    questions: tuple[Question, ...]
    fps: Positive
    slices: AtLeastOne
    seconds: Positive | None = None
    every: AtLeastOne = 1
    deadline: Positive | None = None
    max_tokens: AtLeastOne | None = None
    paper_prompt: bool | None = None
    grammar: bool = True
    hands: tuple[Question, ...] = ()
    """Questions about hands that a hand detector answered beside the model."""
    simulated: bool = False
    """What was seen is known to be the simulator's."""


def _no_book(question: Question) -> Question:
    """A prompt of megabytes takes minutes to read."""
    if len(question.phrase) > _LONGEST_QUESTION:
        raise ValueError(f"a question of more than {_LONGEST_QUESTION} characters")
    return question


class _Settings(JsonModel, extra="forbid"):
    settings: RunSettings

    @field_validator("settings")
    @classmethod
    def _questions_are_questions(cls, settings: RunSettings) -> RunSettings:
        for question in (*settings.questions, *settings.hands):
            _no_book(question)
        return settings


class _Question(JsonModel, extra="forbid"):
    question: Annotated[Question, AfterValidator(_no_book)]


_UNTOLD = ("preempted", "broken")
"""Outcomes that have no answer to be repeated."""


class _Note(JsonModel):
    """What is kept of an answer."""

    timing: Timing
    said: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """How a replay went."""

    report: Report
    answers: int
    """Answers that were given again."""
    same: int
    """Those that say what they said in the run."""
    differing: Sequence[Answer]
    """Those that do not, as they are now."""
    lost: int = 0
    """Those that cannot be given again: pictures that they are about were removed."""


def record_into(
    folder: Path,
    settings: RunSettings,
    engine: Engine,
    *,
    sha256: str = "",
    segments: Segments | None = None,
    make_room: MakeRoom | None = None,
) -> Recorder[Question, Answer]:
    """A recorder for a run with these settings, to be handed to `play`.

    Args:
        folder: A new or empty one.
        settings: Of the run.
        engine: What answers.
        sha256: Of its weights, where they are local: a replay takes no other weights unless they are named.
        segments: How it is cut, where it is.
        make_room: Asked before a full disk counts as a failure.

    Raises:
        SinkError: The folder is not empty, or cannot be written.
    """
    info = engine.info
    about = {"name": info.name, "backend": info.backend, "precision": info.precision, "device": info.device}
    about |= {"sha256": sha256} if sha256 else {}
    return Recorder(
        folder,
        settings=asdict(settings) | {"engine": about},
        fps=settings.fps,
        slices=settings.slices,
        seconds=settings.seconds,
        name=asdict,
        note=_note,
        segments=segments,
        make_room=make_room,
    )


def settings_of(recording: Recording) -> RunSettings:
    """The settings of a recorded run.

    Raises:
        DataError: They cannot be understood.
    """
    values = {key: value for key, value in recording.settings.items() if key != "engine"}
    return _checked(_Settings, {"settings": values}, f"{recording.folder}: its settings are damaged").settings


def recorded_hash(recording: Recording) -> str:
    """The hash of the weights that answered in a recorded run; empty where it is not told."""
    engine = recording.settings.get("engine")
    found = engine.get("sha256") if isinstance(engine, dict) else None
    return found if isinstance(found, str) else ""


def replay_run(
    recording: Recording, engine: Engine, sinks: Sequence[Sink], *, observer: AnswerObserver | None = None
) -> Replayed:
    """Run a recording again into sinks, and close them.

    The windows, the moments at which things are shown, what was dropped or had to make way, and the times in
    the answers are those of the recorded run; the answers are this engine's. Two replays with the same engine
    write the same events.

    Args:
        recording: What is run again.
        engine: What answers; need not be the one that answered then.
        sinks: Where pictures and answers go.
        observer: Keeps evidence of the answers.

    Raises:
        EgoliveError: The recording is damaged, or the engine or a sink failed.
    """
    clock = VirtualClock()
    metrics = Metrics(clock)
    lost = [recording.lost]
    with ExitStack() as stack:
        for sink in reversed(sinks):
            stack.callback(sink.close)
        settings = settings_of(recording)
        player = Runner(
            sinks,
            metrics,
            steady=True,
            slice_seconds=2 / settings.fps,
            hands=_hands(recording, settings, engine),
        )
        answerer = stack.enter_context(_Answerer(engine, settings, clock, metrics, observer))
        report = replay(
            recording,
            recurring_rules(settings.questions, every=settings.every, deadline=settings.deadline),
            _question,
            answerer,
            player.show,
            clock=clock,
            metrics=metrics,
            on_gap=player.gap,
            on_choice=player.choice,
            on_lost=lost.append,
            same=say_the_same,
        )
        event = metrics_event(metrics, report.stream_seconds, steady=True)
        # Its times are not those of the engine that answers here.
        player.note(event | totals(report) | {"times_of": recording.settings.get("engine")})
    same = answerer.answers - len(answerer.differing)
    return Replayed(report, answerer.answers, same, answerer.differing, sum(lost))


def _hands(recording: Recording, settings: RunSettings, engine: Engine) -> HandsBeside | None:
    """What the hand detector found in the run; it does not look again."""
    if not recording.looks:
        return None
    return HandsBeside(RecordedHands(recording.looks), settings.hands, draws_guesses(engine.profile))


class _Answerer:
    """Answers the questions of recorded work, and says of each whether it is what was said then."""

    def __init__(
        self,
        engine: Engine,
        settings: RunSettings,
        clock: VirtualClock,
        metrics: Metrics,
        observer: AnswerObserver | None,
    ) -> None:
        self.answers = 0
        self.differing: list[Answer] = []
        self._metrics = metrics
        # Its own figures would be of a clock that stands still while it works.
        self._own = Metrics(clock)
        self._assistant = Assistant(
            engine,
            questions=settings.questions,
            sampling=Sampling(max_tokens=settings.max_tokens),
            paper_prompt=settings.paper_prompt,
            grammar=settings.grammar,
            metrics=self._own,
            clock=clock,
            observer=observer,
            simulated=settings.simulated,
        )

    def __enter__(self) -> _Answerer:
        return self

    def __exit__(self, *_: object) -> None:
        self._assistant.close()

    def __call__(self, work: Work[Question], then: RecordedWork) -> list[Result[Question, Answer]]:
        # In the order in which they were asked, so that they share what they shared then.
        asked = sorted(outcome.task for outcome in then.outcomes if outcome.status not in _UNTOLD)
        before = self._own.counts
        found: dict[int, Answer] = {}
        if asked:
            questions = [work.tasks[place] for place in asked]
            if work.window is None and any(question.task != "ground" for question in questions):
                raise DataError("the recording has questions about a window, but none there; record again")
            answers = self._assistant.answer(
                questions, window=work.window, picture=work.picture, size=work.size
            )
            found = dict(zip(asked, answers, strict=True))
        counts = self._own.counts
        self._metrics.count({name: number - before.get(name, 0) for name, number in counts.items()})
        results = []
        for outcome in then.outcomes:
            answer = found.get(outcome.task) or _untold(work, outcome)
            note = _checked(_Note, outcome.note, "an answer of the recording is damaged")
            answer = replace(answer, timing=note.timing)
            if outcome.status not in _UNTOLD:
                self._metrics.add("first_token", note.timing.first_token)
                self._metrics.add("decode", note.timing.total - note.timing.first_token)
                self.answers += 1
                if _digest(answer) != note.said:
                    self.differing.append(answer)
            results.append(Result(work.tasks[outcome.task], answer, answer.time, outcome.status))
        return results


def _question(name: object) -> Question:
    """The question that stands for a task in a recording."""
    return _checked(_Question, {"question": name}, "a question of the recording is damaged").question


def _checked(model: type[M], values: object, where: str) -> M:
    return parse_json(model, json_bytes(values), where=where, remedy="record again with egolive run --record")


def _untold(work: Work[Question], outcome: Outcome) -> Answer:
    question = work.tasks[outcome.task]
    window = None if question.task == "ground" or work.window is None else work.window
    seen = work.picture if window is None else window.newest
    interval = None if window is None else window.interval
    return Answer(question, "", status=outcome.status, time=seen.time, window=interval)


def _note(answer: Answer) -> Mapping[str, Any]:
    return {"timing": asdict(answer.timing), "said": _digest(answer)}


def _digest(answer: Answer) -> str:
    """A short mark that two answers share when they say the same: words, places, times, whether absent."""
    places = [[round(value, 2) for value in box] for box in answer.boxes]
    times = [[round(span.start, 3), round(span.end, 3)] for span in answer.intervals]
    words = [answer.text, answer.reasoning, answer.absent, answer.status, places, times]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
