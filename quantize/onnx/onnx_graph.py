"""Writes one ONNX graph of a model of any size: nodes in memory, weights straight to a file beside it.

Types are strict: whoever writes a node sees to it that its inputs are of one type. What the graphs compute is
in `egolive.quantize.onnx.tower_graph` and `egolive.quantize.onnx.decoder_graph`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["BF16", "FP32", "INT4", "INT64", "OPSET", "UINT8", "Graph", "fix_sizes"]

FP32, BF16, INT64 = TensorProto.FLOAT, TensorProto.BFLOAT16, TensorProto.INT64
INT4, UINT8 = TensorProto.INT4, TensorProto.UINT8
OPSET = 21
"""The first in which DequantizeLinear knows blocks and int4; TensorRT 10 and 11 read it too."""
_IR = 10
_MICROSOFT = 1
_INLINE = 1024
"""Bytes up to which a weight stands in the graph itself."""
_ALIGN = 64
_NUMBERS = {torch.float32: FP32, torch.bfloat16: BF16, torch.int64: INT64}

Shape = Sequence[int | str]
"""A text is the name of a size that is known when the graph runs."""


class Graph:
    """One graph in the making; a context manager that closes the file of its weights."""

    def __init__(self, path: Path, dtype: int = FP32) -> None:
        """Start an empty graph.

        Args:
            path: Where it will be; its weights go beside it, with the ending `.data`.
            dtype: In which hidden states are computed, `FP32` or `BF16`.
        """
        self.path = path
        self.dtype = dtype
        self._weights_path = path.with_suffix(".data")
        self._file = self._weights_path.open("wb")
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._domains: set[str] = set()

    def __enter__(self) -> Graph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def input(self, name: str, dtype: int, shape: Shape) -> str:
        """Declare an input."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, value: str, name: str, dtype: int, shape: Shape) -> None:
        """Declare that a value is an output, under another name."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"{name}/out"))
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))

    def op(
        self,
        kind: str,
        *inputs: str,
        name: str,
        domain: str = "",
        **attributes: int | float | str | Sequence[int],
    ) -> str:
        """Add a node with one output; returns the output's name, which is the node's."""
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, domain=domain, **attributes))
        self._domains.add(domain)
        return name

    def split(self, value: str, sizes: Sequence[int], *, name: str) -> list[str]:
        """Cut a value along its last axis."""
        names = [f"{name}.{number}" for number in range(len(sizes))]
        inputs = [value, self.ints(sizes)]
        self._nodes.append(helper.make_node("Split", inputs, names, name=name, axis=-1))
        return names

    def ints(self, values: Sequence[int]) -> str:
        """A constant list of whole numbers, such as a shape."""
        name = "ints_" + "_".join(map(str, values))
        return self._add(numpy_helper.from_array(np.array(values, dtype=np.int64), name))

    def scalar(self, value: float, dtype: int) -> str:
        """A constant number."""
        name = f"number_{value!r}_{dtype}"
        return self._add(helper.make_tensor(name, dtype, [], [value]))

    def weight(self, name: str, tensor: torch.Tensor) -> str:
        """A weight in its own number format."""
        values = tensor.detach().cpu().contiguous()
        raw = values.view(torch.uint8).numpy().tobytes() if values.numel() else b""
        return self.raw(name, _NUMBERS[tensor.dtype], tuple(tensor.shape), raw)

    def array(self, name: str, values: NDArray[np.generic]) -> str:
        """A numpy array as a weight."""
        dtype = helper.np_dtype_to_tensor_dtype(values.dtype)
        return self.raw(name, dtype, values.shape, np.ascontiguousarray(values).tobytes())

    def raw(self, name: str, dtype: int, shape: Sequence[int], data: bytes) -> str:
        """A weight as the bytes that ONNX stores for its type."""
        tensor = TensorProto(name=name, data_type=dtype, dims=shape)
        if len(data) <= _INLINE:
            tensor.raw_data = data
            return self._add(tensor)
        if name in self._weights:
            return name
        self._file.write(b"\0" * (-self._file.tell() % _ALIGN))
        place = {
            "location": self._weights_path.name,
            "offset": str(self._file.tell()),
            "length": str(len(data)),
        }
        self._file.write(data)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        return self._add(tensor)

    def save(self, producer: str) -> None:
        """Write the graph; its weights must stay beside it.

        Args:
            producer: Who made it.
        """
        self._file.close()
        graph = helper.make_graph(
            self._nodes, self.path.stem, self._inputs, self._outputs, list(self._weights.values())
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if "com.microsoft" in self._domains:
            opsets.append(helper.make_opsetid("com.microsoft", _MICROSOFT))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR, producer_name=producer)
        onnx.save(model, self.path)
        if not self._weights_path.stat().st_size:
            self._weights_path.unlink()
        if "com.microsoft" not in self._domains:
            onnx.checker.check_model(self.path, full_check=True)

    def _add(self, tensor: TensorProto) -> str:
        self._weights.setdefault(tensor.name, tensor)
        return str(tensor.name)


def fix_sizes(path: Path, out: Path, **sizes: int) -> None:
    """Write a graph whose sizes of the run are numbers; its weights stay where they are.

    Args:
        path: The graph, of standard nodes alone.
        out: In the same folder; may be the same file.
        **sizes: By name; sizes that are not named stay open.
    """
    model = onnx.load(path, load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in sizes:
                size.dim_value = sizes[size.dim_param]
    onnx.save(model, out)
    onnx.checker.check_model(out, full_check=True)
