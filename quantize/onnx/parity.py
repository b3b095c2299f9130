"""Whether a written engine computes what torch computes, asked of the files themselves.

The tower is compared on several slices, the decoder on a prompt read whole, in chunks, and on branches side
by side. Graphs with weights of few bits are compared twice: with exact activations they have to reproduce the
torch model that holds the rounded weights; with activations in 8 bits, as they run, the difference is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto

from egolive.assistant.backends.onnx.graph_backend import GraphDecoder, GraphTower, embedding_table
from egolive.assistant.backends.onnx.graph_limits import Sizes
from egolive.assistant.backends.onnx.graph_steps import GraphSteps
from egolive.assistant.backends.onnx.onnx_runtime import OnnxGraph
from egolive.assistant.model.engine_folder import (
    DECODE_FILE,
    DECODER_FILE,
    EMBEDDINGS_FILE,
    TOWER_FILE,
    Shapes,
)
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.model.prompt_tokens import Layout, SlicePiece, lay_out
from egolive.assistant.runtime.backend import Decoder, ForwardInput, VisionTower
from egolive.assistant.schema.engine import Prompt, Vision
from egolive.assistant.schema.tokenizer import Tokenizer
from egolive.streaming.errors import EngineError

__all__ = ["LIMIT", "Probe", "check_decoder", "check_steps", "check_tower"]

LIMIT = 1e-4
"""Largest difference, as a share of the largest value, that another order of fp32 sums explains."""
_SLICES = 3
_LAST = 16
"""Tokens at the end of the prompt whose logits are compared."""
_CPU = torch.device("cpu")


class Probe:
    """Pictures and a prompt that are the same for both sides."""

    def __init__(self, shapes: Shapes, tokenizer: Tokenizer, preprocessor: Preprocessor) -> None:
        """Draw pictures of the size that the engine takes."""
        rng = np.random.default_rng(0)
        size = (shapes.height, shapes.width, 3)
        self.frames = tuple(rng.integers(0, 256, size, dtype=np.uint8) for _ in range(2 * _SLICES))
        vision = Vision(self.frames, shapes.height, shapes.width, "video")
        text = "What is the wearer of this camera doing, and what comes next? Find the left hand."
        prompt = Prompt(("<|im_start|>user\n<|vision_start|>", vision, f"<|vision_end|>{text}<|im_end|>\n"))
        self.layout: Layout = lay_out(prompt, tokenizer)
        self._tokenizer = tokenizer
        self._preprocessor = preprocessor

    def slices(self, tower: VisionTower) -> list[torch.Tensor]:
        """Visual tokens of each slice."""
        return [
            tower.encode(*self._preprocessor.patches(piece.frames, piece.height, piece.width))
            for piece in self.layout.slices
        ]

    def logits(self, decoder: Decoder, slices: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits of the prompt's end and of what follows, read in every way that a session reads.

        Args:
            decoder: Reads.
            slices: Visual tokens; the same for both sides, so that the decoder alone is compared.
        """
        embeddings, places = self._embeddings(decoder, slices), self.layout.positions
        whole, chunked = decoder.new_cache(), decoder.new_cache()
        found = decoder.forward([ForwardInput(whole, embeddings, places, keep=_LAST)])
        middle = len(self.layout) // 3
        decoder.forward([ForwardInput(chunked, embeddings[:middle], places[:, :middle], keep=0)])
        found += decoder.forward([ForwardInput(chunked, embeddings[middle:], places[:, middle:], keep=_LAST)])
        first, second, other = whole.fork(), whole.fork(), chunked.fork()
        words = self._tokenizer.encode("left hand")
        start = self.layout.next_position
        for step in range(2):
            place = np.full((3, 1), start + step)
            found += decoder.forward(
                [
                    ForwardInput(branch, decoder.embed([words[(step + number) % len(words)]]), place)
                    for number, branch in enumerate((first, other, second))
                ]
            )
        return torch.cat(found)

    def stepped(self, decoder: Decoder, slices: Sequence[torch.Tensor], tokens: int) -> torch.Tensor:
        """Logits of the prompt's end, all of it read on a branch, so many tokens in a step."""
        embeddings, places = self._embeddings(decoder, slices), self.layout.positions
        branch = decoder.new_cache().fork()
        found = []
        for start in range(0, len(embeddings), tokens):
            part = slice(start, start + tokens)
            found += decoder.forward(
                [ForwardInput(branch, embeddings[part], places[:, part], keep=len(embeddings[part]))]
            )
        return torch.cat(found)[-_LAST:]

    def _embeddings(self, decoder: Decoder, slices: Sequence[torch.Tensor]) -> torch.Tensor:
        """Of the whole prompt."""
        visual = iter(slices)
        embeddings = torch.cat(
            [
                next(visual).float() if isinstance(piece, SlicePiece) else decoder.embed(piece).float()
                for piece in self.layout.pieces
            ]
        )
        return embeddings.to(decoder.embed([0]).dtype)


