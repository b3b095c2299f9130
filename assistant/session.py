"""One stream's assistant: which questions are due, their prompts, and the way from tokens back to answers.

Boxes are asked of the newest picture alone, everything else of the window; all questions that are due go to
the engine together. Threads and time are the pipeline's business, drawing and writing that of the sinks.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from egolive.assistant.answers import Answer, Question, Task, Timing, Usage
from egolive.assistant.coordinates import Size
from egolive.assistant.engine import Engine, EngineSession, Prompt, Request, Vision
from egolive.assistant.parsing import parse
from egolive.assistant.profiles import Profile
from egolive.assistant.prompts import build_prompt, uses_thinking, vision_of
from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.frames import Frame, Interval, Window

__all__ = ["LIVE_QUESTIONS", "Assistant", "Job", "Sampling", "answer_jobs", "live_questions"]

_BOXES = ("left hand", "right hand", "object in the left hand", "object in the right hand")
LIVE_QUESTIONS = (Question("intent"), Question("next"), *(Question("ground", phrase) for phrase in _BOXES))
"""What is asked of a stream unless the user says otherwise."""

_MAX_TOKENS: dict[Task, int] = {"intent": 48, "next": 48, "ground": 96, "when": 48, "ask": 256}
_THINK_TOKENS = 1024
"""Room for reasoning: a limit that cuts it off leaves no answer."""
_CELL_AREA = 28 * 28
"""Pixels of the resized picture that become one visual token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen; the default is greedy."""

    max_tokens: int | None = None
    """Most tokens of an answer; enough for the task without it."""
    temperature: float = 0.0
    """0 takes the likeliest token, more draws among them."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that make up this share."""
    top_k: int = 0
    """Draw among this many likeliest tokens; 0 for all."""
    seed: int = 0
    """Of the drawing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One prompt, and what it takes to read its answer."""

    question: Question
    prompt: Prompt
    source_size: Size = (1, 1)
    """Width and height of the picture that boxes are drawn on."""
    window: Interval | None = None
    time: float = 0.0
    """Capture time of the newest frame that is seen, seconds."""


@dataclass(slots=True)
class _Draft:
    """The tokens of one answer so far, with their probabilities."""

    tokens: list[tuple[str, float]] = field(default_factory=list)
    first_token: float = 0.0


