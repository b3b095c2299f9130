"""`egolive bench all`: every measurement one after the other, into one folder with one report to look at.

    egolive bench all --out results --quick

Each is a command of its own in a process of its own, so that one that fails leaves a line in the report in
place of its figures. What the report looks like is in `egolive.benchmarks.report`.
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

from egolive.assistant import machine
from egolive.benchmarks.report import Part, headlines, write_report
from egolive.streaming.errors import SinkError, UsageError

__all__ = ["all_benchmarks"]

_EXPORTS = {"onnx-fp32": ("export",), "onnx-int4": ("quantize", "--to", "int4")}
"""Engines that are made of the model where none are given."""


@dataclass(frozen=True, slots=True)
class _Command:
    """One measurement: its words, those of a quick run, and whether it draws."""

    name: str
    title: str
    words: tuple[str, ...]
    quick: tuple[str, ...]
    engines: bool = False
    """Takes the model and the engines as names, with threads."""
    plot: bool = True
    threads: bool = True


_COMMANDS = (
    _Command(
        "engines",
        "What engines cost, against what the machine could do",
        (),
        ("--slices", "1", "--slices", "8"),
        engines=True,
    ),
    _Command("latency", "Glass to overlay", ("--seconds", "60"), ("--seconds", "8"), engines=True),
    _Command(
        "peers",
        "The same questions, asked of what one would use instead",
        ("--every", "2"),
        ("--no-compiled",),
    ),
    _Command(
        "stream",
        "What reuse saves, and that it is exact",
        (),
        ("--hops", "16", "--naive-every", "8", "--no-gains"),
    ),
    _Command(
        "scaling",
        "What an answer costs as things grow",
        ("--hours", "2"),
        ("--hours", "0.05", "--slices", "4", "--hops", "4"),
    ),
    _Command(
        "quality",
        "How well engines answer",
        ("--episodes", "110"),
        ("--episodes", "3"),
        engines=True,
        plot=False,
    ),
    _Command(
        "tracking",
        "How well late boxes are carried to now",
        (),
        ("--episodes", "2"),
        plot=False,
        threads=False,
    ),
    _Command("recall", "Where was it put", (), ("--sessions", "1"), plot=False, threads=False),
    _Command(
        "overhead",
        "What everything but the engine costs",
        (),
        ("--seconds", "4"),
        plot=False,
        threads=False,
    ),
    _Command("soak", "Hours of stream, and what goes wrong in them", (), ("--quick",), threads=False),
    _Command("fuzz", "Spoilt input", (), ("--inputs", "1000"), plot=False, threads=False),
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
            words = list(_words(command, model, engines, server, quick=quick, threads=threads))
            part = _measure(command, words, out)
            parts.append(part)
            lines.write(json.dumps({"part": part.name, "seconds": part.seconds, **part.line()}) + "\n")
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
) -> Iterator[str]:
    yield from ("bench", command.name)
    if command.engines:
        yield from (model, *engines)
    if command.name == "peers":
        for name, values in (("--engine", engines), ("--server", server)):
            for value in values:
                yield from (name, value)
    if command.name in ("peers", "stream", "scaling"):
        yield from ("--model", model)
    yield from command.quick if quick else command.words
    if command.threads and threads is not None:
        yield from ("--threads", str(threads))


def _measure(command: _Command, words: list[str], out: Path) -> Part:
    json_file, plot = out / f"{command.name}.json", out / f"{command.name}.png"
    words = [*words, "--json", str(json_file), *(["--plot", str(plot)] if command.plot else [])]
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
        told=done.stderr.strip(),
        plot=plot if plot.is_file() else None,
        failed="" if done.returncode == 0 else _last_line(done.stderr) or f"exit code {done.returncode}",
    )


def _egolive(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    code = "from egolive.assistant.cli import main; main()"
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
