"""Spoilt input of every kind: it is taken, or refused with a message; any other exception is a bug."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import resources
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import av
import numpy as np
import pytest
from examples import few
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from paths import REAL
from PIL import Image as PillowImage
from spoilt import spoilt_bytes, spoilt_json, spoilt_json_text, spoilt_text
from starlette.testclient import TestClient

from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.runner import run_stream
from egolive.assistant.model.engine_folder import (
    EngineCard,
    Shapes,
    describe_files,
    read_engine_card,
    verify_files,
    write_engine_card,
)
from egolive.assistant.prompts.parsing import parse
from egolive.assistant.recording.evidence import EvidenceWriter, read_bundle
from egolive.assistant.recording.run_replay import RunSettings, record_into, replay_run
from egolive.assistant.runtime.engine_lock import SharedEngine
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO
from egolive.benchmarks.robustness.scripted_engine import ScriptedEngine, scene
from egolive.demo.live.browser_source import BrowserSource
from egolive.demo.live.routes import add_live_routes, settings_of
from egolive.demo.live.sessions import VisitorSessions
from egolive.streaming.errors import EgoliveError
from egolive.streaming.frames import Interval
from egolive.streaming.recording.recording import Recording
from egolive.streaming.sources.files.picture_folder import Folder
from egolive.streaming.sources.opening import open_source
from egolive.streaming.video_writer import VideoWriter
from egolive.train.common.recipe import load_recipe
from egolive.train.common.trainer_recipe import CheckpointRecipe, GrpoRecipe, load_trainer_recipe

pytestmark = pytest.mark.robustness

SIZE = (640, 480)
WINDOW = Interval(100.0, 108.0)
QUESTIONS = [
    Question("ground", "cup"),
    Question("when", "pour the water"),
    Question("ask", "what is this?"),
    Question("intent"),
    Question("next", think=True),
]
PROFILES = [EGOTHINKER_V1, NANO, replace(NANO, name="pixels", unit="pixels"), replace(NANO, unit="norm1")]
ANSWERS = [
    "<|object_ref_start|>cup<|object_ref_end|><|box_start|>(120,300),(400,500)<|box_end|><|im_end|>",
    "<|ref|>the cup<|/ref|><|det|>[[120, 300, 400, 500], [1, 2, 3, 4]]<|/det|>",
    "<ref>mug</ref><box>(120,300),(400,500)</box>",
    "<think>I see [7, 8, 9, 10]</think><answer>[120, 300, 400, 500]</answer>",
    "<think>The cup stands left. <answer>[0.12, 0.30, 0.40, 0.50]</answer></think>",
    "<think>It goes on and on and",
    "</think>make tea</answer>",
    '```json\n[{"bbox_2d": [120, 300, 400, 500], "label": "mug"}, {"x1": 1, "y1": 2, "x2": 3, "y2": 4}]\n```',
    '{"objects": [{"name_en": "lid", "box": "310 94 658 132"}, {"category": "cup", "bbox": [1, 2, 3]}]}',
    "{'bbox': '310 94 658 132', 'label': 'mug'}",
    '{"answer": "{\\"bbox_2d\\": [1, 2, 3, 4], \\"label\\": \\"a\\"}"}',
    '{"xmin": 10, "ymin": 20, "xmax": 300, "ymax": 400, "color": [1, 2, 3, 4], "point_2d": [5, 6]}',
    "The hand is at (0.1, 0.2) to the bottom right (0.4, 0.5).",
    "[[120, 300], [400, 500]]",
    "left=3 top=4 right=50 bottom=60",
    "<think>early</think><answer>(2.00,5.50)</answer>",
    '{"time": [2.0, 5.5], "boxes": {"6": [670, 277, 998, 998], "7": [671, 270, 990, 990]}}',
    '{"start": "00:02", "end": "00:05.50", "timestamps": [[1, 2], [3, 4]]}',
    "It starts at 00:02.50 and ends at 00:05.",
    "From 1 to 2 minutes, then at about 1:02:03, frame 12, until the end.",
    "between 2.5 s - 4 s; 5 seconds",
    "start time = 2 end time: 4",
    "There is no cup in the picture.",
    "I can't see any mug here.",
    "none",
    '{"bbox_2d": null}',
    "<answer>pour the water into the cup</answer",
    "It is a mug at <|box_start|>(1,2),(3,4)<|box_end|> beside a kettle.",
]
SOURCES = [
    *("0", "57", "/dev/video57", "test:", "test:64x36@30", "clip.mp4", "~/clip.mp4", "pictures"),
    *("rtsp://wearer:secret@192.168.1.20:554/stream?x=1", "http://[::1]:8080/a.mp4", "file:///tmp/x.mp4"),
    *("gst:nvarguscamerasrc sensor-id=0 ! nvvidconv", "gst:videotestsrc ! 'video/x-raw'", "udp://@:5000"),
]
PAGE = {
    "tasks": ["intent", "ground"],
    "phrases": ["red mug"],
    "think": False,
    "text": "What?",
    "task": "ask",
}
TIMES = ["1.5", "2", "1e400", "nan", "-1", "", "x", "9" * 400, "1.5e300", "\0"]


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """Warnings about spoilt input are no news here."""
    logger = logging.getLogger("egolive")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def taken(use: Callable[[], object]) -> bool:
    """Whether input was taken; False where it was refused with a message.

    Raises:
        Exception: Whatever else came of it, which fails the test.
    """
    message = None
    try:
        use()
    except EgoliveError as error:
        message = str(error)
    assert message is None or message.strip()
    return message is None


def recorded_answers() -> list[str]:
    """Answers of real models, where the recorded material is there."""
    path = REAL / "answers" / "real_answers.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line)["text"][:4000] for line in path.read_text(encoding="utf-8").splitlines()]


@few(200)
@given(
    text=spoilt_text([*ANSWERS, *recorded_answers()]),
    question=st.sampled_from(QUESTIONS),
    profile=st.sampled_from(PROFILES),
    seen=st.sampled_from([None, (224, 140)]),
    window=st.sampled_from([None, WINDOW]),
    probable=st.sampled_from([None, "halves", "other"]),
)
def test_an_answer_is_always_parsed_into_what_can_be(
    text: str, question: Question, profile: Any, seen: Any, window: Any, probable: str | None
) -> None:
    middle = len(text) // 2
    probs = {"halves": [(text[:middle], 0.25), (text[middle:], 1.0)], "other": [("else", 0.5)]}
    answer = parse(
        text,
        question,
        profile,
        source_size=SIZE,
        seen_size=seen,
        window=window,
        time=108.0,
        token_probs=probs.get(probable or ""),
    )
    for box in answer.boxes:
        assert 0 <= box.x1 < box.x2 <= SIZE[0]
        assert 0 <= box.y1 < box.y2 <= SIZE[1]
        assert box.score is None or 0 <= box.score <= 1
    for found in answer.intervals:
        assert answer.window is None or WINDOW.start <= found.start <= found.end <= WINDOW.end
    assert not (answer.absent and (answer.boxes or answer.intervals))


def test_an_engine_card_is_read_or_refused(tmp_path: Path) -> None:
    for name in ("tower.onnx", "decoder.onnx"):
        (tmp_path / name).write_bytes(name.encode())
    shapes = Shapes(
        height=140, width=224, hidden=256, layers=4, kv_heads=2, head_width=64, vocabulary=4096, context=8192
    )
    write_engine_card(
        tmp_path,
        EngineCard(
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
        ),
    )
    card = tmp_path / "engine.json"

    @few(100)
    @given(spoilt_json_text(card.read_text(encoding="utf-8")))
    def spoil(text: bytes) -> None:
        card.write_bytes(text)
        taken(lambda: verify_files(tmp_path, read_engine_card(tmp_path)))

    assert taken(lambda: verify_files(tmp_path, read_engine_card(tmp_path)))
    spoil()


def test_a_recipe_is_read_or_refused(tmp_path: Path) -> None:
    bundled = Path(str(resources.files("egolive.train"))) / "recipes"
    good = [path.read_text(encoding="utf-8") for path in sorted(bundled.glob("*-*.yaml"))]
    recipe = tmp_path / "recipe.yaml"
    readers: list[Callable[[], object]] = [
        lambda: load_recipe(str(recipe)),
        lambda: load_trainer_recipe(str(recipe), kind=GrpoRecipe),
        lambda: load_trainer_recipe(str(recipe), kind=CheckpointRecipe),
    ]

    @few(100)
    @given(spoilt_text(good), st.sampled_from(readers))
    def spoil(text: str, read: Callable[[], object]) -> None:
        recipe.write_bytes(text.encode(errors="surrogatepass"))
        taken(read)

    spoil()


def test_a_source_is_opened_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures")
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        for number in range(4):
            writer.write(np.zeros((36, 64, 3), np.uint8), number / 2)

    def play(spec: str, options: dict[str, Any]) -> None:
        with open_source(spec, timeout=0.1, **options) as source:
            for _ in islice(source, 2):
                pass

    @few(100)
    @given(
        spoilt_text([*SOURCES, str(tmp_path / "clip.mp4")]),
        st.fixed_dictionaries(
            {
                "realtime": st.booleans(),
                "loop": st.booleans(),
                "fps": st.sampled_from([None, None, 2.0, 0.0, -1.0, 1e9, float("nan")]),
                "size": st.sampled_from([None, None, (64, 36), (0, 0)]),
            }
        ),
    )
    def spoil(spec: str, options: dict[str, Any]) -> None:
        taken(lambda: play(spec, options))

    with nothing_but_files():
        assert taken(lambda: play("clip.mp4", {}))
        spoil()


@contextmanager
def nothing_but_files() -> Iterator[None]:
    """Spoilt names open files only: no camera, no program, no address, and no huge test picture."""
    open_file = av.open

    def refuse(address: str, *arguments: Any, **options: Any) -> Any:
        large = any(len(part) > 3 for part in address.partition("size=")[2].partition(":")[0].split("x"))
        if "://" in address or (options.get("format") == "lavfi" and large):
            raise av.error.ConnectionRefusedError(111, "Connection refused")
        return open_file(address, *arguments, **options)

    def start(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory")

    closed = SimpleNamespace(isOpened=lambda: False, release=lambda: None)
    with ExitStack() as stack:
        stack.enter_context(patch("av.open", refuse))
        stack.enter_context(patch("shutil.which", lambda _: "gst-launch-1.0"))
        stack.enter_context(patch("subprocess.Popen", start))
        stack.enter_context(patch("cv2.VideoCapture", lambda *_: closed))
        yield


def write_pictures(folder: Path) -> None:
    folder.mkdir()
    for number in range(12):
        PillowImage.fromarray(scene(number / 2)).resize((64, 48)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of a short run, and a bundle of evidence of each of its answers."""
    folder = tmp_path_factory.mktemp("run")
    write_pictures(folder / "pictures")
    engine = ScriptedEngine(None)
    questions = (Question("intent"), Question("ground", "right hand"))
    settings = RunSettings(model="nano", questions=questions, fps=2.0, slices=2)
    keeper = EvidenceWriter(
        folder / "bundles", model="nano", info=engine.info, sha256="x", profile=engine.profile
    )
    with Assistant(engine, questions=questions, observer=keeper) as assistant:
        recorder = record_into(folder / "recording", settings, engine)
        run_stream(Folder(folder / "pictures"), assistant, [], fps=2.0, slices=2, recorder=recorder)
    return folder


