"""`egolive bench scaling`: what is measured at each point, and whether a curve is flat is computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.cli import main as cli
from egolive.assistant.load_local import load_engine
from egolive.assistant.runtime.engine_session import Session
from egolive.assistant.schema.profiles import NANO, save_profile
from egolive.benchmarks.stream import scaling
from egolive.benchmarks.stream.baselines import Cost
from egolive.benchmarks.stream.scaling_run import BASELINES, Point, Scales, mean_length, shape_of


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied: Path = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("scaling") / "tiny")
    save_profile(replace(NANO, picture=(56, 84)), copied)
    return copied


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[TorchEngine]:
    engine = load_engine(str(folder), device="cpu", dtype="fp32")
    assert isinstance(engine, TorchEngine)
    yield engine
    engine.close()


@pytest.fixture
def scales(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> Scales:
    monkeypatch.setattr("egolive.benchmarks.stream.scaling_run._MAX_TOKENS", 2)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (56, 84, 3), dtype=np.uint8) for _ in range(6)]
    return Scales(engine, images, slices=2)


def points(costs: list[float], xs: list[float] | None = None) -> list[Point]:
    return [
        Point(x, (Cost(1.0, cost), Cost(1.0, cost)))
        for x, cost in zip(xs or [1.0, 2.0, 4.0, 8.0], costs, strict=True)
    ]


def test_a_curve_that_doubles_with_what_it_is_drawn_over_is_not_flat() -> None:
    found = shape_of(points([10.0, 20.0, 40.0, 80.0]), processor=True)
    assert found == {"growth": 8.0, "growth_ci": [8.0, 8.0], "exponent": 1.0, "verdict": "not flat"}


def test_a_curve_that_stays_within_a_tenth_is_flat() -> None:
    assert shape_of(points([10.0, 10.2, 9.9, 10.1]), processor=True)["verdict"] == "flat"
    # What passed is another figure than what the processor did.
    assert shape_of(points([10.0, 20.0, 40.0, 80.0]), processor=False)["verdict"] == "flat"


def test_a_growth_that_noise_may_make_is_called_neither() -> None:
    found = shape_of(points([10.0, 24.0, 8.0, 22.0]), processor=True)
    assert found["growth"] > 1.1
    assert found["growth_ci"][0] < 1 < found["growth_ci"][1]
    assert found["verdict"] == "not told from noise"


def test_hours_begin_at_none_and_get_a_line() -> None:
    hours = [0.0, 1.0, 2.0, 3.0]
    found = shape_of(points([10.0, 20.0, 30.0, 40.0], hours), processor=True)
    assert found == {"growth": 4.0, "growth_ci": [4.0, 4.0], "exponent": None, "verdict": "not flat"}


def test_windows_have_their_mean_length(scales: Scales) -> None:
    assert mean_length(4) == np.mean([4, 5, 6, 7])
    assert [point.x for point in scales.windows([2, 3], BASELINES["ours"])] == [2.5, 4.0]


def test_all_pictures_of_a_stream_are_seen_and_the_cycles_at_the_marks_answered(
    scales: Scales, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    seen: list[int] = []
    ask, see = Session.ask, Session.see

    def counted_ask(self: Session, requests: Any) -> Any:
        asked.append(len(requests))
        return ask(self, requests)

    def counted_see(self: Session, vision: Any) -> None:
        seen.append(len(vision.keys))
        see(self, vision)

    monkeypatch.setattr(Session, "ask", counted_ask)
    monkeypatch.setattr(Session, "see", counted_see)
    found = scales.hours([0.0, 10 / 3600])
    assert [point.x for point in found] == [0.0, 10 / 3600]
    # A cycle of four hops at each mark; four hops come before the first, and the second begins ten later.
    assert asked == [6] * 8
    assert len(seen) == 4 + 6
    assert all(point.cpu_ms > 0 for point in found)


def test_resolutions_leave_the_engine_as_it_was(scales: Scales, engine: TorchEngine) -> None:
    # A window of the last one is beyond what the model can hold.
    found = scales.resolutions([(28, 56), (56, 56), (28_000, 28_000)], BASELINES["without reuse"])
    assert [point.x for point in found] == [2, 4]
    assert engine.profile.picture == (56, 84)


def test_the_command_draws_every_curve(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Growing with questions alone.
    for name in ("windows", "resolutions", "questions"):
        costs = [9.0, 12.0, 18.0] if name == "questions" else [9.0, 9.0, 9.0]
        made = points(costs, [1.0, 2.0, 4.0])
        monkeypatch.setattr(Scales, name, lambda *_, made=made: made)
    monkeypatch.setattr(Scales, "hours", lambda *_: points([9.0, 9.0, 9.1], [0.0, 1.0, 2.0]))
    monkeypatch.setattr(scaling, "load_images", lambda *_: [])
    files = ["--json", str(tmp_path / "s.json"), "--plot", str(tmp_path / "s.png")]
    assert cli.call(["bench", "scaling", "--model", str(folder), *files]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])
    assert figures["not_flat"] == ["questions"]
    assert "not flat, doubled 1.41" in printed.err
    assert set(figures["curves"]) == {"windows", "resolutions", "questions", "hours"}
    with PillowImage.open(tmp_path / "s.png") as drawn:
        assert min(drawn.size) >= 200
