"""TensorRT engines, bound to the memory of torch tensors by address, on torch's CUDA streams.

Written for TensorRT 10 and 11 by their documentation; see docs/guides/tensorrt.md for what has been run. Its
package is imported when it is needed: it comes from NVIDIA, not with egolive.
"""

from __future__ import annotations

import logging
import mmap
from functools import cache
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import torch

from egolive.assistant.backends.onnx.graph_types import Bound
from egolive.streaming.errors import EngineError, one_line

__all__ = ["TensorRtGraph", "complaint", "gpu_fingerprint", "logger_of", "strong_typing", "tensorrt_module"]

_log = logging.getLogger(__name__)

_MAJORS = (10, 11)
_NEEDED = "https://docs.nvidia.com/deeplearning/tensorrt/latest/installing-tensorrt/installing.html"


def tensorrt_module() -> ModuleType:
    """TensorRT's Python package.

    Raises:
        EngineError: It is missing, is of a version that egolive does not know, or there is no GPU.
    """
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # the package, or the libraries that it opens
        reason = one_line(error, 120)
        raise EngineError(
            f"TensorRT's Python package cannot be imported ({reason}): on a Jetson it comes with JetPack "
            f"(sudo apt install python3-libnvinfer), elsewhere see {_NEEDED}"
        ) from error
    if _major(tensorrt) not in _MAJORS:
        raise EngineError(f"TensorRT {tensorrt.__version__} is here, egolive is written for 10 and 11")
    if not torch.cuda.is_available():
        raise EngineError("TensorRT needs a CUDA device that torch can use; see `egolive doctor`")
    return tensorrt  # type: ignore[no-any-return]


def strong_typing(trt: ModuleType) -> int:
    """Flags of a network whose number formats are those of its graph; from TensorRT 11 on all are such."""
    if _major(trt) >= 11:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def gpu_fingerprint(trt: ModuleType, device: torch.device) -> dict[str, str]:
    """What an engine depends on: TensorRT's version, the GPU's name and its compute capability."""
    properties = torch.cuda.get_device_properties(device)
    capability = f"{properties.major}.{properties.minor}"
    return {"tensorrt": trt.__version__, "gpu": properties.name, "capability": capability}


@cache
def logger_of(trt: ModuleType) -> Any:
    """What TensorRT tells, in this project's logs; all that it makes keeps this one object."""

    class Logger(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""
            """The last error."""

        def log(self, severity: Any, msg: str) -> None:
            text = " ".join(msg.split())
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.last = text
                _log.error("%s", text)
            elif severity == trt.ILogger.WARNING:
                _log.info("%s", text)

    return Logger()


def complaint(trt: ModuleType) -> str:
    """The last error that TensorRT has told, in short, and forget it."""
    logger = logger_of(trt)
    text, logger.last = logger.last, ""
    return text[:300] or "TensorRT gave no reason"


class TensorRtGraph:
    """An engine on its device, with a context for each of its ranges of shapes; a `LoadedGraph`."""

    def __init__(self, trt: ModuleType, path: Path, device: torch.device) -> None:
        """Load an engine.

        Args:
            trt: TensorRT's package.
            path: The engine's file, which has been verified.
            device: On which it was built.

        Raises:
            EngineError: It cannot be loaded, or its memory is not to be had.
        """
        self._trt = trt
        self._device = device
        self._name = path.name
        self._lock = Lock()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            self._runtime = trt.Runtime(logger_of(trt))
            # Mapped, not read: on a Jetson the copy would take the GPU's memory.
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
                self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise EngineError(f"{path} cannot be loaded: {complaint(trt)}")
            self._inputs = self._dynamic_inputs()
            self._limits, self._contexts = self._open_contexts()

    def _dynamic_inputs(self) -> set[str]:
        names = [self._engine.get_tensor_name(at) for at in range(self._engine.num_io_tensors)]
        return {
            name
            for name in names
            if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            and -1 in tuple(self._engine.get_tensor_shape(name))
        }

    def _open_contexts(self) -> tuple[list[dict[str, tuple[Any, Any]]], list[Any]]:
        """The smallest and largest shapes of each range, and its context."""
        limits, contexts = [], []
        for number in range(self._engine.num_optimization_profiles):
            shapes = {name: self._engine.get_tensor_profile_shape(name, number) for name in self._inputs}
            limits.append({name: (tuple(three[0]), tuple(three[2])) for name, three in shapes.items()})
            # Each takes the working memory of its own range, not that of the largest.
            strategy = self._trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
            context = self._engine.create_execution_context(strategy)
            try:
                ready = context is not None
                ready = ready and context.set_optimization_profile_async(number, self._stream.cuda_stream)
            except RuntimeError:  # the bindings' way to say that it was refused
                ready = False
            if not ready:
                raise EngineError(f"{self._name} gets no memory to run in: {complaint(self._trt)}")
            contexts.append(context)
        self._stream.synchronize()
        return limits, contexts

    def dtype(self, name: str) -> torch.dtype:
        """Number format of an output."""
        if self._engine.get_tensor_dtype(name) == self._trt.DataType.BF16:
            return torch.bfloat16
        return torch.float32

    def run(self, inputs: Bound, outputs: Bound, doing: str) -> None:
        """Run it once, on torch's stream; see `LoadedGraph`.

        The next work on torch's stream comes after it; the CPU does not wait.
        """
        current = torch.cuda.current_stream(self._device)
        # A graph is captured on its own stream; on the default one TensorRT would wait for the GPU.
        stream = self._stream if current == torch.cuda.default_stream(self._device) else current
        with self._lock:
            context = self._context_for(inputs)
            for name, (tensor, shape) in (*inputs.items(), *outputs.items()):
                fits = name not in self._inputs or context.set_input_shape(name, shape)
                if not fits or not context.set_tensor_address(name, tensor.data_ptr()):
                    raise EngineError(f"the device failed while {doing}: {name}: {complaint(self._trt)}")
            if stream is not current:
                stream.wait_stream(current)
            if not context.execute_async_v3(stream.cuda_stream):
                raise EngineError(f"the device failed while {doing}: {complaint(self._trt)}")
            if stream is not current:
                current.wait_stream(stream)

    def _context_for(self, inputs: Bound) -> Any:
        """The context of the last range that holds all shapes; the last is for the smallest passes."""
        for limits, context in zip(reversed(self._limits), reversed(self._contexts), strict=True):
            if all(
                all(low <= size <= high for low, size, high in zip(least, inputs[name][1], most, strict=True))
                for name, (least, most) in limits.items()
            ):
                return context
        shapes = ", ".join(f"{name} {inputs[name][1]}" for name in sorted(self._inputs)[:4])
        raise EngineError(f"{self._name} was built for other shapes than {shapes}; export it again")


def _major(trt: ModuleType) -> int:
    return int(str(trt.__version__).partition(".")[0])
