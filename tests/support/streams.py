"""A stream of windows and pictures, questions about them, and what a session says to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from egolive.assistant.prompts.prompts import vision_of
from egolive.assistant.runtime.engine_session import Session
from egolive.assistant.schema.engine import Delta, Prompt, Request, Vision
from egolive.assistant.schema.profiles import NANO
from egolive.streaming.frames import Frame, Slice, Window
from egolive.streaming.pipeline.windowing import Windows

CLOSE = 1e-5
"""Most that logits may differ, as a share of the largest."""
LENGTH = 3
SLICE = 2 * 3
"""Tokens of a slice of 56 x 84 pixels."""
SLICES = 22
GAP = 9
"""The slice before which the stream breaks off: in the middle of a window with a successor."""
WINDOW_QUESTIONS = ("What is the wearer trying to do?", "What comes next?")
PICTURE_QUESTIONS = ("Find the left hand.",)


class Recorder:
    """A guide that allows everything and remembers what it was shown."""

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []
        self.accepted: list[int] = []
        self.finished = False

    def mask(self, logits: torch.Tensor) -> None:
        self.logits.append(logits.clone())

    def accept(self, token: int) -> None:
        self.accepted.append(token)

    def rollback(self, n: int) -> None:
        del self.accepted[len(self.accepted) - n :]


def frame(index: int) -> Frame:
    """Still for a while, then new with every frame."""
    rng = np.random.default_rng(max(0, index - 14))
    return Frame(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8), index * 0.5, index)


def stream(sliding: bool = False) -> list[tuple[Vision, Vision]]:
    """The window and the newest picture after each slice; sliding windows hold the last slices alone."""
    profile = replace(NANO, picture=(56, 84))
    windows = Windows(LENGTH)
    found = []
    for number in range(SLICES):
        newest = Slice(frame(2 * number), frame(2 * number + 1), number, segment=int(number >= GAP))
        window = windows.push(newest)
        if sliding:
            window = Window(window.slices[-LENGTH:])
        found.append((vision_of(window, profile), vision_of(newest.second, profile)))
    return found


STREAM = stream()


def ask(vision: Vision | None, question: str, max_tokens: int = 6) -> Request:
    seen = () if vision is None else ("<|vision_start|>", vision, "<|vision_end|>")
    opening = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    prompt = Prompt((opening, *seen, question + "<|im_end|>\n<|im_start|>assistant\n"))
    return Request(prompt, max_tokens, key=question)


def requests_at(window: Vision, picture: Vision) -> list[Request]:
    return [
        *(ask(window, question) for question in WINDOW_QUESTIONS),
        *(ask(picture, question) for question in PICTURE_QUESTIONS),
    ]


def answers(session: Session, requests: list[Request]) -> list[list[Delta]]:
    found: list[list[Delta]] = [[] for _ in requests]
    for delta in session.ask(requests):
        found[delta.request].append(delta)
    return found


def tokens(found: list[list[Delta]]) -> list[list[int]]:
    return [[delta.token for delta in answer] for answer in found]


def assert_close(one: torch.Tensor, two: torch.Tensor, close: float = CLOSE) -> None:
    assert (one - two).abs().max() <= close * two.abs().max()


class Said:
    """What a session says at some windows, and the logits that it was chosen from."""

    def __init__(self) -> None:
        self.tokens: list[list[list[int]]] = []
        self.logits: list[torch.Tensor] = []

    def at(self, session: Session, number: int) -> None:
        requests = requests_at(*STREAM[number])
        matchers = [Recorder() for _ in requests]
        asked = [
            # Answers beyond the columns that are left free behind a row, at some windows.
            type(request)(request.prompt, 60 if number % 5 == 4 else 6, key=request.key, matcher=matcher)
            for request, matcher in zip(requests, matchers, strict=True)
        ]
        self.tokens.append([[delta.token for delta in answer] for answer in answers(session, asked)])
        self.logits += [torch.stack(matcher.logits) for matcher in matchers]

    def assert_like(self, other: Said, close: float = CLOSE) -> None:
        assert self.tokens == other.tokens
        for one, two in zip(self.logits, other.logits, strict=True):
            # Tokens that may not be said are at minus infinity in both.
            allowed = one.isfinite()
            assert torch.equal(allowed, two.isfinite())
            assert_close(one[allowed], two[allowed], close)
