"""Whether a written engine computes what torch computes, asked of the files themselves, layer by layer.

The tower is compared on several slices, the decoder on a prompt read in two parts and on branches side by
side. Torch reads the weights that have been written, one matrix at a time; the graph is run one layer at a
time: neither is ever in memory as a whole. Graphs with weights of few bits are compared twice: with exact
activations they have to reproduce torch; with activations in 8 bits, as they run, the difference is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.backends.onnx.graph_backend import GraphDecoder, GraphTower
from egolive.assistant.backends.onnx.graph_limits import Sizes
from egolive.assistant.backends.onnx.graph_steps import GraphSteps
from egolive.assistant.backends.onnx.token_table import TokenTable
from egolive.assistant.backends.torch.torch_engine import TorchTower
from egolive.assistant.model.engine_folder import DECODE_FILE, DECODER_FILE, TOWER_FILE, Shapes
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.model.prompt_tokens import Layout, SlicePiece, lay_out
from egolive.assistant.runtime.backend import Decoder, ForwardInput, VisionTower
from egolive.assistant.schema.engine import Prompt, Vision
from egolive.assistant.schema.tokenizer import Tokenizer
from egolive.quantize.onnx.pieces import LayerGraph, Reference, runs_otherwise
from egolive.quantize.onnx.reference import StoredDecoder
from egolive.streaming.errors import EngineError

__all__ = ["LIMIT", "Probe", "check_decoder", "check_steps", "check_tower"]

LIMIT = 1e-4
"""Largest difference of a layer, or of the tower, as a share of the largest value, that another order of fp32
sums explains."""
_WHOLE_LIMIT = 1e-3
"""The same of the logits behind all layers: each passes on, and may enlarge, what those before have rounded.
With random weights of the 7B structure it was 1.2e-4, of a single layer 1e-6."""
_SLICES = 2
_LAST = 16
"""Tokens at the end of the prompt whose logits are compared."""
_BRANCHES = 3
_WORDS = "left hand"
"""What the branches go on with."""
_CPU = torch.device("cpu")

Stepped = Callable[[], None]
"""Called after each layer."""


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
        """Visual tokens of each slice; one is encoded, the others are the same ones in another order."""
        piece = self.layout.slices[0]
        found = tower.encode(*self._preprocessor.patches(piece.frames, piece.height, piece.width))
        return [found.roll(number, 0) for number in range(len(self.layout.slices))]

    def logits(
        self, decoder: Decoder, slices: Sequence[torch.Tensor], *, parts: bool = False
    ) -> torch.Tensor:
        """Logits of the prompt's end and of branches that follow it.

        Args:
            decoder: Reads.
            slices: Visual tokens; the same for both sides, so that the decoder alone is compared.
            parts: Read the first third of the prompt in a pass of its own.
        """
        embeddings, places = self._embeddings(decoder, slices), self.layout.positions
        cache = decoder.new_cache()
        if parts:
            middle = len(self.layout) // 3
            decoder.forward([ForwardInput(cache, embeddings[:middle], places[:, :middle], keep=0)])
            embeddings, places = embeddings[middle:], places[:, middle:]
        inputs = [ForwardInput(cache, embeddings, places, keep=_LAST)]
        words = self._tokenizer.encode(_WORDS)
        for branch in range(_BRANCHES):
            said = [words[(branch + number) % len(words)] for number in range(2)]
            place = np.tile(np.arange(2) + self.layout.next_position, (3, 1))
            given = decoder.embed(said).to(embeddings.dtype)
            inputs.append(ForwardInput(cache.fork(), given, place, keep=2))
        return torch.cat(decoder.forward(inputs))

    def stepped(self, decoder: Decoder, slices: Sequence[torch.Tensor], tokens: int) -> torch.Tensor:
        """Logits of the prompt's end, of which the last so many tokens are read in one step on a branch."""
        embeddings, places = self._embeddings(decoder, slices), self.layout.positions
        cache = decoder.new_cache()
        before = max(0, len(embeddings) - tokens)
        decoder.forward([ForwardInput(cache, embeddings[:before], places[:, :before], keep=0)])
        last = embeddings[before:]
        found = decoder.forward([ForwardInput(cache.fork(), last, places[:, before:], keep=len(last))])
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


