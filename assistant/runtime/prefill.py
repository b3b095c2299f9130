"""Prefill of prompts, with reuse of encoded slices and of cached prefixes.

Requests with the same beginning share one KV cache for it, their shared prefix; each continues on a fork of
its own. Decoding on the forks is done by `egolive.assistant.runtime.engine_session`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch

from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.model.prompt_tokens import Layout, SlicePiece, lay_out, slices_of
from egolive.assistant.runtime.backend import Decoder, ForwardInput, KVCache, VisionTower
from egolive.assistant.runtime.familiarity import Familiarity
from egolive.assistant.runtime.prefix_cache import PrefixCache
from egolive.assistant.runtime.sequence import SequenceState
from egolive.assistant.runtime.vision_cache import VisionCache
from egolive.assistant.schema.engine import Prompt, Reuse, Vision
from egolive.assistant.schema.tokenizer import Tokenizer

__all__ = ["Prefill", "SharedPrefix"]

_MOST_SCORES = 1024
"""Pictures and slices whose familiarity is kept: more than the vision cache holds."""


@dataclass(slots=True)
class SharedPrefix:
    """The beginning that the prompts of some requests share, and its KV cache."""

    layout: Layout
    length: int
    """Tokens that are shared."""
    cache: KVCache
    members: list[SequenceState] = field(default_factory=list)


class Prefill:
    """Prefill for one session; fills the vision cache and the prefix cache for later prompts."""

    def __init__(
        self,
        tower: VisionTower,
        decoder: Decoder,
        *,
        tokenizer: Tokenizer,
        preprocessor: Preprocessor,
        reuse: Reuse,
        slices: VisionCache,
        prefixes: PrefixCache,
        familiarity: Familiarity | None = None,
    ) -> None:
        """Take over tower, decoder and caches, and the table that tells familiar pictures from others."""
        self._tower = tower
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._preprocessor = preprocessor
        self._reuse = reuse
        self._slices = slices
        self._prefixes = prefixes
        self._familiarity = familiarity
        self._scores: OrderedDict[Hashable, float] = OrderedDict()

    def familiarity(self, layout: Layout) -> float | None:
        """Mean familiarity of the pictures and slices of a prompt that was read.

        Returns:
            None without a table, without pictures of its size, or where they are not known any more.
        """
        if self._familiarity is None:
            return None
        known = [score for piece in layout.slices if (score := self._score(piece)) is not None]
        return sum(known) / len(known) if known else None

    def _score(self, piece: SlicePiece, tokens: torch.Tensor | None = None) -> float | None:
        """Familiarity of one piece: of its visual tokens where they are at hand, else as it is known."""
        table = self._familiarity
        if table is None or not table.fits(piece.height, piece.width):
            return None
        if tokens is None and piece.name not in self._scores and piece.kept:
            # Encodings also come from elsewhere, such as a memory.
            tokens = self._slices.get(piece.name)
        if tokens is not None:
            self._scores[piece.name] = table.score(tokens)
            self._scores.move_to_end(piece.name)
            while len(self._scores) > _MOST_SCORES:
                self._scores.popitem(last=False)
        return self._scores.get(piece.name)

    def shared_prefixes(self, asked: Sequence[SequenceState]) -> list[SharedPrefix]:
        """Group the requests by their shared prefix, and find a KV cache to extend for each group."""
        shared_prefixes: list[SharedPrefix] = []
        for sequence in asked:
            layout = sequence.layout
            # The last token is always on a fork: the answer starts from its logits.
            length = min(layout.head, len(layout) - 1)
            if length == 0 and self._reuse.prefix:
                length = self._prefixes.best(layout, len(layout) - 1)[1]
            for prefix in shared_prefixes:
                if prefix.length == length and layout.shared_with(prefix.layout) >= length:
                    prefix.members.append(sequence)
                    break
            else:
                cache = self._cache_for(layout, length, taken=[prefix.cache for prefix in shared_prefixes])
                shared_prefixes.append(SharedPrefix(layout, length, cache, [sequence]))
        return shared_prefixes

    def _cache_for(self, layout: Layout, length: int, taken: Sequence[KVCache] = ()) -> KVCache:
        """A KV cache with as many as possible of the first `length` tokens, and no others."""
        kept, shared = self._prefixes.best(layout, length) if self._reuse.prefix else (None, 0)
        if kept is None:
            return self._decoder.new_cache()
        # A text prefix stays as it is for the next picture; a window is extended in its own cache.
        extends = kept.kind != "text" and layout.kept and length == layout.head
        whole = shared == kept.cache.length and not any(kept.cache is cache for cache in taken)
        if whole and (extends or shared == length):
            return kept.cache
        return kept.cache.copy(shared)

    def run(self, shared_prefixes: Sequence[SharedPrefix]) -> list[torch.Tensor]:
        """Prefill the prompts of all requests in one forward pass, each followed by a draft of its answer.

        Returns:
            The logits of each request's input, in the order of the shared prefixes' members.
        """
        inputs = self._inputs(shared_prefixes)
        # Shared prefixes have no logits of their own.
        logits = [logits for logits in self._decoder.forward(inputs) if len(logits)]
        if self._reuse.prefix:
            self._keep(shared_prefixes)
        return logits

    def encode_ahead(self, vision: Vision, usage: Counter[str]) -> None:
        """Encode slices that have names into the vision cache."""
        if self._reuse.slices:
            for piece in slices_of(vision):
                if piece.kept:
                    self._visual_tokens(piece, usage, "slices_ahead")

    def prefill_ahead(self, prompt: Prompt, usage: Counter[str]) -> None:
        """Prefill the beginning of a prompt that ends with a picture or video, and keep its KV cache."""
        layout = lay_out(prompt, self._tokenizer)
        cache = self._cache_for(layout, len(layout))
        start = cache.length
        if start < len(layout):
            embeddings = self._embed(layout, start, len(layout), usage, "slices_ahead")
            self._decoder.forward([ForwardInput(cache, embeddings, layout.positions[:, start:], keep=0)])
            usage["prompt_tokens_ahead"] += len(layout) - start
        self._prefixes.put(layout, cache)

    def clear(self) -> None:
        """Empty the vision cache and the prefix cache."""
        self._slices.clear()
        self._prefixes.clear()
        self._scores.clear()

    def _inputs(self, shared_prefixes: Sequence[SharedPrefix]) -> list[ForwardInput]:
        inputs = []
        for prefix in shared_prefixes:
            layout, start, stop = prefix.layout, prefix.cache.length, prefix.length
            if stop > start:
                embeddings = self._embed(layout, start, stop, prefix.members[0].usage)
                inputs.append(ForwardInput(prefix.cache, embeddings, layout.positions[:, start:stop], keep=0))
            for sequence in prefix.members:
                embeddings = self._embed(sequence.layout, stop, len(sequence.layout), sequence.usage)
                sequence.usage["prompt_tokens_reused"] = stop
                inputs.append(sequence.begin(prefix.cache.fork(), embeddings, self._decoder))
            prefix.members[0].usage["prompt_tokens_reused"] = start
        return inputs

    def _keep(self, shared_prefixes: Sequence[SharedPrefix]) -> None:
        for prefix in shared_prefixes:
            layout = prefix.layout
            if not layout.slices or not layout.kept or prefix.length < layout.head:
                continue
            before = [part for part in layout.pieces[:1] if not isinstance(part, SlicePiece)]
            if before and self._prefixes.best(layout, len(before[0]))[1] < len(before[0]):
                self._prefixes.put(layout, prefix.cache.copy(len(before[0])))
            self._prefixes.put(layout, prefix.cache)

    def _embed(
        self, layout: Layout, start: int, stop: int, usage: Counter[str], name: str = "slices_encoded"
    ) -> torch.Tensor:
        """Embeddings of a prompt's tokens from `start` to `stop`, text and visual ones."""
        found: list[torch.Tensor] = []
        at = 0
        for piece in layout.pieces:
            length = piece.tokens if isinstance(piece, SlicePiece) else len(piece)
            wanted = slice(max(0, start - at), min(length, stop - at))
            at += length
            if wanted.start >= wanted.stop:
                continue
            if isinstance(piece, SlicePiece):
                found.append(self._visual_tokens(piece, usage, name)[wanted])
            else:
                found.append(self._decoder.embed(piece[wanted]))
        return torch.cat(found)

    def _visual_tokens(self, piece: SlicePiece, usage: Counter[str], name: str) -> torch.Tensor:
        """A slice's visual tokens, encoded at most once where that is wanted."""
        kept = piece.kept and self._reuse.slices
        tokens = self._slices.get(piece.name) if kept else None
        if tokens is None:
            tokens = self._encode(piece, usage, name)
            if kept:
                self._slices.put(piece.name, tokens)
        return tokens

    def _encode(self, piece: SlicePiece, usage: Counter[str], name: str) -> torch.Tensor:
        usage[name] += 1
        patches, grid = self._preprocessor.patches(piece.frames, piece.height, piece.width)
        tokens = self._tower.encode(patches, grid)
        self._score(piece, tokens)
        return tokens
