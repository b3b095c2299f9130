"""Decoding state of one request: its next forward input, and the tokens chosen from the logits.

KV caches and forward passes are managed by `egolive.assistant.runtime.engine_session`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from egolive.assistant.model.prompt_tokens import Layout
from egolive.assistant.runtime.backend import CacheFork, Decoder, ForwardInput
from egolive.assistant.runtime.speculative import Draft
from egolive.assistant.runtime.token_sampling import TokenSampler
from egolive.assistant.schema.engine import Delta, Request
from egolive.assistant.schema.tokenizer import Tokenizer

__all__ = ["SequenceState"]


class SequenceState:
    """The answer to one request, from its first token to its last."""

    def __init__(
        self, number: int, request: Request, layout: Layout, banned: torch.Tensor, tokenizer: Tokenizer
    ) -> None:
        """Check the request's settings.

        Args:
            number: Its place in the list given to `ask`.
            request: What is asked.
            layout: Its prompt.
            banned: Ids that are never chosen, on the device of the logits.
            tokenizer: Of the checkpoint.

        Raises:
            ConfigError: A sampling setting out of its range.
        """
        self.request = request
        self.layout = layout
        self.draft = Draft()
        self.usage: Counter[str] = Counter(
            prompt_tokens=len(layout),
            vision_tokens=sum(piece.tokens for piece in layout.slices),
            slices_used=len(layout.slices),
        )
        self.tokens: list[int] = []
        """Tokens generated so far, the one that ends the answer included."""
        self.finished = False
        self._number = number
        self._sampler = TokenSampler(request, banned)
        self._eos = tokenizer.eos
        self._text = tokenizer.decoder()
        self._fork: CacheFork | None = None
        self._proposed: tuple[int, ...] = ()
        self._accepted = 0

    def begin(self, fork: CacheFork, embeddings: torch.Tensor, decoder: Decoder) -> ForwardInput:
        """The first forward input: the rest of the prompt, followed by the draft.

        Args:
            fork: Of the KV cache that holds the beginning of the prompt.
            embeddings: (n, width) of the rest of the prompt, at least one token.
            decoder: Gives the embeddings of the draft's tokens.
        """
        self._fork = fork
        positions = self.layout.positions[:, len(self.layout) - len(embeddings) :]
        return self._forward_input(embeddings, positions, decoder)

    def next_input(self, decoder: Decoder) -> ForwardInput:
        """The next forward input: the last generated token, followed by the draft."""
        position = self.layout.next_position + len(self.tokens) - 1
        return self._forward_input(decoder.embed(self.tokens[-1:]), np.full((3, 1), position), decoder)

    def take(self, logits: torch.Tensor) -> Iterator[Delta]:
        """Choose tokens from logits; the draft is accepted up to its first wrong token.

        Args:
            logits: (1 + drafted tokens, vocabulary) of the last forward input.
        """
        chosen = []
        for place in range(len(logits)):
            delta = self._choose(logits[place])
            chosen.append(delta.token)
            right = place < len(self._proposed) and delta.token == self._proposed[place]
            self.usage["draft_accepted"] += right
            yield delta
            if self.finished:
                return
            if not right:
                break
        assert self._fork is not None
        wrong = len(self._proposed) - len(chosen) + 1
        if wrong:
            self._fork.rewind(self._fork.length - wrong)
        self.draft.learn(self._proposed, chosen)

    def end(self) -> None:
        """Roll the grammar matcher back to its beginning, for the next answer that uses it."""
        if self.request.matcher is not None and self._accepted:
            self.request.matcher.rollback(self._accepted)
        self._accepted = 0

    def _forward_input(
        self, embeddings: torch.Tensor, positions: NDArray[np.int64], decoder: Decoder
    ) -> ForwardInput:
        assert self._fork is not None
        # The token after the draft is chosen in the same pass, so the draft leaves room for one.
        self._proposed = self.draft.propose(self.request.max_tokens - len(self.tokens) - 1)
        count = len(self._proposed)
        if count:
            start = self.layout.next_position + len(self.tokens)
            drafted = np.tile(np.arange(start, start + count), (3, 1))
            positions = np.concatenate([positions, drafted], axis=1)
            embeddings = torch.cat([embeddings, decoder.embed(self._proposed)])
        self.usage["draft_proposed"] += count
        return ForwardInput(self._fork, embeddings, positions, keep=1 + count)

    def _choose(self, logits: torch.Tensor) -> Delta:
        token, logprob, margin, forced = self._sampler.choose(logits)
        ended: Literal["", "stop", "length"] = ""
        self.tokens.append(token)
        self.usage["completion_tokens"] += 1
        matcher = self.request.matcher
        complete = False
        if matcher is not None:
            matcher.accept(token)
            self._accepted += 1
            complete = matcher.finished
        if token in self._eos:
            text, ended = self._text.finish(), "stop"
        else:
            text = self._text.push(token)
            if complete:
                ended = "stop"
            elif len(self.tokens) == self.request.max_tokens:
                ended = "length"
            if ended:
                text += self._text.finish()
        if ended:
            self.finished = True
            self.end()
        return Delta(self._number, token, text, logprob, ended, margin, forced)