def test_a_recording_is_replayed_or_refused(run: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in (run / "recording").iterdir()}
    pictures = next(name for name in files if name.endswith(".mkv"))
    lines = files["recording.jsonl"].decode().splitlines()

    @st.composite
    def other_lines(draw: st.DrawFn) -> bytes:
        changed: list[bytes] = [line.encode() for line in lines]
        place, kind = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, 4))
        if kind < 3:
            changed[place] = draw(spoilt_json_text(lines[place])).replace(b"\n", b" ")
        elif kind == 3:
            del changed[place]
        else:
            changed.insert(draw(st.integers(0, len(lines))), changed[place])
        return b"\n".join(changed)

    spoilt = st.one_of(
        spoilt_json_text(files["recording.json"].decode()).map(lambda text: {"recording.json": text}),
        other_lines().map(lambda text: {"recording.jsonl": text}),
        spoilt_bytes(files[pictures]).map(lambda data: {pictures: data}),
    )

    def replay(changed: dict[str, bytes]) -> None:
        for name, data in (files | changed).items():
            (tmp_path / name).write_bytes(data)
        replay_run(Recording(tmp_path), ScriptedEngine(None), [])

    @few(30)
    @given(spoilt)
    def spoil(changed: dict[str, bytes]) -> None:
        taken(lambda: replay(changed))

    assert taken(lambda: replay({}))
    spoil()


