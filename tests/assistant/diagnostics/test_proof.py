"""The doctor's proofs: latency read from coded pictures, and the whole report with the bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine

from egolive.assistant.cli import main as cli
from egolive.assistant.diagnostics.glass_to_overlay import CodedCamera, measure_latency, read_code, write_code
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
    (proof,) = report["proofs"]
    assert len(proof["sha256"]) == 64
    assert proof["clip 0"]["answers"] > 0
    assert proof["clip 0"]["audit"]["checked"] > 0
    assert proof["clip 0"]["audit"]["errors"] == 0
    assert proof["evidence"]["same"] == proof["evidence"]["bundles"] > 0
    assert proof["live"]["glass_to_overlay_ms"]["n"] > 0
    assert proof["memory"]["weights_mb"] > 1
    assert {"machine", "versions", "command", "commit"} <= set(report)
    # A second report does not mix with the first.
    assert cli.call(["doctor", "--prove", "nano", "--out", str(out)]) == 1


def test_what_fails_is_in_the_report(tmp_path: Path) -> None:
    out = tmp_path / "proof"
    assert cli.call(["doctor", "--prove", str(tmp_path / "nowhere"), "--out", str(out)]) == 1
    report = json.loads((out / "report.json").read_text())
    assert not report["ok"]
    assert report["proofs"][0]["failed"][0]["part"] == "load"


def test_the_doctor_proves_one_thing_at_a_time() -> None:
    assert cli.call(["doctor", "--latency", "--prove", "nano"]) == 2
    assert cli.call(["doctor", "--latency", "--seconds", "0"]) == 2
