"""Joules that something takes: of a Jetson's module, of an NVIDIA GPU, or of the processor (RAPL).

`tegrastats` gives the power of a Jetson's whole module, which is summed up over time. NVIDIA's driver and
RAPL (Intel and AMD) count joules by themselves; most systems let root alone read RAPL.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType

from egolive.assistant.system.nvml import energy_joules

__all__ = ["Energy", "watts_in"]

_POWERCAP = Path("/sys/class/powercap")
_TOTAL = re.compile(r"\b(?:VDD_IN|POM_5V_IN|VIN_SYS_5V0) (\d+)(?:mW)?/")
"""What comes into a Jetson's module, in milliwatts now, before the slash and the mean."""


class Energy:
    """Counts joules between entering and leaving; a context manager.

    Args:
        powercap: Where the system keeps its RAPL counters.
        devices: Read a Jetson's module or a GPU where there is one: that says more about a model than the
            processor beside it.
    """

    def __init__(self, powercap: Path = _POWERCAP, *, devices: bool = True) -> None:
        self.joules: float | None = None
        """What was counted; None where nothing tells."""
        self.source = ""
        """tegrastats, nvml or rapl; empty where nothing tells."""
        self._devices = devices
        self._zones = _zones(powercap)
        self._before: float | None = None
        self._counted: list[int] = []
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Energy:
        if self._devices and shutil.which("tegrastats"):
            command = ["tegrastats", "--interval", "100"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self._thread = threading.Thread(target=self._add_up, name="egolive-energy", daemon=True)
            self._thread.start()
        self._before = energy_joules() if self._devices else None
        self._counted = [_counter(zone) for zone in self._zones]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._thread is not None:
            self._process.terminate()
            self._thread.join()
            self._process.wait()
        elif self._before is not None and (now := energy_joules()) is not None:
            self.joules, self.source = now - self._before, "nvml"
        elif self._zones:
            spent = [_since(zone, before) for zone, before in zip(self._zones, self._counted, strict=True)]
            self.joules, self.source = sum(spent) / 1e6, "rapl"

    def _add_up(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        last = time.monotonic()
        for line in self._process.stdout:
            watts, now = watts_in(line), time.monotonic()
            if watts is not None:
                self.joules = (self.joules or 0.0) + watts * (now - last)
                self.source = "tegrastats"
            last = now


def watts_in(line: str) -> float | None:
    """Watts of the whole module in a line of tegrastats; None where it gives none."""
    found = _TOTAL.search(line)
    return int(found[1]) / 1e3 if found else None


def _zones(powercap: Path) -> list[Path]:
    """Whole packages whose counters may be read; what is inside of one counts already."""
    packages = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    return [zone for zone in packages if _readable(zone)]


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
