"""What this machine is: processor, memory, accelerators, cameras and installed versions, as plain facts.

`egolive doctor` and every measuring command write these beside their figures. Judging them is not done here.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil

from egolive.assistant.system import jetson

__all__ = ["Facts", "cameras", "commit", "gather", "gpus", "memory", "processor", "versions"]

Facts = dict[str, object]

PACKAGES = (
    "egolive",
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "av",
    "opencv-python-headless",
    "supervision",
    "numpy",
    "pillow",
    "xgrammar",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "bitsandbytes",
    "trl",
    "peft",
    "datasets",
)
"""Distributions whose version matters for an answer or for its speed."""

_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


def gather() -> Facts:
    """Everything below in one object, ready for JSON; `command` and `commit` say what ran."""
    return {
        "command": " ".join(["egolive", *sys.argv[1:]]),
        "commit": commit(),
        "machine": {
            "platform": platform.platform(),
            "model": _read("/proc/device-tree/model").rstrip("\0"),
            "processor": processor(),
            "memory": memory(),
            "gpus": gpus(),
            "cameras": cameras(),
            **jetson.accelerators(),
        },
        "versions": {"python": platform.python_version()}
        | {k: v for k, v in versions().items() if v is not None},
    }


def versions() -> dict[str, str | None]:
    """Installed version of each package, None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def commit() -> str:
    """Commit of the source tree that runs, with "+" where files differ; empty for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def processor() -> Facts:
    """Name, cores that this process may use, and instruction sets that matter for inference.

    `features` are told by Linux alone; elsewhere the list is empty.
    """
    # psutil tells neither the name nor the instruction sets.
    lines = _read("/proc/cpuinfo").splitlines()
    pairs = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((pairs.get("flags") or pairs.get("Features") or "").split())
    process = psutil.Process()
    # macOS has no affinity.
    cores = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1
    return {
        "name": pairs.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": cores,
        "features": [name for name in _FEATURES if name in flags],
    }


def memory(cgroup: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> dict[str, int]:
    """Bytes of main memory: total, and available, which is what programs can still take.

    Args:
        cgroup: Where Linux tells the limits of containers and services, which count where they are below the
            machine's memory.
        own: Which of them this process is in; those above it hold for it too.
    """
    whole = psutil.virtual_memory()
    total, available = int(whole.total), int(whole.available)
    for folder in _cgroups(cgroup, own):
        for most, now in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = (_read(folder / name).strip() for name in (most, now))
            if limit.isdigit() and used.isdigit() and 0 < int(limit) < int(whole.total):
                # What was read from files counts as used, and is given up when memory is wanted.
                left = int(limit) - max(0, int(used) - _file_pages(folder))
                total, available = min(total, int(limit)), min(available, max(0, left))
    return {"total": total, "available": available}


def _cgroups(root: Path, own: Path) -> list[Path]:
    """Folders of the control groups that hold for this process, of version 2 and 1; inside a container /."""
    found = [root, root / "memory"]
    for line in _read(own).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        parts = [part for part in path.split("/") if part not in ("", "..")]
        if controllers in ("", "memory"):
            base = root / "memory" if controllers else root
            found += [base.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return found


def _file_pages(folder: Path) -> int:
    """Bytes of a control group that are pages of files, which the system can drop."""
    pairs = [line.split() for line in _read(folder / "memory.stat").splitlines()]
    return sum(int(pair[1]) for pair in pairs if pair[0] in ("inactive_file", "active_file"))


def gpus() -> list[Facts]:
    """Accelerators that torch can use: name, device, total and free bytes, compute capability.

    `kernels` are the architectures that torch was built for, such as "sm_87".
    """
    # Imported here: help texts and the camera list do not wait for torch.
    import torch

    found: list[Facts] = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        found.append(
            {
                "device": f"cuda:{index}",
                "name": properties.name,
                "total": total,
                "free": free,
                "capability": f"{properties.major}.{properties.minor}",
                "kernels": torch.cuda.get_arch_list(),
            }
        )
    return found


def cameras(devices: Path = Path("/dev"), classes: Path = Path("/sys/class/video4linux")) -> list[Facts]:
    """Video nodes of Linux: path, name, and whether this user may read it; none elsewhere. None is opened."""
    found: list[Facts] = []
    nodes = [node for node in devices.glob("video*") if node.name[5:].isdigit()]
    for node in sorted(nodes, key=lambda node: int(node.name[5:])):
        name = _read(classes / node.name / "name").strip()
        found.append({"path": str(node), "name": name, "readable": os.access(node, os.R_OK | os.W_OK)})
    return found


def _read(path: str | Path) -> str:
    """The file's text, or nothing where it cannot be read: most of these exist on some systems only."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