def check_tower(folder: Path, shapes: Shapes, probe: Probe, expected: Sequence[torch.Tensor]) -> float:
    """Compare the written tower with torch's visual tokens; returns the largest relative difference.

    Raises:
        EngineError: It is above `LIMIT`.
    """
    with _widened(folder / TOWER_FILE) as path:
        found = probe.slices(GraphTower(OnnxGraph(path, _CPU, None), shapes, _CPU))
    return _compare("tower", torch.cat(list(found)), torch.cat(list(expected)), LIMIT)


def check_decoder(
    folder: Path,
    shapes: Shapes,
    probe: Probe,
    slices: Sequence[torch.Tensor],
    expected: torch.Tensor,
    limit: float = LIMIT,
) -> dict[str, float]:
    """Compare the written decoder with torch's logits; returns the largest relative differences.

    Raises:
        EngineError: With exact activations it is above `limit`.
    """
    table = embedding_table(folder / EMBEDDINGS_FILE)
    with _widened(folder / DECODER_FILE) as path:
        decoder = GraphDecoder(OnnxGraph(path, _CPU, None, exact=True), table, shapes, _CPU)
        found = {"decoder": _compare("decoder", probe.logits(decoder, slices), expected, limit)}
        del decoder
    if _runs_otherwise(folder / DECODER_FILE):
        decoder = GraphDecoder(OnnxGraph(folder / DECODER_FILE, _CPU, None), table, shapes, _CPU)
        logits = probe.logits(decoder, slices)
        found["decoder_as_it_runs"] = _compare("decoder", logits, expected, float("inf"))
    return found


def check_steps(
    folder: Path,
    shapes: Shapes,
    sizes: Sizes,
    probe: Probe,
    slices: Sequence[torch.Tensor],
    expected: torch.Tensor,
    limit: float = LIMIT,
) -> float:
    """Compare the decoder of fixed sizes with torch's logits; returns the largest relative difference.

    Raises:
        EngineError: With exact activations it is above `limit`.
    """
    with _widened(folder / DECODE_FILE) as path:
        graph = OnnxGraph(path, _CPU, None, exact=True)
        steps = GraphSteps(graph, shapes, sizes, _CPU)
        table = embedding_table(folder / EMBEDDINGS_FILE)
        decoder = GraphDecoder(graph, table, shapes, _CPU, steps=steps)
        found = probe.stepped(decoder, slices, sizes.step)
    return _compare("decoder for decode steps", found, expected[:_LAST], limit)


def _compare(what: str, found: torch.Tensor, expected: torch.Tensor, limit: float) -> float:
    difference = float((found.float() - expected.float()).abs().max() / expected.abs().max())
    if not difference <= limit:
        raise EngineError(
            f"the exported {what} differs from torch by {difference:.2g} of the largest value, where "
            f"{limit:.0e} is allowed: nothing was written; please report this with the versions of "
            "`egolive doctor`"
        )
    return difference


class _widened:  # noqa: N801 (used as a function)
    """A graph beside the written one that computes the same weights in fp32 with exact activations.

    The CPU has no bf16 products, and activations in 8 bits would hide small mistakes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._copy = path.with_suffix(".check.onnx")

    def __enter__(self) -> Path:
        model = onnx.load(self._path, load_external_data=False)
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 0
                if node.op_type == "Cast" and attribute.i == TensorProto.BFLOAT16:
                    attribute.i = TensorProto.FLOAT
        _widen_weights(model.graph)
        for value in (*model.graph.input, *model.graph.output):
            if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        onnx.save(model, self._copy)
        return self._copy

    def __exit__(self, *_: object) -> None:
        self._copy.unlink(missing_ok=True)


def _widen_weights(graph: onnx.GraphProto) -> None:
    """Put a Cast to fp32 behind every bf16 weight."""
    casts = []
    for weight in graph.initializer:
        if weight.data_type == TensorProto.BFLOAT16:
            name, weight.name = weight.name, f"{weight.name}/bf16"
            to = TensorProto.FLOAT
            casts.append(onnx.helper.make_node("Cast", [weight.name], [name], name=f"{name}/wide", to=to))
    for number, node in enumerate(casts):
        graph.node.insert(number, node)


def _runs_otherwise(path: Path) -> bool:
    """Whether this CPU runs the graph with activations in 8 bits; one in bf16 it cannot run at all."""
    graph = onnx.load(path, load_external_data=False).graph
    if any(weight.data_type == TensorProto.BFLOAT16 for weight in graph.initializer):
        return False
    return any(node.op_type in ("MatMulNBits", "DequantizeLinear") for node in graph.node)
