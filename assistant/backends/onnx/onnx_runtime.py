"""ONNX Runtime sessions on the execution provider that was asked for, without spinning threads.

Inputs and outputs are bound by name to the memory of torch tensors; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from egolive.assistant.backends.onnx.graph_limits import Ranges
from egolive.assistant.backends.onnx.graph_types import Bound
from egolive.assistant.model.engine_folder import DECODER_FILE, EngineCard
from egolive.assistant.system.user_cache import cache_folder
from egolive.streaming.errors import EngineError, one_line

__all__ = [
    "OnnxGraph",
    "bind_tensors",
    "default_device",
    "open_session",
    "tensorrt_cache",
    "tensorrt_settings",
]

_BFLOAT16 = 16
"""ONNX's number for bfloat16, which numpy has no type for."""
_TYPES = {torch.float32: np.float32, torch.int64: np.int64, torch.bfloat16: _BFLOAT16}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TENSORRT = "TensorrtExecutionProvider"
_ERROR = 3


class OnnxGraph:
    """A graph on one provider; a `LoadedGraph`."""

    def __init__(
        self,
        path: Path,
        device: torch.device,
        threads: int | None,
        *,
        exact: bool = False,
        tensorrt: Mapping[str, str] | None = None,
    ) -> None:
        """Load a graph; see `open_session`."""
        self._session = open_session(path, device, threads, exact=exact, tensorrt=tensorrt)

    def dtype(self, name: str) -> torch.dtype:
        """Number format of an output."""
        found = next(output.type for output in self._session.get_outputs() if output.name == name)
        return torch.bfloat16 if found == "tensor(bfloat16)" else torch.float32

    def run(self, inputs: Bound, outputs: Bound, doing: str) -> None:
        """Run it once; see `LoadedGraph`."""
        _run(self._session, inputs, outputs, doing)


def default_device() -> torch.device:
    """A GPU where both onnxruntime and torch can use one, else the CPU."""
    usable = _PROVIDERS["cuda"] in onnxruntime.get_available_providers() and torch.cuda.is_available()
    return torch.device("cuda", 0) if usable else torch.device("cpu")


def open_session(
    path: Path,
    device: torch.device,
    threads: int | None,
    *,
    exact: bool = False,
    tensorrt: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """Load a graph onto a device.

    Args:
        path: The graph, its weights beside it.
        device: A CPU or CUDA device.
        threads: CPU threads; None takes one a core.
        exact: Leave activations that meet int4 weights in fp32, for checking.
        tensorrt: Settings of the TensorRT provider, which then runs all of the graph.

    Raises:
        EngineError: The graph is damaged, or the device's provider is not to be had.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERROR
    # Threads that spin while they wait would take the cores from the camera.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Block-wise int4 and int8 weights meet activations in 8 bits, block by block: the fast kernels.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0" if exact else "4")
    options.intra_op_num_threads = threads or 0
    # Every pass has another length: a plan of memory would hold for one of them.
    options.enable_mem_pattern = False
    provider = _PROVIDERS[device.type] if tensorrt is None else _TENSORRT
    instead = "use --device cpu" if tensorrt is None else "leave --provider away"
    if provider not in onnxruntime.get_available_providers():
        raise EngineError(
            f"this onnxruntime has no {provider}: install onnxruntime-gpu in place of onnxruntime, "
            f"or {instead}"
        )
    settings = {"device_id": str(device.index or 0)} if device.type == "cuda" else {}
    if tensorrt is not None:
        settings |= tensorrt
        # TensorRT optimises by itself, and what it does not take would run on the CPU without a word.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(
            path, sess_options=options, providers=[provider], provider_options=[settings]
        )
    except Exception as error:  # onnxruntime's errors have no common kind
        raise EngineError(f"{path} cannot be loaded: {one_line(error)}") from error
    # A provider that fails to start is replaced by the CPU without a word.
    if session.get_providers()[0] != provider:
        raise EngineError(
            f"{path.name} was to run on {provider} and got {session.get_providers()[0]}: the provider's "
            f"libraries do not load here (see `egolive doctor`), or {instead}"
        )
    return session


def tensorrt_cache(card: EngineCard) -> Path:
    """Where the TensorRT provider keeps what it builds from an engine folder: in the user's own cache.

    The folder's own files are those that its card vouches for, and what is built here is no part of it.
    """
    return cache_folder() / "tensorrt" / str(card.files[DECODER_FILE]["sha256"])[:16]


def tensorrt_settings(cache: Path, ranges: Ranges, *, bf16: bool) -> dict[str, str]:
    """Settings of the TensorRT provider.

    Args:
        cache: Folder for engines and timings, so that they are built once.
        ranges: Shapes for which the engine is built; empty for a graph without sizes of the run.
        bf16: Whether the graph has bf16 tensors, which TensorRT 10 has to be allowed.
    """
    settings = {
        "trt_bf16_enable": "1" if bf16 else "0",
        "trt_engine_cache_enable": "1",
        "trt_timing_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_path": str(cache),
    }
    for at, which in enumerate(("min", "opt", "max")):
        if ranges:
            shapes = (f"{name}:{'x'.join(map(str, three[at]))}" for name, three in ranges.items())
            settings[f"trt_profile_{which}_shapes"] = ",".join(shapes)
    return settings


def bind_tensors(bind: Callable[..., None], tensors: Bound) -> None:
    """Bind inputs or outputs of a run to the memory of torch tensors.

    Args:
        bind: `bind_input` or `bind_output` of a session's binding.
        tensors: By name, each with the shape that the graph sees; must outlive the run.
    """
    for name, (tensor, shape) in tensors.items():
        place = tensor.device
        bind(name, place.type, place.index or 0, _TYPES[tensor.dtype], shape, tensor.data_ptr())


def _run(session: onnxruntime.InferenceSession, inputs: Bound, outputs: Bound, doing: str) -> None:
    binding = session.io_binding()
    bind_tensors(binding.bind_input, inputs)
    bind_tensors(binding.bind_output, outputs)
    try:
        # torch and onnxruntime each have a queue of their own on a GPU.
        if any(tensor.is_cuda for tensor, _ in inputs.values()):
            torch.cuda.synchronize()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
    except Exception as error:  # onnxruntime's errors have no common kind
        reason = one_line(error)
        if "allocate" in reason.lower() or "out of memory" in reason.lower():
            raise EngineError(
                f"memory ran out while {doing}: use fewer or smaller pictures, or a smaller engine"
            ) from error
        raise EngineError(f"the device failed while {doing}: {reason}") from error
