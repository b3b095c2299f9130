"""AWQ int4 by NVIDIA's modelopt: weights scaled by what the activations show, then rounded in groups of 128.

Only the text layers are given to modelopt, so that tower and last layer are out of its reach. What it finds
is written as ONNX's own block-wise DequantizeLinear: ONNX Runtime fuses it with the product, TensorRT reads
it.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from transformers import Qwen2VLForConditionalGeneration

from egolive.quantize.onnx.block_int4 import LEAST, MOST, check_widths, scales_of, write_groups
from egolive.quantize.onnx.decoder_graph import HEAD, LinearWriter, linear_layers
from egolive.quantize.onnx.layers import in_dtype
from egolive.quantize.onnx.onnx_graph import Graph
from egolive.quantize.onnx.weights import block_writer

__all__ = ["GROUP", "LIMIT", "Calibration", "Sample", "quantised_writer", "rounded"]

GROUP = 128
"""Weights along a row that share a scale."""
LIMIT = 1e-3
"""Largest relative difference between the graph and modelopt's fake quantisation."""

Sample = tuple[torch.Tensor, torch.Tensor]
"""What the decoder reads at once: (n, width) embeddings and (3, n) positions."""
Calibration = Callable[[Qwen2VLForConditionalGeneration], Iterable[Sample]]


def quantised_writer(
    model: Qwen2VLForConditionalGeneration, calibration: Calibration, block: int, head_bits: int
) -> LinearWriter:
    """Let modelopt search scales; the model computes with fake-quantised weights afterwards.

    Args:
        model: In fp32; changed in place.
        calibration: What the decoder is shown.
        block: Of the last layer, which is rounded without AWQ.
        head_bits: Of the last layer.

    Raises:
        ConfigError: A layer's width is no multiple of 128.
    """
    check_widths(linear_layers(model), GROUP)
    samples = list(calibration(model))
    _search(model.model.language_model, samples)
    head = block_writer(head_bits, block, head_bits)

    def write(graph: Graph, value: str, layer: nn.Linear, name: str) -> str:
        return head(graph, value, layer, name) if name == HEAD else _write(graph, value, layer, name)

    return write


def _search(text: nn.Module, samples: Iterable[Sample]) -> None:
    with warnings.catch_warnings():
        # It warns of every transformers newer than itself, and of what torch will take away some day.
        warnings.simplefilter("ignore")
        import modelopt.torch.quantization as mtq

        def show(module: nn.Module) -> None:
            for embeddings, positions in samples:
                module(inputs_embeds=embeddings[None], position_ids=positions[:, None], use_cache=False)

        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            mtq.quantize(text, mtq.INT4_AWQ_CFG, show)


def rounded(weight: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Weights in steps, in the order of operations that modelopt has.

    A quotient by the step sends weights half a step from both the other way: 6 of 100 million random ones. On
    the 28 layers of the 2B structure, logits were then 0.0023 of the largest off, now they are 6e-5.
    """
    # A number over a tensor would be torch's reciprocal times the number, which is rounded twice.
    return torch.round(weight * (torch.tensor(float(MOST)) / (steps * MOST))).clamp(LEAST, MOST)


def _write(graph: Graph, value: str, layer: Any, name: str) -> str:
    """One layer: its input scaled, its weight in int4 groups along K."""
    weight = layer.weight.detach().float()
    out, width = weight.shape
    quantizer = layer.weight_quantizer
    # A scale that bf16 rounds is rounded for modelopt too, so that both sides compute the same.
    scales = in_dtype(graph, scales_of(quantizer.amax.detach().reshape(out, -1)))
    quantizer.amax = (scales.float() * MOST).reshape(quantizer.amax.shape)
    numbers = rounded(weight.reshape(out, -1, GROUP), scales.float()[..., None])
    smooth = layer.input_quantizer.pre_quant_scale
    if smooth is not None:
        factor = in_dtype(graph, smooth.detach().float())
        layer.input_quantizer.pre_quant_scale = factor.float()
        factors = graph.weight(f"{name}.input_scale", factor)
        value = graph.op("Mul", value, factors, name=f"{name}/input_scale")
    return write_groups(graph, value, numbers.reshape(out, width), scales, GROUP, name)
