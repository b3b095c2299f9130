"""One stream's assistant: which questions are due, their prompts, and the way from tokens back to answers.

Boxes are asked of the newest picture alone, everything else of the window; all questions that are due go to
the engine together. Threads and time are the pipeline's business, drawing and writing that of the sinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from types import TracebackType

from egolive.assistant.answers import Answer, Question, Task, Timing, Usage
from egolive.assistant.audit import Audit
from egolive.assistant.coordinates import Size
from egolive.assistant.engine import Engine, EngineSession, Prompt, Request, Vision
from egolive.assistant.parsing import parse
from egolive.assistant.profiles import Profile
from egolive.assistant.prompts import build_prompt, uses_thinking, vision_of
from egolive.assistant.rules import rules_for, wearer_rule
from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.frames import Frame, Interval, Window
from egolive.streaming.metrics import Metrics
from egolive.streaming.results import Result, Status
from egolive.streaming.scheduler import Scheduler, Work

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
    ids: list[int] = field(default_factory=list)
    first_token: float = 0.0


class Assistant:
    """Answers questions about one stream. One thread owns it, but for `put`.

    As a function of work it is what the pipeline thinks with; its scheduler says which questions are due.
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
        audit: Audit | None = None,
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
            audit: Checks the answers, on the same engine.
        """
        self.scheduler = Scheduler(rules_for(questions, every=every, deadline=deadline))
        """Says which questions are due."""
        self._profile = profile or engine.profile
        self._sampling = sampling or Sampling()
        self._paper_prompt = paper_prompt
        self._clock = clock or MonotonicClock()
        self._metrics = metrics or Metrics(self._clock)
        self._audit = audit
        self._session = engine.session()

    def __call__(self, work: Work[Question]) -> Generator[Result[Question, Answer]]:
        """Answer questions that are due.

        Args:
            work: The questions, what there is to see, and whether to go on.

        Yields:
            Each answer as soon as it is complete, then those that had to make way; closing stops the work.

        Raises:
            EngineError: The engine failed.
        """
        jobs = [self._job(question, work.window, work.picture) for question in work.tasks]
        with closing(self._answer(jobs, work.stopped)) as found:
            for number, answer in found:
                timing = replace(answer.timing, queued=max(0.0, work.time - answer.time))
                answer = replace(answer, timing=timing)
                status: Status = "preempted" if answer.status == "preempted" else "ok"
                yield Result(work.tasks[number], answer, answer.time, status)

    def put(self, question: Question) -> None:
        """Ask something once while the stream runs, before everything else; may be called from any thread."""
        self.scheduler.ask(question, wearer_rule(question))

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
        answers = dict(self._answer(jobs))
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

    def _answer(
        self, jobs: Sequence[Job], stopped: Callable[[], bool] | None = None
    ) -> Generator[tuple[int, Answer]]:
        return answer_jobs(
            self._session,
            jobs,
            self._profile,
            self._sampling,
            self._clock,
            audit=self._audit,
            metrics=self._metrics,
            stopped=stopped,
        )

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
    session: EngineSession,
    jobs: Sequence[Job],
    profile: Profile,
    sampling: Sampling,
    clock: Clock,
    *,
    audit: Audit | None = None,
    metrics: Metrics | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Generator[tuple[int, Answer]]:
    """Put several prompts to an engine at once and read what comes back.

    Args:
        session: The engine's; nothing else may use it meanwhile.
        jobs: The prompts, of any mixture of pictures, videos and bare text.
        profile: The checkpoint's.
        sampling: How tokens are chosen.
        clock: What work is timed with.
        audit: Told of each answer that is complete; its own work is not in the answer's time.
        metrics: Takes stages and the engine's counts.
        stopped: Asked after each token; answers that are under way end there, as preempted.

    Yields:
        The place of a job and its answer, as soon as that is complete; those without one last.

    Raises:
        EngineError: The engine failed.
    """
    if not jobs:
        return
    metrics = metrics or Metrics(clock)
    start = clock.now()
    drafts = [_Draft() for _ in jobs]
    requests = [_request(job, profile, sampling) for job in jobs]
    under_way = set(range(len(jobs)))
    deltas = session.ask(requests)
    try:
        for delta in deltas:
            draft = drafts[delta.request]
            if not draft.tokens:
                draft.first_token = clock.now() - start
            draft.tokens.append((delta.text, math.exp(delta.logprob)))
            draft.ids.append(delta.token)
            if delta.finished:
                timing = Timing(first_token=draft.first_token, total=clock.now() - start)
                usage = session.usage(delta.request)
                with metrics.measure("parse"):
                    answer = _read(jobs[delta.request], draft, profile, timing, usage)
                under_way.remove(delta.request)
                metrics.add("first_token", timing.first_token)
                metrics.add("decode", timing.total - timing.first_token)
                yield delta.request, answer
                if audit is not None:
                    audit.check(requests[delta.request], draft.ids)
            if under_way and stopped is not None and stopped():
                break
    finally:
        if isinstance(deltas, Generator):
            deltas.close()
    metrics.count(session.usage())
    for number in sorted(under_way):
        job = jobs[number]
        timing = Timing(first_token=drafts[number].first_token, total=clock.now() - start)
        yield (
            number,
            Answer(job.question, "", status="preempted", time=job.time, window=job.window, timing=timing),
        )


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
        key=job.question,
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
        prompt_tokens=counts.get("prompt_tokens", 0),
        prompt_tokens_reused=counts.get("prompt_tokens_reused", 0),
        vision_tokens=sum(tokens),
        completion_tokens=len(draft.tokens),
        slices_encoded=counts.get("slices_encoded", 0),
        slices_used=sum(slices),
        draft_proposed=counts.get("draft_proposed", 0),
        draft_accepted=counts.get("draft_accepted", 0),
    )
    return replace(answer, timing=timing, usage=usage)
