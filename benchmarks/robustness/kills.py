"""Kills `egolive run` at random moments, and fills its disk at random sizes; then opens all that is left.

    python -m egolive.benchmarks.robustness.kills --kills 200 --disks 50 --json kills.json

Each run is the real command in a process of its own, on a simulated camera of 30 frames a second, with all
outputs: overlay, events and evidence, and in turns a recording or a memory, which exclude each other. It is
forked from this process, which has imported what it needs, so that 250 of them take minutes. The model is
scripted, unless `--model nano` is given. Each output is told to a file beside the run once its writing has
returned: what was told and is not found in the files later is lost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from egolive.assistant.cli import main as cli
from egolive.assistant.cli import run_command  # noqa: F401  (before the fork, as below)
from egolive.assistant.cli.options import ModelOptions
from egolive.assistant.live.sinks import EventSink, VideoSink
from egolive.assistant.memory import live_memory  # noqa: F401
from egolive.assistant.memory.moment_store import Memory
from egolive.assistant.recording.evidence import EvidenceWriter
from egolive.benchmarks.robustness import scripted_engine
from egolive.benchmarks.robustness.kept_files import Kept, kept_files
from egolive.benchmarks.robustness.scripted_engine import ScriptedEngine
from egolive.streaming.recording.recording import Recorder

__all__ = ["Ended", "main"]

_SOURCE = "test:320x180@30"
_ALLOWED = 1.0
"""Seconds that may be lost."""
_IN_SECONDS = ("video", "recorded")
_LONGEST = 6.0
"""Seconds after its first output at which a run is killed at the latest."""
_PATIENCE = 60.0
"""Seconds after which a run that should have ended by itself is killed."""
_DISKS = (12, 22)
"""Powers of two of bytes, from the smallest disk to the largest; a run fills it within seconds."""


@dataclass(slots=True, kw_only=True)
class Ended:
    """How one run ended, and what is lost of it."""

    how: str
    """Such as: killed after 1.23 s."""
    lost: dict[str, float]
    """By output, seconds (video, recorded) or number (events, bundles, moments): written, and gone."""
    written: dict[str, int]
    """By output, how often something was written to it."""
    torn: int
    """Last lines of events.jsonl that lack their end."""
    wrong: list[str]
    """Files that do not open, and what else is wrong."""
    ended_s: float | None = None
    """Seconds from the last output to the end, where it ended by itself."""


def killed_run(model: str, seed: int) -> Ended:
    """One run that is killed."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        child = _start(root, root, model, memory=seed % 2 == 0)
        _wait(lambda: (root / "told").exists() and (root / "told").stat().st_size > 0, child)
        seconds = rng.uniform(0, _LONGEST)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return _judged(f"killed after {seconds:.2f} s", root, root)


def full_disk_run(model: str, seed: int) -> Ended:
    """One run whose disk is full at some size; a mounted one for root, else a limit on each file."""
    rng = random.Random(seed)
    size = round(2 ** rng.uniform(*_DISKS))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, _disk(Path(folder), size) as root:
        limit = 0 if root.is_mount() else size
        child = _start(root, Path(folder), model, memory=seed % 2 == 0, limit=limit)
        until, status = time.monotonic() + _PATIENCE, None
        while time.monotonic() < until:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.02)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        ended = time.time()
        told = Path(folder) / "told"
        found = _judged(f"disk of {size} bytes", root, Path(folder))
        if found.torn:
            found.wrong.append("events.jsonl ends within a line")
        if told.exists():
            found.ended_s = round(ended - told.stat().st_mtime, 2)
        lines = [line for line in (Path(folder) / "stderr").read_text().splitlines() if line.strip()]
        if status is None or not os.WIFEXITED(status) or os.WEXITSTATUS(status) != 1:
            found.wrong.append(f"ended with {status} in place of exit code 1")
        if len(lines) != 1 or not lines[0].startswith("egolive: "):
            found.wrong.append(f"{len(lines)} lines on standard error: {lines[-1:]}")
        return found


@contextmanager
def _disk(folder: Path, size: int) -> Iterator[Path]:
    root = folder / "disk"
    root.mkdir()
    if os.geteuid() == 0:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root)]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    else:
        mounted = False
    try:
        yield root
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(root)], check=True)


def _start(root: Path, beside: Path, model: str, *, memory: bool, limit: int = 0) -> int:
    """Fork a run; returns its process."""
    folders = ["--out", root / "out", "--evidence", root / "evidence"]
    folders += ["--memory", root / "memory"] if memory else ["--record", root / "record"]
    command = ["egolive", "run", _SOURCE, "--no-view", "--every", "1", *map(str, folders)]
    # A thread of this process would be missing in the other.
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        raise RuntimeError("this process has threads and cannot be forked")
    if child := os.fork():
        return child
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(beside / name, os.O_WRONLY | os.O_CREAT), number)
        _tell_into(beside / "told")
        if model == "scripted":
            _script()
        if limit:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        sys.argv = command
        cli.main()
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(3)
    os._exit(0)


