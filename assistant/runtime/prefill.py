"""How a session gets its prompts read: what was encoded or read before is taken from where it is kept.

Requests that see the same share the row that reads it, their trunk; each goes on from there on a branch.
What is said on the branches is the business of `egolive.assistant.runtime.engine_session`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.model.prompt_tokens import Layout, SlicePiece, lay_out, slices_of
from egolive.assistant.runtime.backend import Decoder, ForwardInput, KVCache, VisionTower
from egolive.assistant.runtime.prefix_cache import PrefixCache
from egolive.assistant.runtime.sequence import SequenceState
from egolive.assistant.runtime.vision_cache import VisionCache
from egolive.assistant.schema.engine import Prompt, Reuse, Vision
from egolive.assistant.schema.tokenizer import Tokenizer

__all__ = ["Prefill", "SharedPrefix"]


@dataclass(slots=True)
class SharedPrefix:
    """What some requests share: the beginning of their prompts, and the row that reads it."""

    layout: Layout
    length: int
    """Tokens that are shared."""
    row: KVCache
    members: list[SequenceState] = field(default_factory=list)


class Prefill:
    """Reads prompts for one session, and keeps what later ones will share with them."""

    def __init__(
        self,
        tower: VisionTower,
        decoder: Decoder,
        *,
        tokenizer: Tokenizer,
        preprocessor: Preprocessor,
        reuse: Reuse,
        slices: VisionCache,
        rows: PrefixCache,
    ) -> None:
        """Take over the halves and what is kept."""
        self._tower = tower
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._preprocessor = preprocessor
        self._reuse = reuse
        self._slices = slices
        self._rows = rows

    def shared_prefixes(self, asked: Sequence[SequenceState]) -> list[SharedPrefix]:
        """Bring together the requests that see the same, and find a row to go on from for each."""
        shared_prefixes: list[SharedPrefix] = []
        for sequence in asked:
            layout = sequence.layout
            # The last token is always read on a branch: its logits are what the answer starts from.
            length = min(layout.head, len(layout) - 1)
            if length == 0 and self._reuse.prefix:
                length = self._rows.best(layout, len(layout) - 1)[1]
            for prefix in shared_prefixes:
                if prefix.length == length and layout.shared_with(prefix.layout) >= length:
                    prefix.members.append(sequence)
                    break
            else:
                row = self._row_for(layout, length, taken=[prefix.row for prefix in shared_prefixes])
                shared_prefixes.append(SharedPrefix(layout, length, row, [sequence]))
        return shared_prefixes

    def _row_for(self, layout: Layout, length: int, taken: Sequence[KVCache] = ()) -> KVCache:
        """A row that has read as much as possible of the first `length` tokens, and nothing else."""
        kept, shared = self._rows.best(layout, length) if self._reuse.prefix else (None, 0)
        if kept is None:
            return self._decoder.new_cache()
        # Text stays as it is for the next picture; a window that will be kept goes on in its own row.
        goes_on = kept.kind != "text" and layout.kept and length == layout.head
        whole = shared == kept.row.length and not any(kept.row is row for row in taken)
        if whole and (goes_on or shared == length):
            return kept.row
        return kept.row.copy(shared)

    def read(self, shared_prefixes: Sequence[SharedPrefix]) -> list[torch.Tensor]:
        """Read the prompts of all requests in one pass, each to its end and a draft of its answer behind it.

        Returns:
            The logits of each request's chunk, in the order of the trunks' members.
        """
        # Trunks have no logits of their own.
        logits = [found for found in self._decoder.forward(self._first_chunks(shared_prefixes)) if len(found)]
        if self._reuse.prefix:
            self._keep(shared_prefixes)
        return logits

    def encode_ahead(self, vision: Vision, usage: Counter[str]) -> None:
        """Encode slices that have names, for the questions that will need them."""
        if self._reuse.slices:
            for piece in slices_of(vision):
                if piece.kept:
                    self._visual_tokens(piece, usage, "slices_ahead")

    def read_ahead(self, prompt: Prompt, usage: Counter[str]) -> None:
        """Read the beginning of a prompt that ends with a picture or video, and keep its row."""
        layout = lay_out(prompt, self._tokenizer)
        row = self._row_for(layout, len(layout))
        start = row.length
        if start < len(layout):
            embeddings = self._embed(layout, start, len(layout), usage, "slices_ahead")
            self._decoder.forward([ForwardInput(row, embeddings, layout.positions[:, start:], keep=0)])
            usage["prompt_tokens_ahead"] += len(layout) - start
        self._rows.put(layout, row)

    def clear(self) -> None:
        """Drop all that is kept."""
        self._slices.clear()
        self._rows.clear()

    def _first_chunks(self, shared_prefixes: Sequence[SharedPrefix]) -> list[ForwardInput]:
        chunks = []
        for prefix in shared_prefixes:
            layout, start, stop = prefix.layout, prefix.row.length, prefix.length
            if stop > start:
                embeddings = self._embed(layout, start, stop, prefix.members[0].usage)
                chunks.append(ForwardInput(prefix.row, embeddings, layout.positions[:, start:stop], keep=0))
            for sequence in prefix.members:
                embeddings = self._embed(sequence.layout, stop, len(sequence.layout), sequence.usage)
                sequence.usage["prompt_tokens_reused"] = stop
                chunks.append(sequence.begin(prefix.row.fork(), embeddings, self._decoder))
            prefix.members[0].usage["prompt_tokens_reused"] = start
        return chunks

    def _keep(self, shared_prefixes: Sequence[SharedPrefix]) -> None:
        for prefix in shared_prefixes:
            layout = prefix.layout
            if not layout.slices or not layout.kept or prefix.length < layout.head:
                continue
            before = [part for part in layout.pieces[:1] if not isinstance(part, SlicePiece)]
            if before and self._rows.best(layout, len(before[0]))[1] < len(before[0]):
                self._rows.put(layout, prefix.row.copy(len(before[0])))
            self._rows.put(layout, prefix.row)

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
        return self._tower.encode(patches, grid)
