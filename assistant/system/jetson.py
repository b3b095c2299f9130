"""What NVIDIA has put on this machine beside its GPUs: JetPack, CUDA, TensorRT, ONNX Runtime's providers.

Facts from files and package lists; nothing is started and no GPU is asked. Judging them is not done here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path

__all__ = ["OLDEST_JETPACK", "accelerators", "cuda_version", "jetson", "providers", "tensorrt_version"]

OLDEST_JETPACK = 7
"""The first with Ubuntu 24.04, Python 3.12 and CUDA 13; those before have Python 3.10 or older."""

_RELEASE = re.compile(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
_JETPACKS = {"39.2": "7.2", "38.4": "7.1", "38.2": "7.0", "36": "6", "35": "5", "34": "5", "32": "4"}
"""JetPack by Jetson Linux (L4T), where its own package is not installed, as in a container."""


def accelerators() -> dict[str, object]:
    """All of this module's facts about this machine, by name."""
    return {
        "jetson": jetson(),
        "cuda": cuda_version(),
        "tensorrt": tensorrt_version(),
        "providers": providers(),
    }


def jetson(
    release: Path = Path("/etc/nv_tegra_release"), status: Path = Path("/var/lib/dpkg/status")
) -> dict[str, str] | None:
    """Jetson Linux (`l4t`) and JetPack (`jetpack`) of a Jetson, empty where not known; None elsewhere.

    Args:
        release: What Jetson Linux says of itself.
        status: Debian's list of installed packages.
    """
    found = _RELEASE.search(_read(release))
    if found is None:
        return None
    l4t = f"{found[1]}.{found[2]}"
    package = _package(_read(status), "nvidia-jetpack")
    known = next((jetpack for prefix, jetpack in _JETPACKS.items() if f"{l4t}.".startswith(f"{prefix}.")), "")
    return {"l4t": l4t, "jetpack": re.split(r"[+-]", package)[0] or known}


def cuda_version(version: Path = Path("/usr/local/cuda/version.json")) -> str:
    """CUDA's version as its toolkit states it; empty where there is none. torch may bring its own."""
    try:
        return str(json.loads(_read(version))["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return ""


def tensorrt_version(status: Path = Path("/var/lib/dpkg/status")) -> dict[str, str]:
    """TensorRT's version as this Python sees it (`python`) and the system has it (`system`); may be empty."""
    try:
        seen = metadata.version("tensorrt")
    except metadata.PackageNotFoundError:
        seen = ""
    text = _read(status)
    libraries = (_package(text, f"libnvinfer{major}") for major in (11, 10))
    return {"python": seen, "system": next((v.split("-")[0] for v in libraries if v), "")}


def providers() -> Sequence[str]:
    """Providers that ONNX Runtime was built with, without their suffix; whether they start is not tried."""
    if util.find_spec("onnxruntime") is None:
        return []
    import onnxruntime

    return [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]


def _package(status: str, name: str) -> str:
    """Version of an installed Debian package; empty where it is not installed."""
    paragraph = re.search(rf"(?m)^Package: {re.escape(name)}\n((?:.+\n?)*)", status)
    if paragraph is None or not re.search(r"(?m)^Status: .* installed$", paragraph[1]):
        return ""
    version = re.search(r"(?m)^Version: (.+)$", paragraph[1])
    return version[1] if version else ""


def _read(path: Path) -> str:
    """The file's text, or nothing where it cannot be read: most of these exist on some systems only."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