class Assistant:
    """Answers questions about one stream. Not thread-safe: one thread owns it.

    As a function of window and picture it is what the pipeline thinks with: it answers those of its questions
    that are due.
    """

    def __init__(
        self,
        engine: Engine,
        profile: Profile | None = None,
        *,
        questions: Sequence[Question] = LIVE_QUESTIONS,
        sampling: Sampling | None = None,
        paper_prompt: bool | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Open a session of the engine.

        Args:
            engine: Stays the caller's to close.
            profile: In place of the engine's own.
            questions: What is asked again and again; boxes of each new picture, the rest of each new window.
            sampling: How tokens are chosen; greedy without it.
            paper_prompt: Text before the pictures; the profile decides where None.
            clock: What work is timed with.
        """
        self.questions = tuple(questions)
        self._profile = profile or engine.profile
        self._sampling = sampling or Sampling()
        self._paper_prompt = paper_prompt
        self._clock = clock or MonotonicClock()
        self._session = engine.session()

    def __call__(self, window: Window | None, picture: Frame) -> Generator[Answer]:
        """Answer those questions that are due.

        Args:
            window: The newest window; None where it is the one of the call before, or there is none yet.
            picture: The newest picture.

        Returns:
            A generator of the answers, each as soon as it is complete; closing it stops the work.

        Raises:
            EngineError: The engine failed.
        """
        jobs = [self._job(question, window, picture) for question in self.due(window)]
        found = answer_jobs(self._session, jobs, self._profile, self._sampling, self._clock)
        return (answer for _, answer in found)

    def due(self, window: Window | None) -> tuple[Question, ...]:
        """The questions to which a new picture, and a new window where there is one, bring a new answer."""
        return tuple(
            question for question in self.questions if question.task == "ground" or window is not None
        )

    def answer(
        self, questions: Sequence[Question], *, window: Window | None = None, picture: Frame | None = None
    ) -> Iterator[Answer]:
        """Ask questions together.

        Args:
            questions: Boxes are asked of the picture, everything else of the window.
            window: What has been seen; may be missing where only boxes are asked for.
            picture: The newest picture; the window's newest frame without it.

        Returns:
            The answers in the order of the questions.

        Raises:
            ValueError: A question has nothing to be asked of.
            EngineError: The engine failed.
        """
        if picture is None and window is not None:
            picture = window.newest
        jobs = [self._job(question, window, picture) for question in questions]
        answers = dict(answer_jobs(self._session, jobs, self._profile, self._sampling, self._clock))
        return iter([answers[number] for number in range(len(jobs))])

    def forget(self) -> None:
        """Drop everything that was seen: frames of another stream may carry the same numbers."""
        self._session.forget()

    def close(self) -> None:
        """Free the session."""
        self._session.close()

    def __enter__(self) -> Assistant:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _job(self, question: Question, window: Window | None, picture: Frame | None) -> Job:
        seen = picture if question.task == "ground" else window
        if seen is None:
            what = "a picture" if question.task == "ground" else "a window"
            raise ValueError(
                f"a question of the kind {question.task!r} is asked of {what}, and there is none"
            )
        newest = seen if isinstance(seen, Frame) else seen.newest
        stretch = None if isinstance(seen, Frame) else seen.interval
        prompt = build_prompt(
            self._profile,
            question,
            [vision_of(seen, self._profile)],
            window=stretch,
            paper_prompt=self._paper_prompt,
        )
        size = (newest.width, newest.height)
        return Job(question=question, prompt=prompt, source_size=size, window=stretch, time=newest.time)


def answer_jobs(
    session: EngineSession, jobs: Sequence[Job], profile: Profile, sampling: Sampling, clock: Clock
) -> Iterator[tuple[int, Answer]]:
    """Put several prompts to an engine at once and read what comes back.

    Args:
        session: The engine's; nothing else may use it meanwhile.
        jobs: The prompts, of any mixture of pictures, videos and bare text.
        profile: The checkpoint's.
        sampling: How tokens are chosen.
        clock: What work is timed with.

    Yields:
        The place of a job and its answer, as soon as that is complete.

    Raises:
        EngineError: The engine failed.
    """
    if not jobs:
        return
    start = clock.now()
    drafts = [_Draft() for _ in jobs]
    for delta in session.ask([_request(job, profile, sampling) for job in jobs]):
        draft = drafts[delta.request]
        if not draft.tokens:
            draft.first_token = clock.now() - start
        draft.tokens.append((delta.text, math.exp(delta.logprob)))
        if delta.finished:
            timing = Timing(first_token=draft.first_token, total=clock.now() - start)
            yield delta.request, _read(jobs[delta.request], draft, profile, timing, session.usage())


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


def _request(job: Job, profile: Profile, sampling: Sampling) -> Request:
    most = sampling.max_tokens
    if most is None:
        most = _MAX_TOKENS[job.question.task]
        if uses_thinking(profile, job.question):
            most += _THINK_TOKENS
    return Request(
        job.prompt,
        max_tokens=most,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
    )


def _read(job: Job, draft: _Draft, profile: Profile, timing: Timing, counts: Mapping[str, int]) -> Answer:
    visions = [part for part in job.prompt.parts if isinstance(part, Vision)]
    answer = parse(
        "".join(text for text, _ in draft.tokens),
        job.question,
        profile,
        source_size=job.source_size,
        seen_size=(visions[-1].width, visions[-1].height) if visions else None,
        window=job.window,
        time=job.time,
        token_probs=draft.tokens,
    )
    slices = [len(vision.frames) // 2 if vision.kind == "video" else 1 for vision in visions]
    tokens = [n * v.height * v.width // _CELL_AREA for n, v in zip(slices, visions, strict=True)]
    usage = Usage(
        # The engine counts what is asked together as one: a shared prefix belongs to all its questions.
        prompt_tokens=counts.get("prompt_tokens", 0),
        vision_tokens=sum(tokens),
        completion_tokens=len(draft.tokens),
        slices_encoded=counts.get("slices_encoded", 0),
        slices_used=sum(slices),
    )
    return replace(answer, timing=timing, usage=usage)
