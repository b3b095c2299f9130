"""A stand-in for NVIDIA's `tensorrt` package, so that calls made to it can be seen where it cannot be had.

It is a fake: it knows only the calls that egolive makes, in the form in which NVIDIA documents them, refuses
others (an attribute that does not exist, a flag of another version), and computes with ONNX Runtime on the
CPU, reading and writing the very addresses that it was given. That TensorRT itself takes the graphs, and how
fast it is, only a GPU can tell.
"""

from __future__ import annotations

import ctypes
import json
from contextlib import nullcontext
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

CALLS: list[tuple[Any, ...]] = []
"""What was called, with what matters of it."""


class ILogger:
    """Severities stand on the class, as in the package."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        self.base_was_made = True


class TensorIOMode(IntEnum):
    """Which way a tensor goes."""

    NONE, INPUT, OUTPUT = range(3)


class _Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.path = ""


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        if not all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True)):
            raise RuntimeError("Shape provided for max is inconsistent with other shapes.")
        self.shapes[name] = [tuple(least), tuple(usual), tuple(most)]


class _Cache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data


class _Config:
    def __init__(self) -> None:
        self.profiles: list[_Profile] = []

    def clear_flag(self, flag: str) -> None:
        CALLS.append(("clear_flag", flag))

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> _Cache:
        CALLS.append(("create_timing_cache", data))
        return _Cache(data)

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        if cache.data.startswith(b"other GPU"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> _Cache:
        return self.cache


class Builder:
    """Notes what it is asked to build."""

    def __init__(self, logger: ILogger) -> None:
        assert logger.base_was_made
        self.logger: Any = logger

    def create_network(self, flags: int) -> _Network:
        CALLS.append(("create_network", flags))
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        inputs = onnx.load(network.path, load_external_data=False).graph.input
        open_sizes = {v.name for v in inputs for d in v.type.tensor_type.shape.dim if d.dim_param}
        if open_sizes and not (config.profiles and all(open_sizes <= set(p.shapes) for p in config.profiles)):
            self.logger.log(ILogger.ERROR, "Network has dynamic inputs\nwithout a profile")
            return None
        CALLS.append(("build", Path(network.path).name, len(config.profiles)))
        config.cache = _Cache(config.cache.data + Path(network.path).name.encode())
        profiles = [profile.shapes for profile in config.profiles]
        return json.dumps({"graph": network.path, "profiles": profiles}).encode()


class OnnxParser:
    """Takes every file that is not empty."""

    def __init__(self, network: _Network, logger: ILogger) -> None:
        self.network = network
        self.num_errors = 0

    def parse_from_file(self, path: str) -> bool:
        self.network.path = path
        self.num_errors = 0 if Path(path).stat().st_size else 1
        return not self.num_errors

    def get_error(self, number: int) -> str:
        return f"In node {number}:\nnothing is there"


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.profile = -1
        self.shapes = dict(engine.fixed)
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        if number >= self.engine.num_optimization_profiles:
            raise RuntimeError("Error in set optimization profile async.")
        self.profile = number
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.get_tensor_profile_shape(name, self.profile)
        if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
            return False
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.types

    def execute_async_v3(self, stream: int) -> bool:
        assert set(self.addresses) == set(self.engine.types), "every tensor has an address"
        CALLS.append(("execute", self.engine.name, self.profile))
        feeds = {v.name: self._memory(v.name, self.shapes[v.name]) for v in self.engine.session.get_inputs()}
        names = [value.name for value in self.engine.session.get_outputs()]
        for name, found in zip(names, self.engine.session.run(names, feeds), strict=True):
            self._memory(name, found.shape)[...] = found
        return True

    def _memory(self, name: str, shape: tuple[int, ...]) -> Any:
        dtype = np.dtype(self.engine.types[name])
        size = int(np.prod(shape)) * dtype.itemsize
        buffer: Any = (ctypes.c_char * size).from_address(self.addresses[name])
        return np.frombuffer(buffer, dtype=dtype).reshape(shape)


class _Engine:
    def __init__(self, plan: dict[str, Any]) -> None:
        graph = Path(plan["graph"])
        self.name = graph.name
        # A plan of the real one needs no graph; this one's has been moved up to its engine folder.
        found = graph if graph.is_file() else graph.parent.parent / graph.name
        self.session = onnxruntime.InferenceSession(found, providers=["CPUExecutionProvider"])
        self.profiles = plan["profiles"] or [{}]
        values = (*self.session.get_inputs(), *self.session.get_outputs())
        kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        self.types = {value.name: kinds[value.type] for value in values}
        sizes = {
            v.name: tuple(size if isinstance(size, int) else -1 for size in v.shape)
            for v in self.session.get_inputs()
        }
        self.sizes = sizes
        self.fixed = {name: size for name, size in sizes.items() if -1 not in size}
        self.num_io_tensors = len(self.types)
        self.num_optimization_profiles = len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return str(list(self.types)[index])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.sizes else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.sizes[name]

    def get_tensor_dtype(self, name: str) -> str:
        return "fp32"

    def get_tensor_profile_shape(self, name: str, number: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.profiles[number][name]]

    def create_execution_context(self, strategy: str) -> _Context:
        CALLS.append(("create_execution_context", strategy))
        return _Context(self)


class Runtime:
    """Opens what the builder wrote."""

    def __init__(self, logger: ILogger) -> None:
        self.logger: Any = logger

    def deserialize_cuda_engine(self, plan: Any) -> _Engine | None:
        try:
            return _Engine(json.loads(bytes(plan)))
        except ValueError:
            self.logger.log(ILogger.ERROR, "Serialization\nassertion failed")
            return None


class _Stream:
    cuda_stream = 7

    def wait_stream(self, other: _Stream) -> None:
        CALLS.append(("wait_stream",))

    def synchronize(self) -> None:
        """Nothing is under way."""


def install(monkeypatch: pytest.MonkeyPatch, version: str) -> ModuleType:
    """Put the fake where `import tensorrt` finds it, and what is used of `torch.cuda` beside it."""
    CALLS.clear()
    fake = ModuleType("tensorrt")
    vars(fake).update(
        __version__=version,
        ILogger=ILogger,
        Builder=Builder,
        OnnxParser=OnnxParser,
        Runtime=Runtime,
        TensorIOMode=TensorIOMode,
        BuilderFlag=SimpleNamespace(TF32="TF32"),
        DataType=SimpleNamespace(BF16="bf16", FLOAT="fp32"),
        ExecutionContextAllocationStrategy=SimpleNamespace(ON_PROFILE_CHANGE="on profile change"),
    )
    if version.startswith("10."):
        # TensorRT 11 takes the flag and ignores it; here it would be an error.
        vars(fake)["NetworkDefinitionCreationFlag"] = SimpleNamespace(STRONGLY_TYPED=1)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", fake)
    properties = SimpleNamespace(major=8, minor=7, name="Orin")
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_properties": lambda device: properties,
        "device": lambda device: nullcontext(),
        "Stream": lambda device: _Stream(),
        "current_stream": lambda device: _DEFAULT,
        "default_stream": lambda device: _DEFAULT,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return fake


_DEFAULT = _Stream()
