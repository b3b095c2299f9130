"""From prompts to answers: what is put to an engine, under which grammar, and how its tokens are read.

What is asked when is the business of `egolive.assistant.live.assistant`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from egolive.assistant.generation.audit import Audit
from egolive.assistant.prompts.grammar import GrammarMatchers
from egolive.assistant.prompts.parsing import parse
from egolive.assistant.prompts.prompts import uses_thinking
from egolive.assistant.schema.answers import Answer, Question, Task, Timing, Usage
from egolive.assistant.schema.coordinates import Size
from egolive.assistant.schema.engine import EngineSession, Prompt, Request, Vision
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.clock import Clock
from egolive.streaming.frames import Interval
from egolive.streaming.metrics import Metrics

__all__ = ["AnswerObserver", "GenerationRequest", "Sampling", "generate_answers"]

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
class GenerationRequest:
    """One prompt, and what it takes to read its answer."""

    question: Question
    prompt: Prompt
    source_size: Size = (1, 1)
    """Width and height of the picture that boxes are drawn on."""
    window: Interval | None = None
    time: float = 0.0
    """Capture time of the newest frame that is seen, seconds."""


class AnswerObserver(Protocol):
    """Somebody who keeps what answers were made of."""

    def keep(self, job: GenerationRequest, request: Request, answer: Answer, tokens: Sequence[int]) -> None:
        """Take a complete answer.

        Args:
            job: What was put, pictures included.
            request: As the engine got it.
            answer: What was read of it.
            tokens: What the engine said, the token that ended it included.
        """
        ...


@dataclass(slots=True)
class _Draft:
    """The tokens of one answer so far, with their probabilities."""

    tokens: list[tuple[str, float]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    first_token: float = 0.0


def generate_answers(
    session: EngineSession,
    jobs: Sequence[GenerationRequest],
    profile: Profile,
    sampling: Sampling,
    clock: Clock,
    *,
    matchers: GrammarMatchers | None = None,
    audit: Audit | None = None,
    keeper: AnswerObserver | None = None,
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
        matchers: Hold boxes, intervals and reasoning to their form; answers are free without them.
        audit: Told of each answer that is complete; its own work is not in the answer's time.
        keeper: Told of each answer that is complete, as the audit is.
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
    requests = [_request(job, profile, sampling, matchers) for job in jobs]
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
                answer = replace(answer, cut=delta.finished == "length")
                under_way.remove(delta.request)
                metrics.add("first_token", timing.first_token)
                metrics.add("decode", timing.total - timing.first_token)
                yield delta.request, answer
                if audit is not None:
                    audit.check(requests[delta.request], draft.ids)
                if keeper is not None:
                    keeper.keep(jobs[delta.request], requests[delta.request], answer, draft.ids)
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


def _request(
    job: GenerationRequest, profile: Profile, sampling: Sampling, matchers: GrammarMatchers | None
) -> Request:
    think = uses_thinking(profile, job.question)
    most = sampling.max_tokens
    if most is None:
        most = _MAX_TOKENS[job.question.task] + (_THINK_TOKENS if think else 0)
    return Request(
        job.prompt,
        max_tokens=most,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        key=job.question,
        matcher=matchers.matcher(job.question, think) if matchers else None,
    )


def _read(
    job: GenerationRequest, draft: _Draft, profile: Profile, timing: Timing, counts: Mapping[str, int]
) -> Answer:
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
