"""How much an exported decoder reads at once, where a backend has to know it beforehand, as TensorRT does.

A pass that is too large is cut into several; the result is the same, since appending is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from egolive.assistant.backends.torch.kv_cache import TorchKVCache
from egolive.assistant.model.engine_folder import Shapes
from egolive.assistant.runtime.backend import ForwardInput
from egolive.streaming.errors import EngineError

__all__ = ["Pass", "Ranges", "Sizes", "passes"]

Ranges = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""By input, its smallest, usual and largest shape."""

_STEP = 4
"""Tokens of a usual decode step: one a question."""
_SLICES = 2
"""New slices in a usual read."""
_PIXELS = 28
"""Of a picture, along a side, in one visual token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Limits of one pass over the weights. Scores of attention take tokens x columns x heads of memory."""

    tokens: int = 512
    """New tokens."""
    columns: int = 4096
    """Tokens that were read before, of all rows together."""
    kept: int = 64
    """Tokens whose logits are wanted."""
    step: int = 16
    """New tokens of a decode step; tensor cores multiply 16 rows at once, fewer cost the same."""

    def ranges(self, shapes: Shapes) -> list[Ranges]:
        """Shapes of the decoder's inputs, a range for reading prompts and one for decode steps.

        There is always a past: in place of none a masked column is given.
        """
        usual = _SLICES * (shapes.height // _PIXELS) * (shapes.width // _PIXELS)
        new = (min(max(usual, 1), self.tokens), min(_STEP, self.step))
        most = ((self.tokens, self.kept), (self.step, self.step))
        past = max(self.columns // 2, 1)
        return [
            _ranges(shapes, (1, opt, tokens), (1, past, self.columns), (1, min(opt, kept), kept))
            for opt, (tokens, kept) in zip(new, most, strict=True)
        ]


def _ranges(shapes: Shapes, new: Sequence[int], past: Sequence[int], kept: Sequence[int]) -> Ranges:
    def three(*sizes: int | Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        least, usual, most = (
            tuple(size if isinstance(size, int) else size[at] for size in sizes) for at in range(3)
        )
        return least, usual, most

    total = [before + tokens for before, tokens in zip(past, new, strict=True)]
    found = {
        "embeddings": three(1, new, shapes.hidden),
        "positions": three(3, 1, new),
        "attention_bias": three(1, 1, new, total),
        "kept": three(kept),
    }
    for layer in range(shapes.layers):
        for part in ("key", "value"):
            found[f"past.{layer}.{part}"] = three(1, past, shapes.kv_heads, shapes.head_width)
    return found


Pass = list[tuple[int, ForwardInput]]
"""Chunks that are read together, each with its place in the list that it comes from."""


def passes(chunks: Sequence[ForwardInput], sizes: Sizes) -> Iterator[Pass]:
    """Cut what is to be read into passes that are small enough.

    Every chunk's tokens come in order, and a row's own before those of its branches if they did before.

    Args:
        chunks: As `Decoder.read` takes them.
        sizes: Limits of a pass.

    Raises:
        EngineError: A row alone is too long.
    """
    columns: dict[TorchKVCache, int] = {}
    """Of each row, the columns in use once what came before has been read."""
    one: Pass = []
    new = kept = 0
    rows: dict[TorchKVCache, int] = {}
    """Rows of the pass, each with the columns that it had in use when the pass began."""
    for place, chunk in enumerate(chunks):
        row: TorchKVCache = chunk.onto.cache  # type: ignore[union-attr]
        start, count = 0, len(chunk.embeddings)
        while start < count:
            used = columns.setdefault(row, len(row.owners))
            before = sum(rows.values()) + (0 if row in rows else used)
            stop = _stop(start, count, chunk.keep, sizes.tokens - new, sizes.kept - kept)
            if before > sizes.columns or stop == start:
                if not one:
                    raise EngineError(
                        f"this engine reads at most {sizes.columns} tokens of a prompt and its answers: use "
                        "fewer or smaller pictures, or fewer questions at once"
                    )
                yield one
                one, new, kept, rows = [], 0, 0, {}
                continue
            rows.setdefault(row, used)
            keep = _kept(start, stop, count, chunk.keep)
            part = slice(start, stop)
            one.append(
                (place, ForwardInput(chunk.onto, chunk.embeddings[part], chunk.positions[:, part], keep))
            )
            columns[row] = used + stop - start
            new, kept, start = new + stop - start, kept + keep, stop
    if one:
        yield one


def _stop(start: int, count: int, keep: int, tokens: int, kept: int) -> int:
    """How far a chunk can be read from `start` with so many tokens, and logits of so many of them, left."""
    stop = min(count, start + tokens)
    return min(stop, max(start, count - keep) + kept)


def _kept(start: int, stop: int, count: int, keep: int) -> int:
    """How many of the tokens from `start` to `stop` are among the last `keep` of `count`."""
    return max(0, stop - max(start, count - keep))
