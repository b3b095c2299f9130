"""How hot, how busy and how well supplied this machine is now, for a governor that lowers its load.

Temperatures and battery come from psutil, throttling from Linux and from NVIDIA's driver, a Jetson's
temperatures from Linux's thermal zones. What cannot be read is None. Judging it is not done here.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

import psutil

from egolive.assistant.system import nvml
from egolive.streaming.pipeline.choice import LoadReading

__all__ = ["LoadSensors", "LoadWatch"]

_CPUS = Path("/sys/devices/system/cpu")
_ZONES = Path("/sys/class/thermal")
_PERIOD = 2.0
"""Seconds from one reading to the next."""
_PLAUSIBLE = (1.0, 150.0)
"""Degrees; sensors that are not connected tell others."""


class LoadSensors:
    """Reads the sensors; what is told "since the reading before" is counted from one `read` to the next.

    Args:
        cpus: Where Linux counts how often each processor was slowed down.
        zones: Where Linux tells the temperatures of a board without other sensors, such as a Jetson.
    """

    def __init__(self, cpus: Path = _CPUS, zones: Path = _ZONES) -> None:
        self._cpus, self._zones = cpus, zones
        self._process = psutil.Process()
        self._gpu = nvml.driver_version() is not None
        self._throttles = self._throttle_count()
        self._times = self._cpu_times()

    def read(self) -> LoadReading:
        """The load now."""
        temperature, headroom = self._temperature()
        battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
        return LoadReading(
            temperature=temperature,
            headroom=headroom,
            throttled=self._throttled(),
            on_battery=None
            if battery is None or battery.power_plugged is None
            else not battery.power_plugged,
            battery=None if battery is None else battery.percent / 100,
            others_cpu=self._others_cpu(),
        )

    def _temperature(self) -> tuple[float | None, float | None]:
        """Of the sensor that is closest to its limit: degrees, and degrees to the limit."""
        found: list[tuple[float, float]] = []
        groups = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
        for group in groups.values():
            found += [(one.current, one.high or one.critical) for one in group if one.high or one.critical]
        for zone in self._zones.glob("thermal_zone*"):
            degrees = _thousandths(zone / "temp")
            limits = [
                _thousandths(point)
                for point in zone.glob("trip_point_*_temp")
                if _text(point.with_name(point.name.replace("_temp", "_type")))
                in ("passive", "hot", "critical")
            ]
            known = [limit for limit in limits if limit is not None and limit > 0]
            if degrees is not None and known:
                found.append((degrees, min(known)))
        if self._gpu and (gpu := nvml.temperature()) is not None:
            found.append(gpu)
        least, most = _PLAUSIBLE
        real = [(now, limit) for now, limit in found if least <= now <= most and limit <= most]
        if not real:
            return None, None
        now, limit = min(real, key=lambda one: one[1] - one[0])
        return now, limit - now

    def _throttled(self) -> bool | None:
        before, self._throttles = self._throttles, self._throttle_count()
        found = [nvml.throttled() if self._gpu else None]
        if before is not None and self._throttles is not None:
            found.append(self._throttles > before)
        told = [one for one in found if one is not None]
        return any(told) if told else None

    def _throttle_count(self) -> int | None:
        counts = [_number(path) for path in self._cpus.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    def _others_cpu(self) -> float | None:
        (whole, busy, own), self._times = self._times, self._cpu_times()
        passed = self._times[0] - whole
        if passed <= 0:
            return None
        return min(max((self._times[1] - busy - (self._times[2] - own)) / passed, 0.0), 1.0)

    def _cpu_times(self) -> tuple[float, float, float]:
        """Processor seconds so far: of all cores, of them in use, and of this process."""
        times = psutil.cpu_times()
        whole = sum(
            getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")
        )
        idle = times.idle + getattr(times, "iowait", 0.0)
        own = self._process.cpu_times()
        return whole + idle, whole, own.user + own.system


class LoadWatch:
    """Reads the sensors on a thread of its own, since some take a while; a context manager.

    Args:
        sensors: What is read; those of this machine without it.
    """

    def __init__(self, sensors: LoadSensors | None = None) -> None:
        self._sensors = sensors
        self._newest = LoadReading()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="egolive-load", daemon=True)

    def newest(self) -> LoadReading:
        """The newest reading; one in which nothing is known before the first."""
        return self._newest

    def __enter__(self) -> LoadWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The thread ends by itself: whoever ends a run does not wait for a slow sensor.
        self._stop.set()

    def _watch(self) -> None:
        sensors = self._sensors
        while not self._stop.wait(_PERIOD):
            # Made here: finding out what there is takes a while, and short runs need not wait for it.
            sensors = sensors or LoadSensors()
            self._newest = sensors.read()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.lstrip("-").isdigit() else None


def _thousandths(path: Path) -> float | None:
    number = _number(path)
    return None if number is None else number / 1e3
