"""Facts of a machine: memory inside a container, the commit that runs, and NVIDIA's driver asked by NVML."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from machines import facts

from egolive.assistant.diagnostics.doctor import diagnose
from egolive.assistant.system import machine, nvml

ROOT = Path(__file__).resolve().parents[3]


def cgroup(folder: Path, limit: str, used: str = "1000000000") -> Path:
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(used + "\n")
    return folder


def test_memory_is_the_machines_where_no_container_limits_it(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    for folder in (tmp_path / "none", cgroup(tmp_path, "max"), cgroup(tmp_path, str(2 * total))):
        found = machine.memory(folder)
        assert found["total"] == total
        assert 0 < found["available"] <= total


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    limit = 1_500_000_000
    found = machine.memory(cgroup(tmp_path, str(limit)))
    assert found["total"] == limit
    assert 0 < found["available"] <= 500_000_000
    assert machine.memory(cgroup(tmp_path, str(limit), used=str(2 * limit)))["available"] == 0


def test_pages_of_files_are_given_up_when_memory_is_wanted(tmp_path: Path) -> None:
    cgroup(tmp_path, "1500000000", used="1400000000")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 300000000\nactive_file 100000000\n")
    with_pages = machine.memory(tmp_path)["available"]
    (tmp_path / "memory.stat").unlink()
    # Both as far as the machine itself has so much.
    assert machine.memory(tmp_path)["available"] <= 100_000_000 < with_pages <= 500_000_000


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_the_groups_above_hold_too(version: int, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("5:cpu:/\n4:memory:/a/b\n" if version == 1 else "0::/a/b\n")
    base = tmp_path / "memory" if version == 1 else tmp_path
    names = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes")
        if version == 1
        else ("memory.max", "memory.current")
    )
    for place, limit, used in (("a", 2 * 10**9, 10**9), ("a/b", 3 * 10**9, 4 * 10**8)):
        (base / place).mkdir(parents=True)
        for name, value in zip(names, (limit, used), strict=True):
            (base / place / name).write_text(f"{value}\n")
    found = machine.memory(tmp_path, own)
    assert found["total"] == 2 * 10**9
    assert 0 < found["available"] <= 10**9


def test_the_processor_has_a_name_and_the_cores_of_this_process() -> None:
    found = machine.processor()
    assert found["name"]
    assert 1 <= int(str(found["cores"])) <= (os.cpu_count() or 1)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no source tree")
def test_the_commit_is_the_one_of_the_source_tree() -> None:
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    head = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert machine.commit().rstrip("+") == head


def test_systems_that_list_no_cameras_are_not_told_to_plug_one_in() -> None:
    assert [finding.what for finding in diagnose(facts(cameras=[], platform="Linux-6.8"))] == [
        "no camera found"
    ]
    for system in ("macOS-15.5-arm64", "Windows-11-10.0"):
        assert diagnose(facts(cameras=[], platform=system)) == []


class FakeNVML(SimpleNamespace):
    """A driver with one GPU of 123.4 W; `fails` names the call that it refuses."""

    class NVMLError(Exception):
        """What NVML raises."""

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self.fails, self.opened = fails, 0

    def __getattr__(self, name: str) -> object:
        def call(*args: object) -> object:
            if name == self.fails:
                raise self.NVMLError(name)
            self.opened += {"nvmlInit": 1, "nvmlShutdown": -1}.get(name, 0)
            return {
                "nvmlSystemGetDriverVersion": "580.65.06",
                "nvmlDeviceGetHandleByIndex": args,
                "nvmlDeviceGetPowerUsage": 123_400,
            }.get(name)

        return call


def test_the_driver_tells_version_and_power(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNVML()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert nvml.driver_version() == "580.65.06"
    assert nvml.power_watts() == pytest.approx(123.4)
    assert fake.opened == 0
    (finding,) = diagnose(facts(gpus=[]))
    assert "NVIDIA driver is here" in finding.mend


@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetPowerUsage"])
def test_a_driver_that_does_not_tell_is_unknown(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    fake = FakeNVML(fails)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert nvml.power_watts() is None
    assert fake.opened == 0


def test_without_the_package_everything_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    real = builtins.__import__

    def importing(name: str, *args: object, **options: object) -> object:
        if name == "pynvml":
            raise ImportError(name)
        return real(name, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", importing)
    assert nvml.driver_version() is None
    assert nvml.power_watts() is None
