"""How much energy something takes, where the machine tells: Intel and AMD's RAPL counters, NVIDIA's tools.

RAPL counts joules of the whole processor package, and most systems let root alone read it. `tegrastats` (on
a Jetson, the whole module) and `nvidia-smi` (a graphics card) tell power, which is summed up over time.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["Energy", "watts_in"]

_POWERCAP = Path("/sys/class/powercap")
_TOOLS = {
    "tegrastats": ("--interval", "100"),
    "nvidia-smi": ("--query-gpu=power.draw", "--format=csv,noheader,nounits", "-lms", "100"),
}
_TOTAL = re.compile(r"\b(?:VDD_IN|POM_5V_IN|VIN_SYS_5V0) (\d+)(?:mW)?/")
"""What comes into a Jetson's module, in milliwatts now, before the slash and the mean."""


class Energy:
    """Counts joules between entering and leaving; a context manager.

    Args:
        powercap: Where the system keeps its RAPL counters.
        tools: Programs that tell power, the first that is installed is asked.
    """

    def __init__(self, powercap: Path = _POWERCAP, tools: Sequence[str] = tuple(_TOOLS)) -> None:
        self.joules: float | None = None
        """What was counted; None where nobody tells."""
        self.told_by = ""
        """rapl, tegrastats or nvidia-smi; empty where nobody tells."""
        self._zones = _zones(powercap)
        self._tool = next((name for name in tools if shutil.which(name)), "")
        self._before: list[int] = []
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Energy:
        # A card or a module of its own says more about a model than the processor beside it.
        if self._tool:
            command = [self._tool, *_TOOLS[self._tool]]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self._thread = threading.Thread(target=self._add_up, name="egolive-energy", daemon=True)
            self._thread.start()
        else:
            self._before = [_counter(zone) for zone in self._zones]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._thread is not None:
            self._process.terminate()
            self._thread.join()
            self._process.wait()
        elif self._zones:
            spent = [_since(zone, before) for zone, before in zip(self._zones, self._before, strict=True)]
            self.joules, self.told_by = sum(spent) / 1e6, "rapl"

    def _add_up(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        last = time.monotonic()
        for line in self._process.stdout:
            watts, now = watts_in(line), time.monotonic()
            if watts is not None:
                self.joules = (self.joules or 0.0) + watts * (now - last)
                self.told_by = self._tool
            last = now


def watts_in(line: str) -> float | None:
    """Watts that a line of tegrastats or nvidia-smi tells; None where it tells none."""
    if found := _TOTAL.search(line):
        return int(found[1]) / 1e3
    try:
        return float(line)
    except ValueError:
        return None


def _zones(powercap: Path) -> list[Path]:
    """Whole packages whose counters may be read; what is inside of one counts already."""
    return [
        zone
        for zone in sorted(powercap.glob("intel-rapl:*"))
        if re.fullmatch(r"intel-rapl:\d+", zone.name) and _readable(zone)
    ]


def _readable(zone: Path) -> bool:
    try:
        _counter(zone)
    except (OSError, ValueError):
        return False
    return True


def _counter(zone: Path) -> int:
    """Microjoules since the counter was last at 0."""
    return int((zone / "energy_uj").read_text())


def _since(zone: Path, before: int) -> int:
    spent = _counter(zone) - before
    # It starts again at 0 from time to time.
    return spent if spent >= 0 else spent + int((zone / "max_energy_range_uj").read_text())
