"""The assistant of one stream: builds the prompts of the questions that are due, and yields their answers.

Questions about boxes get the newest picture, all others the window; questions that are due are answered as
one batch. Threads and time are handled by `egolive.streaming.pipeline`, output by the sinks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from types import TracebackType

from egolive.assistant.generation.audit import Audit
from egolive.assistant.generation.domain import DomainJudge
from egolive.assistant.generation.generate import (
    AnswerObserver,
    GenerationRequest,
    Sampling,
    generate_answers,
)
from egolive.assistant.live.picture_sizes import seen_smaller
from egolive.assistant.live.schedule import recurring_rules, wearer_rule
from egolive.assistant.prompts.grammar import matchers_of
from egolive.assistant.prompts.prompts import build_prompt, vision_of
from egolive.assistant.schema.answers import Answer, Question, Task
from egolive.assistant.schema.engine import Engine, EngineSession
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.frames import Frame, Window
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.results import Result, Status
from egolive.streaming.pipeline.scheduler import Scheduler, Work

__all__ = ["LIVE_QUESTIONS", "Assistant", "live_questions"]

_BOXES = ("left hand", "right hand", "object in the left hand", "object in the right hand")
LIVE_QUESTIONS = (Question("intent"), Question("next"), *(Question("ground", phrase) for phrase in _BOXES))
"""What is asked of a stream unless the user says otherwise."""


class Assistant:
    """Answers questions about one stream. One thread owns it, but for `put`.

    It is the worker of the pipeline: called with work, it yields results. Its scheduler decides what is due.
    """

    def __init__(
        self,
        engine: Engine,
        profile: Profile | None = None,
        *,
        questions: Sequence[Question] = LIVE_QUESTIONS,
        sampling: Sampling | None = None,
        paper_prompt: bool | None = None,
        every: int = 1,
        deadline: float | None = None,
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        grammar: bool = True,
        audit: Audit | None = None,
        observer: AnswerObserver | None = None,
        simulated: bool = False,
    ) -> None:
        """Open a session of the engine.

        Args:
            engine: Stays the caller's to close.
            profile: In place of the engine's own.
            questions: What is asked again and again; boxes of each new picture, the rest of the window.
            sampling: How tokens are chosen; greedy without it.
            paper_prompt: Text before the pictures; the profile decides where None.
            every: Slices from one question about the window to the next.
            deadline: Seconds after which an answer is not current any more; as befits its task without it.
            metrics: Takes how long "first_token", "decode" (first token to last) and "parse" take, and the
                engine's counts.
            clock: What work is timed with.
            grammar: Hold boxes, intervals and reasoning to their form, where the engine's tokens are known.
            audit: Checks the answers, on the same engine.
            observer: Told of each complete answer, with its prompt and tokens.
            simulated: What is seen is known to be the simulator's.
        """
        self.scheduler = Scheduler(recurring_rules(questions, every=every, deadline=deadline))
        """Says which questions are due."""
        self._profile = profile or engine.profile
        self._sampling = sampling or Sampling()
        self._paper_prompt = paper_prompt
        self._clock = clock or MonotonicClock()
        self._metrics = metrics or Metrics(self._clock)
        self._matchers = matchers_of(engine, self._profile) if grammar else None
        self._audit = audit
        self._observer = observer
        self._judge = DomainJudge(self._profile, simulated=simulated)
        self._session = engine.session()
        self._to_forget = threading.Event()
        self._at_work = threading.Lock()

    def __call__(self, work: Work[Question]) -> Generator[Result[Question, Answer]]:
        """Answer questions that are due.

        Args:
            work: The questions, what there is to see, and whether to go on.

        Yields:
            Each answer as soon as it is complete or broken off, then those that had to make way; closing
            stops the work.

        Raises:
            EngineError: The engine failed.
        """
        with self._at_work:
            try:
                yield from self._results(work)
            finally:
                self._forget_if_told()

    def put(self, question: Question) -> None:
        """Ask something once while the stream runs, before everything else; may be called from any thread."""
        self.scheduler.ask(question, wearer_rule(question))

    def answer(
        self,
        questions: Sequence[Question],
        *,
        window: Window | None = None,
        picture: Frame | None = None,
        size: float = 1.0,
    ) -> Iterator[Answer]:
        """Ask questions together.

        Args:
            questions: Boxes are asked of the picture, everything else of the window.
            window: What has been seen; may be missing where only boxes are asked for.
            picture: The newest picture; the window's newest frame without it.
            size: Share of the usual pixels at which the model sees pictures.

        Returns:
            The answers in the order of the questions.

        Raises:
            ValueError: A question has nothing to be asked of.
            EngineError: The engine failed.
        """
        if picture is None and window is not None:
            picture = window.newest
        generations = [self._generation(question, window, picture, size) for question in questions]
        answers = dict(self._answer(generations))
        return iter([answers[number] for number in range(len(generations))])

    def forget(self) -> None:
        """Drop everything that was seen: frames of another stream may carry the same numbers."""
        self._judge.forget()
        self._session.forget()

    def forget_soon(self) -> None:
        """Drop everything that was seen before the next work begins; may be called from any thread.

        Questions wait for the next picture, even where a lost camera keeps it waiting.
        """
        # First, so that nothing begins any more with what the session is to drop.
        self.scheduler.forget()
        self._to_forget.set()
        if self._at_work.acquire(blocking=False):
            # Nothing is running, and with a lost camera nothing may for long.
            try:
                self._forget_if_told()
            finally:
                self._at_work.release()

    @property
    def profile(self) -> Profile:
        """How the model is asked and read."""
        return self._profile

    @property
    def engine_session(self) -> EngineSession:
        """The engine's state of this stream, for those who keep parts of it."""
        return self._session

    def close(self) -> None:
        """Free the session."""
        self._session.close()

    def __enter__(self) -> Assistant:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forget_if_told(self) -> None:
        if self._to_forget.is_set():
            self._to_forget.clear()
            self._judge.forget()
            self._session.forget()

    def _results(self, work: Work[Question]) -> Generator[Result[Question, Answer]]:
        self._forget_if_told()
        generations = [
            self._generation(question, work.window, work.picture, work.size) for question in work.tasks
        ]
        if work.stopped():
            # What it would see may have been forgotten since it was taken.
            for generation in generations:
                answer = Answer(
                    generation.question,
                    "",
                    status="preempted",
                    time=generation.time,
                    window=generation.window,
                )
                yield Result(generation.question, answer, generation.time, "preempted")
            return
        with closing(self._answer(generations, work.stopped, keep_broken=True)) as found:
            for number, answer in found:
                timing = replace(answer.timing, queued=max(0.0, work.time - answer.time))
                answer = replace(answer, timing=timing)
                yield Result(work.tasks[number], answer, answer.time, _status_of(answer))

    def _answer(
        self,
        generations: Sequence[GenerationRequest],
        stopped: Callable[[], bool] | None = None,
        *,
        keep_broken: bool = False,
    ) -> Generator[tuple[int, Answer]]:
        answers = generate_answers(
            self._session,
            generations,
            self._profile,
            self._sampling,
            self._clock,
            matchers=self._matchers,
            audit=self._audit,
            observer=self._observer,
            metrics=self._metrics,
            stopped=stopped,
            keep_broken=keep_broken,
        )
        with closing(answers):
            for number, answer in answers:
                yield number, self._judge.judged(answer)

    def _generation(
        self, question: Question, window: Window | None, picture: Frame | None, size: float
    ) -> GenerationRequest:
        seen = picture if question.task == "ground" else window
        if seen is None:
            what = "a picture" if question.task == "ground" else "a window"
            raise ValueError(
                f"a question of the kind {question.task!r} is asked of {what}, and there is none"
            )
        newest = seen if isinstance(seen, Frame) else seen.newest
        stretch = None if isinstance(seen, Frame) else seen.interval
        source_size = (newest.width, newest.height)
        prompt = build_prompt(
            self._profile,
            question,
            [vision_of(seen, seen_smaller(self._profile, size, source_size))],
            window=stretch,
            paper_prompt=self._paper_prompt,
        )
        return GenerationRequest(
            question=question, prompt=prompt, source_size=source_size, window=stretch, time=newest.time
        )


def _status_of(answer: Answer) -> Status:
    if answer.status == "preempted" or answer.status == "broken":
        return answer.status
    return "ok"


def live_questions(
    tasks: Sequence[Task], phrases: Sequence[str] = (), *, think: bool = False
) -> tuple[Question, ...]:
    """The questions that are asked of a stream.

    Args:
        tasks: intent, next and ground (the hands and what they hold); the others need words of their own.
        phrases: Further things to find.
        think: Let the model reason before it answers.
    """
    chosen = [question for question in LIVE_QUESTIONS if question.task in tasks]
    chosen += [Question("ground", phrase) for phrase in phrases]
    return tuple(replace(question, think=think) for question in dict.fromkeys(chosen))
