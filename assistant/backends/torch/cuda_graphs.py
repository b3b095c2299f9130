"""Decode steps in static shapes at static addresses, and their capture as CUDA graphs.

Launching the kernels of a small pass takes a CPU longer than running them takes a GPU; a CUDA graph launches
them all at once, but always the same kernels on the same memory. So the KV caches that are being decoded are
copied one after the other into one static buffer, tokens and columns are padded to a few sizes, and the
inputs of a step are copied into static tensors. The caches stay the reference: new keys and values are copied
back into them after each step, and any pass may run without a graph.

`cuda_capture` records a step as a CUDA graph; `uncaptured` leaves it as it is, which runs on any device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from egolive.assistant.backends.torch.attention import Attention, attend_few
from egolive.assistant.backends.torch.batch_plan import CacheSegment
from egolive.assistant.backends.torch.kv_cache import OWN, TorchKVCache
from egolive.streaming.errors import one_line

__all__ = [
    "COLUMNS",
    "TOKENS",
    "Capture",
    "Forward",
    "StaticAttention",
    "StaticSteps",
    "cuda_capture",
    "uncaptured",
]

_log = logging.getLogger(__name__)

Step = Callable[[], None]
Capture = Callable[[Step], Step]
"""Takes a step that works on static tensors only, and returns a function that repeats it. It may run the step
itself any number of times."""
Forward = Callable[[torch.Tensor, torch.Tensor, Sequence[Attention]], torch.Tensor]
"""(n, width) embeddings, (3, n) positions and the attentions; returns (n, vocabulary) float32 logits."""

TOKENS = (1, 2, 4, 8, 16, 32)
"""Sizes of a step: tokens of all forks together. Beyond them, launching costs little beside the work."""
COLUMNS = (512, 1024, 2048, 3072, 4096, 6144, 8192)
"""Numbers of columns that a step attends to: tokens of all KV caches and forks together."""
_SPARE = 128
"""Columns left free after a KV cache in the static buffer, for the tokens of its forks."""
_TRASH = 0
"""The column where padding is written; only padding attends to it."""
_WARM_UPS = 2
"""Runs before the recorded one: libraries choose kernels and take their memory in the first."""
_CAPTURING = Lock()
"""torch records one graph at a time in a process."""


@dataclass(slots=True)
class _Place:
    """Where a KV cache lies in the static buffer."""

    start: int
    room: int
    valid: int = 0
    """Number of leading columns that are the same here and in the cache's own buffer."""


def uncaptured(step: Step) -> Step:
    """Return the step itself, without capture."""
    return step


