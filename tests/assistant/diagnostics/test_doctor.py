"""What `egolive doctor` tells of machines, of this one and of made-up ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from machines import facts
from measured import config_folder, speeds

from egolive.assistant.cli import main as cli
from egolive.assistant.diagnostics import doctor as doctor_module
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
    found = engine_needs()
    needs = {(need.engine, need.precision): need.bytes / 1e9 for need in found}
    on_gpus = {
        (need.engine, need.precision): need.gpu_bytes / 1e9 for need in found if need.gpu_bytes is not None
    }
    # EgoThinker-7B's files are 16.6 GB in bf16, Qwen2-VL-2B's 4.4 GB; beside them are the last layer in fp32
    # (2.2 and 0.9 GB), and about 1 GB for an answer, or a tenth that loading wants to have to spare.
    assert on_gpus["EgoThinker 7B", "bf16"] == pytest.approx(1.1 * (16.6 + 2.2), abs=0.2)
    assert on_gpus["Qwen2-VL 2B", "bf16"] == pytest.approx(4.4 + 0.9 + 0.5, abs=0.2)
    # Text layers in 4 bits, the rest in 16, and the same copy.
    assert on_gpus["EgoThinker 7B", "nf4"] == pytest.approx(3.5 + 3.5 + 2.2 + 0.8, abs=0.3)
    # Layers in 4 bits, head and tower in 8; a processor reads rows of embeddings from their file.
    assert needs["EgoThinker 7B", "int4"] == pytest.approx(3.5 + 0.6 + 0.7 + 1.4, abs=0.2)
    assert ("EgoThinker 7B", "fp32") not in on_gpus
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


def test_what_is_free_is_told_apart_from_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "memory", lambda: {"total": 64 * 10**9, "available": 9 * 10**9})
    path = tmp_path / "doctor.json"
    assert cli.call(["doctor", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "EgoThinker 7B bf16" in line]
    assert "freed" in line
    forms = {(form["model"], form["form"]): form for form in json.loads(path.read_text())["forms"]}
    int4, bf16 = (forms["hyf015/EgoThinker-v1", name] for name in ("int4", "bf16"))
    assert bf16["free_bytes"] == 9 * 10**9
    assert bf16["lacks_bytes"] == bf16["anonymous_bytes"] + bf16["mapped_bytes"] - 9 * 10**9 > 0
    assert int4["lacks_bytes"] == 0
    # Nothing was measured yet, and plain `doctor` does not wait for that.
    assert int4["seconds"] is None
    assert int4["pace"] == "not known"
    assert "not measured" in out


def test_the_forms_of_one_model_are_estimated_from_measured_speeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(machine, "memory", lambda: {"total": 64 * 10**9, "available": 40 * 10**9})
    monkeypatch.setattr(doctor_module, "measured_speeds", lambda *_, **__: speeds(1e-9, row=1e-10))
    folder = config_folder(tmp_path / "seven")
    path = tmp_path / "doctor.json"
    assert cli.call(["doctor", "--model", str(folder), "--json", str(path)]) == 0
    told = json.loads(path.read_text())
    assert {form["model"] for form in told["forms"]} == {str(folder)}
    assert all(form["pace"] == "too slow" and form["seconds"]["window"] > 15 for form in told["forms"])
    out = capsys.readouterr().out
    assert "is too slow to be live here: about" in out
    assert told["speeds"]["linear"]["int4"]["row"] == 1e-10
    assert cli.call(["doctor", "--model", "http://127.0.0.1:9/v1"]) == 2


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