def check_tower(
    folder: Path,
    shapes: Shapes,
    probe: Probe,
    model: Qwen2VLForConditionalGeneration,
    original: Sequence[torch.Tensor],
    stepped: Stepped = lambda: None,
) -> tuple[list[torch.Tensor], dict[str, float]]:
    """Compare the written tower with torch over the written weights.

    Args:
        folder: Of the engine.
        shapes: Of the model.
        probe: What is shown.
        model: Holds what has been written.
        original: Visual tokens of the checkpoint's own weights.
        stepped: Called after each layer.

    Returns:
        Torch's visual tokens, and the largest relative differences. Where weights have few bits, `tower_loss`
        is the root mean square by which the tokens, as they run, differ from the original's, over that of
        these.

    Raises:
        EngineError: With exact activations a difference is above `LIMIT`.
    """
    expected = probe.slices(TorchTower(model))

    def visual(*, exact: bool) -> torch.Tensor:
        graph = LayerGraph(folder / TOWER_FILE, exact=exact, stepped=stepped)
        return torch.cat(list(probe.slices(GraphTower(graph, shapes, _CPU))))

    found = {"tower": _check("tower", _difference(visual(exact=True), torch.cat(expected)), LIMIT)}
    if runs_otherwise(folder / TOWER_FILE):
        runs, first = visual(exact=False), torch.cat(list(original))
        found["tower_as_it_runs"] = _difference(runs, torch.cat(expected))
        found["tower_loss"] = float((runs - first).square().mean().sqrt() / first.square().mean().sqrt())
    return expected, found


def check_decoder(
    folder: Path,
    shapes: Shapes,
    probe: Probe,
    slices: Sequence[torch.Tensor],
    table: TokenTable,
    reference: StoredDecoder,
    stepped: Stepped = lambda: None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Compare the written decoder with torch over the written weights, each layer and the logits.

    Args:
        folder: Of the engine.
        shapes: Of the model.
        probe: What is read.
        slices: Visual tokens.
        table: Embeddings of the engine.
        reference: Holds what has been written.
        stepped: Called after each layer.

    Returns:
        Torch's logits, and the largest relative differences.

    Raises:
        EngineError: With exact activations a layer, given torch's input, differs by more than `LIMIT`, or the
            logits behind all layers by more than ten times that; it names the first such layer.
    """
    expected = probe.logits(reference, slices)
    path = folder / DECODER_FILE

    def logits(graph: LayerGraph) -> torch.Tensor:
        return probe.logits(GraphDecoder(graph, table, shapes, _CPU), slices, parts=True)

    told = Reference(reference.layer_outputs, expected)
    graph = LayerGraph(path, exact=True, reference=told, stepped=stepped)
    whole = _difference(logits(graph), expected)
    for name, difference in graph.differences.items():
        _check(f"decoder's {name}", difference, LIMIT)
    found = {
        "decoder_layer": max(graph.differences.values()),
        "decoder": _check("decoder", whole, _WHOLE_LIMIT),
    }
    if runs_otherwise(path):
        runs = logits(LayerGraph(path, exact=False, stepped=stepped))
        found["decoder_as_it_runs"] = _difference(runs, expected)
    return expected, found


def check_steps(
    folder: Path,
    shapes: Shapes,
    sizes: Sizes,
    probe: Probe,
    slices: Sequence[torch.Tensor],
    table: TokenTable,
    expected: torch.Tensor,
    stepped: Stepped = lambda: None,
) -> float:
    """Compare the decoder of fixed sizes with torch's logits; returns the largest relative difference.

    Raises:
        EngineError: With exact activations it is above `LIMIT`.
    """
    graph = LayerGraph(folder / DECODER_FILE, exact=True, stepped=stepped)
    fixed = LayerGraph(folder / DECODE_FILE, exact=True, stepped=stepped)
    steps = GraphSteps(fixed, shapes, sizes, _CPU)
    decoder = GraphDecoder(graph, table, shapes, _CPU, steps=steps)
    found = probe.stepped(decoder, slices, sizes.step)
    difference = _difference(found, expected[:_LAST][-len(found) :])
    return _check("decoder for decode steps", difference, _WHOLE_LIMIT)


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference as a share of the largest value."""
    return float((found.float() - expected.float()).abs().max() / expected.abs().max())


def _check(what: str, difference: float, limit: float) -> float:
    if not difference <= limit:
        raise EngineError(
            f"the exported {what} differs from torch by {difference:.2g} of the largest value, where "
            f"{limit:.0e} is allowed: nothing was written; please report this with the versions of "
            "`egolive doctor`"
        )
    return difference
