"""Writes one ONNX graph of a model of any size: nodes in memory, weights straight to a file beside it.

Types are strict: whoever writes a node sees to it that its inputs are of one type. What the graphs compute is
in `egolive.quantize.onnx.tower_graph` and `egolive.quantize.onnx.decoder_graph`.

A journal beside the weights tells which of them are on the disk. A graph that is written again where another
was cut off takes those over: whoever writes a weight asks first whether the graph holds it already.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from egolive.assistant.system.anonymous_memory import give_back_memory
from egolive.streaming.durable_files import replace_file

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
        self._journal = path.with_suffix(".journal")
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._domains: set[str] = set()
        self._kept: dict[str, TensorProto] = {}
        """Weights that are on the disk, by name."""
        self._new: list[str] = []
        """Names of those that the journal does not tell of yet."""
        size = self._take_over()
        self._file = self._weights_path.open("r+b" if size else "wb")
        self._file.truncate(size)
        self._file.seek(size)

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

    def holds(self, *names: str) -> bool:
        """Whether weights need not be computed: they are in the graph, or were when it was cut off."""
        return all(name in self._weights or name in self._kept for name in names)

    def held(self, name: str) -> str:
        """A weight that the graph holds already, by its name."""
        return self._add(self._weights.get(name) or self._kept[name])

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
        return self.stream(name, dtype, shape, [data])

    def stream(self, name: str, dtype: int, shape: Sequence[int], parts: Iterable[bytes]) -> str:
        """A weight as bytes that come in parts; none is asked for where the graph holds it already."""
        if self.holds(name):
            return self.held(name)
        tensor = TensorProto(name=name, data_type=dtype, dims=shape)
        parts = iter(parts)
        first = next(parts, b"")
        second = next(parts, None)
        self._new.append(name)
        if second is None and len(first) <= _INLINE:
            tensor.raw_data = first
            return self._add(tensor)
        self._file.write(b"\0" * (-self._file.tell() % _ALIGN))
        start = self._file.tell()
        self._file.write(first)
        if second is not None:
            self._file.write(second)
        for part in parts:
            self._file.write(part)
        place = {
            "location": self._weights_path.name,
            "offset": str(start),
            "length": str(self._file.tell() - start),
        }
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        return self._add(tensor)

    def keep(self) -> None:
        """See to it that what has been written so far outlives whatever happens to the process.

        What was needed for it is given back to the system.
        """
        give_back_memory()
        if not self._new:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        weights = [base64.b64encode(self._weights[name].SerializeToString()).decode() for name in self._new]
        self._new = []
        line = json.dumps({"size": self._file.tell(), "weights": weights}) + "\n"
        with self._journal.open("a", encoding="ascii") as journal:
            journal.write(line)
            journal.flush()
            os.fsync(journal.fileno())

    def place(self, name: str) -> tuple[Path, int] | None:
        """File and offset of a weight's bytes; None where they stand in the graph itself."""
        tensor = self._weights[name]
        if tensor.data_location != TensorProto.EXTERNAL:
            return None
        told = {entry.key: entry.value for entry in tensor.external_data}
        return self._weights_path, int(told["offset"])

    def mapped(
        self, name: str, dtype: type[np.generic] = np.uint8, shape: tuple[int, ...] | None = None
    ) -> NDArray[Any]:
        """A weight's numbers as they are stored, mapped from the file where they stand there.

        Args:
            name: Of the weight.
            dtype: As which its bytes are read.
            shape: Of the result; that of the weight without it.
        """
        tensor = self._weights[name]
        shape = tuple(tensor.dims) if shape is None else shape
        place = self.place(name)
        if place is None:
            return np.frombuffer(tensor.raw_data, dtype=dtype).reshape(shape)
        self._file.flush()
        return np.memmap(place[0], dtype=dtype, mode="r", offset=place[1], shape=shape)

    def save(self, producer: str) -> None:
        """Write the graph; its weights must stay beside it. The journal stays until the engine is whole.

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

    def _take_over(self) -> int:
        """Read what a graph that was cut off has left; returns the bytes of its weights that count."""
        try:
            lines = self._journal.read_text(encoding="ascii").splitlines()
            there = self._weights_path.stat().st_size
        except OSError:
            lines, there = [], 0
        size = 0
        whole = []
        for line in lines:
            try:
                told = json.loads(line)
                weights = [TensorProto.FromString(base64.b64decode(text)) for text in told["weights"]]
                end = int(told["size"])
            except (ValueError, KeyError, TypeError, binascii.Error, DecodeError):
                # The last line may have been cut off.
                break
            if end > there:
                break
            size = end
            whole.append(line)
            self._kept |= {weight.name: weight for weight in weights}
        if whole != lines:
            replace_file(self._journal, "".join(f"{line}\n" for line in whole).encode("ascii"))
        return size

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
