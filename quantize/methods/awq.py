"""AWQ int4 by NVIDIA's modelopt: weights scaled by what the activations show, then rounded in groups of 128.

Only the text layers are given to modelopt, one at a time, so that tower and last layer are out of its reach
and one layer alone is in memory. A layer is shown what the layers before it make of the samples while nothing
is quantised, which is what modelopt shows it when it is given the whole model: the results are the same, bit
for bit. What it finds is written as ONNX's own block-wise DequantizeLinear: ONNX Runtime fuses it with the
product, TensorRT reads it.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.system.anonymous_memory import give_back_memory
from egolive.quantize.onnx.block_int4 import check_widths, write_groups
from egolive.quantize.onnx.decoder_graph import HEAD, LinearWriter, linear_layers
from egolive.quantize.onnx.layers import in_dtype
from egolive.quantize.onnx.onnx_graph import Graph
from egolive.quantize.onnx.weights import block_writer, written_scales
from egolive.quantize.weights.rounding import LEAST, MOST
from egolive.quantize.weights.stored_layers import StoredLinear, dense_layer
from egolive.streaming.errors import EngineError

__all__ = ["GROUP", "Calibration", "LayerSearch", "Sample", "awq_writer", "rounded", "scales_of"]

GROUP = 128
"""Weights along a row that share a scale."""
_DIFFERENT = 1e-5
"""Share of the weights that may be a step away from modelopt's: ties may be rounded the other way."""

Sample = tuple[torch.Tensor, torch.Tensor]
"""What the decoder reads at once: (n, width) embeddings and (3, n) positions."""
Calibration = Callable[[Qwen2VLForConditionalGeneration], Callable[[], Sequence[Sample]]]


