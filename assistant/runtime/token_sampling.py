"""Sampling: the next token from logits, greedy or with temperature, top-k and top-p."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from egolive.assistant.schema.engine import Request
from egolive.streaming.errors import ConfigError, EngineError

__all__ = ["Choice", "TokenSampler"]


class Choice(NamedTuple):
    """A token that was chosen."""

    token: int
    logprob: float | None
    """Natural logarithm of its probability; None where `forced`."""
    margin: float
    """By how much the likeliest token's logarithm lies above that of the second."""
    forced: bool
    """No other token was allowed."""


class TokenSampler:
    """Chooses the tokens of one answer; the same seed and logits give the same tokens on every device."""

    def __init__(self, request: Request, banned: torch.Tensor) -> None:
        """Check the request's settings.

        Args:
            request: temperature, top_p, top_k, seed and matcher are used.
            banned: ids that are never chosen, on the device of the logits.

        Raises:
            ConfigError: a setting out of its range.
        """
        if not (math.isfinite(request.temperature) and request.temperature >= 0):
            raise ConfigError(f"temperature is 0 (greedy) or above, got {request.temperature}")
        if not 0 < request.top_p <= 1:
            raise ConfigError(f"top_p is above 0 and at most 1, got {request.top_p}")
        if request.top_k < 0:
            raise ConfigError(f"top_k is 0 (off) or above, got {request.top_k}")
        self._request = request
        self._banned = banned
        self._generator = torch.Generator().manual_seed(request.seed)

    def choose(self, logits: torch.Tensor) -> Choice:
        """The next token.

        Its probability is the model's own over all tokens that may be chosen, before temperature, top-k
        and top-p. Where only one may be chosen, that would be 1 whatever the model says, and is left out.

        Args:
            logits: (vocabulary,) float32.

        Raises:
            EngineError: the logits hold something that is not a number.
        """
        allowed = logits.index_fill(0, self._banned, -torch.inf)
        if self._request.matcher is not None:
            self._request.matcher.mask(allowed)
        logprobs = torch.log_softmax(allowed, dim=0)
        best = int(logprobs.argmax())
        first, second = logprobs.topk(2).values.tolist()
        if not math.isfinite(first):
            raise EngineError(
                "the model's output is not a number: its weights are damaged, "
                "or it needs another precision (bf16 or fp32)"
            )
        token = best if self._request.temperature == 0 else self._draw(logprobs)
        forced = second == -math.inf
        return Choice(token, None if forced else float(logprobs[token]), first - second, forced)

    def _draw(self, logprobs: torch.Tensor) -> int:
        request = self._request
        # On the CPU, because the random numbers of each device differ; in double, for the smallest
        # temperatures.
        relative = (logprobs - logprobs.max()).double().cpu()
        ranked, tokens = (relative / request.temperature).sort(descending=True, stable=True)
        if request.top_k:
            ranked = ranked[: request.top_k]
        probabilities = ranked.softmax(dim=0)
        before = probabilities.cumsum(dim=0) - probabilities
        kept = probabilities.where(before < request.top_p, 0.0)
        return int(tokens[torch.multinomial(kept, 1, generator=self._generator)])
