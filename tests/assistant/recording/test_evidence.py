"""Evidence bundles: an answer with all that it was made of, given again elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import FakeEngine
from numpy.testing import assert_array_equal

from egolive.assistant.cli import main as cli
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.load_local import load_engine
from egolive.assistant.recording.evidence import (
    EvidenceWriter,
    is_bundle,
    read_bundle,
    reproduce,
    weights_hash,
)
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Vision
from egolive.streaming.errors import ConfigError, DataError
from egolive.streaming.frames import Frame, Slice, Window

QUESTIONS = (Question("intent"), Question("ground", "right hand"), Question("when", "pour the water"))


def window() -> Window:
    rng = np.random.default_rng(0)
    frames = [
        Frame(rng.integers(0, 256, (40, 72, 3), dtype=np.uint8), 3 + index / 2, 10 + index)
        for index in range(4)
    ]
    return Window((Slice(frames[0], frames[1], 0), Slice(frames[2], frames[3], 1)))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_each_answer_comes_again_byte_for_byte_in_another_folder(tmp_path: Path) -> None:
    with Assistant(engine := FakeEngine(), observer=(kept := keeper(tmp_path, engine))) as assistant:
        answers = list(assistant.answer(QUESTIONS, window=window()))
    assert len(kept.bundles) == 3
    for number, folder in enumerate(sorted(kept.bundles)):
        moved = tmp_path / f"moved-{number}"
        shutil.copytree(folder, moved)
        shutil.rmtree(folder)
        bundle = read_bundle(moved)
        assert reproduce(bundle, FakeEngine(), again := tmp_path / f"again-{number}") == bundle.answer
        assert contents(again) == contents(moved)
        assert bundle.generation.question in QUESTIONS
    assert {answer.text for answer in answers} >= {"make tea", "right hand"}


def test_frames_settings_and_prompt_are_those_of_the_answer(tmp_path: Path) -> None:
    engine = FakeEngine()
    with Assistant(engine, observer=(kept := keeper(tmp_path, engine))) as assistant:
        list(assistant.answer(QUESTIONS, window=(seen := window())))
    (asked,) = engine.asked
    requests = {request.key: request for request in asked}
    assert len(kept.bundles) == len(requests) == 3
    for folder in kept.bundles:
        bundle = read_bundle(folder)
        request = requests[bundle.generation.question]
        for then, now in zip(request.prompt.parts, bundle.generation.prompt.parts, strict=True):
            if isinstance(then, str):
                assert now == then
                continue
            assert isinstance(now, Vision)
            assert (now.kind, now.height, now.width) == (then.kind, then.height, then.width)
            for image, kept_image in zip(then.frames, now.frames, strict=True):
                assert_array_equal(image, kept_image)
        assert bundle.generation.time == seen.newest.time
        assert bundle.generation.source_size == (72, 40)
        assert bundle.engine["sha256"] == "abc"


def test_another_answer_is_told_apart(tmp_path: Path) -> None:
    with Assistant(engine := FakeEngine(), observer=(kept := keeper(tmp_path, engine))) as assistant:
        list(assistant.answer(QUESTIONS[:1], window=window()))
    bundle = read_bundle(kept.bundles[0])
    assert reproduce(bundle, FakeEngine(lambda _: "make soup")) != bundle.answer


def test_the_bundled_model_says_the_same_again_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = load_engine("nano", device="cpu")
    with Assistant(engine, observer=(kept := keeper(tmp_path, engine, weights_hash("nano")))) as assistant:
        # Together, on shared rows: given again they are read alone.
        list(assistant.answer(QUESTIONS, window=window()))
    for folder in kept.bundles:
        assert json.loads((folder / "answer.json").read_bytes())["tokens"]
        assert cli.call(["replay", str(folder), "--out", str(tmp_path / "out" / folder.name)]) == 0
        assert contents(tmp_path / "out" / folder.name) == contents(folder)
    assert "byte for byte" in capsys.readouterr().out
    # Other weights are refused before they answer.
    path = kept.bundles[0] / "bundle.json"
    path.write_text(path.read_text().replace(weights_hash("nano"), "0" * 64))
    assert cli.call(["replay", str(kept.bundles[0])]) == 1
    assert "hash" in capsys.readouterr().err


def test_a_picture_or_answer_that_was_changed_is_refused(tmp_path: Path) -> None:
    with Assistant(engine := FakeEngine(), observer=(kept := keeper(tmp_path, engine))) as assistant:
        list(assistant.answer(QUESTIONS[:1], window=window()))
    folder = kept.bundles[0]
    answer = (folder / "answer.json").read_bytes()
    (folder / "answer.json").write_bytes(answer[:20])
    with pytest.raises(DataError, match="can be read"):
        read_bundle(folder)
    (folder / "answer.json").write_bytes(answer)
    image = cv2.imread(str(folder / "frame-001.png"))
    assert image is not None
    image[3, 5] += 1
    cv2.imwrite(str(folder / "frame-001.png"), image)
    with pytest.raises(DataError, match=r"frame-001.*not the picture"):
        read_bundle(folder)


def test_a_damaged_bundle_is_told_in_one_line(tmp_path: Path) -> None:
    with Assistant(engine := FakeEngine(), observer=(kept := keeper(tmp_path, engine))) as assistant:
        list(assistant.answer(QUESTIONS[:1], window=window()))
    folder = kept.bundles[0]
    assert is_bundle(folder)
    (folder / "frame-000.png").unlink()
    with pytest.raises(DataError, match="frame-000"):
        read_bundle(folder)
    (folder / "bundle.json").write_text("{}")
    with pytest.raises(DataError, match="no bundle"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        (("engine", "model"), None, "engine.model"),
        (("engine",), {"name": "nano"}, "engine.model: Field required"),
        (("question", "task"), "sing", "question.task"),
        (("settings", "min_p"), 0.1, "settings.min_p"),
        (("settings", "window"), [2.0, 1.0], "settings.window: .* ends after it starts"),
        (("settings", "max_tokens"), 0, "settings.max_tokens"),
        (("settings", "temperature"), "1", "settings.temperature"),
        (("prompt",), [{"kind": "image", "height": 28, "width": 28, "frames": []}], "prompt.0"),
        (
            ("prompt",),
            [{"kind": "image", "height": 28, "width": 28, "frames": ["../../x.png"]}],
            "prompt.0",
        ),
        (("frames",), {"frame-000.png": 7}, "frames.frame-000.png"),
        (("profile",), {}, "the key 'name' is missing"),
        (("format",), 3, "format 3"),
    ],
    ids=str,
)
def test_a_bundle_that_was_edited_wrongly_names_the_file_and_the_field(
    tmp_path: Path, key: tuple[str, ...], value: object, told: str
) -> None:
    with Assistant(engine := FakeEngine(), observer=(kept := keeper(tmp_path, engine))) as assistant:
        list(assistant.answer(QUESTIONS[:1], window=window()))
    path = kept.bundles[0] / "bundle.json"
    values = json.loads(path.read_text())
    inside = values
    for name in key[:-1]:
        inside = inside[name]
    inside[key[-1]] = value
    path.write_text(json.dumps(values))
    with pytest.raises((DataError, ConfigError), match=told) as caught:
        read_bundle(path.parent)
    assert str(path.parent) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def keeper(folder: Path, engine: object, sha256: str = "abc") -> EvidenceWriter:
    assert hasattr(engine, "info")
    assert hasattr(engine, "profile")
    return EvidenceWriter(
        folder / "evidence", model="nano", info=engine.info, sha256=sha256, profile=engine.profile
    )
