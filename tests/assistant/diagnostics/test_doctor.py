"""What `egolive doctor` tells of machines, of this one and of made-up ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from machines import facts

from egolive.assistant.cli import main as cli
from egolive.assistant.diagnostics.doctor import diagnose, engine_needs
from egolive.assistant.system import machine


def test_a_machine_that_has_everything_gets_no_advice() -> None:
    assert diagnose(facts()) == []


@pytest.mark.parametrize(
    ("changes", "what", "mend"),
    [
        ({"gpus": []}, "no accelerator", "nano"),
        ({"cameras": []}, "no camera", "rtsp://"),
        (
            {"cameras": [{"path": "/dev/video2", "name": "", "readable": False}]},
            "/dev/video2 may not be opened",
            "usermod -aG video",
        ),
        ({"memory": {"total": 4_000_000_000, "available": 1_000_000_000}}, "only 1.0 GB", "close"),
        ({"versions": {"trl": "1", "xgrammar": "1"}}, "peft, datasets", "egolive[train]"),
        ({"versions": {"trl": "1", "peft": "1", "datasets": "1"}}, "not held to their form", "xgrammar"),
    ],
    ids=["no gpu", "no camera", "no rights", "little memory", "no training libraries", "no grammar"],
)
def test_each_lack_comes_with_its_remedy(changes: dict[str, object], what: str, mend: str) -> None:
    (finding,) = diagnose(facts(**changes))
    assert what in finding.what
    assert mend in finding.mend


def test_needs_follow_the_size_of_the_weights() -> None:
    needs = {(need.engine, need.precision): need.bytes / 1e9 for need in engine_needs()}
    # EgoThinker-7B's files are 16.6 GB in bf16, Qwen2-VL-2B's 4.4 GB; beside them are the last layer in fp32
    # (2.2 and 0.9 GB), and about 1 GB for an answer, or a tenth that loading wants to have to spare.
    assert needs["EgoThinker 7B", "bf16"] == pytest.approx(1.1 * (16.6 + 2.2), abs=0.2)
    assert needs["Qwen2-VL 2B", "bf16"] == pytest.approx(4.4 + 0.9 + 0.9, abs=0.2)
    # Text layers in 4 bits, the rest in 16, and the same copy.
    assert needs["EgoThinker 7B", "nf4"] == pytest.approx(1.1 * (3.5 + 3.5 + 2.2), abs=0.2)
    assert needs["EgoThinker 7B", "int4"] < needs["EgoThinker 7B", "int8"] < needs["EgoThinker 7B", "bf16"]


def test_camera_nodes_are_listed_in_order_with_their_names(tmp_path: Path) -> None:
    devices, classes = tmp_path / "dev", tmp_path / "class"
    devices.mkdir()
    for number in (10, 2):
        (devices / f"video{number}").write_text("")
        (classes / f"video{number}").mkdir(parents=True)
        (classes / f"video{number}" / "name").write_text(f"camera {number}\n")
    (devices / "videoloop").write_text("")
    found = machine.cameras(devices, classes)
    assert [camera["name"] for camera in found] == ["camera 2", "camera 10"]
    assert all(camera["readable"] for camera in found)


def test_the_report_is_printed_for_people_and_written_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "doctor.json"
    assert cli.call(["doctor", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    for expected in ("This machine", "What fits", "EgoThinker 7B bf16", "nano fp32", "Missing"):
        assert expected in out
    report = json.loads(path.read_text())
    assert json.loads(out.strip().splitlines()[-1]) == report
    assert {"machine", "versions", "commit", "command", "engines", "findings"} <= set(report)
    assert report["machine"]["memory"]["total"] > 0
    assert report["versions"]["torch"]


def test_a_report_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["doctor", "--json", str(tmp_path / "missing" / "doctor.json")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