def _tell_into(path: Path) -> None:
    """Let every output be told once its writing has returned."""
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def told(owner: type, name: str, what: Callable[..., str]) -> None:
        inner = getattr(owner, name)

        def outer(self: object, *values: Any, **options: Any) -> object:
            result = inner(self, *values, **options)
            if line := what(result, *values):
                os.write(number, f"{line}\n".encode())
            return result

        setattr(owner, name, outer)

    told(VideoSink, "emit", lambda _, shown: f"video {shown.frame.time}")
    told(EventSink, "note", lambda *_: "events 1")
    told(Recorder, "_frame", lambda _, frame: f"recorded {frame.time}")
    told(EvidenceWriter, "keep", lambda *_: "bundles 1")
    told(Memory, "add", lambda result, _: "moments 1" if result else "")


def _script() -> None:
    """A model that says something new each time, so that there is something to remember."""
    said, count = scripted_engine._said, iter(range(10**9))

    def saying(prompt: str) -> str:
        number = next(count)
        if "Find the object" in prompt and number // 20 % 2:
            return "none"
        text = said(prompt)
        return text if "<|" in text else f"{text} {number}"

    scripted_engine._said = saying
    engine = ScriptedEngine(None, before=lambda: time.sleep(0.05))
    ModelOptions.load = lambda self: engine  # type: ignore[method-assign,assignment,return-value]


def _wait(there: Callable[[], bool], child: int) -> None:
    until = time.monotonic() + _PATIENCE
    while not there():
        if time.monotonic() > until or os.waitpid(child, os.WNOHANG)[0]:
            raise RuntimeError("a run ended before it wrote anything")
        time.sleep(0.005)


def _judged(how: str, root: Path, beside: Path) -> Ended:
    """Compare what was told with what opens, in a process of its own: opening starts threads."""
    here, there = os.pipe()
    child = os.fork()
    if not child:
        os.write(there, json.dumps(asdict(_look(root))).encode())
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    if not data:
        return Ended(how=how, lost={}, written={}, torn=0, wrong=["looking at the files failed"])
    kept = Kept(**json.loads(data))
    lost: dict[str, float] = {}
    told: dict[str, list[float]] = {}
    path = beside / "told"
    for line in path.read_text().splitlines() if path.exists() else ():
        name, _, value = line.partition(" ")
        told.setdefault(name, []).append(float(value))
    for name, values in told.items():
        found = getattr(kept, name)
        if name in _IN_SECONDS:
            # The picture that is shown until the next one counts for a thirtieth of a second.
            gone = [value for value in values if value > found + 1e-3]
            lost[name] = round(gone[-1] - gone[0] + 1 / 30, 3) if gone else 0.0
        else:
            lost[name] = len(values) - found
    wrong = list(kept.wrong)
    for name, missing in lost.items():
        if missing > (_ALLOWED if name in _IN_SECONDS else 0):
            wrong.append(f"{missing:g} {'s' if name in _IN_SECONDS else 'pieces'} of {name} lost")
    written = {name: len(values) for name, values in told.items()}
    return Ended(how=how, lost=lost, written=written, torn=kept.torn, wrong=wrong)


def _look(root: Path) -> Kept:
    try:
        return kept_files(root)
    except Exception as error:  # anything that a file makes fail is what is looked for
        return Kept(wrong=[f"{type(error).__name__}: {error}"])


def main(arguments: list[str] | None = None) -> int:
    """Run all; returns 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--disks", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", choices=("scripted", "nano"), default="scripted")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    found: dict[str, Any] = {"model": chosen.model}
    bad = 0
    for name, count, run in (("kills", chosen.kills, killed_run), ("disks", chosen.disks, full_disk_run)):
        ended = []
        for number in range(count):
            one = run(chosen.model, chosen.seed + number)
            ended.append(one)
            if one.wrong:
                sys.stdout.write(f"{name} {number}: {one.how}: {'; '.join(one.wrong)}\n")
                sys.stdout.flush()
        worst: dict[str, float] = {}
        written: dict[str, int] = {}
        for one in ended:
            for output, pieces in one.written.items():
                written[output] = written.get(output, 0) + pieces
            for output, value in one.lost.items():
                worst[output] = max(worst.get(output, 0.0), value)
        wrong = sum(bool(one.wrong) for one in ended)
        slowest = max((one.ended_s or 0.0 for one in ended), default=0.0)
        found[name] = {
            "runs": count,
            "wrong": wrong,
            "written": written,
            "worst_loss": worst,
            "slowest_end_s": slowest,
        }
        bad += wrong
    line = json.dumps(found)
    if chosen.json is not None:
        chosen.json.write_text(line + "\n")
    sys.stdout.write(line + "\n")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
