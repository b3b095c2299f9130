"""Answers of a model over visual tokens that are at hand already, many pictures at once.

An `EngineSession` for measuring, not for streams: nothing is kept between two calls. Each picture or window
is read once, its questions follow it in rows of their own. Grammar, sampling and reading are those of every
engine, so that the answers are an engine's but for near-ties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2VLForConditionalGeneration

from egolive.assistant.model.positions import Part, rope_positions
from egolive.assistant.runtime.token_sampling import TokenSampler
from egolive.assistant.schema.engine import Delta, Request, Vision
from egolive.assistant.schema.tokenizer import TextDecoder, Tokenizer
from egolive.streaming.errors import EngineError

__all__ = ["StoredSession"]


class StoredSession:
    """Answers requests whose pictures have stored visual tokens; each prompt has one picture or window."""

    def __init__(
        self,
        model: Qwen2VLForConditionalGeneration,
        tokenizer: Tokenizer,
        tokens_of: Callable[[Vision], Tensor],
    ) -> None:
        """Take the weights.

        Args:
            model: its text part alone is used, in its own precision.
            tokenizer: the model's.
            tokens_of: (n, width) visual tokens of what a prompt shows.
        """
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._tokens_of = tokens_of
        size = model.config.get_text_config().vocab_size
        self._banned = torch.tensor(sorted(tokenizer.vision_tokens | set(range(len(tokenizer), size))))

    @torch.inference_mode()
    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        """Answer all requests together.

        Args:
            requests: what they show has the same kind and number of visual tokens.

        Raises:
            EngineError: a prompt of another form, or pictures of several lengths.
        """
        if not requests:
            return
        prompts = [self._split(request) for request in requests]
        shown = {id(vision): (head, vision) for head, vision, _ in prompts}
        order = list(shown)
        cache, start = self._read(list(shown.values()))
        cache.reorder_cache(torch.tensor([order.index(id(vision)) for _, vision, _ in prompts]))
        writers = [
            _Writer(number, request, self._banned, self._tokenizer) for number, request in enumerate(requests)
        ]
        tails = [tail for _, _, tail in prompts]
        longest = max(len(tail) for tail in tails)
        width = cache.get_seq_length()
        # Filled up on the left, so that all answers begin in one column.
        filled = torch.tensor([[tail[0]] * (longest - len(tail)) + tail for tail in tails])
        real = torch.tensor([[False] * (longest - len(tail)) + [True] * len(tail) for tail in tails])
        seen = torch.cat([torch.ones(len(tails), width, dtype=torch.bool), real], 1)
        mask = seen[:, None, None].expand(-1, 1, longest, -1).clone()
        mask[:, 0, :, width:] &= torch.ones(longest, longest).tril().bool()
        # A row of padding sees itself, so that its attention stays finite.
        mask[:, 0, :, width:] |= torch.eye(longest, dtype=torch.bool)
        places = (real.cumsum(1) - 1).clamp(min=0) + start
        tokens = filled
        while True:
            logits = self._logits(tokens, places, mask, cache)
            for row, writer in enumerate(writers):
                yield writer.take(logits[row])
            going = [row for row, writer in enumerate(writers) if not writer.finished]
            if not going:
                return
            if len(going) < len(writers):
                cache.batch_select_indices(torch.tensor(going))
                writers = [writers[row] for row in going]
            tokens = torch.tensor([[writer.said[-1]] for writer in writers])
            seen = torch.cat([seen[going], torch.ones(len(going), 1, dtype=torch.bool)], 1)
            mask = seen[:, None, None]
            places = places[going, -1:] + 1

    def see(self, vision: Vision) -> None:
        """Nothing: what is seen has its tokens."""

    def usage(self, request: int | None = None) -> dict[str, int]:
        """Nothing is counted."""
        return {}

    def forget(self) -> None:
        """Nothing: nothing is kept."""

    def close(self) -> None:
        """Nothing: the weights belong to the caller."""

    def __enter__(self) -> StoredSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _split(self, request: Request) -> tuple[list[int], Vision, list[int]]:
        head, *shown, tail = request.prompt.parts
        vision = shown[0] if len(shown) == 1 else None
        if not isinstance(vision, Vision):
            raise EngineError("stored visual tokens are asked about one at a time, the question last")
        return self._tokenizer.encode(str(head)), vision, self._tokenizer.encode(str(tail))

    def _read(self, shown: Sequence[tuple[list[int], Vision]]) -> tuple[DynamicCache, int]:
        """Everything up to the end of the pictures, a row each, and the position that comes next."""
        visual = [self._tokens_of(vision) for _, vision in shown]
        if len({(tuple(head), len(tokens)) for (head, _), tokens in zip(shown, visual, strict=True)}) != 1:
            raise EngineError("what is asked about together has the same number of visual tokens")
        head, vision = shown[0]
        slices = 1 if vision.kind == "image" else len(vision.frames) // 2
        parts: list[Part] = [len(head), (slices, vision.height // 28, vision.width // 28)]
        positions = rope_positions(parts)
        language = self._model.model.language_model
        words = language.embed_tokens(torch.tensor(head)).expand(len(shown), -1, -1)
        cache = DynamicCache()
        language(
            inputs_embeds=torch.cat([words, torch.stack(visual).to(words.dtype)], 1),
            position_ids=torch.from_numpy(np.repeat(positions[:, None], len(shown), 1)),
            past_key_values=cache,
            use_cache=True,
        )
        return cache, int(positions.max()) + 1

    def _logits(self, tokens: Tensor, places: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """(rows, vocabulary) behind the last token of each row."""
        language = self._model.model.language_model
        hidden = language(
            inputs_embeds=language.embed_tokens(tokens),
            position_ids=places.expand(3, -1, -1),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        logits: Tensor = torch.nn.functional.linear(hidden.float(), self._model.lm_head.weight.float())
        return logits


class _Writer:
    """One answer as it grows."""

    def __init__(self, number: int, request: Request, banned: Tensor, tokenizer: Tokenizer) -> None:
        self.said: list[int] = []
        self.finished = False
        self._number = number
        self._request = request
        self._sampler = TokenSampler(request, banned)
        self._eos = tokenizer.eos
        self._text: TextDecoder = tokenizer.decoder()

    def take(self, logits: Tensor) -> Delta:
        token, logprob, margin, forced = self._sampler.choose(logits)
        self.said.append(token)
        matcher = self._request.matcher
        if matcher is not None:
            matcher.accept(token)
        complete = matcher is not None and matcher.finished
        ended: Literal["", "stop", "length"] = ""
        if token in self._eos or complete:
            ended = "stop"
        elif len(self.said) == self._request.max_tokens:
            ended = "length"
        text = "" if token in self._eos else self._text.push(token)
        if ended:
            text += self._text.finish()
            self.finished = True
            if matcher is not None:
                matcher.rollback(len(self.said))
        return Delta(self._number, token, text, logprob, ended, margin, forced)
