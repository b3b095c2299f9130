"""Decode steps of an exported decoder in fixed shapes, for replay as a CUDA graph.

The layout of the static buffers is that of `egolive.assistant.backends.torch.cuda_graphs`. The decoder graph
has a fixed number of past columns, of which a mask hides the unused ones, and of new tokens; the new keys and
values are copied to their columns after the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from egolive.assistant.backends.onnx.graph_limits import Sizes
from egolive.assistant.backends.onnx.graph_types import Bound, LoadedGraph
from egolive.assistant.backends.torch.attention import Attention
from egolive.assistant.backends.torch.batch_plan import CacheSegment
from egolive.assistant.backends.torch.cuda_graphs import Capture, StaticAttention, StaticSteps, uncaptured
from egolive.assistant.model.engine_folder import Shapes

__all__ = ["GraphSteps"]


class GraphSteps:
    """Forward passes of a few tokens on forks."""

    def __init__(
        self,
        graph: LoadedGraph,
        shapes: Shapes,
        sizes: Sizes,
        device: torch.device,
        capture: Capture = uncaptured,
    ) -> None:
        """Allocate all memory of the steps.

        Args:
            graph: The decoder with the sizes of a step.
            shapes: Of the model.
            sizes: Those that the graph was made for.
            device: Where it runs.
            capture: Records the steps, `cuda_capture` on a GPU.
        """
        self._graph = graph
        tokens, columns = sizes.step, sizes.columns
        dtype = graph.dtype("new.0.key")
        heads = (shapes.kv_heads, shapes.head_width)
        width = shapes.kv_heads * shapes.head_width
        size = (shapes.layers, 2, 1, columns, width)
        self._buffer = torch.zeros(size, dtype=dtype, device=device)
        self._fresh = torch.zeros((*size[:3], tokens, width), dtype=dtype, device=device)
        self._bias = torch.zeros((1, 1, tokens, columns + tokens), device=device)
        self._logits = torch.zeros((tokens, shapes.vocabulary), device=device)
        kept = torch.arange(tokens, device=device)
        self._inputs = {"attention_bias": (self._bias, tuple(self._bias.shape)), "kept": (kept, (tokens,))}
        self._outputs = {"logits": (self._logits, tuple(self._logits.shape))}
        for layer in range(shapes.layers):
            for number, part in enumerate(("key", "value")):
                self._inputs[f"past.{layer}.{part}"] = (self._buffer[layer, number], (1, columns, *heads))
                self._outputs[f"new.{layer}.{part}"] = (self._fresh[layer, number], (1, tokens, *heads))
        self.static = StaticSteps(
            self._buffer,
            # The graph divides heads itself: to the steps, a token's keys of all heads are one.
            heads=1,
            width=shapes.hidden,
            vocabulary=shapes.vocabulary,
            capture=capture,
            tokens=(tokens,),
            columns=(columns,),
        )

    def fits(self, segments: Sequence[CacheSegment]) -> bool:
        """Whether a pass is a decode step; see `StaticSteps`."""
        return self.static.fits(segments)

    def overtaken(self, segments: Sequence[CacheSegment]) -> None:
        """Another forward pass is about to extend these caches; see `StaticSteps`."""
        self.static.overtaken(segments)

    def read(
        self,
        segments: Sequence[CacheSegment],
        embeddings: torch.Tensor,
        positions: NDArray[np.int64],
        kept: Sequence[int],
    ) -> torch.Tensor:
        """(kept, vocabulary) logits of segments that fit; see `StaticSteps`."""
        return self.static.read(self._forward, segments, embeddings, positions, kept)

    def _forward(
        self, embeddings: torch.Tensor, positions: torch.Tensor, attentions: Sequence[Attention]
    ) -> torch.Tensor:
        """What is captured."""
        (step,) = attentions
        assert isinstance(step, StaticAttention)
        columns = self._buffer.shape[3]
        # The mask is by column; the graph takes the new tokens apart from the columns that they will fill.
        self._bias[0, 0, :, :columns] = step.mask.index_fill(1, step.places, -torch.inf)
        self._bias[0, 0, :, columns:] = step.mask[:, step.places]
        inputs: Bound = self._inputs | {
            "embeddings": (embeddings, (1, *embeddings.shape)),
            "positions": (positions, (3, 1, positions.shape[1])),
        }
        self._graph.run(inputs, self._outputs, "reading a prompt")
        self._buffer.index_copy_(3, step.places, self._fresh)
        return self._logits