class LayerSearch:
    """Lets modelopt search the scales of one text layer after the other."""

    def __init__(
        self, model: Qwen2VLForConditionalGeneration, samples: Callable[[], Sequence[Sample]], place: Path
    ):
        """Begin, or go on where an earlier search was cut off.

        Args:
            model: Its text layers are read; they stay as they are.
            samples: Gives what the first layer is shown.
            place: A folder for what the next layer is shown.
        """
        self._text: Any = model.model.language_model
        self._samples = samples
        self._place = place
        self._found: nn.Module | None = None
        self._number = -1
        self._states: list[Sample] | None = None

    def layer(self, number: int) -> Any:
        """A text layer as modelopt has quantised it; those before it must have been asked for or written."""
        if number != self._number:
            self._found = None
            # modelopt's layers are in reference cycles: they would stay until Python's collector runs, some
            # ten layers later.
            gc.collect()
            give_back_memory()
            states = self._shown(number)
            one, made = self._one(number), []
            with torch.no_grad():
                for hidden, positions in states:
                    made.append((_read(one, hidden, positions), positions))
            _search(one, states)
            self._found, self._number, self._states = one.layers[0], number, made
            self._keep(number + 1, made)
        return self._found

    def _one(self, number: int) -> Any:
        """The text model with one layer alone, in fp32, without embeddings and last norm."""
        config = copy.deepcopy(self._text.config)
        config.num_hidden_layers = 1
        config.layer_types = list(config.layer_types[:1])
        with torch.device("meta"):
            one = type(self._text)(config)
        one.layers = nn.ModuleList([dense_layer(self._text.layers[number], one.layers[0])])
        one.embed_tokens, one.norm = nn.Identity(), nn.Identity()
        one.rotary_emb = self._text.rotary_emb
        return one.eval()

    def _shown(self, number: int) -> list[Sample]:
        """What a layer is shown: by the layer before it, or from the disk."""
        if self._states is not None and number == self._number + 1:
            return self._states
        if number == 0:
            return list(self._samples())
        file = self._file(number)
        if file.is_file():
            found = load_file(file)
            return [(found[f"hidden.{at}"], found[f"positions.{at}"]) for at in range(len(found) // 2)]
        # What was on the disk is gone: the layers before are computed again, without a search.
        states = list(self._samples())
        for before in range(number):
            one = self._one(before)
            with torch.no_grad():
                states = [(_read(one, hidden, positions), positions) for hidden, positions in states]
        return states

    def _keep(self, number: int, states: Sequence[Sample]) -> None:
        """Write what a layer is shown; what older layers are shown goes once theirs is on the disk too."""
        tensors = {f"hidden.{at}": hidden.contiguous() for at, (hidden, _) in enumerate(states)}
        tensors |= {f"positions.{at}": positions.contiguous() for at, (_, positions) in enumerate(states)}
        part = self._file(number).with_suffix(".part")
        save_file(tensors, part)
        part.replace(self._file(number))
        self._file(number - 2).unlink(missing_ok=True)

    def _file(self, number: int) -> Path:
        return self._place / f"shown-{number}.states"

    def forget(self) -> None:
        """Remove what was kept to go on with."""
        for file in self._place.glob("shown-*"):
            file.unlink()


def awq_writer(
    model: Qwen2VLForConditionalGeneration, search: LayerSearch, block: int, head_bits: int
) -> LinearWriter:
    """Text layers with modelopt's scales; the model computes with the written weights afterwards.

    Args:
        model: To write.
        search: Of its layers.
        block: Of the last layer, which is rounded without AWQ.
        head_bits: Of the last layer.

    Raises:
        ConfigError: A layer's width is no multiple of 128.
    """
    check_widths(linear_layers(model), GROUP)
    head = block_writer(head_bits, block, head_bits, block)

    def write(graph: Graph, value: str, layer: StoredLinear, name: str) -> str:
        if name == HEAD:
            return head(graph, value, layer, name)
        factors = f"{name}.input_scale"
        if not graph.holds(f"{name}.weight", f"{name}.scales", factors):
            _, number, inner = name.split(".", 2)
            found = search.layer(int(number)).get_submodule(inner)
            numbers, scales, factor = _taken(found, graph, name)
            graph.weight(factors, in_dtype(graph, factor))
        else:
            graph.held(factors)
            numbers, scales = None, None
        layer.factor = torch.from_numpy(np.array(written_scales(graph, factors)))
        value = graph.op("Mul", value, factors, name=f"{name}/input_scale")
        return write_groups(graph, value, layer, name, numbers, scales, GROUP)

    return write


def _read(one: Any, hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = one(
        inputs_embeds=hidden[None], position_ids=positions[:, None], use_cache=False
    ).last_hidden_state
    return made[0]


def _search(text: nn.Module, samples: Iterable[Sample]) -> None:
    with warnings.catch_warnings():
        # It warns of every transformers newer than itself, and of what torch will take away some day.
        warnings.simplefilter("ignore")
        import modelopt.torch.quantization as mtq

        def show(module: nn.Module) -> None:
            for embeddings, positions in samples:
                _read(module, embeddings, positions)

        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            mtq.quantize(text, mtq.INT4_AWQ_CFG, show)


def scales_of(largest: torch.Tensor) -> torch.Tensor:
    """The step of each group from its largest absolute weight, as modelopt has it.

    A group of zeros has a step too: TensorRT refuses scales that are not positive.
    """
    scales = largest.float() / MOST
    return torch.where(scales > 0, scales, torch.ones_like(scales))


def rounded(weight: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Weights in steps, in the order of operations that modelopt has.

    A quotient by the step sends weights half a step from both the other way: 6 of 100 million random ones. On
    the 28 layers of the 2B structure, logits were then 0.0023 of the largest off, now they are 6e-5.
    """
    # A number over a tensor would be torch's reciprocal times the number, which is rounded twice.
    return torch.round(weight * (torch.tensor(float(MOST)) / (steps * MOST))).clamp(LEAST, MOST)


def _taken(layer: Any, graph: Graph, name: str) -> tuple[Any, Any, torch.Tensor]:
    """Numbers (N, K), scales (N, groups) and the factor of the input (K,) that modelopt has found.

    Raises:
        EngineError: They are not what modelopt computes with.
    """
    weight = layer.weight.detach().float()
    out, width = weight.shape
    quantizer = layer.weight_quantizer
    # Rounded as the graph will hold them, for modelopt too, so that both sides compute the same.
    scales = in_dtype(graph, scales_of(quantizer.amax.detach().reshape(out, -1))).float()
    quantizer.amax = (scales * MOST).reshape(quantizer.amax.shape)
    numbers = rounded(weight.reshape(out, -1, GROUP), scales[..., None])
    theirs = quantizer(weight).reshape(out, -1, GROUP)
    other = (theirs - numbers * scales[..., None]).abs() > 0.5 * scales[..., None]
    if float(other.float().mean()) > _DIFFERENT:
        raise EngineError(
            f"{name} is not rounded as modelopt rounds it: {int(other.sum())} of {weight.numel()} weights "
            "differ; please report this with the versions of `egolive doctor`"
        )
    smooth = layer.input_quantizer.pre_quant_scale
    factor = torch.ones(width) if smooth is None else smooth.detach().float().reshape(-1)
    return numbers.reshape(out, width).to(torch.int8).numpy(), scales.numpy(), factor
