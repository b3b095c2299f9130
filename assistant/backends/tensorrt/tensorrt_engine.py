"""The TensorRT engine: runs what `egolive export --to tensorrt` builds, on the GPU that built it."""

from __future__ import annotations

from pathlib import Path

import torch

from egolive.assistant.backends.onnx.graph_backend import GraphDecoder, GraphTower
from egolive.assistant.backends.onnx.graph_engine import graph_engine
from egolive.assistant.backends.onnx.graph_limits import sizes_of
from egolive.assistant.backends.onnx.graph_steps import GraphSteps
from egolive.assistant.backends.onnx.token_table import token_table
from egolive.assistant.backends.tensorrt.tensorrt_runtime import (
    TensorRtGraph,
    gpu_fingerprint,
    tensorrt_module,
)
from egolive.assistant.backends.torch.cuda_graphs import cuda_capture
from egolive.assistant.model.engine_folder import EngineCard, files_folder, listed_file
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.streaming.errors import EngineError, one_line

__all__ = ["DECODER_ENGINE", "DECODE_ENGINE", "TOWER_ENGINE", "load_tensorrt_engine"]

TOWER_ENGINE = "tower.engine"
DECODER_ENGINE = "decoder.engine"
DECODE_ENGINE = "decode.engine"


def load_tensorrt_engine(
    folder: Path, card: EngineCard, *, device: torch.device, graphs: bool
) -> LocalEngine[GraphTower, GraphDecoder]:
    """Open an engine folder whose files have been verified.

    Args:
        folder: Of the engine.
        card: What it says.
        device: A CUDA device.
        graphs: Decode by CUDA graphs; the decoder's weights are then on the GPU twice.

    Raises:
        EngineError: TensorRT or the GPU is missing or another than the engine was built by.
        ConfigError: A mistake in the profile.
    """
    if DECODER_ENGINE not in card.files:
        raise EngineError(
            f"{folder} holds graphs that TensorRT has not built yet: "
            f"egolive export {folder} --to tensorrt on the machine that shall run them"
        )
    trt = tensorrt_module()
    if device.type != "cuda":
        raise EngineError(f"{folder} is an engine of TensorRT and runs on a GPU alone; use --device cuda")
    here, there = gpu_fingerprint(trt, device), card.made.get("built", {})
    if here != there:
        told = "{gpu} (capability {capability}) and TensorRT {tensorrt}"
        known = isinstance(there, dict) and here.keys() <= there.keys()
        was = one_line(told.format(**there)) if known else "an unknown GPU"
        raise EngineError(
            f"{folder} was built for {was}, here is {told.format(**here)}: "
            f"build it here with egolive export {folder} --to tensorrt"
        )
    shapes, sizes, files = card.shapes, sizes_of(card), files_folder(folder, card)
    tower = GraphTower(TensorRtGraph(trt, listed_file(folder, card, TOWER_ENGINE), device), shapes, device)
    steps = None
    if graphs:
        fixed = TensorRtGraph(trt, listed_file(folder, card, DECODE_ENGINE), device)
        steps = GraphSteps(fixed, shapes, sizes, device, cuda_capture(device))
    decoder = GraphDecoder(
        TensorRtGraph(trt, listed_file(folder, card, DECODER_ENGINE), device),
        token_table(folder, card),
        shapes,
        device,
        sizes=sizes,
        steps=steps,
    )
    return graph_engine(files, card, tower, decoder, backend="tensorrt", device=device, context=sizes.columns)
