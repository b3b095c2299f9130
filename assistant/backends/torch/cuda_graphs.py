"""CUDA graphs: the kernels of a step, recorded once and launched all at once from then on."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import torch

from egolive.assistant.backends.torch.static_steps import Capture

__all__ = ["cuda_capture"]

_WARM_UPS = 2
"""Runs before the recorded one: libraries choose kernels and take their memory in the first."""

_CAPTURING = Lock()
"""torch records one graph at a time in a process."""


def cuda_capture(device: torch.device) -> Capture:
    """What records steps on a CUDA device.

    All graphs share the memory of what lives only inside a step, so they must not run at the same time.

    Args:
        device: On which all tensors of the steps are.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    pool = torch.cuda.graph_pool_handle()

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        before = torch.cuda.current_stream(device)
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                step()
        before.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # What other threads do meanwhile, such as encoding for another session, is their own affair.
        mode = "thread_local"
        with (
            _CAPTURING,
            torch.cuda.device(device),
            torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode=mode),
        ):
            step()
        return graph.replay

    return capture