def cuda_capture(device: torch.device) -> Capture:
    """A function that captures steps as CUDA graphs.

    All graphs share one memory pool for their temporary tensors, so they must not run at the same time.

    Args:
        device: On which all tensors of the steps are.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    pool = torch.cuda.graph_pool_handle()

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        before = torch.cuda.current_stream(device)
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                step()
        before.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile, such as for encoding in another session.
        mode = "thread_local"
        with (
            _CAPTURING,
            torch.cuda.device(device),
            torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode=mode),
        ):
            step()
        return graph.replay

    return capture


class StaticSteps:
    """Decode steps of one decoder; sessions that share it run their steps one at a time."""

    def __init__(
        self,
        buffer: torch.Tensor,
        *,
        heads: int,
        width: int,
        vocabulary: int,
        capture: Capture = uncaptured,
        tokens: Sequence[int] = TOKENS,
        columns: Sequence[int] = COLUMNS,
    ) -> None:
        """Allocate all memory of the steps.

        Args:
            buffer: Zeros, for keys and values: (layers, 2, key-value heads, as many columns as the last of
                `columns`, width of a head).
            heads: Of queries.
            width: Of embeddings.
            vocabulary: Outputs of the decoder.
            capture: Records the steps, `cuda_capture` on a GPU.
            tokens: Sizes of a step, the smallest first.
            columns: Numbers of columns that a step attends to, the smallest first.
        """
        self.capture = capture
        """`uncaptured` once capturing has failed."""
        most, device = tokens[-1], buffer.device
        self._tokens, self._columns = tuple(tokens), tuple(columns)
        self._buffer = buffer
        self._shared = heads // buffer.shape[2]
        self._embeddings = torch.zeros((most, width), dtype=buffer.dtype, device=device)
        self._indices = torch.zeros((4, most), dtype=torch.long, device=device)
        """Three positions of each token, and its column in the buffer."""
        self._seen = torch.zeros((most, columns[-1]), dtype=torch.bool, device=device)
        self._logits = torch.zeros((most, vocabulary), device=device)
        self._places: WeakKeyDictionary[TorchKVCache, _Place] = WeakKeyDictionary()
        self._steps: dict[tuple[int, int], Step] = {}
        self._lock = Lock()

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(tokens, columns) of the steps that have been captured."""
        return list(self._steps)

    def fits(self, segments: Sequence[CacheSegment]) -> bool:
        """Whether a pass is a decode step: a few tokens, all on forks, of caches that are not too long."""
        return (
            sum(segment.count for segment in segments) <= self._tokens[-1]
            and not any(OWN in segment.owners for segment in segments)
            and self._needed(segments) <= self._columns[-1]
        )

    def overtaken(self, segments: Sequence[CacheSegment]) -> None:
        """Another forward pass is about to write after the used columns of these segments' caches."""
        with self._lock:
            for segment in segments:
                place = self._places.get(segment.cache)
                if place is not None:
                    place.valid = min(place.valid, segment.used)

    def read(
        self,
        forward: Forward,
        segments: Sequence[CacheSegment],
        embeddings: torch.Tensor,
        positions: NDArray[np.int64],
        kept: Sequence[int],
    ) -> torch.Tensor:
        """Run one step for segments that fit.

        Args:
            forward: The decoder's layers and head. Only steps that are not captured refer to it: the
                decoder refers to these steps, and a reference cycle would keep its weights in memory.
            segments: The new tokens.
            embeddings: (n, width).
            positions: (3, n).
            kept: Indices of the tokens whose logits are wanted.

        Returns:
            (kept, vocabulary) float32 logits of the token after each of those that are kept.
        """
        with self._lock:
            end = self._bring(segments)
            tokens = next(size for size in self._tokens if size >= len(embeddings))
            columns = next(size for size in self._columns if size >= end)
            self._fill(segments, embeddings, positions, tokens, columns)
            if (tokens, columns) not in self._steps:
                self._steps[tokens, columns] = self._captured(partial(self._step, forward, tokens, columns))
            self._steps[tokens, columns]()
            self._take_back(segments)
            return self._logits[kept]

    def _needed(self, segments: Sequence[CacheSegment]) -> int:
        """Columns that these segments' caches take in the static buffer."""
        return 1 + sum(segment.used + segment.count + _SPARE for segment in segments)

    def _bring(self, segments: Sequence[CacheSegment]) -> int:
        """Copy missing columns of the segments' caches to the static buffer; returns where the last ends."""
        for segment in segments:
            place = self._places.get(segment.cache)
            if place is None or place.room < segment.used + segment.count:
                self._lay_out(segments)
                break
        end = 0
        for segment in segments:
            place = self._places[segment.cache]
            if place.valid < segment.used:
                missing = slice(place.start + place.valid, place.start + segment.used)
                own = segment.cache.room(segment.used)[..., place.valid : segment.used, :]
                self._buffer[..., missing, :] = own
                place.valid = segment.used
            end = max(end, place.start + segment.used + segment.count)
        return end

    def _lay_out(self, segments: Sequence[CacheSegment]) -> None:
        """Assign places in the static buffer to the segments' caches, and to no others."""
        self._places.clear()
        # Old contents may hold NaN or infinity, which pass through every mask.
        needed = self._needed(segments)
        self._buffer[..., : next(size for size in self._columns if size >= needed), :].zero_()
        start = _TRASH + 1
        for segment in segments:
            room = segment.used + segment.count + _SPARE
            self._places[segment.cache] = _Place(start, room)
            start += room

    def _fill(
        self,
        segments: Sequence[CacheSegment],
        embeddings: torch.Tensor,
        positions: NDArray[np.int64],
        tokens: int,
        columns: int,
    ) -> None:
        """Copy the inputs of one step into the static tensors."""
        count = len(embeddings)
        indices = np.full((4, tokens), _TRASH, dtype=np.int64)
        indices[:3, :count] = positions
        seen = np.zeros((tokens, columns), dtype=np.bool_)
        # A token that attends to nothing gives NaN.
        seen[count:, _TRASH] = True
        for segment in segments:
            here = slice(segment.start, segment.start + segment.count)
            start = self._places[segment.cache].start
            indices[3, here] = np.arange(start + segment.used, start + segment.used + segment.count)
            seen[here, start : start + segment.used + segment.count] = segment.seen
        self._embeddings[:count] = embeddings
        self._embeddings[count:tokens].zero_()
        self._indices[:, :tokens].copy_(torch.from_numpy(indices))
        self._seen[:tokens, :columns].copy_(torch.from_numpy(seen))

    def _captured(self, step: Step) -> Step:
        try:
            return self.capture(step)
        except RuntimeError as error:  # torch's failures on a device are all of this kind
            reason = one_line(error, 200)
            _log.warning("decode steps cannot be captured, they go on one kernel at a time: %s", reason)
            self.capture = uncaptured
            return step

    def _step(self, forward: Forward, tokens: int, columns: int) -> None:
        """The function that is captured: it depends on its arguments and on static tensors only."""
        mask = torch.zeros((tokens, columns), dtype=self._buffer.dtype, device=self._buffer.device)
        mask.masked_fill_(~self._seen[:tokens, :columns], -torch.inf)
        mask = mask.expand(self._shared, -1, -1).reshape(self._shared * tokens, columns)
        attention = StaticAttention(self._buffer, self._indices[3, :tokens], columns, mask)
        logits = forward(self._embeddings[:tokens], self._indices[:3, :tokens], [attention])
        self._logits[:tokens] = logits

    def _take_back(self, segments: Sequence[CacheSegment]) -> None:
        """Copy the new keys and values into the caches' own buffers."""
        for segment in segments:
            place = self._places[segment.cache]
            stop = segment.used + segment.count
            new = self._buffer[..., place.start + segment.used : place.start + stop, :]
            segment.cache.room(stop)[..., segment.used : stop, :] = new
            place.valid = stop


class StaticAttention:
    """Attention of all tokens of a step over the static buffer."""

    def __init__(self, buffer: torch.Tensor, places: torch.Tensor, columns: int, mask: torch.Tensor) -> None:
        self._buffer = buffer
        self.places = places
        """(tokens,) columns of the new tokens."""
        self._columns = columns
        self.mask = mask
        """(heads that share keys x tokens, columns), 0 where a token attends to a column, else -inf."""

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Store the step's keys and values of one layer, then compute attention; see `Attention`."""
        keys, values = self._buffer[layer]
        keys.index_copy_(1, self.places, key.transpose(0, 1))
        values.index_copy_(1, self.places, value.transpose(0, 1))
        return attend_few(query, keys[:, : self._columns], values[:, : self._columns], self.mask)