def test_a_bundle_of_evidence_is_read_or_refused(run: Path) -> None:
    about = next((run / "bundles").glob("*/bundle.json"))

    @few(100)
    @given(spoilt_json_text(about.read_text(encoding="utf-8")))
    def spoil(text: bytes) -> None:
        about.write_bytes(text)
        taken(lambda: read_bundle(about.parent))

    assert taken(lambda: read_bundle(about.parent))
    spoil()


def jpeg() -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(scene(0)).resize((96, 64)).save(file, "JPEG")
    return file.getvalue()


@few(100)
@given(spoilt_bytes(jpeg()), st.sampled_from([1.0, -5.0, 1e300, float("inf"), float("nan")]))
def test_a_posted_picture_is_taken_or_refused(picture: bytes, time: float) -> None:
    source = BrowserSource(timeout=0.001)

    def post() -> None:
        source.put(picture, time)
        for _ in source:
            source.close()

    taken(post)


@few(100)
@given(spoilt_json(PAGE))
def test_the_settings_of_a_page_are_taken_or_refused(fields: Any) -> None:
    taken(lambda: settings_of(fields if isinstance(fields, dict) else {"tasks": fields}))


@pytest.fixture
def client() -> Iterator[TestClient]:
    """The live routes of the page, served in this process."""
    # A picture that cannot be decoded is never shown; nobody waits for it here.
    with patch("egolive.demo.live.routes._TIMEOUT", 0.01):
        sessions = VisitorSessions(SharedEngine(ScriptedEngine(None)), most=2)
        app = FastAPI()
        add_live_routes(app, sessions)
        with TestClient(app) as client:
            yield client
        sessions.close()


