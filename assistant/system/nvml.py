"""What NVIDIA's driver tells of its GPUs through NVML (package nvidia-ml-py), without torch.

Each answer is None where there is no such package, no driver, or a GPU that does not tell, such as most of a
Jetson's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["driver_version", "energy_joules", "power_watts", "temperature", "throttled"]

_T = TypeVar("_T")


def driver_version() -> str | None:
    """Version of NVIDIA's driver, such as "580.65.06"."""
    return _ask(lambda nvml: str(nvml.nvmlSystemGetDriverVersion()))


def power_watts(index: int = 0) -> float | None:
    """Power that a GPU draws now, in watts.

    Args:
        index: The GPU's place in the driver's own order, as nvidia-smi lists them.
    """
    return _ask(lambda nvml: nvml.nvmlDeviceGetPowerUsage(nvml.nvmlDeviceGetHandleByIndex(index)) / 1e3)


def energy_joules(index: int = 0) -> float | None:
    """Energy that a GPU has taken since its driver was loaded, in joules; counted from Volta on.

    Args:
        index: The GPU's place in the driver's own order, as nvidia-smi lists them.
    """
    return _ask(
        lambda nvml: nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByIndex(index)) / 1e3
    )


def temperature(index: int = 0) -> tuple[float, float] | None:
    """Temperature of a GPU, and the one from which on it slows itself down, in degrees Celsius."""
    return _ask(lambda nvml: _temperature(nvml, nvml.nvmlDeviceGetHandleByIndex(index)))


def throttled(index: int = 0) -> bool | None:
    """Whether a GPU slows itself down now, because of heat or because it gets too little power."""
    return _ask(lambda nvml: _throttled(nvml, nvml.nvmlDeviceGetHandleByIndex(index)))


def _temperature(nvml: Any, gpu: Any) -> tuple[float, float]:
    now = nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)
    limit = nvml.nvmlDeviceGetTemperatureThreshold(gpu, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
    return float(now), float(limit)


def _throttled(nvml: Any, gpu: Any) -> bool:
    reasons = (
        nvml.nvmlClocksThrottleReasonHwSlowdown
        | nvml.nvmlClocksThrottleReasonHwThermalSlowdown
        | nvml.nvmlClocksThrottleReasonSwThermalSlowdown
        | nvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
    )
    return bool(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu) & reasons)


def _ask(question: Callable[[Any], _T]) -> _T | None:
    """The answer to one question; NVML counts how often it was opened, so this disturbs nobody else."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            return question(pynvml)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
