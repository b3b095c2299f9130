"""`egolive bench latency`: every setting is measured, and the figures stand where others look for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import FakeEngine
from PIL import Image as PillowImage

from egolive.assistant.cli import main as cli
from egolive.benchmarks.cost import latency


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """Stands in for loading; holds every engine that was loaded."""
    loaded: list[FakeEngine] = []

    def load(name: str, **_: object) -> FakeEngine:
        loaded.append(FakeEngine())
        return loaded[-1]

    monkeypatch.setattr(latency, "open_model", load)
    monkeypatch.setattr("egolive.benchmarks.commands.check_model", lambda *_: None)
    return loaded


def test_each_engine_is_measured_at_each_size_and_rate(
    engines: list[FakeEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json", str(tmp_path / "latency.json"), "--plot", str(tmp_path / "latency.png")]
    options = ["--size", "320x180", "--size", "256x144", "--fps", "20", "--seconds", "0.4"]
    assert cli.call(["bench", "latency", "one", "other", *options, *files]) == 0
    assert [engine.closed for engine in engines] == [True, True]
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads((tmp_path / "latency.json").read_text())
    assert [setting["size"] for setting in figures["settings"]] == ["320x180", "256x144"] * 2
    for setting in figures["settings"]:
        assert setting["pictures"] == 8
        assert setting["glass_to_overlay_ms"]["n"] == setting["shown"] > 0
        assert {"p50", "p95", "p99"} <= set(setting["glass_to_overlay_ms"])
        assert {"track", "draw"} <= set(setting["stages"])
    # What a program reads that wants one figure: the first setting's.
    first = figures["settings"][0]
    assert {name: figures[name] for name in first} == first
    assert {"answer_age_s", "drops", "machine", "versions", "commit", "command"} <= set(figures)
    with PillowImage.open(tmp_path / "latency.png") as drawn:
        assert min(drawn.size) >= 300


@pytest.mark.parametrize(
    "options",
    [["--size", "large"], ["--size", "100x100"], ["--fps", "0"], ["--seconds", "-1"], ["--json", "no/where"]],
)
def test_settings_that_cannot_be_are_refused_before_an_engine_is_loaded(
    engines: list[FakeEngine], options: list[str]
) -> None:
    assert cli.call(["bench", "latency", *options]) == 2
    assert not engines
