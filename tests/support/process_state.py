"""What all tests of a process share and none may leave changed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch

__all__ = ["changes", "restore", "snapshot"]

_STATE: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "torch's gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "OpenCV's threads": (cv2.getNumThreads, cv2.setNumThreads),
    "the working directory": (Path.cwd, os.chdir),
    "sys.path": (
        # modelopt looks for a package that setuptools carries, which leaves this entry for good.
        lambda: [entry for entry in sys.path if not entry.endswith("_vendor")],
        lambda old: sys.path.__setitem__(slice(None), old),
    ),
    "sys.argv": (lambda: list(sys.argv), lambda old: sys.argv.__setitem__(slice(None), old)),
    "the handler of SIGINT": (
        lambda: signal.getsignal(signal.SIGINT),
        lambda old: signal.signal(signal.SIGINT, old),
    ),
    "the handler of SIGTERM": (
        lambda: signal.getsignal(signal.SIGTERM),
        lambda old: signal.signal(signal.SIGTERM, old),
    ),
}
"""By name: how it is read, and how it is put back."""
_NOT_OF_TESTS = ("PYTEST_", "COV_", "TORCHINDUCTOR_", "OPENCV_VIDEOIO_")
"""Environment variables that pytest, torch and our webcam set, the last two once, when they are imported."""


def snapshot() -> dict[str, Any]:
    """The state as it is, environment variables one by one."""
    variables = {f"${key}": value for key, value in os.environ.items() if not key.startswith(_NOT_OF_TESTS)}
    return {name: read() for name, (read, _) in _STATE.items()} | variables


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One line for each difference."""
    names = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return [f"{name}: {before.get(name)!r} -> {after.get(name)!r}" for name in sorted(names)]


def restore(before: dict[str, Any]) -> None:
    """Put back all that `snapshot` reads."""
    for name, (read, write) in _STATE.items():
        if read() != before[name]:
            write(before[name])
    for name in snapshot().keys() - before.keys():
        del os.environ[name[1:]]
    os.environ.update({name[1:]: value for name, value in before.items() if name.startswith("$")})
