"""ONNX Runtime sessions as this project runs them: on the provider that was asked for, without idle spinning.

Tensors stay where torch put them: inputs and outputs are bound by name to their memory, nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from egolive.streaming.errors import EngineError

__all__ = ["default_device", "open_session", "run"]

_BFLOAT16 = 16
"""ONNX's number for bfloat16, which numpy has no type for."""
_TYPES = {torch.float32: np.float32, torch.int64: np.int64, torch.bfloat16: _BFLOAT16}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ERROR = 3


def default_device() -> torch.device:
    """A GPU where both onnxruntime and torch can use one, else the CPU."""
    usable = _PROVIDERS["cuda"] in onnxruntime.get_available_providers() and torch.cuda.is_available()
    return torch.device("cuda", 0) if usable else torch.device("cpu")


def open_session(
    path: Path, device: torch.device, threads: int | None, *, exact: bool = False
) -> onnxruntime.InferenceSession:
    """Load a graph onto a device.

    Args:
        path: The graph, its weights beside it.
        device: A CPU or CUDA device.
        threads: CPU threads; None takes one a core.
        exact: Leave activations that meet int4 weights in fp32, for checking.

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
    provider = _PROVIDERS[device.type]
    if provider not in onnxruntime.get_available_providers():
        raise EngineError(
            f"this onnxruntime has no {provider}: install onnxruntime-gpu in place of onnxruntime, "
            "or use --device cpu"
        )
    settings = {"device_id": str(device.index or 0)} if device.type == "cuda" else {}
    try:
        session = onnxruntime.InferenceSession(
            path, sess_options=options, providers=[provider], provider_options=[settings]
        )
    except Exception as error:  # onnxruntime's errors have no common kind
        raise EngineError(f"{path} cannot be loaded: {_one_line(error)}") from error
    # A provider that fails to start is replaced by the CPU without a word.
    if session.get_providers()[0] != provider:
        raise EngineError(
            f"{path.name} was to run on {provider} and got {session.get_providers()[0]}: the provider's "
            "libraries do not load here (see `egolive doctor`), or use --device cpu"
        )
    return session


def run(
    session: onnxruntime.InferenceSession,
    inputs: Mapping[str, tuple[torch.Tensor, tuple[int, ...]]],
    outputs: Mapping[str, tuple[torch.Tensor, tuple[int, ...]]],
    doing: str,
) -> None:
    """Run a graph once, reading and writing torch's memory.

    Args:
        session: The graph.
        inputs: By name, the tensor whose memory begins where the input's does, contiguous from there, and
            the input's shape.
        outputs: The same for what is written.
        doing: What is being done, as it stands in "the device failed while ...".

    Raises:
        EngineError: The device failed or is out of memory.
    """
    binding = session.io_binding()
    for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
        for name, (tensor, shape) in tensors.items():
            place = tensor.device
            bind(name, place.type, place.index or 0, _TYPES[tensor.dtype], shape, tensor.data_ptr())
    try:
        # torch and onnxruntime each have a queue of their own on a GPU.
        if any(tensor.is_cuda for tensor, _ in inputs.values()):
            torch.cuda.synchronize()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
    except Exception as error:  # onnxruntime's errors have no common kind
        reason = _one_line(error)
        if "allocate" in reason.lower() or "out of memory" in reason.lower():
            raise EngineError(
                f"memory ran out while {doing}: use fewer or smaller pictures, or a smaller engine"
            ) from error
        raise EngineError(f"the device failed while {doing}: {reason}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
