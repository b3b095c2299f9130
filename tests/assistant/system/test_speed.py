"""Speeds of this machine: how they are counted, kept, and measured again."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from egolive.assistant.system import machine, speed
from egolive.assistant.system.speed import FORMATS, LinearSpeed, Speeds, kept_speeds, measured_speeds
from egolive.assistant.system.speed import measure_speeds as really_measure


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers and blocks that take no time."""
    monkeypatch.setattr(speed, "_INPUT", 128)
    monkeypatch.setattr(speed, "_WIDE", 256)
    monkeypatch.setattr(speed, "_OUTPUT", {"fp32": 64, "bf16": 64, "onnx-fp32": 64})
    monkeypatch.setattr(speed, "_READ_BYTES", 4096)
    monkeypatch.setattr(speed, "_LOOK_SECONDS", 0.01)


@pytest.mark.parametrize(
    "formats",
    [
        [name for name in FORMATS if name != "nf4"],
        # Importing bitsandbytes takes seconds.
        pytest.param(["nf4"], marks=pytest.mark.robustness),
    ],
    ids=["others", "nf4"],
)
def test_every_format_is_counted_by_weight_and_row(formats: list[str], small: None) -> None:
    for package in ("onnxruntime", "onnx", "bitsandbytes"):
        pytest.importorskip(package)
    # A clock by which everything takes a second.
    ticks = itertools.count()
    found = really_measure("cpu", 1, formats=formats, clock=lambda: float(next(ticks)))
    assert set(found.linear) == set(formats)
    for name, one in found.linear.items():
        weights = 128 * {"fp32": 64, "bf16": 64, "onnx-fp32": 64}.get(name, 256)
        assert one == LinearSpeed(1 / weights, 1 / weights, 1 / weights / 256), name
    assert (found.read, found.copy) == (4096, 8192)
    assert (found.device, found.threads) == ("cpu", 1)


def test_only_what_is_wanted_is_measured_and_threads_are_put_back(small: None) -> None:
    before = torch.get_num_threads()
    found = really_measure("cpu", before + 1, formats=("bf16",))
    assert set(found.linear) == {"bf16"}
    assert found.linear["bf16"].one > 0
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("cores", "physical", "seconds", "best"),
    [
        # Two threads share the arithmetic of a core.
        (8, 4, {2: 2.0, 4: 1.0, 8: 1.1}, 4),
        # Each core counts.
        (8, 8, {4: 2.0, 8: 1.0}, 8),
        # A container is given the time of two cores.
        (16, 8, {4: 1.0, 8: 1.2, 16: 3.0}, 4),
        # More threads save next to nothing.
        (4, 4, {2: 1.02, 4: 1.0}, 2),
        (1, None, {}, 1),
    ],
)
def test_the_fewest_threads_that_are_as_fast_are_taken(
    cores: int,
    physical: int | None,
    seconds: dict[int, float],
    best: int,
    monkeypatch: pytest.MonkeyPatch,
    small: None,
) -> None:
    monkeypatch.setattr(machine, "processor", lambda: {"cores": cores})
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: cores if logical else physical)
    tried = []

    def measure(watch: object, threads: int) -> float:
        tried.append(threads)
        return seconds[threads]

    monkeypatch.setattr(speed, "_question_seconds", measure)
    assert really_measure("cpu", None, formats=()).threads == best
    assert tried == sorted(seconds)


def test_a_question_is_timed_with_the_threads_that_are_asked_for(small: None) -> None:
    before = torch.get_num_threads()
    try:
        assert speed._question_seconds(speed._Stopwatch("cpu", time.perf_counter), 1) > 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_speeds_are_measured_once_for_each_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls: list[int | None] = []

    def measure(device: str, threads: int | None) -> Speeds:
        calls.append(threads)
        one = LinearSpeed(1e-9, 2e-9, 3e-9)
        return Speeds(device, threads or 2, 1e9, 2e9, {"fp32": one}, time=time.time())

    monkeypatch.setattr(speed, "measure_speeds", measure)
    assert kept_speeds("cpu", 1) is None
    first = measured_speeds("cpu", 1)
    assert measured_speeds("cpu", 1) == first == kept_speeds("cpu", 1)
    assert calls == [1]
    measured_speeds("cpu", 1, anew=True)
    measured_speeds("cpu")
    assert calls == [1, 1, None]
    # What is cut off is measured again.
    for path in (tmp_path / "egolive" / "speeds").iterdir():
        path.write_text(path.read_text()[:20])
    assert measured_speeds("cpu", 1).linear == first.linear
    assert calls == [1, 1, None, 1]


def test_speeds_of_a_busy_machine_are_not_kept_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = Speeds("cpu", 1, 1e9, 2e9, {}, busy=0.9, time=time.time())
    assert found.disturbed
    for old, kept in ((found, True), (replace(found, time=found.time - 7200), False)):
        monkeypatch.setattr(speed, "measure_speeds", lambda *_, old=old: old)
        measured_speeds("cpu", 1, anew=True)
        assert (kept_speeds("cpu", 1) is not None) == kept
    quiet = replace(found, busy=0.1, time=0.0)
    monkeypatch.setattr(speed, "measure_speeds", lambda *_: quiet)
    measured_speeds("cpu", 1, anew=True)
    assert kept_speeds("cpu", 1) == quiet


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "egolive").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = Speeds("cpu", 1, 1e9, 2e9, {})
    monkeypatch.setattr(speed, "measure_speeds", lambda *_: found)
    assert measured_speeds("cpu", 1) == found
