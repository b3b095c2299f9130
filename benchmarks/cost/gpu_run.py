"""The 7B structure in every form on a GPU, then the tests that need one: `make gpu`, within a time.

    python -m egolive.benchmarks.cost.gpu_run --minutes 10
    python -m egolive.benchmarks.cost.gpu_run --device cpu --checkpoint CHECKPOINT --no-tests

Weights are random: speed and memory do not depend on them. Each step is a process of its own, which is ended
when the time is over. For each one a JSON line is printed: its name, whether it is "done", "skipped" or
"failed", seconds, and the figures of `egolive.benchmarks.cost.engine_costs` or the reason. It ends with 1
where a step failed; what this machine cannot do is skipped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any, Literal

import torch
from cyclopts import App

from egolive.assistant.system import machine

__all__ = ["gpu_run"]

_SLICES = (1, 4, 8)
"""Lengths of the windows whose prompts are timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One process."""

    name: str
    command: list[str]
    lacks: Callable[[], str | None] = lambda: None
    """Why it cannot be done here; None where it can."""
    figures: bool = False
    """Whether the last line that it prints is a JSON object."""
    needs: Path | None = None
    """What an earlier step has made."""


def gpu_run(
    structure: Literal["2b", "7b"] = "7b",
    *,
    device: Literal["cpu", "cuda"] = "cuda",
    minutes: float = 10.0,
    checkpoint: Path | None = None,
    tests: bool = True,
) -> int:
    """Run all steps, print a line for each, and return 0, or 1 where one failed.

    Args:
        structure: Whose random weights are made.
        device: Where the model runs; "cpu" is for trying this command.
        minutes: After which the step that runs is ended, and none is begun.
        checkpoint: Used instead of random weights.
        tests: Run the tests that need a GPU behind the figures.
    """
    until = time.monotonic() + 60 * minutes
    failed = False
    with tempfile.TemporaryDirectory(prefix="egolive-gpu-") as work:
        _print({"step": "machine", **machine.gather()})
        for step in _steps(Path(work), checkpoint, structure, device, tests):
            line = _run(step, until - time.monotonic())
            failed = failed or line["state"] == "failed"
            _print(line)
    return int(failed)


def _steps(work: Path, checkpoint: Path | None, structure: str, device: str, tests: bool) -> Iterator[_Step]:
    """The steps in their order, the most telling first."""
    source = checkpoint or work / "random"
    cuda = device == "cuda"
    module = [sys.executable, "-m"]
    egolive = [*module, "egolive"]

    def costs(form: str, folder: Path, **lacking: Any) -> _Step:
        asked = {"model": str(folder), "device": device, "slices": _SLICES}
        command = [*module, "egolive.benchmarks.cost.engine_costs", json.dumps(asked)]
        return _Step(name=f"{form}, costs", command=command, figures=True, needs=folder, **lacking)

    def no_gpu() -> str | None:
        return None if not cuda or torch.cuda.is_available() else "torch finds no CUDA device"

    if checkpoint is None:
        made = [*module, "egolive.benchmarks.stream.random_weights", structure, str(source)]
        yield _Step(name="random weights", command=[*made, "--device", device], lacks=no_gpu)
    yield costs("bf16" if cuda else "fp32", source, lacks=no_gpu)
    for form, lacks in (
        ("nf4", lambda: no_gpu() or _lacks("bitsandbytes")),
        (
            "int4",
            lambda: no_gpu() or _lacks("onnx", "onnxruntime") or (_no_cuda_provider() if cuda else None),
        ),
    ):
        folder = work / form
        options = ["--dtype", "bf16"] if form == "int4" and cuda else []
        command = [*egolive, "quantize", str(source), "--to", form, "--out", str(folder), *options]
        yield _Step(name=f"{form}, made", command=command, lacks=lacks, needs=source)
        yield costs(form, folder)
    folder = work / "tensorrt"
    command = [*egolive, "export", str(source), "--to", "tensorrt", "--weights", "int4", "--out", str(folder)]
    # Without a GPU the graphs alone are written, and nothing can run them.
    command += [] if cuda else ["--graphs-only"]
    yield _Step(
        name="tensorrt int4, made",
        command=command,
        lacks=lambda: no_gpu() or _lacks("onnx", *(["tensorrt"] if cuda else [])),
        needs=source,
    )
    if cuda:
        yield costs("tensorrt int4", folder)
    if tests:
        yield _Step(name="tests", command=[*module, "pytest", "-m", "gpu", "-q", "-rs"])


def _run(step: _Step, seconds: float) -> dict[str, Any]:
    """One step within a time; what it prints and logs goes to standard error."""
    line: dict[str, Any] = {"step": step.name, "state": "skipped"}
    reason = step.lacks()
    if reason is None and step.needs is not None and not step.needs.exists():
        reason = f"there is no {step.needs.name}"
    if reason is None and seconds <= 0:
        reason = "the time is over"
    if reason is not None:
        return line | {"reason": reason}
    begun = time.monotonic()
    try:
        done = subprocess.run(
            step.command,
            stdout=subprocess.PIPE if step.figures else sys.stderr,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return line | {"state": "failed", "reason": f"ended after {seconds:.0f} s, when the time was over"}
    line |= {"state": "failed" if done.returncode else "done", "seconds": round(time.monotonic() - begun, 1)}
    if done.returncode:
        return line | {"reason": f"exit code {done.returncode}"}
    return line | (json.loads(done.stdout.splitlines()[-1]) if step.figures else {})


def _lacks(*packages: str) -> str | None:
    missing = [name for name in packages if util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def _no_cuda_provider() -> str | None:
    import onnxruntime

    found = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return None if found else "this onnxruntime has no CUDAExecutionProvider"


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(App(default_command=gpu_run, result_action="return_value")())
