"""One stream's session, the same above every backend: slices are encoded once, shared prompts read once.

It takes a backend's two halves and turns requests into deltas. Tasks, boxes and time are not known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np
import torch

from egolive.assistant.engine import Delta, Request, Vision
from egolive.assistant.halves import Decoder, Row, VisionTower
from egolive.assistant.layout import Layout, SlicePiece, lay_out, slices_of
from egolive.assistant.preprocess import Preprocessor
from egolive.assistant.sampling import Sampler
from egolive.assistant.slice_cache import SliceCache
from egolive.assistant.tokenizer import Tokenizer
from egolive.streaming.errors import ConfigError, EngineError

__all__ = ["SLICE_CACHE_BYTES", "Session"]

SLICE_CACHE_BYTES = 256 * 1024**2
"""Encoded slices kept by a session: about four minutes of EgoThinker-v1 at 448x252, one slice a second."""


class Session:
    """One stream's state over two halves; an `EngineSession`. One thread owns it."""

    def __init__(
        self,
        tower: VisionTower,
        decoder: Decoder,
        *,
        tokenizer: Tokenizer,
        preprocessor: Preprocessor,
        context: int,
        banned: torch.Tensor,
        slice_cache_bytes: int = SLICE_CACHE_BYTES,
    ) -> None:
        """Start with nothing seen.

        Args:
            tower: Encodes slices.
            decoder: Reads prompts.
            tokenizer: Of the same checkpoint.
            preprocessor: Of the same checkpoint.
            context: Tokens that the model can hold, prompt and answer together.
            banned: Ids that are never sampled, on the device of the decoder's logits.
            slice_cache_bytes: Limit of the encoded slices that are kept.
        """
        self._tower = tower
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._preprocessor = preprocessor
        self._context = context
        self._banned = banned
        self._slices = SliceCache(slice_cache_bytes)
        self._usage: Counter[str] = Counter()
        self._closed = False

    def see(self, vision: Vision) -> None:
        """Encode a picture or slices ahead of the questions; without keys nothing could be found again."""
        self._check_open()
        for piece in slices_of(vision):
            if piece.kept and self._slices.get(piece.name) is None:
                self._slices.put(piece.name, self._encode(piece))

    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        """Answer all requests together; deltas come interleaved, closing the iterator stops the work.

        The token that ends an answer comes as a delta of its own without text.

        Raises:
            EngineError: A prompt is too long or holds tokens for pictures, or the device failed.
            ConfigError: A sampling setting out of its range.
        """
        self._check_open()
        layouts = [self._laid_out(request) for request in requests]
        samplers = [Sampler(request, self._banned) for request in requests]
        self._usage = Counter(
            prompt_tokens=sum(map(len, layouts)),
            vision_tokens=sum(piece.tokens for layout in layouts for piece in layout.slices),
            slices_used=sum(len(layout.slices) for layout in layouts),
        )
        return self._answer(requests, layouts, samplers)

    def usage(self) -> dict[str, int]:
        """Counts of the last `ask` so far, those of its requests added up.

        prompt_tokens, prompt_tokens_reused (read once for several requests), vision_tokens,
        completion_tokens, slices_encoded, slices_used.
        """
        keys = ("prompt_tokens", "prompt_tokens_reused", "vision_tokens", "completion_tokens")
        return {key: self._usage[key] for key in (*keys, "slices_encoded", "slices_used")}

    def forget(self) -> None:
        """Drop everything that was seen."""
        self._slices.clear()

    def close(self) -> None:
        """Free the session; it cannot be used afterwards."""
        self.forget()
        self._closed = True

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("this session is closed; open another one")

    def _laid_out(self, request: Request) -> Layout:
        if request.max_tokens < 1:
            raise ConfigError(f"max_tokens is at least 1, got {request.max_tokens}")
        layout = lay_out(request.prompt, self._tokenizer)
        if len(layout) == 0:
            raise ValueError("a prompt holds at least one token")
        if len(layout) + request.max_tokens > self._context:
            raise EngineError(
                f"the prompt has {len(layout)} tokens and the answer up to {request.max_tokens}, the model "
                f"holds {self._context}: use fewer or smaller pictures, or a shorter answer"
            )
        return layout

    def _answer(
        self, requests: Sequence[Request], layouts: Sequence[Layout], samplers: Sequence[Sampler]
    ) -> Iterator[Delta]:
        encoded: dict[object, torch.Tensor] = {}
        read: list[tuple[Layout, Row]] = []
        live: list[_Answer] = []
        for number, (request, layout, sampler) in enumerate(zip(requests, layouts, samplers, strict=True)):
            row, logits = self._read(layout, read, encoded)
            # The prompt's row is kept apart from the answer's, for later prompts that begin like it.
            read.append((layout, row.fork(row.length)))
            answer = _Answer(number, request, layout.next_position, row, sampler, self._tokenizer)
            live.append(answer)
            yield self._counted(answer.next(logits))
        encoded.clear()
        read.clear()
        while live := [answer for answer in live if not answer.finished]:
            for answer in live:
                yield self._counted(answer.next(answer.read_last(self._decoder)))

    def _counted(self, delta: Delta) -> Delta:
        self._usage["completion_tokens"] += 1
        return delta

    def _read(
        self, layout: Layout, read: Sequence[tuple[Layout, Row]], encoded: dict[object, torch.Tensor]
    ) -> tuple[Row, torch.Tensor]:
        """Read a prompt, going on from the one that shares the longest beginning with it."""
        row, shared = self._decoder.row(), 0
        for other, candidate in read:
            # The last token is always read anew: its logits are what the answer starts from.
            alike = min(layout.shared_with(other), len(layout) - 1)
            if alike > shared:
                row, shared = candidate, alike
        if shared:
            row = row.fork(shared)
            self._usage["prompt_tokens_reused"] += shared
        embeddings = self._embed(layout, shared, encoded)
        return row, row.append(embeddings, layout.positions[:, shared:])

    def _embed(self, layout: Layout, start: int, encoded: dict[object, torch.Tensor]) -> torch.Tensor:
        """Embeddings of a prompt's tokens from `start` on, text and visual ones."""
        found: list[torch.Tensor] = []
        at = 0
        for piece in layout.pieces:
            length = piece.tokens if isinstance(piece, SlicePiece) else len(piece)
            skip = max(0, start - at)
            at += length
            if skip >= length:
                continue
            if isinstance(piece, SlicePiece):
                found.append(self._visual_tokens(piece, encoded)[skip:])
            else:
                found.append(self._decoder.embed(piece[skip:]))
        return torch.cat(found)

    def _visual_tokens(self, piece: SlicePiece, encoded: dict[object, torch.Tensor]) -> torch.Tensor:
        """A slice's visual tokens, encoded at most once."""
        tokens = encoded.get(piece.name)
        if tokens is None and piece.kept:
            tokens = self._slices.get(piece.name)
        if tokens is None:
            tokens = self._encode(piece)
            self._usage["slices_encoded"] += 1
            if piece.kept:
                self._slices.put(piece.name, tokens)
        encoded[piece.name] = tokens
        return tokens

    def _encode(self, piece: SlicePiece) -> torch.Tensor:
        patches, grid = self._preprocessor.patches(piece.frames, piece.height, piece.width)
        return self._tower.encode(patches, grid)


class _Answer:
    """One request while it is answered."""

    def __init__(
        self, number: int, request: Request, position: int, row: Row, sampler: Sampler, tokenizer: Tokenizer
    ) -> None:
        self.finished = False
        self._number = number
        self._left = request.max_tokens
        self._position = position
        self._row = row
        self._sampler = sampler
        self._eos = tokenizer.eos
        self._text = tokenizer.decoder()
        self._token = -1

    def next(self, logits: torch.Tensor) -> Delta:
        """Choose the next token from the last row of logits."""
        token, logprob = self._sampler.choose(logits[-1])
        self._token = token
        self._left -= 1
        if token in self._eos:
            self.finished = True
            return Delta(self._number, token, self._text.finish(), logprob, "stop")
        text = self._text.push(token)
        if self._left == 0:
            self.finished = True
            return Delta(self._number, token, text + self._text.finish(), logprob, "length")
        return Delta(self._number, token, text, logprob)

    def read_last(self, decoder: Decoder) -> torch.Tensor:
        """Let the decoder read the token that was chosen last; the logits after it."""
        position = np.full((3, 1), self._position, dtype=np.int64)
        self._position += 1
        return self._row.append(decoder.embed((self._token,)), position)
