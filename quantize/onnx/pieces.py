"""Runs a written graph one layer at a time, for a machine that cannot hold it as a whole.

A graph is cut where its layers meet. Each piece is loaded, run and let go; what one leaves is given to the
next. A piece is made of the nodes that stand in the file, and takes nothing from before it but what they
name, so that the pieces together are the graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable
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

__all__ = ["LayerGraph", "runs_otherwise"]

_LAYER = re.compile(r"^(?:layers|blocks)\.(\d+)[./]")
_CPU = torch.device("cpu")

Observer = Callable[[int, NDArray[np.float32]], None]
"""Told a layer's number and its output."""


class LayerGraph:
    """A graph on the CPU, a layer at a time; a `LoadedGraph`."""

    def __init__(
        self,
        path: Path,
        *,
        exact: bool,
        observer: Observer | None = None,
        threads: int | None = None,
        stepped: Callable[[], None] = lambda: None,
    ) -> None:
        """Read a graph without its weights.

        Args:
            path: The graph, its weights beside it.
            exact: Compute in fp32 with exact activations, also what is stored in bf16: the CPU has no bf16
                products, and activations in 8 bits would hide small mistakes.
            observer: Told the output of each layer.
            threads: CPU threads; None takes one a core.
            stepped: Called after each piece.
        """
        self._path = path
        self._exact = exact
        self._observer = observer
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
                raise EngineError(
                    f"piece {number} of {self._path.name} fails while {doing}: {reason}"
                ) from error
            # In the order in which they were bound.
            found = dict(zip([*bound, *carried], binding.get_outputs(), strict=True))
            # Copies: a value of a session would keep all of its memory.
            left |= {name: np.array(found[name].numpy()) for name in carried}
            self._tell(number, left)
            del session, binding, found
            later = {name for piece in self._pieces[number + 1 :] for node in piece for name in node.input}
            left = {name: value for name, value in left.items() if name in later}
            give_back_memory()
            self._stepped()

    def _tell(self, number: int, left: dict[str, NDArray[Any]]) -> None:
        """Show the observer what a layer leaves to the next one."""
        layer = number - 1
        name = next(
            (name for name in (f"layers.{layer}/add", f"blocks.{layer}.mlp/add") if name in left), None
        )
        if self._observer is not None and name is not None:
            self._observer(layer, left[name])

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
