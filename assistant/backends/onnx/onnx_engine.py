"""The ONNX Runtime engine: opens the engine folders that `egolive export` and `egolive quantize` write."""

from __future__ import annotations

from pathlib import Path

import torch

from egolive.assistant.backends.onnx.graph_backend import GraphDecoder, GraphTower
from egolive.assistant.backends.onnx.graph_engine import graph_engine
from egolive.assistant.backends.onnx.graph_limits import Sizes, sizes_of
from egolive.assistant.backends.onnx.onnx_runtime import OnnxGraph, tensorrt_cache, tensorrt_settings
from egolive.assistant.backends.onnx.token_table import token_table
from egolive.assistant.model.engine_folder import (
    DECODER_FILE,
    TOWER_FILE,
    EngineCard,
    files_folder,
    listed_file,
)
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.streaming.errors import EngineError

__all__ = ["load_onnx_engine"]

_OWN_FORMATS = {"int8", "int4"}
"""Precisions that engine folders for ONNX Runtime store as MatMulNBits."""


_CHUNK = 256
"""Tokens that a CPU reads in one pass: with 1,180 tokens of the 7B structure 6 % faster than all at once, and
half a gigabyte less for scores and activations; 64 to 512 take within 3 % of the same time."""


def load_onnx_engine(
    folder: Path, card: EngineCard, *, device: torch.device, threads: int | None, tensorrt: bool = False
) -> LocalEngine[GraphTower, GraphDecoder]:
    """Open an engine folder whose files have been verified.

    Args:
        folder: Of the engine.
        card: What it says.
        device: A CPU or CUDA device.
        threads: CPU threads; None takes one a core.
        tensorrt: Let ONNX Runtime's TensorRT provider run the graphs, all of them or none.

    Raises:
        EngineError: A file cannot be used, or the provider that was asked for is not to be had.
        ConfigError: A mistake in the profile.
    """
    shapes = card.shapes
    graph, decoder_graph = (listed_file(folder, card, name) for name in (TOWER_FILE, DECODER_FILE))
    sizes = sizes_of(card) if card.sizes else None
    towers = decoders = None
    if tensorrt:
        if card.backend == "onnx" and _OWN_FORMATS & {card.precision["decoder"], card.precision["head"]}:
            raise EngineError(
                f"{folder} has weights in ONNX Runtime's own format, which TensorRT does not read; "
                "make one that it does: egolive export MODEL --to tensorrt --graphs-only"
            )
        sizes = sizes or Sizes()
        cache, bf16 = tensorrt_cache(card), card.precision["tower"] == "bf16"
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EngineError(f"cannot keep engines in {cache}: {error.strerror or error}") from error
        towers = tensorrt_settings(cache, {}, bf16=bf16)
        decoders = tensorrt_settings(cache, sizes.ranges(shapes)[0], bf16=bf16)
    tower = GraphTower(OnnxGraph(graph, device, threads, tensorrt=towers), shapes, device)
    decoder = GraphDecoder(
        OnnxGraph(decoder_graph, device, threads, tensorrt=decoders),
        token_table(folder, card),
        shapes,
        device,
        sizes=sizes,
        chunk=_CHUNK if device.type == "cpu" else None,
    )
    backend = "onnx-tensorrt" if tensorrt else "onnx"
    context = sizes.columns if sizes is not None else None
    return graph_engine(
        files_folder(folder, card), card, tower, decoder, backend=backend, device=device, context=context
    )
