"""Nano's graphs as TensorRT reads them, for tests of what runs them."""

from __future__ import annotations

from pathlib import Path

import torch

from egolive.assistant.backends.onnx.graph_backend import GraphDecoder
from egolive.assistant.backends.onnx.graph_limits import Sizes
from egolive.assistant.backends.onnx.graph_steps import GraphSteps
from egolive.assistant.backends.onnx.onnx_runtime import OnnxGraph
from egolive.assistant.backends.onnx.token_table import token_table
from egolive.assistant.model.engine_folder import DECODE_FILE, DECODER_FILE, read_engine_card

CPU = torch.device("cpu")
CLOSE = 1e-4
"""Of logits up to 11; other orders of fp32 sums."""
SIZES = Sizes(tokens=24, columns=512, kept=4, step=8)
"""Small, so that passes are cut and steps are quick."""


def decoder_of(folder: Path, *, steps: bool = True, limited: bool = True) -> GraphDecoder:
    """The decoder of a folder, by ONNX Runtime on the CPU."""
    shapes, table = read_engine_card(folder).shapes, token_table(folder, read_engine_card(folder))
    fixed = GraphSteps(OnnxGraph(folder / DECODE_FILE, CPU, 1), shapes, SIZES, CPU) if steps else None
    graph = OnnxGraph(folder / DECODER_FILE, CPU, 1)
    return GraphDecoder(graph, table, shapes, CPU, sizes=SIZES if limited else None, steps=fixed)
