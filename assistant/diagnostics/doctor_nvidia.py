"""What the doctor tells of Jetsons, TensorRT and ONNX Runtime's providers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from egolive.assistant.system.jetson import OLDEST_JETPACK
from egolive.assistant.system.machine import Facts

__all__ = ["nvidia_lacks", "nvidia_rows"]


def nvidia_lacks(here: Facts) -> list[tuple[str, str]]:
    """What is missing on a Jetson, or for engines of graphs on a GPU, each with its remedy.

    Args:
        here: `machine` of `machine.gather()`.
    """
    found = []
    gpus = cast(Sequence[Facts], here["gpus"])
    board = cast(dict[str, str] | None, here.get("jetson"))
    providers = cast(Sequence[str], here.get("providers", ()))
    if board is not None:
        jetpack = board["jetpack"]
        if jetpack and int(jetpack.partition(".")[0]) < OLDEST_JETPACK:
            found.append(
                (
                    f"JetPack {jetpack} is not supported: its Python and CUDA are too old",
                    "flash JetPack 7 (7.2 for Orin), which has Python 3.12 and CUDA 13",
                )
            )
        if not cast(dict[str, str], here["tensorrt"])["python"]:
            mend = "sudo apt install python3-libnvinfer, and a venv with --system-site-packages"
            found.append(("this Python sees no TensorRT", mend))
        found += [_not_built_for(gpu) for gpu in gpus if not _runs_on(gpu)]
    if gpus and providers and "CUDA" not in providers:
        mend = "pip uninstall onnxruntime, then pip install onnxruntime-gpu: both own one folder"
        found.append(("ONNX Runtime cannot use the GPU", mend))
    return found


def nvidia_rows(here: Facts) -> list[tuple[str, str]]:
    """Lines of the table about this machine; none where there is nothing of NVIDIA's."""
    board = cast(dict[str, str] | None, here.get("jetson"))
    tensorrt = cast(dict[str, str], here.get("tensorrt", {}))
    seen, system = tensorrt.get("python", ""), tensorrt.get("system", "")
    rows = []
    if board is not None:
        jetpack = board["jetpack"] or "of unknown version"
        rows.append(("JetPack", f"{jetpack}, Jetson Linux {board['l4t']}; CPU and GPU share the memory"))
    if here.get("cuda"):
        rows.append(("CUDA", str(here["cuda"])))
    if seen or system:
        rows.append(("TensorRT", seen or f"{system}, not seen by this Python"))
    if here.get("providers"):
        rows.append(("ONNX Runtime", "built for " + ", ".join(cast(Sequence[str], here["providers"]))))
    return rows


def _runs_on(gpu: Facts) -> bool:
    """Whether torch has code for a Jetson's GPU.

    Code for another architecture of the family does not run there; what is still to be compiled does.
    """
    kernels = cast(Sequence[str], gpu.get("kernels", ()))
    return not kernels or _own(gpu) in kernels or any(name.startswith("compute_") for name in kernels)


def _not_built_for(gpu: Facts) -> tuple[str, str]:
    mend = "take a wheel that was built for it, see docs/guides/jetson.md"
    return f"torch was not built for this GPU ({_own(gpu)})", mend


def _own(gpu: Facts) -> str:
    return f"sm_{str(gpu['capability']).replace('.', '')}"
