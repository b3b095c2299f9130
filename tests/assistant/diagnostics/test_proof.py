"""The doctor's proofs: latency read from coded pictures, and the whole report with the bundled model."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine, FakeSession

from egolive.assistant.cli import main as cli
from egolive.assistant.diagnostics import glass_to_overlay, proof
from egolive.assistant.diagnostics.glass_to_overlay import (
    CodedCamera,
    Latency,
    measure_latency,
    read_code,
    write_code,
)
from egolive.assistant.diagnostics.proof import shortcomings
from egolive.assistant.schema.engine import FULL_REUSE, Delta, Request, Reuse
from egolive.assistant.system import peak_memory
from egolive.assistant.system.peak_memory import PeakMemory
from egolive.streaming.clock import VirtualClock


@pytest.mark.parametrize("number", [0, 1, 54321, 2**31 + 5])
def test_a_number_comes_back_from_the_pixels(number: int) -> None:
    image = np.full((40, 300, 3), 77, np.uint8)
    write_code(image, number)
    noisy = image + np.random.default_rng(0).integers(-20, 20, image.shape)
    assert read_code(np.clip(noisy, 0, 255).astype(np.uint8)) == number
    image[4:12, 4:12] = 128
    assert read_code(image) is None


def test_coded_pictures_carry_the_time_at_which_they_were_taken() -> None:
    clock = VirtualClock(start=5.0)
    camera = CodedCamera(1.0, fps=10.0, size=(256, 32), clock=clock)
    times = []
    for frame in camera:
        times.append(frame.time)
        assert read_code(frame.image) == round(frame.time * 1e3)
    assert times == pytest.approx(np.arange(10) / 10)


def test_latency_is_measured_behind_the_overlay() -> None:
    found = measure_latency(FakeEngine(), seconds=1.0, fps=10.0, size=(320, 180))
    assert found.glass_to_overlay is not None
    assert found.unread == 0
    assert found.pictures == 10
    assert found.glass_to_overlay.count == found.shown
    assert 0 < found.glass_to_overlay.p50 <= found.glass_to_overlay.max < 10
    assert json.dumps(found.in_ms())


def test_a_model_is_proved_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "proof"
    assert cli.call(["doctor", "--prove", "nano", "--seconds", "1", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["ok"]
    assert capsys.readouterr().out.strip().splitlines()[-1] == json.dumps(report)
    (found,) = report["proofs"]
    assert len(found["sha256"]) == 64
    assert found["clip 0"]["answers"] > 0
    assert found["clip 0"]["audit"]["checked"] > 0
    assert found["clip 0"]["audit"]["errors"] == 0
    assert found["evidence"]["same"] == found["evidence"]["bundles"] > 0
    assert found["live"]["glass_to_overlay_ms"]["n"] > 0
    assert found["memory"]["weights_mb"] > 1
    assert {"process_mb", "process_peak_mb"} <= found["memory"].keys()
    assert {"machine", "versions", "command", "commit"} <= set(report)
    # A second report does not mix with the first.
    assert cli.call(["doctor", "--prove", "nano", "--out", str(out)]) == 1


def proof_of(**changed: Any) -> dict[str, Any]:
    """A proof whose parts all hold, but for what is changed."""
    audit = {"checked": 3, "ties": 1, "errors": 0, "skipped": 0} | changed.pop("audit", {})
    return {
        "clip 0": {"answers": 7, "audit": audit} | changed.pop("clip", {}),
        "evidence": {"bundles": 4, "same": 4} | changed.pop("evidence", {}),
        "live": {"glass_to_overlay_ms": {"n": 9}, "answers": 2} | changed.pop("live", {}),
    }


@pytest.mark.parametrize(
    ("changed", "part", "told"),
    [
        ({}, None, ""),
        ({"clip": {"answers": 0}}, "clip 0", "no question was answered"),
        ({"audit": {"checked": 0, "ties": 0}}, "clip 0", "no answer could be compared"),
        ({"audit": {"checked": 2, "ties": 2}}, "clip 0", "no answer could be compared"),
        ({"audit": {"errors": 1}}, "clip 0", "1 of 3 answers differ"),
        ({"evidence": {"bundles": 0, "same": 0}}, "evidence", "no answer was kept"),
        ({"evidence": {"same": 3}}, "evidence", "1 of 4 answers are others"),
        ({"live": {"answers": 0}}, "live", "nothing was answered"),
        ({"live": {"glass_to_overlay_ms": None}}, "live", "no picture was shown"),
    ],
)
def test_a_part_that_proves_nothing_or_the_contrary_is_named(
    changed: dict[str, Any], part: str | None, told: str
) -> None:
    found = list(shortcomings(proof_of(**changed)))
    assert [title for title, _ in found] == ([] if part is None else [part])
    assert all(told in error and "\n" not in error for _, error in found)


def test_a_proof_without_an_answer_fails_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Mute(FakeSession):
        def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
            for number, _ in enumerate(requests):
                yield Delta(number, 0, "", None, "broken", error="gone")

    class MuteEngine(FakeEngine):
        def session(self, reuse: Reuse = FULL_REUSE) -> FakeSession:
            return Mute(self)

    monkeypatch.setattr(proof, "load_engine", lambda name: MuteEngine())
    out = tmp_path / "proof"
    assert cli.call(["doctor", "--prove", "nano", "--seconds", "0.2", "--out", str(out)]) == 1
    told = capsys.readouterr().out
    assert "nano: clip 0 failed: no question was answered, so nothing is proved" in told
    assert "nano: evidence failed: no answer was kept" in told
    assert "nano: live failed: nothing was answered meanwhile" in told
    assert "nano: does not hold" in told
    assert not json.loads((out / "report.json").read_text())["ok"]


def test_latency_of_an_engine_that_answers_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = Latency(
        seconds=1.0,
        pictures=30,
        shown=30,
        unread=30,
        glass_to_overlay=None,
        answer_age=None,
        drops={},
        stages={},
        answers=0,
    )
    monkeypatch.setattr(glass_to_overlay, "load_engine", lambda model: FakeEngine())
    monkeypatch.setattr(glass_to_overlay, "measure_latency", lambda engine, seconds: nothing)
    assert cli.call(["doctor", "--latency"]) == 1
    assert "nothing is measured" in capsys.readouterr().out


def test_the_peak_of_one_engine_is_not_that_of_the_one_before() -> None:
    first = PeakMemory()
    # Memory of the system itself: the allocator may keep what an array gave back.
    with mmap.mmap(-1, 80_000_000) as large:
        large[:] = b"x" * len(large)
        held = first.process_mb()
    second = PeakMemory().process_mb()
    if held is None or second is None:
        pytest.skip("this system cannot count the most memory anew")
    assert held - second > 60


def test_a_peak_that_cannot_be_counted_anew_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "reset_peak_rss", lambda: False)
    assert PeakMemory().process_mb() is None


def test_memory_that_torch_does_not_count_is_unknown() -> None:
    assert PeakMemory().device_mb("cuda:0", "tensorrt") is None
    assert PeakMemory().device_mb("cpu", "torch") is None


def test_what_fails_is_in_the_report(tmp_path: Path) -> None:
    out = tmp_path / "proof"
    assert cli.call(["doctor", "--prove", str(tmp_path / "nowhere"), "--out", str(out)]) == 1
    report = json.loads((out / "report.json").read_text())
    assert not report["ok"]
    assert report["proofs"][0]["failed"][0]["part"] == "load"


def test_the_doctor_proves_one_thing_at_a_time() -> None:
    assert cli.call(["doctor", "--latency", "--prove", "nano"]) == 2
    assert cli.call(["doctor", "--latency", "--seconds", "0"]) == 2
