"""The table that tells familiar pictures from others, and where a session takes a picture's score from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import REAL, needs_real
from safetensors.torch import save_file

from egolive.assistant.ask import ask_task
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.checkpoint import resolve_model
from egolive.assistant.model.media import bundled_clip, load_picture
from egolive.assistant.prompts.prompts import build_prompt, make_vision
from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.engine_lock import SharedEngine
from egolive.assistant.runtime.familiarity import FAMILIARITY_FILE, Familiarity
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import NO_REUSE, KnowsFamiliar, Request, Vision
from egolive.streaming.errors import EngineError
from egolive.streaming.frames import Image
from egolive.streaming.sources.opening import open_source

QUESTION = Question("ground", "left hand")


def table(*, limit: float = 0.2) -> Familiarity:
    """Of tokens of width 3, of which the first two numbers count; what is known points along them."""
    tensors = {
        "mean": torch.tensor([1.0, 0.0, 0.0]),
        "axes": torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]),
        "known": torch.tensor([[5.0, 0.0], [0.0, 0.5]]),
        "limit": torch.tensor([limit]),
        "scale": torch.tensor([0.05]),
    }
    return Familiarity(tensors, height=140, width=224, made="by hand")


@pytest.fixture(scope="module")
def nano() -> Iterator[LocalEngine[VisionTower, Decoder]]:
    engine = load_engine("nano", device="cpu")
    yield engine
    engine.close()


def test_far_is_the_angle_to_the_nearest_known_token() -> None:
    known = table()
    # However long it is, and whatever the third number says.
    for token in ([2.0, 0.0, 0.0], [9.0, 0.0, 7.0], [1.0, 3.0, 0.0]):
        assert known.distance(torch.tensor([token])) == pytest.approx(0.0, abs=1e-6)
    # Half-way between the two, once the second axis is whitened.
    assert known.distance(torch.tensor([[2.0, 0.5, 0.0]])) == pytest.approx(1 - 0.5**0.5)
    assert known.distance(torch.tensor([[0.0, 0.0, 0.0]])) == pytest.approx(1.0)
    # The mean over a picture's tokens, in whatever precision they come.
    both = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert known.distance(both) == known.distance(both.bfloat16()) == pytest.approx(0.5)


def test_the_score_is_a_half_at_the_limit() -> None:
    token = torch.tensor([[2.0, 0.5, 0.0]])
    at = table().distance(token)
    assert table(limit=at).score(token) == pytest.approx(0.5)
    assert table(limit=at + 0.1).score(token) > 0.8
    assert table(limit=at - 0.1).score(token) < 0.2
    assert table(limit=-99.0).score(token) == pytest.approx(0.0)


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table().save(tmp_path)
    found = Familiarity.from_folder(tmp_path)
    assert found is not None
    assert (found.height, found.width, found.made) == (140, 224, "by hand")
    tokens = torch.tensor([[4.0, 0.5, 0.0]])
    assert found.score(tokens) == pytest.approx(table().score(tokens), abs=1e-3)
    first = (tmp_path / FAMILIARITY_FILE).read_bytes()
    found.save(tmp_path)
    assert (tmp_path / FAMILIARITY_FILE).read_bytes() == first
    assert Familiarity.from_folder(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "spoil",
    ["no table", "cut off", "a tensor less", "not finite", "sizes", "no scale", "another format"],
)
def test_a_damaged_table_is_one_clear_line(tmp_path: Path, spoil: str) -> None:
    path = table().save(tmp_path)
    tensors = dict(table().tensors)
    about = {"format": 1, "height": 140, "width": 224, "made": ""}
    if spoil == "no table":
        path.write_text("{}")
    elif spoil == "cut off":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        if spoil == "a tensor less":
            del tensors["scale"]
        elif spoil == "not finite":
            tensors["mean"] = torch.tensor([0.0, float("nan"), 0.0])
        elif spoil == "sizes":
            tensors["mean"] = torch.zeros(4)
        elif spoil == "no scale":
            tensors["scale"] = torch.zeros(1)
        else:
            about["format"] = 9
        save_file(tensors, path, {"table": json.dumps(about)})
    with pytest.raises(EngineError, match="no table of familiarity") as error:
        Familiarity.from_folder(tmp_path)
    assert "\n" not in str(error.value)


def frames(count: int) -> list[Image]:
    with open_source(bundled_clip()) as source:
        return [frame.image for frame in islice(source, 0, 15 * count, 15)]


def asked(engine: LocalEngine[VisionTower, Decoder], *visions: Vision) -> float | None:
    """What a session says of pictures that a question is asked about."""
    prompt = build_prompt(engine.profile, QUESTION, list(visions))
    with engine.session() as session:
        list(session.ask([Request(prompt, max_tokens=1)]))
        return session.familiarity(0)


def test_the_bundled_model_knows_its_own_world(nano: LocalEngine[VisionTower, Decoder]) -> None:
    scores = [asked(nano, make_vision([image], nano.profile)) for image in frames(4)]
    assert all(score is not None and score > 0.5 for score in scores)
    window = asked(nano, make_vision(frames(4), nano.profile, kind="video"))
    assert window is not None
    assert window > 0.5


def test_noise_and_plain_colours_are_strange(nano: LocalEngine[VisionTower, Decoder]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (140, 224, 3), dtype=np.uint8)
    for image in (noise, np.zeros_like(noise), np.full_like(noise, 255)):
        score = asked(nano, make_vision([image], nano.profile))
        assert score is not None
        assert score < 0.5


@needs_real
def test_real_first_person_frames_are_strange(nano: LocalEngine[VisionTower, Decoder]) -> None:
    pictures = sorted((REAL / "images").glob("*.png"))
    scores = [asked(nano, make_vision([load_picture(path)], nano.profile)) for path in pictures]
    assert len(scores) >= 8
    assert all(score is not None and score < 0.5 for score in scores)


def test_the_score_is_the_same_from_each_cache(nano: LocalEngine[VisionTower, Decoder]) -> None:
    image = frames(1)[0]
    kept = make_vision([image], nano.profile, keys=(("frame", 1),))
    request = Request(build_prompt(nano.profile, QUESTION, [kept]), max_tokens=1)
    with nano.session(NO_REUSE) as alone:
        list(alone.ask([request]))
        expected = alone.familiarity(0)
    with nano.session() as session:
        list(session.ask([request, request]))
        assert session.familiarity(0) == session.familiarity(1) == expected
        # The prefix is found again, so that nothing is encoded.
        list(session.ask([request]))
        assert session.usage(0)["slices_encoded"] == 0
        assert session.familiarity(0) == expected
        ((name, tokens),) = [(piece, session.slices.get(piece)) for piece in list(session.slices._kept)]
        session.forget()
        # As a memory brings encodings.
        session.slices.put(name, tokens)  # type: ignore[arg-type]
        list(session.ask([request]))
        assert session.familiarity(0) == expected
    with SharedEngine(nano).session() as shared:
        list(shared.ask([request]))
        assert isinstance(shared, KnowsFamiliar)
        assert shared.familiarity(0) == expected


def test_pictures_of_another_size_have_no_score(nano: LocalEngine[VisionTower, Decoder]) -> None:
    assert asked(nano, make_vision(frames(1), nano.profile, size=(56, 84))) is None
    assert asked(nano) is None


def test_a_model_without_its_table_marks_everything(tmp_path: Path) -> None:
    folder = tmp_path / "nano"
    shutil.copytree(resolve_model("nano"), folder)
    (folder / FAMILIARITY_FILE).unlink()
    engine = load_engine(str(folder), device="cpu")
    answer = ask_task(QUESTION, engine, picture=frames(1)[0])
    assert (answer.familiarity, answer.domain, answer.guess) == (None, "unknown", True)
    engine.close()
