"""The table is made of the training split alone, twice the same, and measured on others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from egolive.assistant.cli import main as cli
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.familiarity import FAMILIARITY_FILE, Familiarity
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.streaming.errors import DataError
from egolive.train.nano import familiarity_table
from egolive.train.nano.familiarity_table import Settings, make_table, real_files, simulated_looks

SETTINGS = Settings(episodes=3, held_out=1, directions=8, tokens=200)


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine[VisionTower, Decoder]]:
    engine = load_engine("nano", device="cpu")
    yield engine
    engine.close()


def test_the_same_weights_give_the_same_table(
    engine: LocalEngine[VisionTower, Decoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    looks = familiarity_table.simulated_looks

    def watched(split: str, *more: object, **named: object) -> object:
        seen.append(split)
        return looks(split, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(familiarity_table, "simulated_looks", watched)
    files = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        files.append(make_table(engine, SETTINGS).save(folder).read_bytes())
    assert files[0] == files[1]
    assert set(seen) == {"train"}


def test_looks_are_pictures_slices_and_spoilt_pictures_the_same_each_time() -> None:
    first, second = (list(simulated_looks("train", [5], 0)) for _ in range(2))
    assert [len(look) for look in first] == [1, 2, 1] * 3
    for one, other in zip(first, second, strict=True):
        assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert first[2][0].shape != first[0][0].shape


def test_the_command_writes_the_table_and_tells_what_it_marks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, real = tmp_path / "model", tmp_path / "real"
    shutil.copytree(resolve_model("nano"), model)
    (model / FAMILIARITY_FILE).unlink()
    real.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (100, 160, 3), dtype=np.uint8)
    PillowImage.fromarray(noise).save(real / "noise.png")
    (real / "notes.txt").write_text("no picture")
    words = [
        "--episodes",
        "3",
        "--held-out",
        "1",
        "--test",
        "1",
        "--directions",
        "96",
        "--tokens",
        "900",
        "--real",
        str(real),
    ]
    assert cli.call(["train", "familiarity", str(model), *words]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["simulated_marked_n"] == 9
    assert (found["real_marked_n"], found["real_marked"], found["real_sources"]) == (
        1,
        1.0,
        {"noise.png": 1.0},
    )
    table = Familiarity.from_folder(model)
    assert table is not None
    assert table.fits(140, 224)
    assert "3 episodes of the training split" in table.made


def test_what_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="no such file"):
        real_files([tmp_path / "missing"])
    assert cli.call(["train", "familiarity", "nano", "--episodes", "0"]) == 2
    assert "1 or more" in capsys.readouterr().err
