"""Sensors of heat, supply and load, from folders as Linux has them and from what psutil tells."""

from __future__ import annotations

import threading
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from egolive.assistant.system import load_sensors, nvml
from egolive.assistant.system.load_sensors import LoadSensors, LoadWatch
from egolive.streaming.pipeline.choice import LoadReading

Temperature = namedtuple("Temperature", "label current high critical")
Battery = namedtuple("Battery", "percent secsleft power_plugged")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any sensor."""
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None, raising=False)
    monkeypatch.setattr(nvml, "driver_version", lambda: None)


def sensors(folder: Path) -> LoadSensors:
    return LoadSensors(cpus=folder / "cpus", zones=folder / "zones")


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_what_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    found = sensors(tmp_path).read()
    assert (found.temperature, found.headroom, found.throttled) == (None, None, None)
    assert (found.on_battery, found.battery) == (None, None)


def test_the_sensor_closest_to_its_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {
        "coretemp": [Temperature("0", 70.0, 100.0, 105.0), Temperature("1", 60.0, None, None)],
        "nvme": [Temperature("", 78.0, 80.0, None), Temperature("off", -273.0, 80.0, None)],
    }
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: groups, raising=False)
    found = sensors(tmp_path).read()
    assert (found.temperature, found.headroom) == (78.0, 2.0)


def test_a_jetsons_thermal_zones_are_read(tmp_path: Path) -> None:
    zone = tmp_path / "zones" / "thermal_zone0"
    for name, value in {
        "temp": 91500,
        "trip_point_0_temp": 70000,
        "trip_point_0_type": "active",
        "trip_point_1_temp": 99000,
        "trip_point_1_type": "passive",
        "trip_point_2_temp": 105000,
        "trip_point_2_type": "critical",
    }.items():
        write(zone / name, value)
    write(tmp_path / "zones" / "thermal_zone1" / "temp", 99000)
    found = sensors(tmp_path).read()
    # A fan's point is no limit, and a zone without limits says nothing.
    assert (found.temperature, found.headroom) == (91.5, 7.5)


def test_throttling_is_counted_from_one_reading_to_the_next(tmp_path: Path) -> None:
    counts = [tmp_path / f"cpus/cpu{n}/thermal_throttle/core_throttle_count" for n in (0, 1)]
    for path in counts:
        write(path, 7)
    read = sensors(tmp_path).read
    assert read().throttled is False
    write(counts[1], 8)
    assert read().throttled is True
    assert read().throttled is False


def test_a_gpu_that_slows_itself_down_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "driver_version", lambda: "1")
    monkeypatch.setattr(nvml, "temperature", lambda: (84.0, 87.0))
    monkeypatch.setattr(nvml, "throttled", lambda: True)
    found = sensors(tmp_path).read()
    assert (found.throttled, found.temperature, found.headroom) == (True, 84.0, 3.0)


@pytest.mark.parametrize(("plugged", "on_battery"), [(True, False), (False, True), (None, None)])
def test_the_battery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugged: bool | None, on_battery: bool | None
) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: Battery(41, 3600, plugged), raising=False)
    found = sensors(tmp_path).read()
    assert (found.on_battery, found.battery) == (on_battery, 0.41)


def test_own_work_is_not_that_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(user=0.0, system=0.0, idle=0.0, own=0.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda: now)
    made = sensors(tmp_path)
    monkeypatch.setattr(
        made, "_process", SimpleNamespace(cpu_times=lambda: SimpleNamespace(user=now.own, system=0))
    )
    assert made.read().others_cpu is None
    now.user, now.system, now.idle, now.own = 6.0, 1.0, 3.0, 5.0
    assert made.read().others_cpu == pytest.approx(0.2)


def test_the_watch_reads_until_it_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_sensors, "_PERIOD", 0.001)
    read = threading.Event()

    class Counting:
        def read(self) -> LoadReading:
            read.set()
            return LoadReading(battery=0.5)

    with LoadWatch(Counting()) as watch:  # type: ignore[arg-type]
        assert read.wait(60)
        end = time.monotonic() + 60
        while watch.newest().battery is None:
            assert time.monotonic() < end
            time.sleep(0.001)
    # Leaving does not wait for a sensor; the thread ends by itself.
    for thread in threading.enumerate():
        if thread.name == "egolive-load":
            thread.join(60)
            assert not thread.is_alive()
