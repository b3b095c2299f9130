"""A stream that is pulled: one result a frame, while capturing and answering go on in threads beside it."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import TracebackType
from typing import Self, cast

from egolive.assistant.generation.domain import advice, check_question
from egolive.assistant.generation.generate import Sampling
from egolive.assistant.hands.hand_choice import HandChoice
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.governing import governed
from egolive.assistant.live.hands_beside import open_hands
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import Shown
from egolive.assistant.model.simulated_source import from_simulator
from egolive.assistant.schema.answers import Answer, Question, Task
from egolive.assistant.schema.engine import Engine
from egolive.frame_result import FrameResult
from egolive.streaming.clock import MonotonicClock
from egolive.streaming.errors import ConfigError
from egolive.streaming.pipeline.governor import Knob
from egolive.streaming.pipeline.mailbox import Mailbox
from egolive.streaming.sources.source import Source

__all__ = ["Stream", "StreamSettings", "questions_of"]

_log = logging.getLogger(__name__)
_HANDS = ("left hand", "right hand")
_PHRASES = {
    "hands": _HANDS,
    "objects": tuple(f"object in the {hand}" for hand in _HANDS),
    "ground": (*_HANDS, *(f"object in the {hand}" for hand in _HANDS)),
}
"""Names for several phrases to find."""
_NAMES = ("intent", "next", *_PHRASES)
_SLIP = 0.82
"""Similarity to a name from which a word counts as that name misspelt; "tent" and "intent" have 0.8."""
_AHEAD = 4
"""Results of a recording that wait for whoever pulls them."""
_MOST_NEW = 256
"""New answers that are kept for a caller who lets the frames of a live source pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """How a stream is looked at."""

    fps: float
    """Frames a second that the model sees."""
    slices: int
    """Pairs of frames in a full window."""
    every: int
    """Slices from one question about the window to the next."""
    seconds: float | None = None
    """Where the stream ends."""
    deadline: float | None = None
    """Seconds after which an answer about a live source is not current any more."""
    max_tokens: int | None = None
    """Most tokens of an answer."""
    grammar: bool = True
    """Hold boxes, intervals and reasoning to their form."""
    governed: bool = True
    """Let what is asked of a live source follow what answers cost."""
    held: frozenset[Knob] = frozenset()
    """Settings that are not governed."""
    on_contact: bool = False
    """Ask of a live source when a hand has touched, taken or left something."""
    hands: HandChoice | None = None
    """Who is asked about hands; the model where None."""

    def __post_init__(self) -> None:
        for name, least in (("slices", 1), ("every", 1), ("max_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {least} or more, got {value}")
        for name in ("fps", "seconds", "deadline"):
            number = getattr(self, name)
            # Written so that "nan" is refused too.
            if number is not None and not 0 < number < float("inf"):
                raise ConfigError(f"{name} is more than 0, got {number:g}")
        if self.on_contact and not self.governed:
            raise ConfigError("on_contact is the governor's work: leave out governed=False")


def questions_of(tasks: str | Question | Iterable[str | Question], *, think: bool) -> tuple[Question, ...]:
    """The questions that are asked of a stream again and again.

    Args:
        tasks: "intent", "next", "hands", "objects" (in the hands), "ground" (both); a text that ends with a
            question mark is a question about the window, any other one a thing to find; or `Question`s. A
            word that nearly is one of the names is refused; `Question("ground", ...)` finds a thing so named.
        think: Let the model reason before it answers the named ones.

    Raises:
        ConfigError: Nothing is asked, something that is no text and no question, or a misspelt name.
    """
    questions: list[Question] = []
    for task in (tasks,) if isinstance(tasks, str | Question) else tasks:
        if isinstance(task, Question):
            questions.append(task)
            continue
        if not isinstance(task, str) or not task.strip():
            raise ConfigError(f"a task is a name, a thing to find, or a question, got {task!r}")
        words = task.strip()
        if words in ("intent", "next"):
            questions.append(Question(cast("Task", words), think=think))
        elif words.endswith("?"):
            questions.append(Question("ask", words, think))
        elif words in _PHRASES:
            questions += [Question("ground", phrase, think) for phrase in _PHRASES[words]]
        else:
            _check_name(words)
            questions.append(Question("ground", words, think))
    if not questions:
        raise ConfigError("nothing is asked; give at least one task, such as 'intent' or 'hands'")
    return tuple(dict.fromkeys(questions))


def _check_name(words: str) -> None:
    """Refuse what is more likely a misspelt name than a thing to find.

    Raises:
        ConfigError: It is nearly a name, or a task that needs words.
    """
    if words in ("when", "ask"):
        raise ConfigError(f"the task {words!r} needs words; give Question({words!r}, ...) in its place")
    if close := get_close_matches(words.lower(), _NAMES, n=1, cutoff=_SLIP):
        raise ConfigError(
            f"there is no task {words!r}; did you mean {close[0]!r}? To find a thing of that name, give "
            f"Question('ground', {words!r})"
        )


@dataclass(slots=True)
class _Handover:
    """What the playing thread and the caller share; a sink of the run.

    The stream itself is no part of it, so that one that is forgotten half-way is collected, and ends its
    threads.
    """

    live: bool
    mailbox: Mailbox[tuple[Shown, float, int]]
    clock: MonotonicClock
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    new: deque[tuple[int, Answer]] = field(default_factory=lambda: deque(maxlen=_MOST_NEW))
    """Numbered answers that the caller has not been given; frames that are dropped leave theirs here."""
    made: int = 0
    """Number of the last new answer."""

    def emit(self, shown: Shown) -> None:
        """Hand a frame over; for a recording, wait until there is room."""
        with self.lock:
            for answer in shown.new:
                self.made += 1
                self.new.append((self.made, answer))
        self.mailbox.put((shown, self.clock.now(), self.made))

    def note(self, event: Mapping[str, object]) -> None:
        """Gaps are seen in the frames, figures are not handed over."""

    def close(self) -> None:
        """Nothing to finish: the end of the run is handed over by whoever runs it."""

    def pull(self) -> FrameResult | None:
        """The next result, waiting for it; None at the end.

        Raises:
            BaseException: What ended the run.
        """
        item = self.mailbox.get()
        if item is None:
            return None
        shown, at, made = item
        new = []
        with self.lock:
            while self.new and self.new[0][0] <= made:
                new.append(self.new.popleft()[1])
        waited = self.clock.now() - at if self.live else 0.0
        return FrameResult(shown.frame, shown.answers, new=new, hands=shown.hands, now=shown.now + waited)


class Stream:
    """Results of a stream, one a frame; made by `Model.stream`.

    Every frame of a recording comes, in order, and waits for you. Of a live source the newest one comes, and
    those before it that you were too slow for do not.

    The threads start with the first result. They end with the stream, an error, `close`, the end of a `with`,
    or when nothing refers to the stream any more, as after a `for` loop that was left; a debugger or notebook
    that keeps a traceback refers to it, a `with` ends them there too.

    Example:
        >>> import egolive
        >>> model = egolive.load_model("nano")
        >>> with model.stream("test:160x90@10", tasks=["hands"], seconds=60) as stream:
        ...     result = next(stream)
        >>> result.frame.shape
        (90, 160, 3)
        >>> model.close()
    """

    def __init__(
        self, engine: Engine, source: Source, questions: Iterable[Question], settings: StreamSettings
    ) -> None:
        """Prepare a run; nothing is read before the first result is pulled.

        Args:
            engine: What answers; stays the caller's to close.
            source: What is seen; closed at the end.
            questions: What is asked again and again.
            settings: How it is looked at.
        """
        self._engine = engine
        self._source = source
        self._questions = tuple(questions)
        self._settings = settings
        clock = MonotonicClock()
        box: Mailbox[tuple[Shown, float, int]] = Mailbox(
            live=source.live, capacity=1 if source.live else _AHEAD
        )
        self._handover = _Handover(source.live, box, clock)
        self._assistant: Assistant | None = None
        self._told = False
        self._ending = weakref.finalize(self, _end, self._handover, source, None)

    def __iter__(self) -> Iterator[FrameResult]:
        return self

    def __next__(self) -> FrameResult:
        try:
            if self._ending.alive and self._assistant is None:
                self._start()
            result = self._handover.pull()
        except BaseException:
            self.close()
            raise
        if result is None:
            self.close()
            raise StopIteration
        if not self._told and any(answer.guess for answer in result.new):
            self._told = True
            _log.warning("answers are guesses: %s", advice(self._engine.profile))
        return result

    def ask(self, question: str | Question) -> None:
        """Ask something once, before everything else; its answer comes in `FrameResult.new` and `.answers`.

        May be called from any thread.

        Args:
            question: A question about the last seconds, or a `Question`.

        Raises:
            ConfigError: The stream has ended, the question is empty, or the model answers no free questions.

        Example:
            >>> import egolive
            >>> model = egolive.load_model("nano")
            >>> with model.stream(egolive.example_clip(), tasks=["intent"], seconds=2) as stream:
            ...     stream.ask(egolive.Question("ground", "left hand"))
            ...     asked = [answer.question.phrase for result in stream for answer in result.new]
            >>> asked.count("left hand")
            1
            >>> model.close()
        """
        if isinstance(question, str):
            if not question.strip():
                raise ConfigError("the question is empty")
            question = Question("ask", question)
        if question.task == "ask":
            check_question(question.phrase, self._engine.profile)
        if not self._ending.alive:
            raise ConfigError("this stream has ended; open another one")
        if self._assistant is None:
            self._start()
        assert self._assistant is not None
        self._assistant.put(question)

    def close(self) -> None:
        """End the stream and its threads, and close the source; closing twice does nothing.

        An answer that is being written is cut short at its next token.

        Example:
            >>> import egolive
            >>> model = egolive.load_model("nano")
            >>> stream = model.stream(egolive.example_clip(), tasks=["hands"])
            >>> first = next(stream)
            >>> stream.close()
            >>> list(stream)
            []
            >>> model.close()
        """
        self._ending()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        settings = self._settings
        self._assistant = Assistant(
            self._engine,
            questions=self._questions,
            sampling=Sampling(max_tokens=settings.max_tokens),
            every=settings.every,
            deadline=settings.deadline,
            clock=self._handover.clock,
            grammar=settings.grammar,
            simulated=from_simulator(self._source.name),
        )
        thread = threading.Thread(
            target=_run,
            args=(self._source, self._assistant, self._handover, settings),
            name="egolive-stream",
            daemon=True,
        )
        self._ending.detach()
        self._ending = weakref.finalize(self, _end, self._handover, self._source, thread)
        thread.start()


def _run(source: Source, assistant: Assistant, handover: _Handover, settings: StreamSettings) -> None:
    """Play the source to its end; what ends it otherwise is the caller's to see."""
    try:
        with assistant, ExitStack() as stack:
            governor = None
            if source.live and settings.governed:
                governor = stack.enter_context(
                    governed(
                        assistant,
                        fps=settings.fps,
                        slices=settings.slices,
                        every=settings.every,
                        held=settings.held,
                        on_contact=settings.on_contact,
                    )
                )
            hands = None
            if settings.hands is not None:
                profile = assistant.profile
                hands = open_hands(settings.hands, profile, live=source.live, clock=handover.clock)
            run_stream(
                source,
                assistant,
                [handover],
                fps=settings.fps,
                slices=settings.slices,
                seconds=settings.seconds,
                stop=handover.stop,
                clock=handover.clock,
                governor=governor,
                hands=hands,
            )
    except BaseException as error:
        handover.mailbox.fail(error)
    handover.mailbox.finish()


def _end(handover: _Handover, source: Source, thread: threading.Thread | None) -> None:
    """Stop a run and wait for its threads."""
    handover.stop.set()
    handover.mailbox.close()
    if thread is None:
        source.close()
    elif not threading.current_thread().name.startswith("egolive-"):
        # The garbage collector may run this on one of the threads that are to end.
        thread.join()
