"""Decode steps of the torch engine in fixed shapes at fixed addresses, as a CUDA graph wants them.

Launching the kernels of a small pass takes a CPU longer than running them takes a GPU; a graph launches them
all at once, but always the same ones on the same memory. So the rows that are being decoded are copied side
by side into one buffer that never moves, tokens and columns are padded up to a few sizes, and what differs
from step to step is copied into tensors that never move either. A row's own buffer stays what counts: new
keys and values are copied back into it after each step, and any pass may go without this.

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
"""Takes a step that only works on tensors which stay where they are, and gives what does the same each time
it is called. It may run the step itself, as often as it likes."""
Forward = Callable[[torch.Tensor, torch.Tensor, Sequence[Attention]], torch.Tensor]
"""(n, width) embeddings, (3, n) positions, and how to attend; gives (n, vocabulary) float32 logits."""

TOKENS = (1, 2, 4, 8, 16, 32)
"""Sizes of a step: tokens of all branches together. Beyond, launching costs little beside the work."""
COLUMNS = (512, 1024, 2048, 3072, 4096, 6144, 8192)
"""Sizes of what a step looks at: tokens of all rows and branches together."""
_SPARE = 128
"""Columns left free behind a row when it is copied in, for what its branches will say."""
_TRASH = 0
"""The column where padding is written; nothing but padding sees it."""
_WARM_UPS = 2
"""Runs before the recorded one: libraries choose kernels and take their memory in the first."""
_CAPTURING = Lock()
"""torch records one graph at a time in a process."""


@dataclass(slots=True)
class _Place:
    """Where a row stands in the buffer."""

    start: int
    room: int
    valid: int = 0
    """So many of the row's first columns are the same here and in its own buffer."""


def uncaptured(step: Step) -> Step:
    """Let a step run as it is."""
    return step


