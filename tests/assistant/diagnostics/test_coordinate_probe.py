"""The coordinate unit of models that do not tell: fitted on squares, stored in the profile."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine, FakeSession, text_of, tokens_of

from egolive.assistant.diagnostics.coordinate_probe import probe_coords, squares, store_unit
from egolive.assistant.schema.coordinates import from_source
from egolive.assistant.schema.engine import FULL_REUSE, Delta, Request, Reuse, Vision
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO, Profile, Unit, load_profile, save_profile
from egolive.streaming.frames import Image

UNITS: tuple[Unit, ...] = ("norm1000", "norm1", "pixels")
COLOURS = {"red": (215, 30, 35), "green": (25, 160, 60), "blue": (35, 70, 220), "yellow": (240, 205, 30)}


class Stub(FakeEngine):
    """Finds squares by their colour and tells their places in its own unit, a little beside them."""

    def __init__(self, unit: Unit, profile: Profile = NANO, *, blind: bool = False) -> None:
        super().__init__(profile=profile)
        self.unit = unit
        self.blind = blind

    def session(self, reuse: Reuse = FULL_REUSE) -> FakeSession:
        return _Session(self)


class _Session(FakeSession):
    def __init__(self, engine: Stub) -> None:
        super().__init__(engine)
        self._stub = engine
        self._random = random.Random(0)

    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        for number, request in enumerate(requests):
            for token in tokens_of(self._answer(request)):
                yield Delta(number, 0, token, -0.1, "" if token else "stop")

    def _answer(self, request: Request) -> str:
        (vision,) = (part for part in request.prompt.parts if isinstance(part, Vision))
        if self._stub.blind:
            return "<|box_start|>(100,100),(300,300)<|box_end|>"
        colour = next(colour for colour in COLOURS if f"{colour} square" in text_of(request.prompt))
        x1, y1, x2, y2 = (value + self._random.uniform(-6, 6) for value in find(vision.frames[0], colour))
        corners = from_source(
            (x1, y1, x2, y2), self._stub.unit, source_size=(640, 360), seen_size=(vision.width, vision.height)
        )
        a, b, c, d = (f"{value:g}" for value in corners)
        if self._stub.profile.answer_style == "list":
            return f"[{a}, {b}, {c}, {d}]"
        return f"<|box_start|>({a},{b}),({c},{d})<|box_end|>"


def find(picture: Image, colour: str) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((picture == COLOURS[colour]).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_squares_are_where_they_are_said_to_be_and_everywhere() -> None:
    shown = squares()
    for picture, colour, truth in shown:
        assert find(picture, colour) == tuple(truth)
        assert picture.shape == (360, 640, 3)
    assert min(truth.x1 for _, _, truth in shown) < 100
    assert max(truth.x2 for _, _, truth in shown) > 500


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("profile", [NANO, EGOTHINKER_V1], ids=lambda profile: profile.name)
def test_the_unit_of_a_stub_that_was_drawn_by_lot_is_found(seed: int, profile: Profile) -> None:
    unit = random.Random(seed).sample(UNITS, 3)[seed]
    found = probe_coords(Stub(unit, profile), seed=seed)
    assert found.unit == unit
    assert found.answered == found.shown == 8
    assert found.iou[unit] > 0.7
    assert all(found.iou[other] < 0.4 for other in UNITS if other != unit)


def test_nothing_is_concluded_from_a_model_that_does_not_find_the_squares() -> None:
    assert probe_coords(Stub("norm1000", blind=True)).unit is None
    silent = probe_coords(FakeEngine(lambda _: "none"))
    assert (silent.unit, silent.answered) == (None, 0)


def test_the_unit_is_stored_and_nothing_else_is_changed(tmp_path: Path) -> None:
    profile = replace(NANO, window_slices=7)
    save_profile(profile, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    store_unit(str(tmp_path), "norm1")
    assert load_profile(tmp_path) == replace(profile, unit="norm1")
    # A checkpoint without a profile of its own gets that of its architecture.
    (tmp_path / "egolive.json").unlink()
    store_unit(str(tmp_path), "pixels")
    assert load_profile(tmp_path) == replace(EGOTHINKER_V1, unit="pixels")
