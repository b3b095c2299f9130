"""`egolive bench all`: every measurement one after the other, into one folder with one report.

    egolive bench all --out results --quick

Each is a command of its own in a process of its own, so that one that fails leaves a line in the report in
place of its figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from egolive.assistant.system import machine
from egolive.benchmarks.report.html_report import Part, headlines, write_report
from egolive.streaming.errors import SinkError, UsageError

__all__ = ["all_benchmarks"]

_EXPORTS = {"onnx-fp32": ("export",), "onnx-int4": ("quantize", "--to", "int4")}
"""Engines that are made of the model where none are given."""


@dataclass(frozen=True, slots=True)
class _Command:
    """One measurement."""

    name: str
    title: str
    words: str = ""
    """Arguments of a whole run."""
    quick: str = ""
    """Arguments of a quick one."""
    takes: str = "plot"
    """Which common options it has: engines (arguments), peers (--engine, --server), model, threads, plot."""


_COMMANDS = (
    _Command(
        "engines",
        "Cost of engines against the machine's limits",
        quick="--slices 1 --slices 8",
        takes="engines threads plot",
    ),
    _Command("latency", "Glass to overlay", "--seconds 60", "--seconds 8", "engines threads plot"),
    _Command(
        "peers",
        "The same questions, other ways to run the model",
        "--every 2",
        "--no-compiled",
        "peers model threads plot",
    ),
    _Command(
        "stream",
        "What reuse saves, and that it is exact",
        quick="--hops 16 --naive-every 8 --no-gains",
        takes="model threads plot",
    ),
    _Command(
        "scaling",
        "How the cost of an answer grows",
        "--hours 2",
        "--hours 0.05 --slices 4 --hops 4",
        "model threads plot",
    ),
    _Command("quality", "Quality of answers", "--episodes 110", "--episodes 3", "engines threads"),
    _Command("tracking", "Accuracy of tracked boxes", quick="--episodes 2", takes=""),
    _Command("recall", "Recall of where something was put", quick="--sessions 1", takes=""),
    _Command("overhead", "Cost of everything but the engine", quick="--seconds 4", takes=""),
    _Command("soak", "Hours of stream, and faults", quick="--quick"),
)


def all_benchmarks(
    *,
    out: Path,
    model: str = "nano",
    engine: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    server: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    quick: Annotated[bool, Parameter(negative="")] = False,
    only: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    threads: int | None = None,
) -> int:
    """Run every benchmark into one folder: results.jsonl, plots and report.html.

    Args:
        out: The folder; new or empty.
        model: nano or a checkpoint folder.
        engine: Engine folders made of it; without any, fp32 and int4 are exported for ONNX Runtime.
        server: Address of an OpenAI-compatible server that serves the model, for the peers.
        quick: Everything once and short, in less than ten minutes on two cores.
        only: Names of those that are run; all without it.
        threads: CPU threads of engines and peers.

    Returns:
        0, or 1 where one of them failed.
    """
    known = [command.name for command in _COMMANDS]
    if unknown := set(only) - set(known):
        raise UsageError(f"--only {min(unknown)} is not known; there are {', '.join(known)}")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads is 1 or more, got {threads}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UsageError(f"{out} is not empty; name a new folder with --out")
    except OSError as error:
        raise SinkError(f"{out}: cannot be written ({error.strerror or error})") from error
    console = Console(stderr=True, highlight=False)
    begun = time.monotonic()
    engines = list(engine) or list(_exported(model, out, console))
    parts: list[Part] = []
    with (out / "results.jsonl").open("w", encoding="utf-8") as lines:
        for command in _COMMANDS:
            if only and command.name not in only:
                continue
            words = _words(command, model, engines, server, quick=quick, threads=threads)
            part = _measure(command, words, out)
            parts.append(part)
            line = {"part": part.name, "seconds": part.seconds, **part.figures}
            lines.write(json.dumps(line | ({"failed": part.failed} if part.failed else {})) + "\n")
            lines.flush()
            console.print(f"{part.name}: {part.failed or 'done'}, {part.seconds:.0f} s", soft_wrap=True)
    whole = machine.gather() | {"quick": quick, "seconds": round(time.monotonic() - begun)}
    write_report(out / "report.html", parts, whole)
    for what, figure in headlines({part.name: part.figures for part in parts}):
        console.print(f"{what}: {figure}", soft_wrap=True)
    console.print(f"{out / 'report.html'}, {whole['seconds']} s", soft_wrap=True)
    return int(any(part.failed for part in parts))


def _exported(model: str, out: Path, console: Console) -> Iterator[str]:
    """Engines of the model for ONNX Runtime, where it is installed."""
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        console.print("onnx or onnxruntime is not installed: only the checkpoint itself is measured")
        return
    for name, words in _EXPORTS.items():
        folder = out / "engines" / name
        done = _egolive([words[0], model, *words[1:], "--out", str(folder)])
        if done.returncode:
            console.print(f"{name}: cannot be made, {_last_line(done.stderr)}", soft_wrap=True)
        else:
            yield str(folder)


def _words(
    command: _Command,
    model: str,
    engines: Sequence[str],
    server: Sequence[str],
    *,
    quick: bool,
    threads: int | None,
) -> list[str]:
    takes = command.takes.split()
    words = ["bench", command.name]
    if "engines" in takes:
        words += [model, *engines]
    if "peers" in takes:
        words += [word for folder in engines for word in ("--engine", folder)]
        words += [word for address in server for word in ("--server", address)]
    if "model" in takes:
        words += ["--model", model]
    words += (command.quick if quick else command.words).split()
    if "threads" in takes and threads is not None:
        words += ["--threads", str(threads)]
    return words


def _measure(command: _Command, words: list[str], out: Path) -> Part:
    json_file, plot = out / f"{command.name}.json", out / f"{command.name}.png"
    words = [*words, "--json", str(json_file)]
    if "plot" in command.takes:
        words += ["--plot", str(plot)]
    begun = time.monotonic()
    done = _egolive(words)
    figures: dict[str, Any] = json.loads(json_file.read_text(encoding="utf-8")) if json_file.is_file() else {}
    # The line goes into results.jsonl; one place is enough.
    json_file.unlink(missing_ok=True)
    return Part(
        name=command.name,
        title=command.title,
        command=" ".join(["egolive", *words]),
        seconds=round(time.monotonic() - begun, 1),
        figures=figures,
        output=done.stderr.strip(),
        plot=plot if plot.is_file() else None,
        failed="" if done.returncode == 0 else _last_line(done.stderr) or f"exit code {done.returncode}",
    )


def _egolive(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    code = "from egolive.assistant.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        # Tables are read in the report, not in a terminal of 80 columns.
        env=os.environ | {"COLUMNS": "140", "NO_COLOR": "1"},
    )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else ""
