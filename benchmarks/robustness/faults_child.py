"""`egolive run` with a fault injected; started by `benchmarks.robustness.faults_process`.

    python -m egolive.benchmarks.robustness.faults_child FAULT MARK run test: --out out

The command is the real one. The file MARK appears at the moment of the fault.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from egolive.assistant.cli import main as cli
from egolive.assistant.cli.options import ModelOptions
from egolive.assistant.live.sinks import VideoSink
from egolive.benchmarks.robustness.scripted_engine import ScriptedEngine

__all__ = ["main"]

_HEALTHY = 6
"""Times that the engine works before it fails."""


def main(fault: str, mark: Path) -> None:
    """Prepare the fault, then run the command with the arguments that are left."""
    # As from a terminal: what a shell starts in the background ignores interrupts, and so does its offspring.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _FAULTS[fault](mark)
    cli.main()


def _none(_: Path) -> None:
    _load(ScriptedEngine(None))


def _first_answer(mark: Path) -> None:
    _load(ScriptedEngine(None, before=mark.touch))


def _loading(mark: Path) -> None:
    """Mark when the model is being loaded; it is nano, which takes some seconds."""
    load = ModelOptions.load

    def marked(self: ModelOptions) -> Any:
        mark.touch()
        return load(self)

    ModelOptions.load = marked  # type: ignore[method-assign]


def _finishing(mark: Path) -> None:
    """Mark when the first sink is closed, and delay that."""
    _none(mark)
    close = VideoSink.close

    def marked(self: VideoSink) -> None:
        mark.touch()
        time.sleep(0.5)
        close(self)

    VideoSink.close = marked  # type: ignore[method-assign]


def _hang(mark: Path) -> None:
    def hang() -> None:
        mark.touch()
        threading.Event().wait()

    _load(ScriptedEngine(None, before=_after(_HEALTHY, hang)))


def _full_disk(mark: Path) -> None:
    """No file can grow beyond 2 MB; what was written last shows when that happened."""
    import resource

    _none(mark)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))


def _device_fails(mark: Path) -> None:
    import torch

    _break_nano(mark, 1, torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))


def _no_device_memory(mark: Path) -> None:
    import torch

    _break_nano(mark, 0, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))


def _no_memory(mark: Path) -> None:
    _break_nano(mark, 1, MemoryError())


def _break_nano(mark: Path, half: int, error: BaseException) -> None:
    """Let the torch modules of nano's tower (0) or decoder (1) raise something."""
    load = ModelOptions.load

    def fail() -> NoReturn:
        mark.touch()
        raise error

    def broken(self: ModelOptions) -> Any:
        engine: Any = load(self)
        tower, decoder = engine.backend()
        part = decoder.text_model.norm if half else tower._visual
        failing = _after(_HEALTHY, fail)
        part.register_forward_pre_hook(lambda *_: failing())
        return engine

    ModelOptions.load = broken  # type: ignore[method-assign]


def _after(times: int, act: Callable[[], object]) -> Callable[[], object]:
    """Does nothing so many times, then acts."""
    left = iter(range(times))
    return lambda: act() if next(left, None) is None else None


def _load(engine: ScriptedEngine) -> None:
    ModelOptions.load = lambda self: engine  # type: ignore[method-assign,assignment,return-value]


_FAULTS: dict[str, Callable[[Path], None]] = {
    "none": _none,
    "first answer": _first_answer,
    "loading": _loading,
    "finishing": _finishing,
    "hang": _hang,
    "full disk": _full_disk,
    "device fails": _device_fails,
    "no device memory": _no_device_memory,
    "no memory": _no_memory,
}

if __name__ == "__main__":
    arguments = sys.argv[1:3]
    sys.argv[:3] = ["egolive"]
    main(arguments[0], Path(arguments[1]))
