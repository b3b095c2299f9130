"""`egolive bench engines`: figures add up, ceilings come from the same run, energy where it is told."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PillowImage

from egolive.assistant.cli import main as cli
from egolive.assistant.load_local import load_engine
from egolive.assistant.schema.profiles import NANO, save_profile
from egolive.benchmarks.cost import ceilings, engine_costs, engines
from egolive.benchmarks.cost import energy as energy_module
from egolive.benchmarks.cost.energy import Energy, watts_in
from egolive.quantize.measure import engine_speed
from egolive.streaming.errors import EngineError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied: Path = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("engines") / "tiny")
    save_profile(replace(NANO, picture=(56, 84)), copied)
    return copied


@pytest.fixture(scope="module")
def costs(folder: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_speed, "_LEAST_SECONDS", 0.0)
        patch.setattr(engine_costs, "_BLOCK", 1 << 20)
        return engine_costs.cost_of(str(folder), device="cpu", slices=(1, 3))


def test_an_engine_is_held_against_what_the_same_process_could_do(costs: dict[str, Any]) -> None:
    assert costs["floor_tok_s"] == pytest.approx(
        costs["ceilings"]["copy_weights_gb_s"] * 1e3 / costs["token_mb"], rel=0.5
    )
    assert costs["of_floor"] == pytest.approx(costs["tok_s"] / costs["floor_tok_s"], rel=0.01)
    assert costs["load_s"] > 0
    assert costs["peak_mb"] > costs["weight_mb"]
    assert costs["ttft_ms"] > 0 < costs["ttft_live_ms"]


def test_prefill_is_measured_at_each_length(costs: dict[str, Any]) -> None:
    short, long = costs["prefill"]
    assert (short["slices"], long["slices"]) == (1, 3)
    # Two slices of 56 x 84 pixels more.
    assert long["tokens"] - short["tokens"] == 2 * 2 * 3
    assert short["of_ceiling"] >= 0 < short["ms"]


def test_a_token_reads_the_layers_and_the_last_one_but_no_table_of_embeddings(folder: Path) -> None:
    engine = load_engine(str(folder), device="cpu", dtype="fp32")
    read, numbers = engine_costs._weights_read(engine, folder)
    model = engine.backend()[1].model  # type: ignore[attr-defined]
    text = model.model.language_model
    linear = sum(w.numel() for name, w in text.layers.named_parameters() if w.ndim == 2)
    assert numbers == linear
    layers = sum(w.nbytes for w in text.layers.parameters())
    assert read == layers + model.lm_head.weight.nbytes
    engine.close()


def test_the_command_measures_each_engine_and_draws_them(
    monkeypatch: pytest.MonkeyPatch,
    costs: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []

    def apart(model: str, **_: object) -> dict[str, Any]:
        asked.append(model)
        return costs | {"name": model}

    monkeypatch.setattr(engines, "cost_apart", apart)
    monkeypatch.setattr("egolive.benchmarks.commands.check_model", lambda *_: None)
    files = ["--json", str(tmp_path / "e.json"), "--plot", str(tmp_path / "e.png")]
    assert cli.call(["bench", "engines", "one", "other", *files]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])
    assert [entry["name"] for entry in figures["engines"]] == asked == ["one", "other"]
    names = "name backend precision load_s encode_ms ttft_ms tok_s floor_tok_s peak_mb"
    assert set(names.split()) <= set(figures["engines"][0])
    assert "not told" in printed.err
    with PillowImage.open(tmp_path / "e.png") as drawn:
        assert min(drawn.size) >= 300


def test_an_engine_that_cannot_be_measured_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\n  many lines\nEngineError: no such folder\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(EngineError, match=r"^nowhere cannot be measured: EngineError: no such folder$"):
        engine_costs.cost_apart("nowhere", device="cpu", threads=None, slices=(1,))


def test_power_of_a_jetson_is_read_from_tegrastats() -> None:
    jetson = "11-21-2026 RAM 2443/7620MB CPU [4%@1190] VDD_IN 4940mW/4870mW VDD_CPU_GPU_CV 724mW/700mW"
    assert watts_in(jetson) == pytest.approx(4.94)
    assert watts_in("RAM 2443/7620MB CPU [4%@1190]") is None


def test_joules_of_a_gpu_are_the_difference_of_its_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter([100.0, 107.5])
    monkeypatch.setattr(energy_module, "energy_joules", lambda: next(counter))
    monkeypatch.setattr("shutil.which", lambda _: None)
    with Energy() as energy:
        pass
    assert (energy.joules, energy.source) == (7.5, "nvml")


def test_joules_are_counted_where_the_processor_tells_them(tmp_path: Path) -> None:
    for name, first in (("intel-rapl:0", 9_000_000), ("intel-rapl:1", 5), ("intel-rapl:0:0", 1)):
        zone = tmp_path / name
        zone.mkdir()
        (zone / "energy_uj").write_text(f"{first}\n")
        (zone / "max_energy_range_uj").write_text("10000000\n")
    with Energy(tmp_path, devices=False) as energy:
        # The first package's counter begins anew.
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1000000\n")
        (tmp_path / "intel-rapl:1" / "energy_uj").write_text("500005\n")
        (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("7777777\n")
    assert energy.joules == pytest.approx(2.5)
    assert energy.source == "rapl"


def test_where_nothing_tells_there_are_no_joules(tmp_path: Path) -> None:
    with Energy(tmp_path, devices=False) as energy:
        pass
    assert (energy.joules, energy.source) == (None, "")


def test_ceilings_are_rates_of_bytes_and_of_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "timed", lambda *_: engine_speed.Timed(0.5, 0.0))
    assert ceilings.copy_rate(4000, CPU) == 16_000
    assert ceilings.matrix_rate(CPU, size=10) == 4_000
