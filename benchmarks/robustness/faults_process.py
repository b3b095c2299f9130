"""Fault injection: faults that end a run or come from outside, each in an `egolive run` of its own.

A run passes when it ends within seconds with the fault's exit code, one line at most on standard error, no
traceback, and files that can be played and read.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from egolive.benchmarks.robustness.faults import Fault, whole_files

__all__ = ["process_faults"]

_START = 90.0
"""Seconds that a process has to come to its fault."""
_END = 60.0
"""Seconds that it has to end before it is killed."""
_NEVER = "FAILED: it never ended"
_LIVE = "test:320x180@30"
_RUNNING = 20_000
"""Bytes of overlay after which a run is well under way."""
_FULL_PIPE = 60_000
"""Bytes in a pipe that nobody reads, from which the next line blocks its writer."""


def process_faults() -> Iterator[Fault]:
    """Inject each fault; nothing on systems without signals and pipes."""
    if os.name != "posix":
        return
    yield _failing("engine exception: the device fails", "device fails", "--no-view")
    yield _failing("out of memory on the device", "no device memory", "--no-view")
    yield _failing("out of memory on the machine", "no memory", "--no-view")
    yield _failing("engine hangs", "hang", "--no-view", "--patience", "1", allowance=1.0)
    yield _failing("disk full", "full disk", "--no-view", source="test:640x360@30")
    yield _full_event_file()
    yield _blocked_sink()
    yield _resized_terminal()
    for number in (signal.SIGINT, signal.SIGTERM):
        yield _signalled(f"{number.name} while the model is loaded", "loading", number)
        yield _signalled(f"{number.name} while running", "none", number)
        yield _signalled(f"{number.name} while finishing", "finishing", number)
    yield _signalled("SIGTERM while the engine hangs", "hang", signal.SIGTERM)


@dataclass(slots=True)
class _Run:
    """One process, and the folder of its files."""

    process: subprocess.Popen[str]
    root: Path
    mark: Path

    @property
    def out(self) -> Path:
        """Where its files go."""
        return self.root / "out"

    def reach(self, there: Callable[[], object]) -> bool:
        """Wait until it has come so far; False where it ended or took too long."""
        until = time.monotonic() + _START
        while not there():
            if self.process.poll() is not None or time.monotonic() > until:
                return False
            time.sleep(0.005)
        return True

    def ends(self) -> bool:
        """Wait until it has ended by itself; False where it took too long."""
        self.reach(lambda: False)
        return self.process.poll() is not None

    def running(self) -> bool:
        """Whether it has written some of its video."""
        video = self.out / "overlay.mp4"
        return video.exists() and video.stat().st_size > _RUNNING

    def end(
        self, name: str, code: int, since: float, *, files: bool = True, stderr: str | None = None
    ) -> Fault:
        """Wait for its end and judge it.

        Args:
            name: Of the fault.
            code: The exit code that is right.
            since: When the fault happened, by the machine's clock.
            files: Whether it has files that must be whole.
            stderr: Its standard error, where somebody has read it already.
        """
        try:
            output = self.process.communicate(timeout=_END)[1] or ""
        except subprocess.TimeoutExpired:
            return Fault(name, _NEVER, None)
        seconds = round(max(0.0, time.time() - since), 2)
        lines = [line for line in (output if stderr is None else stderr).splitlines() if line.strip()]
        wrong = whole_files(self.out) if files else []
        if self.process.returncode != code:
            wrong.append(f"exit code {self.process.returncode} in place of {code}")
        if len(lines) > 1 or (code == 1 and not lines):
            wrong.append(f"{len(lines)} lines on standard error, the last {lines[-1:]}")
        ended = f"ended ({code}): {lines[0].removeprefix('egolive: ')}" if lines else f"ended ({code})"
        return Fault(name, f"FAILED: {'; '.join(wrong)}" if wrong else ended, seconds)


class _Started:
    """Starts a run, and kills what is left of it."""

    def __init__(
        self,
        fault: str,
        *options: str,
        source: str = _LIVE,
        terminal: int | None = None,
        prepare: Callable[[Path], object] = lambda _: None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        root = Path(self._folder.name)
        (root / "out").mkdir()
        prepare(root / "out")
        mark = root / "mark"
        child = [sys.executable, "-m", "egolive.benchmarks.robustness.faults_child", fault, str(mark)]
        process = subprocess.Popen(
            [*child, "run", source, "--out", str(root / "out"), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if terminal is None else terminal,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm-256color"},
        )
        self.run = _Run(process, root, mark)

    def __enter__(self) -> _Run:
        return self.run

    def __exit__(self, *_: object) -> None:
        self.run.process.kill()
        self.run.process.communicate()
        self._folder.cleanup()


def _failing(name: str, fault: str, *options: str, source: str = _LIVE, allowance: float = 0.0) -> Fault:
    """A run that fails by itself; `allowance` is the time that it takes to be sure of it."""
    with _Started(fault, *options, source=source) as run:
        if not run.ends():
            return Fault(name, _NEVER, None)
        ended = time.time()
        # Without a mark it is the last thing that could be written.
        at = (run.mark if run.mark.exists() else run.out / "overlay.mp4").stat().st_mtime
        return run.end(name, 1, at + allowance + time.time() - ended)


def _full_event_file() -> Fault:
    """No room for events, as where they lie on another disk than the video."""

    def prepare(out: Path) -> None:
        (out / "events.jsonl").symlink_to("/dev/full")

    name = "disk full, events only"
    with _Started("first answer", "--no-view", prepare=prepare) as run:
        if not run.ends():
            return Fault(name, _NEVER, None)
        ended, at = time.time(), run.mark.stat().st_mtime
        (run.out / "events.jsonl").unlink()
        return run.end(name, 1, at + time.time() - ended, files=False)


def _blocked_sink() -> Fault:
    """Events go into a pipe that nobody reads; a termination must still end the run, its video whole."""
    name = "sink that blocks for ever, then SIGTERM"
    with tempfile.TemporaryDirectory() as folder:
        pipe = Path(folder) / "pipe"
        os.mkfifo(pipe)
        reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            with _Started(
                "none", "--no-view", prepare=lambda out: (out / "events.jsonl").symlink_to(pipe)
            ) as run:
                reached = run.reach(lambda: _waiting(reading) > _FULL_PIPE)
                at = time.time()
                run.process.terminate()
                (run.out / "events.jsonl").unlink()
                return run.end(name, 143 if reached else 0, at)
        finally:
            os.close(reading)


def _waiting(reading: int) -> int:
    """Bytes that lie in a pipe."""
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(reading, termios.FIONREAD, b"\0" * 4), sys.byteorder)


def _resized_terminal() -> Fault:
    """A terminal that becomes tiny, huge and usual again; then Ctrl-C."""
    import fcntl
    import pty
    import termios
    import threading

    ours, its = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                shown.append(os.read(ours, 65536))
            except OSError:
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with _Started("none", terminal=its) as run:
        if not run.reach(run.running):
            return run.end("terminal resized", 130, time.time(), files=False)
        for rows, columns in ((1, 1), (2, 200), (300, 500), (0, 0), (24, 80)):
            fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            run.process.send_signal(signal.SIGWINCH)
            time.sleep(0.4)
        at, events = time.time(), run.out / "events.jsonl"
        size = events.stat().st_size
        shown.clear()
        run.reach(lambda: shown and events.stat().st_size > size)
        recovery = round(time.time() - at, 2)
        run.process.send_signal(signal.SIGINT)
        ended = run.end("terminal resized", 130, time.time(), stderr="")
        os.close(its)
    output = b"".join(shown)
    os.close(ours)
    if not ended.good or b"Traceback" in output:
        return ended if not ended.good else replace(ended, outcome="FAILED: a traceback")
    return replace(ended, outcome="survived", recovery_s=recovery)


def _signalled(name: str, fault: str, number: signal.Signals) -> Fault:
    """A signal once the run has come so far."""
    with _Started(fault, "--no-view") as run:
        there = run.mark.exists if fault in ("loading", "hang") else run.running
        if not run.reach(there):
            return run.end(name, 128 + number, time.time(), files=False)
        if fault == "finishing":
            run.process.send_signal(number)
            run.reach(run.mark.exists)
        at = time.time()
        run.process.send_signal(number)
        return run.end(name, 128 + number, at, files=fault != "loading")
