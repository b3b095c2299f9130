"""Simulated pictures, and an engine with fixed answers that takes its time by a clock."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Protocol

import cv2
import numpy as np

from egolive.assistant.schema.engine import FULL_REUSE, Delta, EngineInfo, Request, Reuse, Vision
from egolive.assistant.schema.profiles import NANO
from egolive.streaming.frames import Image

__all__ = ["SIZE", "ScriptedEngine", "scene"]

SIZE = (320, 180)
"""Width and height of the pictures."""


class _Holds(Protocol):
    def hold(self, seconds: float) -> None: ...


def scene(seconds: float) -> Image:
    """A made-up picture: something with structure that moves slowly over a table, (180, 320, 3)."""
    width, height = SIZE
    image = _TABLE.copy()
    x = round((width - 90) * (0.5 + 0.4 * math.sin(seconds / 7)))
    y = round((height - 70) * (0.5 + 0.3 * math.cos(seconds / 11)))
    image[y : y + 60, x : x + 80] = _HAND
    return image


def _texture(seed: int, height: int, width: int, base: tuple[int, int, int]) -> Image:
    noise = np.random.default_rng(seed).normal(0, 60, (height, width, 1))
    smooth = cv2.GaussianBlur(noise, (9, 9), 0)[..., None] * 2
    return np.asarray(np.clip(np.array(base) + smooth, 0, 255), np.uint8)


_TABLE = _texture(0, SIZE[1], SIZE[0], (120, 110, 90))
_HAND = _texture(1, 60, 80, (200, 150, 120))


class ScriptedEngine:
    """An `Engine` that says the same few things, and takes its time by the clock.

    Args:
        clock: Whose seconds it takes.
        seconds: Of one `ask`.
        before: Called at the beginning of each `ask`; may raise, or take longer.
    """

    def __init__(
        self, clock: _Holds | None, *, seconds: float = 0.15, before: Callable[[], object] = lambda: None
    ) -> None:
        self.info = EngineInfo("scripted", "scripted", "fp32", "cpu", NANO.name, 0)
        self.profile = NANO
        self.tokenizer = None
        self.clock = clock
        self.seconds = seconds
        self.before = before
        self.spent = 0.0
        """Processor seconds that its own work took so far."""

    def session(self, reuse: Reuse = FULL_REUSE) -> _Session:
        """A fresh state, which is none."""
        return _Session(self)

    def close(self) -> None:
        """Nothing to free."""


class _Session:
    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine

    def see(self, vision: Vision) -> None: ...

    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        engine = self._engine
        started = time.thread_time()
        engine.before()
        texts = [_said("".join(part for part in r.prompt.parts if isinstance(part, str))) for r in requests]
        pieces = [[*re.findall(r"<\|[^|]*\|>|\d|[^\W\d]+|\s+|[^\w\s]", text), ""] for text in texts]
        longest = max(map(len, pieces))
        engine.spent += time.thread_time() - started
        for place in range(longest):
            # Two waits an answer leave room for it to be interrupted, and cost few changes of thread.
            if engine.clock is not None and place in (0, longest // 2):
                engine.clock.hold(engine.seconds / 2)
            for number, words in enumerate(pieces):
                if place < len(words):
                    last = place == len(words) - 1
                    yield Delta(number, 0, words[place], math.log(0.9), "stop" if last else "")

    def usage(self, request: int | None = None) -> dict[str, int]:
        return {"prompt_tokens": 100, "prompt_tokens_reused": 90, "slices_encoded": 1}

    def forget(self) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> _Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def _said(prompt: str) -> str:
    """What the model says, by the question in its prompt."""
    if "Find the object" in prompt:
        return "<|box_start|>(450,400),(650,700)<|box_end|>"
    if "Find the right hand" in prompt:
        return "<|box_start|>(400,300),(700,800)<|box_end|>"
    if "Find the" in prompt:
        return "none"
    return "pour the water" if "next" in prompt else "make tea" if "doing" in prompt else "It is a mug."
