"""Most memory that one engine has needed, apart from what earlier ones of the same process needed."""

from __future__ import annotations

import torch

from egolive.streaming.metrics import peak_rss_bytes, reset_peak_rss

__all__ = ["PeakMemory"]


class PeakMemory:
    """Counts from its making on; make it before the engine is loaded."""

    def __init__(self) -> None:
        self._counted = reset_peak_rss()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(device)

    def process_mb(self) -> float | None:
        """Most that the process has held, in megabytes; None where the system cannot count anew."""
        return round(peak_rss_bytes() / 1e6, 1) if self._counted else None

    def device_mb(self, device: str, backend: str) -> float | None:
        """Most that an engine has taken of its GPU, in megabytes; arguments as in its `EngineInfo`.

        None on a processor, and for engines of graphs: ONNX Runtime and TensorRT take memory of their own,
        which torch does not count.
        """
        if not device.startswith("cuda") or backend != "torch":
            return None
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