def cuda_capture(device: torch.device) -> Capture:
    """What records steps on a CUDA device.

    All graphs share the memory of what lives only inside a step, so they must not run at the same time.

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
        # What other threads do meanwhile, such as encoding for another session, is their own affair.
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
    """Decode steps of one decoder; of those sessions that share it one steps at a time."""

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
        """Take the memory that is needed, once and for all.

        Args:
            buffer: Zeros, for keys and values: (layers, 2, key-value heads, as many columns as the last of
                `columns`, width of a head).
            heads: Of queries.
            width: Of embeddings.
            vocabulary: Outputs of the decoder.
            capture: What makes the steps quick.
            tokens: Sizes of a step, the smallest first.
            columns: Sizes of what a step looks at, the smallest first.
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

    def fits(self, spans: Sequence[CacheSegment]) -> bool:
        """Whether a pass is a step: a few tokens, all on branches, behind rows that are not too long."""
        return (
            sum(span.count for span in spans) <= self._tokens[-1]
            and not any(OWN in span.owners for span in spans)
            and self._needed(spans) <= self._columns[-1]
        )

    def overtaken(self, spans: Sequence[CacheSegment]) -> None:
        """Another way of reading is about to write behind what these spans' rows have in use."""
        with self._lock:
            for span in spans:
                place = self._places.get(span.cache)
                if place is not None:
                    place.valid = min(place.valid, span.used)

    def read(
        self,
        forward: Forward,
        spans: Sequence[CacheSegment],
        embeddings: torch.Tensor,
        positions: NDArray[np.int64],
        kept: Sequence[int],
    ) -> torch.Tensor:
        """Read the tokens of spans that fit.

        Args:
            forward: The decoder's layers and head. It is not kept, but by steps that are not captured: the
                decoder holds these steps, and a circle would hold its weights in memory.
            spans: What is read.
            embeddings: (n, width).
            positions: (3, n).
            kept: Places of the tokens whose logits are wanted.

        Returns:
            (kept, vocabulary) float32 logits of the token after each of those that are kept.
        """
        with self._lock:
            end = self._bring(spans)
            tokens = next(size for size in self._tokens if size >= len(embeddings))
            columns = next(size for size in self._columns if size >= end)
            self._fill(spans, embeddings, positions, tokens, columns)
            if (tokens, columns) not in self._steps:
                self._steps[tokens, columns] = self._captured(partial(self._step, forward, tokens, columns))
            self._steps[tokens, columns]()
            self._take_back(spans)
            return self._logits[kept]

    def _needed(self, spans: Sequence[CacheSegment]) -> int:
        """Columns that these spans' rows take when they are laid out."""
        return 1 + sum(span.used + span.count + _SPARE for span in spans)

    def _bring(self, spans: Sequence[CacheSegment]) -> int:
        """Copy in what is missing of the spans' rows, and tell where the last of them ends."""
        for span in spans:
            place = self._places.get(span.cache)
            if place is None or place.room < span.used + span.count:
                self._lay_out(spans)
                break
        end = 0
        for span in spans:
            place = self._places[span.cache]
            if place.valid < span.used:
                missing = slice(place.start + place.valid, place.start + span.used)
                own = span.cache.room(span.used)[..., place.valid : span.used, :]
                self._buffer[..., missing, :] = own
                place.valid = span.used
            end = max(end, place.start + span.used + span.count)
        return end

    def _lay_out(self, spans: Sequence[CacheSegment]) -> None:
        """Give the spans' rows places side by side, and all others none."""
        self._places.clear()
        # What was here may hold numbers that are none, and those pass through every mask.
        needed = self._needed(spans)
        self._buffer[..., : next(size for size in self._columns if size >= needed), :].zero_()
        start = _TRASH + 1
        for span in spans:
            room = span.used + span.count + _SPARE
            self._places[span.cache] = _Place(start, room)
            start += room

    def _fill(
        self,
        spans: Sequence[CacheSegment],
        embeddings: torch.Tensor,
        positions: NDArray[np.int64],
        tokens: int,
        columns: int,
    ) -> None:
        """Put what one step reads where the captured one looks for it."""
        count = len(embeddings)
        indices = np.full((4, tokens), _TRASH, dtype=np.int64)
        indices[:3, :count] = positions
        seen = np.zeros((tokens, columns), dtype=np.bool_)
        # A token that sees nothing gives numbers that are none.
        seen[count:, _TRASH] = True
        for span in spans:
            here = slice(span.start, span.start + span.count)
            start = self._places[span.cache].start
            indices[3, here] = np.arange(start + span.used, start + span.used + span.count)
            seen[here, start : start + span.used + span.count] = span.seen
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
        """What is captured: nothing in it depends on more than its arguments and tensors that stay."""
        mask = torch.zeros((tokens, columns), dtype=self._buffer.dtype, device=self._buffer.device)
        mask.masked_fill_(~self._seen[:tokens, :columns], -torch.inf)
        mask = mask.expand(self._shared, -1, -1).reshape(self._shared * tokens, columns)
        attention = StaticAttention(self._buffer, self._indices[3, :tokens], columns, mask)
        logits = forward(self._embeddings[:tokens], self._indices[:3, :tokens], [attention])
        self._logits[:tokens] = logits

    def _take_back(self, spans: Sequence[CacheSegment]) -> None:
        """Copy the new keys and values into the rows' own buffers."""
        for span in spans:
            place = self._places[span.cache]
            stop = span.used + span.count
            new = self._buffer[..., place.start + span.used : place.start + stop, :]
            span.cache.room(stop)[..., span.used : stop, :] = new
            place.valid = stop


class StaticAttention:
    """Attention of all tokens of a step over one buffer."""

    def __init__(self, buffer: torch.Tensor, places: torch.Tensor, columns: int, mask: torch.Tensor) -> None:
        self._buffer = buffer
        self.places = places
        """(tokens,) columns in which the new tokens are to stand."""
        self._columns = columns
        self.mask = mask
        """(heads that share keys x tokens, columns), 0 where a token sees a column, else minus infinity."""

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Store the step's keys and values of one layer, then look; see `Attention`."""
        keys, values = self._buffer[layer]
        keys.index_copy_(1, self.places, key.transpose(0, 1))
        values.index_copy_(1, self.places, value.transpose(0, 1))
        return attend_few(query, keys[:, : self._columns], values[:, : self._columns], self.mask)
