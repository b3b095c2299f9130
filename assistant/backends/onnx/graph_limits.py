"""Limits of one forward pass of an exported decoder, for backends with bounded shapes such as TensorRT.

A pass that is too large is split into several; the result is the same, since appending to a cache is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from egolive.assistant.backends.torch.kv_cache import TorchKVCache
from egolive.assistant.model.engine_folder import EngineCard, Shapes
from egolive.assistant.runtime.backend import ForwardInput
from egolive.streaming.errors import EngineError

__all__ = ["MOST", "Pass", "Ranges", "Sizes", "passes", "sizes_of"]

Ranges = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""By input, its smallest, usual and largest shape."""

MOST = 2**20
"""Of any limit; memory is taken by them."""
_STEP = 4
"""Tokens of a usual decode step: one a question."""
_SLICES = 2
"""New slices in a usual prefill."""
_PIXELS = 28
"""Of a picture, along a side, in one visual token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Limits of one pass over the weights. Scores of attention take tokens x columns x heads of memory."""

    tokens: int = 512
    """New tokens."""
    columns: int = 4096
    """Cached tokens, of all KV caches together."""
    kept: int = 64
    """Tokens whose logits are wanted."""
    step: int = 16
    """New tokens of a decode step; tensor cores multiply 16 rows at once, fewer cost the same."""

    def ranges(self, shapes: Shapes) -> list[Ranges]:
        """Shapes of the decoder's inputs, a range for prefill and one for decode steps.

        The past is never empty: without cached tokens one masked column is given.
        """
        usual = _SLICES * (shapes.height // _PIXELS) * (shapes.width // _PIXELS)
        new = (min(max(usual, 1), self.tokens), min(_STEP, self.step))
        most = ((self.tokens, self.kept), (self.step, self.step))
        past = max(self.columns // 2, 1)
        return [
            _ranges(shapes, (1, opt, tokens), (1, past, self.columns), (1, min(opt, kept), kept))
            for opt, (tokens, kept) in zip(new, most, strict=True)
        ]


def sizes_of(card: EngineCard) -> Sizes:
    """The limits that an engine was exported with; those of today where it tells none.

    Raises:
        EngineError: They are no such limits.
    """
    try:
        found = Sizes(**card.sizes)
    except TypeError:
        found = None
    if found is None or not all(1 <= number <= MOST for number in asdict(found).values()):
        raise EngineError(f"the sizes of the engine {card.name:.60} cannot be right; export it again")
    return found


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
"""Inputs of one forward pass, each with its index in the list that it comes from."""


def passes(inputs: Sequence[ForwardInput], sizes: Sizes) -> Iterator[Pass]:
    """Split forward inputs into passes within the limits.

    The tokens of an input stay in order, and those of a KV cache before those of its forks.

    Args:
        inputs: As `Decoder.forward` takes them.
        sizes: Limits of a pass.

    Raises:
        EngineError: One KV cache alone is too long.
    """
    columns: dict[TorchKVCache, int] = {}
    """Of each KV cache, the columns in use after the passes so far."""
    one: Pass = []
    new = kept = 0
    caches: dict[TorchKVCache, int] = {}
    """KV caches of the pass, each with the columns that were in use when the pass began."""
    for place, given in enumerate(inputs):
        cache: TorchKVCache = given.onto.cache  # type: ignore[union-attr]
        start, count = 0, len(given.embeddings)
        while start < count:
            used = columns.setdefault(cache, len(cache.owners))
            before = sum(caches.values()) + (0 if cache in caches else used)
            stop = _stop(start, count, given.keep, sizes.tokens - new, sizes.kept - kept)
            if before > sizes.columns or stop == start:
                if not one:
                    raise EngineError(
                        f"this engine reads at most {sizes.columns} tokens of a prompt and its answers: use "
                        "fewer or smaller pictures, or fewer questions at once"
                    )
                yield one
                one, new, kept, caches = [], 0, 0, {}
                continue
            caches.setdefault(cache, used)
            keep = _kept(start, stop, count, given.keep)
            part = slice(start, stop)
            one.append(
                (place, ForwardInput(given.onto, given.embeddings[part], given.positions[:, part], keep))
            )
            columns[cache] = used + stop - start
            new, kept, start = new + stop - start, kept + keep, stop
    if one:
        yield one


def _stop(start: int, count: int, keep: int, tokens: int, kept: int) -> int:
    """End of the part of an input from `start` that fits into the tokens and logits that are left."""
    stop = min(count, start + tokens)
    return min(stop, max(start, count - keep) + kept)


def _kept(start: int, stop: int, count: int, keep: int) -> int:
    """How many of the tokens from `start` to `stop` are among the last `keep` of `count`."""
    return max(0, stop - max(start, count - keep))
