"""Whether two engines say the same, token by token.

Both answer questions about windows greedily; the second one's probabilities are read along the first one's
answers too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from egolive.assistant.model.prompt_tokens import lay_out
from egolive.assistant.prompts.prompts import build_prompt, vision_for
from egolive.assistant.runtime.backend import Decoder, ForwardInput, VisionTower
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Prompt, Request
from egolive.quantize.prompt_embeddings import embeddings_of
from egolive.streaming.frames import Window

__all__ = ["Spoken", "compare_tokens", "speak"]

_QUESTIONS = (Question("intent"), Question("ground", "left hand"), Question("ground", "right hand"))
"""Asked in turn, one of each window."""
_MOST = 48
"""Tokens of an answer."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """One greedy answer."""

    tokens: tuple[int, ...]
    margins: tuple[float, ...]
    """By how much each token was likelier than the next, as logarithms."""
    logprobs: torch.Tensor
    """(tokens, vocabulary) float16 logarithms of all probabilities, along the answer."""


def speak(
    engine: LocalEngine[VisionTower, Decoder],
    streams: Sequence[Sequence[Window]],
    along: Sequence[Spoken] | None = None,
) -> list[Spoken]:
    """Let an engine answer, and read the probabilities along an answer.

    Args:
        engine: Answers greedily.
        streams: Windows that follow each other, stream by stream.
        along: The answers along which probabilities are read; its own without them.
    """
    spoken: list[Spoken] = []
    with engine.session() as session:
        for windows in streams:
            encoded: dict[Hashable, torch.Tensor] = {}
            for window in windows:
                question = _QUESTIONS[len(spoken) % len(_QUESTIONS)]
                vision = vision_for(question, window, engine.profile)
                prompt = build_prompt(engine.profile, question, [vision], window=window)
                deltas = list(session.ask([Request(prompt, max_tokens=_MOST)]))
                tokens = tuple(delta.token for delta in deltas)
                followed = along[len(spoken)].tokens if along is not None else tokens
                margins = tuple(delta.margin for delta in deltas)
                logprobs = _logprobs(engine, prompt, followed, encoded)
                spoken.append(Spoken(tokens, margins, logprobs))
            # Another stream may give its slices the same names.
            session.forget()
    return spoken


def compare_tokens(
    before: Sequence[Spoken], after: Sequence[Spoken], *, tie: float
) -> dict[str, float | int]:
    """How many answers are the same, how many part at a tie, and the mean KL divergence a token.

    Args:
        before: What the first engine said.
        after: What another said.
        tie: Margin of the likeliest token below which another order of sums may choose the second.
    """
    same = ties = others = 0
    for one, other in zip(before, after, strict=True):
        pairs = zip(one.tokens, other.tokens, one.margins, strict=False)
        margin = next((margin for a, b, margin in pairs if a != b), None)
        if margin is None and len(one.tokens) == len(other.tokens):
            same += 1
        elif margin is not None and margin < tie:
            ties += 1
        else:
            others += 1
    divergence = torch.cat(
        [_divergence(one.logprobs, other.logprobs) for one, other in zip(before, after, strict=True)]
    )
    return {
        "answers": len(before),
        "answers_same": same,
        "answers_tied": ties,
        "answers_other": others,
        "kl": float(divergence.mean()),
        "kl_tokens": len(divergence),
    }


def _logprobs(
    engine: LocalEngine[VisionTower, Decoder],
    prompt: Prompt,
    tokens: Sequence[int],
    encoded: dict[Hashable, torch.Tensor],
) -> torch.Tensor:
    """Logarithms of the probabilities before each token of an answer, the whole prompt read anew."""
    tower, decoder = engine.backend()
    layout = lay_out(prompt, engine.tokenizer)
    embeddings = embeddings_of(layout, tower, decoder, engine.preprocessor, encoded)
    said = tokens[:-1]
    start = layout.next_position
    places = np.tile(np.arange(start, start + len(said)), (3, 1))
    chunk = ForwardInput(
        decoder.new_cache(),
        torch.cat([embeddings, decoder.embed(said)]) if said else embeddings,
        np.concatenate([layout.positions, places], axis=1),
        keep=len(tokens),
    )
    (logits,) = decoder.forward([chunk])
    # Engines may be on several devices, and their memory is for their own use.
    return torch.log_softmax(logits, dim=-1).half().cpu()


def _divergence(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence in nats, a number for each token."""
    expected, found = before.float(), after.float()
    return (expected.exp() * (expected - found)).sum(dim=-1)
