"""Runs a written graph one layer at a time, for a machine that cannot hold it as a whole.

A graph is cut where its layers meet. Each piece is loaded, run and let go; what one leaves is given to the
next. A piece is made of the nodes that stand in the file, and takes nothing from before it but what they
name, so that the pieces together are the graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from egolive.assistant.backends.onnx.graph_types import Bound
from egolive.assistant.backends.onnx.onnx_runtime import bind_tensors, open_session
from egolive.assistant.system.anonymous_memory import give_back_memory
from egolive.streaming.errors import EngineError

__all__ = ["LayerGraph", "Reference", "runs_otherwise"]

_LAYER = re.compile(r"^(?:layers|blocks)\.(\d+)[./]")
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a decoder has to compute in all of its passes, the rows of one pass behind those of another."""

    layers: Sequence[torch.Tensor]
    """The output of each layer, (rows, width)."""
    logits: torch.Tensor
    """(kept rows of the last pass, vocabulary)."""


class LayerGraph:
    """A graph on the CPU, a layer at a time; a `LoadedGraph`."""

    def __init__(
        self,
        path: Path,
        *,
        exact: bool,
        reference: Reference | None = None,
        threads: int | None = None,
        stepped: Callable[[], None] = lambda: None,
    ) -> None:
        """Read a graph without its weights.

        Args:
            path: The graph, its weights beside it.
            exact: Compute in fp32 with exact activations, also what is stored in bf16: the CPU has no bf16
                products, and activations in 8 bits would hide small mistakes.
            reference: Each layer is run a second time, on what the reference gives it; see `differences`.
            threads: CPU threads; None takes one a core.
            stepped: Called after each piece.
        """
        self.differences: dict[str, float] = {}
        """By layer, and for what follows the last one, how much its output differs from the reference's when
        it is given the reference's input: the largest difference as a share of the largest value. A layer's
        own rounding stands in it alone, not what the layers before have passed on."""
        self._reference = reference
        self._rows = 0
        self._path = path
        self._exact = exact
        self._threads = threads
        self._stepped = stepped
        self._model = onnx.load(path, load_external_data=False)
        self._weights = {weight.name: weight for weight in self._model.graph.initializer}
        self._types = {value.name: value for value in (*self._model.graph.input, *self._model.graph.output)}
        self._pieces = self._cut()

    def dtype(self, name: str) -> torch.dtype:
        """Number format of an output."""
        wide = self._types[name].type.tensor_type.elem_type == TensorProto.FLOAT
        return torch.float32 if wide or self._exact else torch.bfloat16

    def run(self, inputs: Bound, outputs: Bound, doing: str) -> None:
        """Run it once; see `LoadedGraph`."""
        left: dict[str, NDArray[Any]] = {}
        for number, nodes in enumerate(self._pieces):
            taken, given = self._ends(number)
            session = self._open(nodes, taken, given)
            before = left
            made = self._run(session, taken, given, inputs, outputs, left, f"{number} while {doing}")
            left = left | made
            if self._reference is not None and number > 0:
                self._compare(session, number, taken, given, inputs, outputs, before, made)
            del session
            give_back_memory()
            later = {name for piece in self._pieces[number + 1 :] for node in piece for name in node.input}
            left = {name: value for name, value in left.items() if name in later}
            self._stepped()
        self._rows += inputs["embeddings"][1][1] if "embeddings" in inputs else 0

    def _run(
        self,
        session: onnxruntime.InferenceSession,
        taken: Sequence[str],
        given: Sequence[str],
        inputs: Bound,
        outputs: Bound,
        left: Mapping[str, NDArray[Any]],
        doing: str,
    ) -> dict[str, NDArray[Any]]:
        """Run a piece; returns what it leaves to others."""
        binding = session.io_binding()
        bind_tensors(binding.bind_input, {name: inputs[name] for name in taken if name in inputs})
        for name in taken:
            if name in left:
                binding.bind_cpu_input(name, left[name])
        bound = [name for name in given if name in outputs]
        bind_tensors(binding.bind_output, {name: outputs[name] for name in bound})
        carried = [name for name in given if name not in outputs]
        for name in carried:
            binding.bind_output(name, "cpu")
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's errors have no common kind
            reason = " ".join(str(error).split())[:300]
            raise EngineError(f"{self._path.name} fails in piece {doing}: {reason}") from error
        # In the order in which they were bound. Copies: a value of a session would keep all of its memory.
        found = dict(zip([*bound, *carried], binding.get_outputs(), strict=True))
        return {name: np.array(found[name].numpy()) for name in carried}

    def _compare(
        self,
        session: onnxruntime.InferenceSession,
        number: int,
        taken: Sequence[str],
        given: Sequence[str],
        inputs: Bound,
        outputs: Bound,
        left: Mapping[str, NDArray[Any]],
        made: Mapping[str, NDArray[Any]],
    ) -> None:
        """Run a piece on what the reference gives it, and compare what it makes of it."""
        assert self._reference is not None
        layer, layers = number - 1, self._reference.layers
        count = inputs["embeddings"][1][1]
        rows = slice(self._rows, self._rows + count)
        # What it writes elsewhere is written already.
        spare: Bound = {
            name: (torch.empty_like(tensor), shape)
            for name, (tensor, shape) in outputs.items()
            if name in given
        }
        if layer > 0:
            forced = np.ascontiguousarray(layers[layer - 1][rows].numpy()[None])
            left = {**left, f"layers.{layer - 1}/add": forced}
            made = self._run(session, taken, given, inputs, spare, left, f"{number} while checking it")
        if layer < len(layers):
            name, found = f"layer {layer}", torch.from_numpy(made[f"layers.{layer}/add"][0])
            expected = layers[layer][rows]
        else:
            name, found, expected = "last layer", spare["logits"][0], self._reference.logits
            if len(found) != len(expected):
                return
        worst = float((found - expected).abs().max() / expected.abs().max())
        self.differences[name] = max(self.differences.get(name, 0.0), worst)

    def _cut(self) -> list[list[onnx.NodeProto]]:
        """Nodes before the first layer, those of each layer, and those behind the last."""
        numbers = [_LAYER.match(node.name) for node in self._model.graph.node]
        # Outputs are named after their layer at the end: "new.3.key/out" stands among its nodes.
        last = max((int(found[1]) for found in numbers if found), default=-1)
        pieces: list[list[onnx.NodeProto]] = [[] for _ in range(last + 3)]
        place = 0
        for node, found in zip(self._model.graph.node, numbers, strict=True):
            if found:
                place = int(found[1]) + 1
            elif place > 0 and not node.name.startswith("new."):
                place = last + 2
            pieces[place].append(node)
        return pieces

    def _ends(self, number: int) -> tuple[list[str], list[str]]:
        """Names of what a piece takes from outside, and of what it gives to others."""
        made = {name for node in self._pieces[number] for name in node.output}
        used = {name for node in self._pieces[number] for name in node.input if name}
        taken = sorted(name for name in used - made if name not in self._weights)
        after = {name for piece in self._pieces[number + 1 :] for node in piece for name in node.input}
        wanted = after | {value.name for value in self._model.graph.output}
        return taken, sorted(made & wanted)

    def _open(
        self, nodes: list[onnx.NodeProto], taken: list[str], given: list[str]
    ) -> onnxruntime.InferenceSession:
        names = dict.fromkeys(name for node in nodes for name in node.input if name in self._weights)
        graph = helper.make_graph(
            nodes,
            "piece",
            [self._declared(name) for name in taken],
            [self._declared(name) for name in given],
            [self._weights[name] for name in names],
        )
        model = helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
        )
        if self._exact:
            _widen(model.graph)
        # Beside the weights: their file is found by its name.
        path = self._path.with_suffix(".piece.onnx")
        onnx.save(model, path)
        try:
            return open_session(path, _CPU, self._threads, exact=self._exact)
        finally:
            path.unlink(missing_ok=True)

    def _declared(self, name: str) -> onnx.ValueInfoProto:
        """An input or output of a piece; between pieces all values have the graph's own format."""
        if name in self._types:
            return self._types[name]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def runs_otherwise(path: Path) -> bool:
    """Whether this CPU runs the graph with activations in 8 bits; one in bf16 it cannot run at all."""
    graph = onnx.load(path, load_external_data=False).graph
    if any(weight.data_type == TensorProto.BFLOAT16 for weight in graph.initializer):
        return False
    return any(node.op_type in ("MatMulNBits", "DequantizeLinear") for node in graph.node)


def _widen(graph: onnx.GraphProto) -> None:
    """Let a graph compute the same weights in fp32, with exact activations."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
            if node.op_type == "Cast" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    casts = []
    for weight in graph.initializer:
        if weight.data_type == TensorProto.BFLOAT16:
            name, weight.name = weight.name, f"{weight.name}/bf16"
            to = TensorProto.FLOAT
            casts.append(helper.make_node("Cast", [weight.name], [name], name=f"{name}/wide", to=to))
    for number, node in enumerate(casts):
        graph.node.insert(number, node)
