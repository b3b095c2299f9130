"""An engine that says what it is told to, for tests of everything around engines."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from egolive.assistant.schema.engine import FULL_REUSE, Delta, EngineInfo, Prompt, Request, Reuse, Vision
from egolive.assistant.schema.profiles import NANO, Profile
from egolive.streaming.clock import VirtualClock

Script = Callable[[str], str]
"""The text of a prompt, markup included, to what the model writes."""


def nano_script(prompt: str) -> str:
    """What nano would write about a scene that stands still: a mug in the right hand, no left hand."""
    if "Find the right hand" in prompt:
        return "<|box_start|>(500,500),(750,1000)<|box_end|>"
    if "Find the object in the right hand" in prompt:
        return "<|box_start|>(450,400),(650,700)<|box_end|>"
    if "Find the" in prompt:
        return "none"
    if "When did" in prompt:
        return "(0.5,1.5)"
    if "next" in prompt:
        return "pour the water"
    if "doing" in prompt:
        return "make tea"
    return "It is a mug."


class FakeEngine:
    """Implements `Engine`; counts what it is asked."""

    def __init__(
        self,
        script: Script = nano_script,
        *,
        profile: Profile = NANO,
        probability: float = 0.5,
        clock: VirtualClock | None = None,
        seconds_per_token: float = 0.0,
    ) -> None:
        self.info = EngineInfo("fake", "fake", "fp32", "cpu", profile.name, 0)
        self.profile = profile
        self.tokenizer = None
        self.script = script
        self.probability = probability
        self.clock = clock
        self.seconds_per_token = seconds_per_token
        self.asked: list[list[Request]] = []
        self.open_sessions = 0
        self.forgotten = 0
        self.closed = False

    def session(self, reuse: Reuse = FULL_REUSE) -> FakeSession:
        self.open_sessions += 1
        return FakeSession(self)

    def close(self) -> None:
        self.closed = True


class FakeSession:
    """Implements `EngineSession`: the answers of one `ask` come token by token, in turn."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def see(self, vision: Vision) -> None: ...

    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        engine = self._engine
        engine.asked.append(list(requests))
        answers = [tokens_of(engine.script(text_of(request.prompt))) for request in requests]
        pending = [tokens[: request.max_tokens] for tokens, request in zip(answers, requests, strict=True)]
        places = [0] * len(pending)
        while any(place < len(tokens) for place, tokens in zip(places, pending, strict=True)):
            for number, tokens in enumerate(pending):
                if places[number] < len(tokens):
                    if engine.clock:
                        engine.clock.advance(engine.seconds_per_token)
                    token = tokens[places[number]]
                    places[number] += 1
                    last = places[number] == len(tokens)
                    logprob = math.log(engine.probability)
                    cut = pending[number] != answers[number]
                    yield Delta(number, 0, token, logprob, ("length" if cut else "stop") if last else "")

    def usage(self, request: int | None = None) -> dict[str, int]:
        return {"prompt_tokens": 7, "slices_encoded": 1}

    def forget(self) -> None:
        self._engine.forgotten += 1

    def close(self) -> None:
        self._engine.open_sessions -= 1

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def text_of(prompt: Prompt) -> str:
    """The prompt with `<image>` or `<video>` where pictures stand."""
    return "".join(part if isinstance(part, str) else f"<{part.kind}>" for part in prompt.parts)


def tokens_of(text: str) -> list[str]:
    """Special tokens, single digits, words and signs, and an empty token that ends the answer."""
    return [*re.findall(r"<\|[^|]*\|>|\d|[^\W\d]+|\s+|[^\w\s]", text), ""]
