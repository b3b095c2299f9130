"""Files of others, spoilt at random: each reader takes them, or refuses them in one line.

    make robustness ARGS=tests/robustness/test_hostile_fuzz.py

In `make robustness` the readers that load nothing get 102,000 inputs together.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import few
from fakes import FakeEngine
from hypothesis import given
from hypothesis import strategies as st
from spoilt import spoilt_json_text, spoilt_text

from egolive.assistant.live.assistant import Assistant
from egolive.assistant.load_local import load_engine
from egolive.assistant.model.checkpoint import inspect_checkpoint, model_folder
from egolive.assistant.model.engine_folder import (
    EngineCard,
    Shapes,
    describe_files,
    read_engine_card,
    verify_files,
    write_engine_card,
)
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.recording.evidence import EvidenceWriter, named_model, read_bundle
from egolive.assistant.recording.run_replay import (
    RunSettings,
    record_into,
    recorded_hash,
    replay_run,
    settings_of,
)
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import NANO, load_profile, save_profile
from egolive.assistant.schema.tokenizer import load_tokenizer
from egolive.assistant.schema.tokenizer_files import check_tokenizer_files
from egolive.streaming.errors import EgoliveError
from egolive.streaming.frames import Frame
from egolive.streaming.json_files import json_object
from egolive.streaming.pipeline.run_report import Report
from egolive.streaming.recording.recording import Recording
from egolive.streaming.sources.source import Source
from egolive.train.common.recipe import load_recipe
from egolive.train.common.trainer_recipe import CheckpointRecipe, GrpoRecipe, load_trainer_recipe
from egolive.train.data.row_files import RowFile
from egolive.train.data.rows import RowError

pytestmark = pytest.mark.robustness

QUESTION = Question("ground", "right hand")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LONGEST = 1500
"""Characters of a message, the path in it included."""
_DEEP = st.integers(1, 3000)
_ABSURD = st.sampled_from(
    [
        *("9" * 5000, "-" + "9" * 25, "1e999", "NaN", "-Infinity", '"' + "x" * 9000 + '"', '"\\ud800"'),
        *('"../../../etc/passwd"', '"/dev/zero"', '"\\u001b[2J"', '"http://evil.example/v1"', '"a/b"'),
        *("1000000000000", "1000000", "-1", "0", "1.5", "true", "null", "[]", "{}", '""', '"nano"'),
    ]
)
"""JSON in place of a value."""
_VALUE = re.compile(rb'(?<=: )(?:-?\d[\d.e-]*|"[^"]*"|true|false|null)')


@st.composite
def _replaced(draw: st.DrawFn, good: bytes) -> bytes:
    """One to three values replaced, or a key doubled."""
    for _ in range(draw(st.integers(1, 3))):
        places = [found.span() for found in _VALUE.finditer(good)]
        if not places:
            return good
        start, end = draw(st.sampled_from(places))
        good = good[:start] + draw(_ABSURD).encode() + good[end:]
    return good


def hostile(good: bytes) -> st.SearchStrategy[bytes]:
    """JSON that somebody wrote to do harm, or by mistake."""
    text = good.decode()
    deep = st.tuples(_DEEP, st.sampled_from(["[", '{"a":', '{"format": 1, "x": ', "[{}, "])).map(
        lambda both: (both[1] * both[0]).encode()
    )
    inside = st.tuples(_DEEP, st.sampled_from(["[{}]", '{{"a": {}}}'])).map(
        lambda both: (
            good.rstrip().removesuffix(b"}")
            + b', "more": '
            + (both[1].split("{}", 1)[0].replace("{{", "{") * both[0]).encode()
            + b"0"
            + (both[1].split("{}", 1)[1].replace("}}", "}") * both[0]).encode()
            + b"}"
        )
    )
    twice = st.sampled_from(sorted(json.loads(text)) or ["a"]).map(
        lambda key: good.rstrip().removesuffix(b"}") + f', "{key}": 1}}'.encode()
    )
    return st.one_of(
        spoilt_json_text(text), spoilt_json_text(text), _replaced(good), _replaced(good), deep, inside, twice
    )


def taken(use: Callable[[], object]) -> bool:
    """Whether input was taken; False where it was refused in one line that can be printed.

    Raises:
        Exception: Whatever else came of it, which fails the test.
    """
    try:
        use()
    except (EgoliveError, RowError) as error:
        told = str(error)
        assert told.strip()
        assert not _CONTROL.search(told), told
        assert len(told) < _LONGEST, len(told)
        return False
    return True


class Camera(Source):
    """Grey pictures, each of another grey."""

    live, name, fps, broken, size = False, "camera", 2.0, 0, (56, 56)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(6):
            yield Frame(np.full((56, 56, 3), index, np.uint8), index / 2, index)

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    logger = logging.getLogger("egolive")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    settings = RunSettings(model="nano", questions=(QUESTION,), fps=2.0, slices=2)
    recorder = record_into(tmp_path / "recording", settings, FakeEngine())
    log: Any = recorder
    for frame in recorder.source(Camera()):
        log._write(
            work=frame.index,
            t=frame.time,
            slices=0,
            tasks=[{"task": "ground", "phrase": "right hand", "think": False}],
            outcomes=[[0, "ok", {"timing": {"first_token": 0.1, "total": 0.2}, "said": "x"}]],
        )
        log._write(shown=frame.index, now=frame.time, new=1)
    recorder.close(Report(captured=6))
    return tmp_path / "recording"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    engine = FakeEngine()
    keeper = EvidenceWriter(
        tmp_path / "evidence", model="nano", info=engine.info, sha256="abc", profile=engine.profile
    )
    with Assistant(engine, observer=keeper) as assistant:
        list(assistant.answer([QUESTION], picture=next(iter(Camera()))))
    return keeper.bundles[0]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    nano = model_folder("nano")
    assert nano is not None
    return Path(shutil.copytree(nano, tmp_path / "nano"))


def fuzz(path: Path, read: Callable[[], object], count: int = 1000) -> None:
    """Spoil a file of JSON again and again; `read` takes it before, and takes or refuses it then."""
    good = path.read_bytes()
    read()

    @few(count)
    @given(hostile(good))
    def spoil(data: bytes) -> None:
        path.write_bytes(data)
        taken(read)

    spoil()
    path.write_bytes(good)
    read()


@few(2000)
@given(hostile(b'{"a": 1, "b": [true, null, 1.5, "x"], "c": {"d": ""}}'), st.sampled_from([60, 4096]))
def test_the_body_of_a_request(data: bytes, most: int) -> None:
    taken(lambda: json_object(data, where="the request", remedy="send another", most=most))


def test_the_head_of_a_recording(recording: Path) -> None:
    def read() -> None:
        found = Recording(recording)
        told = settings_of(found)
        named_model(told.model, recorded_hash(found), where=recording)

    fuzz(recording / "recording.json", read)


def test_the_lines_of_a_recording(recording: Path) -> None:
    path = recording / "recording.jsonl"
    lines = path.read_bytes().splitlines()
    choices = [lines[0], lines[1], lines[2], lines[-1]]

    @few(1000)
    @given(st.integers(0, len(lines)), st.sampled_from(choices).flatmap(hostile))
    def spoil(place: int, line: bytes) -> None:
        changed = [*lines[:place], line.replace(b"\n", b" "), *lines[place + 1 :]]
        path.write_bytes(b"\n".join(changed))
        taken(lambda: Recording(recording))

    spoil()


def test_a_bundle(bundle: Path) -> None:
    def read() -> None:
        found = read_bundle(bundle)
        if found.engine["model"] != "nano":
            named_model(found.engine["model"], found.engine["sha256"], where=bundle)

    fuzz(bundle / "bundle.json", read)


def test_the_answer_of_a_bundle(bundle: Path) -> None:
    fuzz(bundle / "answer.json", lambda: read_bundle(bundle))


def test_an_engine_card(tmp_path: Path) -> None:
    (tmp_path / "tower.onnx").write_bytes(b"tower")
    shapes = Shapes(
        height=140, width=224, hidden=256, layers=4, kv_heads=2, head_width=64, vocabulary=4096, context=8192
    )
    card = EngineCard(
        name="nano int4",
        backend="onnx",
        precision={"tower": "fp32", "decoder": "int4", "head": "fp32", "embeddings": "fp32"},
        shapes=shapes,
        image_token=5,
        video_token=6,
        profile="nano",
        source={"name": "nano", "sha256": "y"},
        versions={"torch": "2.11"},
        files=describe_files(tmp_path),
        sizes={"columns": 4096},
    )
    write_engine_card(tmp_path, card)
    fuzz(tmp_path / "engine.json", lambda: verify_files(tmp_path, read_engine_card(tmp_path)))


def test_the_configuration_of_a_checkpoint(checkpoint: Path) -> None:
    fuzz(checkpoint / "config.json", lambda: inspect_checkpoint(checkpoint))


def test_the_small_files_of_a_checkpoint(checkpoint: Path) -> None:
    save_profile(NANO, checkpoint)
    fuzz(checkpoint / "preprocessor_config.json", lambda: Preprocessor.from_folder(checkpoint), 300)
    fuzz(checkpoint / "tokenizer_config.json", lambda: check_tokenizer_files(checkpoint), 300)
    fuzz(checkpoint / "generation_config.json", lambda: inspect_checkpoint(checkpoint), 100)
    fuzz(checkpoint / "egolive.json", lambda: load_profile(checkpoint), 300)


def test_a_file_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {
        "id": "1",
        "media": "a.png",
        "question": {"task": "ground", "phrase": "cup"},
        "boxes": [[1, 2, 3, 4]],
    }
    good = json.dumps(row).encode()

    @few(1000)
    @given(hostile(good))
    def spoil(data: bytes) -> None:
        path.write_bytes(data.replace(b"\n", b" ") + b"\n")
        taken(lambda: RowFile(path)[0])

    spoil()


def test_a_recipe(tmp_path: Path) -> None:
    bundled = Path(str(resources.files("egolive.train"))) / "recipes"
    good = [path.read_text(encoding="utf-8") for path in sorted(bundled.glob("*-*.yaml"))]
    recipe = tmp_path / "recipe.yaml"
    readers: list[Callable[[], object]] = [
        lambda: load_recipe(str(recipe)),
        lambda: load_trainer_recipe(str(recipe), kind=GrpoRecipe),
        lambda: load_trainer_recipe(str(recipe), kind=CheckpointRecipe),
    ]
    aliases = st.sampled_from(
        ["&x [*x]", "&a [1]\nb: *a", "!!int ''", "!!binary x", "? [a]\n: b", "<<: {a: 1}"]
    )

    @few(200)
    @given(st.one_of(spoilt_text(good), aliases, _DEEP.map("[".__mul__)), st.sampled_from(readers))
    def spoil(text: str, read: Callable[[], object]) -> None:
        recipe.write_bytes(f"a: {text}".encode(errors="surrogatepass") if len(text) < 3001 else text.encode())
        taken(read)

    spoil()


# What loads weights or runs an engine takes longer, and gets fewer inputs.


def test_a_recording_is_replayed(recording: Path) -> None:
    path = recording / "recording.jsonl"
    lines = path.read_bytes().splitlines()
    choices = [lines[0], lines[1], lines[2], lines[-1]]

    def replayed() -> None:
        replay_run(Recording(recording), FakeEngine(), [])

    @few(100)
    @given(st.integers(0, len(lines)), st.sampled_from(choices).flatmap(hostile))
    def spoil(place: int, line: bytes) -> None:
        changed = [*lines[:place], line.replace(b"\n", b" "), *lines[place + 1 :]]
        path.write_bytes(b"\n".join(changed))
        taken(replayed)

    replayed()
    spoil()


def test_a_tokenizer(checkpoint: Path) -> None:
    def read() -> None:
        load_tokenizer(checkpoint, image_token=10, video_token=11)

    fuzz(checkpoint / "tokenizer_config.json", read, 20)
    fuzz(checkpoint / "tokenizer.json", read, 20)


def test_a_checkpoint_is_loaded(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    fuzz(folder / "config.json", lambda: load_engine(str(folder), device="cpu").close(), 20)
    fuzz(folder / "model.safetensors.index.json", lambda: load_engine(str(folder), device="cpu").close(), 10)