def test_no_route_of_the_page_fails(client: TestClient) -> None:
    bodies = {"picture": st.one_of(st.just(jpeg()), spoilt_bytes(jpeg())), "view": st.just(b"")}
    requests = st.sampled_from(["open", "picture", "picture", "view", "ask", "settings", "close"]).flatmap(
        lambda action: st.tuples(st.just(action), bodies.get(action, spoilt_json_text(json.dumps(PAGE))))
    )

    @few(20)
    @given(requests, st.sampled_from(["nobody", "", "..", "a/b", "é", *[None] * 5]), st.sampled_from(TIMES))
    def request(asked: tuple[str, bytes], word: str | None, time: str) -> None:
        action, body = asked
        if word is None:
            word = client.post("/live/open", json={"tasks": ["ground"]}).json().get("visit", "nobody")
        path = "/live/open" if action == "open" else f"/live/{quote(word)}/{action}"
        name = "after" if action == "view" else "time"
        method = "GET" if action == "view" else "POST"
        reply = client.request(method, f"{path}?{name}={quote(time)}", content=body)
        opened = reply.json().get("visit", "") if action == "open" else ""
        for visit in {word, opened} - {""}:
            client.post(f"/live/{quote(visit)}/close")
        # The visits before may not have ended yet.
        full = reply.status_code == 503 and reply.json()["full"]
        assert reply.status_code < 500 or full, f"{action}: status {reply.status_code}"

    request()
