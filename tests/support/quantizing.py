"""Prompts and passes over weights that tests of engines share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from egolive.assistant.load_local import load_engine
from egolive.assistant.runtime.backend import ForwardInput
from egolive.assistant.schema.engine import Prompt, Request, Vision

SIZE = (56, 84)
"""Height and width of the pictures that tiny engines take."""


def prompts() -> list[Prompt]:
    """A video, two pictures, and text alone."""
    rng = np.random.default_rng(0)
    frames = tuple(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8) for _ in range(8))
    video, image = Vision(frames[:6], *SIZE, "video"), Vision(frames[6:7], *SIZE)
    other = Vision(frames[7:], *SIZE)
    seen = ("<|vision_start|>", video, "<|vision_end|>What comes next?")
    pictures = (image, "and", other, "Which is the red mug?")
    return [Prompt(seen), Prompt(pictures), Prompt(("You are a helpful assistant.",))]


def answers(model: str) -> list[list[int]]:
    """Greedy tokens of an engine, all prompts asked together."""
    engine = load_engine(model, device="cpu")
    found: list[list[int]] = [[] for _ in prompts()]
    with engine.session() as session:
        for delta in session.ask([Request(prompt, max_tokens=12) for prompt in prompts()]):
            found[delta.request].append(delta.token)
    engine.close()
    return found


def logits_of_many_passes(decoder: Any) -> list[torch.Tensor]:
    """What a decoder gives for rows and branches read together, taken back, pruned and forked."""
    places = np.tile(np.arange(60), (3, 1))
    tokens = list(range(20, 60))

    def chunk(onto: Any, ids: list[int], start: int, keep: int = 1) -> ForwardInput:
        return ForwardInput(onto, decoder.embed(ids), places[:, start : start + len(ids)], keep)

    long, short = decoder.new_cache(), decoder.new_cache()
    found: list[torch.Tensor] = decoder.forward([chunk(long, tokens, 0, 3), chunk(short, tokens[:19], 0, 2)])
    first, second, other = long.fork(), long.fork(), short.fork()
    found += decoder.forward(
        [chunk(first, [30, 31], 40, 2), chunk(other, [50, 51, 3], 19), chunk(second, [40], 40)]
    )
    first.rewind(1)
    found += decoder.forward([chunk(second, [40], 41), chunk(first, [33], 41)])
    long.drop_forks()
    found += decoder.forward([chunk(long, [33], 40, 0)])
    found += decoder.forward([chunk(long, [34], 41)])
    found += decoder.forward([chunk(long.copy(20), [34], 20), chunk(long, [35], 42)])
    assert decoder.forward([]) == []
    return found
