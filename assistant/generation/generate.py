"""Generation: runs prompts on an engine session, with grammar matchers, and parses the tokens into answers.

Which questions are asked, and when, is decided by `egolive.assistant.live.assistant`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from egolive.assistant.generation.audit import Audit
from egolive.assistant.prompts.grammar import GrammarMatchers
from egolive.assistant.prompts.parsing import TokenProbability, parse
from egolive.assistant.prompts.prompts import uses_thinking
from egolive.assistant.prompts.score_calibration import calibrated
from egolive.assistant.schema.answers import Answer, Question, Task, Timing, Usage
from egolive.assistant.schema.coordinates import Size
from egolive.assistant.schema.engine import (
    Delta,
    EngineSession,
    KnowsFamiliar,
    Prompt,
    Request,
    Vision,
)
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.clock import Clock
from egolive.streaming.errors import EngineError
from egolive.streaming.frames import Interval
from egolive.streaming.metrics import Metrics

__all__ = ["AnswerObserver", "GenerationRequest", "Sampling", "generate_answers"]

_log = logging.getLogger(__name__)
_MAX_TOKENS: dict[Task, int] = {"intent": 48, "next": 48, "ground": 96, "when": 48, "ask": 256}
_THINK_TOKENS = 1024
"""Room for reasoning: a limit that cuts it off leaves no answer."""
_BROKEN = "the engine broke off in the middle of an answer; ask again"
_CELL_AREA = 28 * 28
"""Pixels of the resized picture that become one visual token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen; the default is greedy."""

    max_tokens: int | None = None
    """Most tokens of an answer; enough for the task without it."""
    temperature: float = 0.0
    """0 takes the likeliest token; above 0, tokens are sampled."""
    top_p: float = 1.0
    """Sample from the likeliest tokens whose probabilities add up to this."""
    top_k: int = 0
    """Sample from this many likeliest tokens; 0 for all."""
    seed: int = 0
    """Seed of the sampling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt, and what is needed to parse its answer."""

    question: Question
    prompt: Prompt
    source_size: Size = (1, 1)
    """Width and height of the picture that boxes are drawn on."""
    window: Interval | None = None
    time: float = 0.0
    """Capture time of the newest frame that is seen, seconds."""


class AnswerObserver(Protocol):
    """Is told of each complete answer, with its prompt and tokens."""

    def keep(
        self, generation: GenerationRequest, request: Request, answer: Answer, tokens: Sequence[int]
    ) -> None:
        """Take a complete answer.

        Args:
            generation: The prompt, pictures included.
            request: As the engine got it.
            answer: What was read of it.
            tokens: What the engine said, the token that ended it included.
        """
        ...


@dataclass(slots=True)
class _Draft:
    """The tokens of one answer so far, with their probabilities."""

    tokens: list[tuple[str, TokenProbability]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    first_token: float = 0.0


def generate_answers(
    session: EngineSession,
    generations: Sequence[GenerationRequest],
    profile: Profile,
    sampling: Sampling,
    clock: Clock,
    *,
    matchers: GrammarMatchers | None = None,
    audit: Audit | None = None,
    observer: AnswerObserver | None = None,
    metrics: Metrics | None = None,
    stopped: Callable[[], bool] | None = None,
    keep_broken: bool = False,
) -> Generator[tuple[int, Answer]]:
    """Generate the answers to several prompts as one batch.

    Args:
        session: Of the engine; nothing else may use it meanwhile.
        generations: The prompts, of any mixture of pictures, videos and bare text.
        profile: The checkpoint's.
        sampling: How tokens are chosen.
        clock: What work is timed with.
        matchers: Hold boxes, intervals and reasoning to their form; answers are free without them.
        audit: Told of each answer that is complete; its own work is not in the answer's time.
        observer: Told of each answer that is complete, as the audit is.
        metrics: Takes stages and the engine's counts.
        stopped: Asked after each token; answers that are under way end there, as preempted.
        keep_broken: Go on where the engine breaks off an answer, which then has the status broken and nothing
            in it; without this it is an error.

    Yields:
        The index of a prompt and its answer, as soon as that is complete or broken; preempted ones last.

    Raises:
        EngineError: The engine failed, or broke off an answer.
    """
    if not generations:
        return
    metrics = metrics or Metrics(clock)
    start = clock.now()
    drafts = [_Draft() for _ in generations]
    requests = [_request(generation, profile, sampling, matchers) for generation in generations]
    under_way = set(range(len(generations)))
    deltas = session.ask(requests)
    preempted = False
    try:
        for delta in deltas:
            draft = drafts[delta.request]
            if delta.finished == "broken":
                if not keep_broken:
                    raise EngineError(delta.error or _BROKEN)
                # What the engine tells of it may hold the prompt, which is not for the log.
                _log.warning(
                    "the engine broke off an answer to a question of the kind %s",
                    generations[delta.request].question.task,
                )
                under_way.remove(delta.request)
                yield delta.request, _empty(generations[delta.request], draft, "broken", clock.now() - start)
                continue
            if not draft.tokens:
                draft.first_token = clock.now() - start
            draft.tokens.append((delta.text, _probability(delta)))
            draft.ids.append(delta.token)
            if delta.finished:
                timing = Timing(first_token=draft.first_token, total=clock.now() - start)
                usage = session.usage(delta.request)
                with metrics.measure("parse"):
                    answer = _read(generations[delta.request], draft, profile, timing, usage)
                    answer = calibrated(answer, profile.calibration)
                familiarity = (
                    session.familiarity(delta.request) if isinstance(session, KnowsFamiliar) else None
                )
                answer = replace(answer, cut=delta.finished == "length", familiarity=familiarity)
                under_way.remove(delta.request)
                metrics.add("first_token", timing.first_token)
                metrics.add("decode", timing.total - timing.first_token)
                yield delta.request, answer
                if audit is not None:
                    audit.check(requests[delta.request], draft.ids)
                if observer is not None:
                    observer.keep(generations[delta.request], requests[delta.request], answer, draft.ids)
            if under_way and stopped is not None and stopped():
                preempted = True
                break
    finally:
        if isinstance(deltas, Generator):
            deltas.close()
    metrics.count(session.usage())
    if under_way and not preempted and not keep_broken:
        raise EngineError(_BROKEN)
    for number in sorted(under_way):
        status: Literal["preempted", "broken"] = "preempted" if preempted else "broken"
        yield number, _empty(generations[number], drafts[number], status, clock.now() - start)


def _empty(
    generation: GenerationRequest, draft: _Draft, status: Literal["preempted", "broken"], total: float
) -> Answer:
    """In place of an answer that did not become complete."""
    return Answer(
        generation.question,
        "",
        status=status,
        time=generation.time,
        window=generation.window,
        timing=Timing(first_token=draft.first_token, total=total),
    )


def _probability(delta: Delta) -> TokenProbability:
    if delta.forced:
        return "forced"
    # A logarithm above 0 is no probability's; parsing leaves out what is none.
    return None if delta.logprob is None or not delta.logprob < 1 else math.exp(delta.logprob)


def _request(
    generation: GenerationRequest, profile: Profile, sampling: Sampling, matchers: GrammarMatchers | None
) -> Request:
    think = uses_thinking(profile, generation.question)
    most = sampling.max_tokens
    if most is None:
        most = _MAX_TOKENS[generation.question.task] + (_THINK_TOKENS if think else 0)
    return Request(
        generation.prompt,
        max_tokens=most,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        key=generation.question,
        matcher=matchers.matcher(generation.question, think) if matchers else None,
    )


def _read(
    generation: GenerationRequest, draft: _Draft, profile: Profile, timing: Timing, counts: Mapping[str, int]
) -> Answer:
    visions = [part for part in generation.prompt.parts if isinstance(part, Vision)]
    answer = parse(
        "".join(text for text, _ in draft.tokens),
        generation.question,
        profile,
        source_size=generation.source_size,
        seen_size=(visions[-1].width, visions[-1].height) if visions else None,
        window=generation.window,
        time=generation.time,
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
