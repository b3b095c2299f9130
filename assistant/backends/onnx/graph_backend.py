"""Vision tower and decoder over the graphs that `egolive export` and `egolive quantize` write.

KV caches and forks are those of the torch backend; a forward pass is one run of a graph. Several KV caches
are extended in one run as one sequence: an attention bias masks the tokens of the others. The graphs are run
by `egolive.assistant.backends.onnx.onnx_runtime` or `egolive.assistant.backends.tensorrt.tensorrt_runtime`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from egolive.assistant.backends.onnx.graph_limits import MOST, Sizes, passes
from egolive.assistant.backends.onnx.graph_steps import GraphSteps
from egolive.assistant.backends.onnx.graph_types import LoadedGraph
from egolive.assistant.backends.onnx.token_table import TokenTable
from egolive.assistant.backends.torch.batch_plan import CacheSegment, plan_batch
from egolive.assistant.backends.torch.device_errors import as_engine_errors
from egolive.assistant.backends.torch.kv_cache import TorchKVCache
from egolive.assistant.model.engine_folder import Shapes
from egolive.assistant.runtime.backend import ForwardInput
from egolive.streaming.errors import EngineError

__all__ = ["GraphDecoder", "GraphTower"]

_PATCH = 14


class GraphTower:
    """The vision tower, for pictures of one size."""

    def __init__(self, graph: LoadedGraph, shapes: Shapes, device: torch.device) -> None:
        self._graph = graph
        self._shapes = shapes
        self._grid = (1, shapes.height // _PATCH, shapes.width // _PATCH)
        self._device = device
        self._dtype = graph.dtype("visual_tokens")

    def encode(self, patches: NDArray[np.float32], grid: tuple[int, int, int]) -> torch.Tensor:
        """Encode one slice or picture; see `VisionTower`."""
        if grid != self._grid:
            raise EngineError(
                f"this engine was exported for pictures of {self._shapes.width}x{self._shapes.height}, "
                f"got {grid[2] * _PATCH}x{grid[1] * _PATCH}: leave --height and --width away, or export it "
                "for this size"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(patches)).to(self._device)
        tokens = torch.empty((len(patches) // 4, self._shapes.hidden), dtype=self._dtype, device=self._device)
        self._graph.run(
            {"patches": (pixels, tuple(pixels.shape))},
            {"visual_tokens": (tokens, tuple(tokens.shape))},
            "encoding a picture",
        )
        return tokens


class GraphDecoder:
    """The decoder. Keys and values stay on the device; a run appends to them in place."""

    def __init__(
        self,
        graph: LoadedGraph,
        table: TokenTable,
        shapes: Shapes,
        device: torch.device,
        *,
        sizes: Sizes | None = None,
        steps: GraphSteps | None = None,
        chunk: int | None = None,
    ) -> None:
        """Take over a graph.

        Args:
            graph: On its device.
            table: Token embeddings.
            shapes: Of the model.
            device: Where the graph runs.
            sizes: Limits of one pass; None where there are none.
            steps: Reads decode steps in fixed sizes, where that is wanted.
            chunk: New tokens of one pass where `sizes` sets no limit; None where they are not limited.
        """
        self._graph = graph
        self._table = table
        self._shapes = shapes
        self._device = device
        self._sizes = sizes
        self._limits = sizes or (None if chunk is None else Sizes(tokens=chunk, columns=MOST, kept=MOST))
        self.steps = steps
        self._dtype = graph.dtype("new.0.key")
        # An empty past has no memory of its own to point to; where it must not be empty, this is masked.
        self._nothing = torch.zeros(shapes.kv_heads * shapes.head_width, dtype=self._dtype, device=device)

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """(n, width) embeddings of token ids."""
        return self._table.rows(tokens).to(self._device, self._dtype)

    def new_cache(self) -> TorchKVCache:
        """An empty KV cache."""
        return TorchKVCache(self._new_buffer)

    def _new_buffer(self, capacity: int) -> torch.Tensor:
        """Room for keys and values: (layers, 2, 1, capacity, key-value heads x width of a head).

        The tokens stand before the heads, so that new ones go behind the old ones without a gap.
        """
        shapes = self._shapes
        size = (shapes.layers, 2, 1, capacity, shapes.kv_heads * shapes.head_width)
        return torch.empty(size, dtype=self._dtype, device=self._device)

    def forward(self, inputs: Sequence[ForwardInput]) -> list[torch.Tensor]:
        """Extend several KV caches and forks; see `Decoder`.

        Inputs that are too large for one pass are split into several; where one of them fails, the results of
        those before it stay in the caches.
        """
        if self._limits is None or not inputs:
            return self._read(inputs) if inputs else []
        found: list[list[torch.Tensor]] = [[] for _ in inputs]
        for one in passes(inputs, self._limits):
            for (place, _), logits in zip(one, self._read([part for _, part in one]), strict=True):
                found[place].append(logits)
        return [torch.cat(parts) for parts in found]

    def _read(self, inputs: Sequence[ForwardInput]) -> list[torch.Tensor]:
        """One pass."""
        with as_engine_errors("reading a prompt"), torch.inference_mode():
            segments, order = plan_batch(inputs)
            embeddings = torch.cat([inputs[at].embeddings for at in order])
            positions = np.concatenate([inputs[at].positions for at in order], axis=1)
            kept: list[int] = []
            end = 0
            for at in order:
                end += len(inputs[at].embeddings)
                kept += range(end - inputs[at].keep, end)
            if self.steps is not None and self.steps.fits(segments):
                logits = self.steps.read(segments, embeddings, positions, kept)
            else:
                if self.steps is not None:
                    self.steps.overtaken(segments)
                logits = self._run(segments, embeddings, positions, kept)
        for segment in segments:
            segment.cache.commit(segment.owners)
        found = torch.split(logits[: len(kept)], [inputs[at].keep for at in order])
        placed = dict(zip(order, found, strict=True))
        return [placed[at] for at in range(len(inputs))]

    def _run(
        self,
        segments: Sequence[CacheSegment],
        embeddings: torch.Tensor,
        positions: NDArray[np.int64],
        kept: list[int],
    ) -> torch.Tensor:
        """One run of the graph; the new keys and values are appended to the caches' buffers."""
        # One row of logits is computed even where none is asked for.
        rows = torch.tensor(kept or [len(embeddings) - 1], device=self._device)
        logits = torch.empty((len(rows), self._shapes.vocabulary), device=self._device)
        used, new = sum(segment.used for segment in segments), sum(segment.count for segment in segments)
        # Where a past must not be empty, one masked column stands for it.
        hidden = 1 if self._sizes is not None and not used else 0
        inputs = {
            "embeddings": embeddings[None].contiguous(),
            "positions": torch.from_numpy(positions[:, None]).to(self._device).contiguous(),
            "attention_bias": self._bias(segments, hidden),
            "kept": rows,
        }
        buffers = [segment.cache.room(segment.used + segment.count) for segment in segments]
        if len(segments) == 1:
            past, fresh = buffers[0][..., :used, :], buffers[0][..., used : used + new, :]
        else:
            olds = [buffer[..., : segment.used, :] for buffer, segment in zip(buffers, segments, strict=True)]
            past, fresh = torch.cat(olds, dim=3), self._new_buffer(new)
        shapes = self._shapes
        heads = (shapes.kv_heads, shapes.head_width)
        bound = {name: (tensor, tuple(tensor.shape)) for name, tensor in inputs.items()}
        written = {"logits": (logits, tuple(logits.shape))}
        for layer in range(shapes.layers):
            for number, part in enumerate(("key", "value")):
                old = past[layer, number] if used else self._nothing
                bound[f"past.{layer}.{part}"] = (old, (1, used or hidden, *heads))
                written[f"new.{layer}.{part}"] = (fresh[layer, number], (1, new, *heads))
        self._graph.run(bound, written, "reading a prompt")
        if len(segments) > 1:
            for segment, buffer in zip(segments, buffers, strict=True):
                found = fresh[..., segment.start : segment.start + segment.count, :]
                buffer[..., segment.used : segment.used + segment.count, :] = found
        return logits

    def _bias(self, segments: Sequence[CacheSegment], hidden: int) -> torch.Tensor:
        """(1, 1, new, past + new): 0 where a token attends to a column, minus infinity elsewhere."""
        past, new = sum(segment.used for segment in segments), sum(segment.count for segment in segments)
        seen = np.zeros((new, hidden + past + new), dtype=np.bool_)
        start = 0
        for segment in segments:
            rows = slice(segment.start, segment.start + segment.count)
            seen[rows, start : start + segment.used] = segment.seen[:, : segment.used]
            own = hidden + past + segment.start
            seen[rows, own : own + segment.count] = segment.seen[:, segment.used :]
            start += segment.used
        bias = torch.zeros(seen.shape)
        bias.masked_fill_(torch.from_numpy(~seen), -torch.inf)
        return bias[None, None].to(self._device)
