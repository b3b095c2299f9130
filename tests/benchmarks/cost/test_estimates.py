"""The comparison of estimates with measurements: what it counts, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from measured import engine_card

from egolive.assistant.cli import main as cli
from egolive.assistant.model.engine_folder import write_engine_card
from egolive.benchmarks.cost import estimates
from egolive.streaming.errors import EngineError


def once(factor: float) -> dict[str, Any]:
    return {
        "encode": {"estimated": 2.0 * factor, "measured": 4.0},
        "step at 614": {"estimated": 0.03, "measured": 0.02 * factor},
        "memory": {
            "anonymous_estimated": 3_000_000_000,
            "anonymous_measured": round(2_000_000_000 * factor),
            "mapped_estimated": 10**9,
            "mapped_measured": 0,
        },
    }


def test_medians_are_taken_over_rounds_and_ratios_within_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: list[tuple[str, str]] = []

    def apart(_: str, model: str, *, form: str, **options: object) -> dict[str, Any]:
        asked.append((model, form))
        assert options == {"slices": [1, 4], "cpu_time": True, "device": "cpu", "threads": 1}
        return once(1.0 + (len(asked) - 1) // 2)

    monkeypatch.setattr(estimates, "run_apart", apart)
    report = tmp_path / "estimates.json"
    words = ["bench", "estimates", "nano", "--rounds", "3", "--threads", "1", "--cpu-time", "--device", "cpu"]
    assert cli.call([*words, "--json", str(report)]) == 0
    # The forms take turns.
    assert asked == 3 * [("nano", "fp32"), ("nano", "bf16")]
    told = json.loads(report.read_text())
    assert [entry["form"] for entry in told["estimates"]] == ["fp32", "bf16"]
    encode, step = told["estimates"][0]["work"]
    assert (encode["estimated_ms"], encode["measured_ms"], encode["ratio"]) == (4000, 4000, 1.0)
    assert encode["ratios"] == [0.5, 1.0, 1.5]
    assert step["ratios"] == [1.5, 0.75, 0.5]
    assert told["estimates"][0]["memory_mb"]["anonymous_measured"] == 4000
    printed = capsys.readouterr().err
    assert "1.00 (0.50 to 1.50)" in printed
    assert "fp32, estimated / measured: encode 0.50, step at 614 1.50" in printed


@pytest.mark.parametrize(
    "words",
    [[], ["nano", "--cpu-time"], ["nano", "--rounds", "0"], ["nano", "--slices", "0"]],
    ids=["no model", "several threads", "no round", "no slice"],
)
def test_what_cannot_be_measured_is_wrong_usage(words: list[str]) -> None:
    assert cli.call(["bench", "estimates", *words]) == 2


def test_an_engine_is_of_the_form_that_it_says(tmp_path: Path) -> None:
    backend: Literal["onnx", "torch", "tensorrt"]
    for form, backend in (("int4", "onnx"), ("nf4", "torch")):
        write_engine_card(tmp_path, engine_card(form, backend))
        assert [one.name for one in estimates.forms_of(str(tmp_path), "cpu")] == [form]
    for form, backend in (("int4", "tensorrt"), ("fp32", "onnx")):
        write_engine_card(tmp_path, engine_card(form, backend))
        with pytest.raises(EngineError, match=f"{form} for {backend}, of which nothing is estimated"):
            estimates.forms_of(str(tmp_path), "cpu")
