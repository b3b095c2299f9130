"""What `make gpu` runs, tried on the CPU with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from egolive.benchmarks.cost.gpu_run import gpu_run


def lines_of(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return {line["step"]: line for line in found}


@pytest.mark.robustness
def test_all_forms_are_made_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_run(device="cpu", model="nano", tests=False) == 0
    lines = lines_of(capsys)
    assert "versions" in lines.pop("machine")
    assert list(lines) == [
        "fp32, costs",
        "nf4, made",
        "nf4, costs",
        "int4, made",
        "int4, costs",
        "tensorrt int4, made",
    ]
    assert {line["state"] for line in lines.values()} == {"done"}
    for form in ("fp32", "nf4", "int4"):
        costs = lines[f"{form}, costs"]
        assert costs["tok_s"] > 0
        assert [entry["slices"] for entry in costs["prefill"]] == [1, 4, 8]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what it is to be without")
def test_without_a_gpu_everything_is_skipped_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_run(tests=False) == 0
    lines = lines_of(capsys)
    lines.pop("machine")
    assert {line["state"] for line in lines.values()} == {"skipped"}
    assert lines["random weights"]["reason"] == "torch finds no CUDA device"


@pytest.mark.robustness
def test_a_step_that_fails_is_told_and_those_behind_it_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert gpu_run(device="cpu", model=str(tmp_path), tests=False) == 1
    lines = lines_of(capsys)
    assert lines["fp32, costs"]["state"] == "failed"
    assert lines["int4, costs"] == {"step": "int4, costs", "state": "skipped", "reason": "there is no int4"}


def test_the_time_ends_what_runs_and_begins_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_run(device="cpu", minutes=0.005, model="nano", tests=False) == 1
    lines = lines_of(capsys)
    assert lines["fp32, costs"]["state"] == "failed"
    assert "when the time was over" in lines["fp32, costs"]["reason"]
    assert lines["nf4, made"]["reason"] == "the time is over"
