"""`Model.ask` and `load_model`: what they take, what comes back, and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine, text_of
from PIL import Image as PillowImage

import egolive
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import EGOTHINKER_V1
from egolive.streaming.frames import Image


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(profile=EGOTHINKER_V1)


@pytest.fixture
def model(engine: FakeEngine) -> egolive.Model:
    return egolive.Model(engine)


def seen(engine: FakeEngine, number: int = 0) -> list[Vision]:
    return [part for part in engine.asked[-1][number].prompt.parts if isinstance(part, Vision)]


@pytest.mark.parametrize("form", ["path", "text", "bytes", "pillow", "array", "frame"])
def test_a_picture_may_come_in_any_form(
    model: egolive.Model, engine: FakeEngine, picture: Path, pixels: Image, form: str
) -> None:
    forms: dict[str, Any] = {
        "path": picture,
        "text": str(picture),
        "bytes": picture.read_bytes(),
        "pillow": PillowImage.fromarray(pixels),
        "array": pixels,
        "frame": egolive.Frame(pixels, 1.0, 3),
    }
    assert model.ask(forms[form], "What is it?").text == "It is a mug."
    (vision,) = seen(engine)
    assert (vision.kind, len(vision.frames)) == ("image", 1)
    assert (vision.frames[0] == pixels).all()
    engine.script = lambda _: "[500, 500, 1000, 1000]"
    (box,) = model.ask(forms[form], "mug", task="ground").boxes
    assert tuple(box) == (42, 28, 84, 56)


@pytest.mark.parametrize("form", ["frames", "arrays", "array"])
def test_a_list_of_frames_is_a_video(
    model: egolive.Model, engine: FakeEngine, pixels: Image, form: str
) -> None:
    forms: dict[str, Any] = {
        "frames": [egolive.Frame(pixels, index / 2, index) for index in range(4)],
        "arrays": [pixels, PillowImage.fromarray(pixels), pixels, pixels],
        "array": np.stack([pixels] * 4),
    }
    questions: list[dict[str, Any]] = [{"question": "What is done?"}, {"task": "intent"}]
    for asked in questions:
        model.ask(forms[form], **asked)
        (vision,) = seen(engine)
        assert (vision.kind, len(vision.frames)) == ("video", 4)


def test_a_stretch_of_a_video_is_seen_at_the_rate_that_is_asked_for(
    model: egolive.Model, engine: FakeEngine, video: Path
) -> None:
    answer = model.ask(video, "pour water", task="when", start=2, end=4, fps=2)
    (vision,) = seen(engine)
    brightness = [int(image.mean()) / 2 for image in vision.frames]
    assert brightness[0] == pytest.approx(20, abs=1)
    assert brightness[-1] == pytest.approx(40, abs=1)
    assert answer.window is not None
    assert answer.window.start == pytest.approx(2)
    model.ask(video, "What is done?", nframes=6)
    assert len(seen(engine)[0].frames) == 6


def test_settings_reach_the_engine(model: egolive.Model, engine: FakeEngine, picture: Path) -> None:
    model.ask(
        picture,
        "What?",
        max_tokens=9,
        temperature=0.5,
        top_k=3,
        seed=7,
        system="Be brief.",
        min_pixels=400 * 784,
        max_pixels=600 * 784,
    )
    request = engine.asked[-1][0]
    assert (request.max_tokens, request.temperature, request.top_k, request.seed) == (9, 0.5, 3, 7)
    assert "Be brief." in text_of(request.prompt)
    assert (seen(engine)[0].height, seen(engine)[0].width) == (476, 700)


def test_messages_are_answered_flat_and_as_a_batch(
    model: egolive.Model, engine: FakeEngine, picture: Path
) -> None:
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": str(picture)}, {"type": "text", "text": "What is it?"}],
        }
    ]
    words = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Who are you?"},
    ]
    assert model.ask(messages).text == "It is a mug."
    answers = model.ask([messages, words, messages])
    assert [answer.question.phrase for answer in answers] == ["What is it?", "Who are you?", "What is it?"]
    assert [len(seen(engine, number)) for number in range(3)] == [1, 0, 1]
    assert len(engine.asked) == 2


def test_a_batch_of_one_conversation_gives_a_list(model: egolive.Model) -> None:
    assert len(model.ask([[{"role": "user", "content": "Who are you?"}]])) == 1


def test_placeholders_are_filled_in_reading_order(
    model: egolive.Model, engine: FakeEngine, pixels: Image
) -> None:
    dark = pixels // 2
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which is darker?"}]
    model.ask([{"role": "user", "content": content}], images=[pixels, dark])
    first, second = seen(engine)
    assert (first.frames[0] == pixels).all()
    assert (second.frames[0] == dark).all()
    assert content[0] == {"type": "image"}
    with pytest.raises(egolive.ConfigError, match="2 image items that hold nothing, and 1 images are given"):
        model.ask([{"role": "user", "content": content}], images=[pixels])
    with pytest.raises(egolive.ConfigError, match=r"0 video items .* and 1 videos"):
        model.ask([{"role": "user", "content": "Who?"}], videos=[[pixels]])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "the task ask needs words"),
        ({"question": "  "}, "the task ask needs words"),
        ({"task": "ground"}, "the task ground needs words: what to find"),
        ({"task": "intent", "question": "why?"}, "brings its own question"),
        ({"task": "intent"}, "needs a video"),
        ({"task": "guess", "question": "x"}, "task is one of ask, intent, next, ground, when"),
        ({"question": "x", "start": 1.0}, "a single picture was given, so start has no effect"),
        ({"question": "x", "fps": 1.0}, "so fps has no effect"),
        ({"question": "x", "task": "ground", "nframes": 2}, "so nframes has no effect"),
        ({"question": "x", "task": "ground", "system": "y"}, "system: the task ground"),
        ({"question": "x", "images": ["y"]}, "images and videos fill the placeholders of messages"),
        ({"question": "x", "task": "ground", "temperature": -1.0}, "temperature"),
    ],
)
def test_what_would_have_no_effect_or_no_sense_is_refused(
    picture: Path, arguments: dict[str, Any], expected: str
) -> None:
    with egolive.load_model("nano") as nano, pytest.raises(egolive.ConfigError, match=expected):
        nano.ask(picture, **arguments)


@pytest.mark.parametrize(
    ("media", "arguments", "expected"),
    [
        ("VIDEO", {"fps": 1.0, "nframes": 4}, "fps or nframes, not both"),
        ("FRAMES", {"start": 1.0}, "frames that are given are all seen, so start has no effect"),
        ([], {}, "a video of no frames"),
        (3, {}, "got int"),
        (None, {}, "got NoneType"),
    ],
)
def test_media_that_cannot_be_seen_are_refused(
    model: egolive.Model, video: Path, pixels: Image, media: Any, arguments: dict[str, Any], expected: str
) -> None:
    named: dict[str, Any] = {"VIDEO": video, "FRAMES": [pixels, pixels]}
    shown = named[media] if isinstance(media, str) else media
    with pytest.raises(egolive.ConfigError, match=expected):
        model.ask(shown, "What?", **arguments)


def test_messages_bring_their_own_settings(model: egolive.Model) -> None:
    messages: Any = [{"role": "user", "content": "Who are you?"}]
    settings: dict[str, Any] = {"task": "ground", "start": 1.0, "system": "x", "paper_prompt": True}
    for name, value in settings.items():
        with pytest.raises(egolive.ConfigError, match=f"leave out {name}"):
            model.ask(messages, **{name: value})
    with pytest.raises(egolive.ConfigError, match="leave out a question beside them"):
        model.ask(messages, "What?")


def test_a_picture_that_is_not_there_is_a_source_error(model: egolive.Model) -> None:
    with pytest.raises(egolive.SourceError, match="there is no such file"):
        model.ask("missing.jpg", "What?")


def test_a_closed_model_says_so(model: egolive.Model, engine: FakeEngine, pixels: Image) -> None:
    with model:
        model.ask(pixels, "What?")
    assert engine.closed
    assert "closed" in repr(model)
    with pytest.raises(egolive.ConfigError, match="closed; load it again"):
        model.ask(pixels, "What?")
    with pytest.raises(egolive.ConfigError, match="closed; load it again"):
        model.stream("test:")
    model.close()


def test_loading_tells_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(egolive.EngineError, match=r"has no config\.json"):
        egolive.load_model(tmp_path)
    with pytest.raises(egolive.ConfigError, match="device is auto, cpu, cuda or cuda:N"):
        egolive.load_model("nano", device="gpu")
    with pytest.raises(egolive.ConfigError, match="served_as is one of egothinker-v1, nano"):
        egolive.load_model("http://127.0.0.1:9/v1", served_as="other")
    with pytest.raises(egolive.EngineError, match="cannot be reached"):
        egolive.load_model("http://127.0.0.1:9/v1")


class Handler(BaseHTTPRequestHandler):
    """Serves a model named nano that finds a hand."""

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "nano"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        delta = {"content": "<|box_start|>(500,500),(750,1000)<|box_end|>"}
        said = {"choices": [{"delta": delta, "finish_reason": "stop"}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"data: {json.dumps(said)}\n\ndata: [DONE]\n\n".encode())

    def answer(self, body: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_a_server_is_a_model_too(address: str, pixels: Image) -> None:
    with egolive.load_model(address, served_as="nano") as model:
        assert repr(model).startswith("Model(nano, server")
        (box,) = model.ask(pixels, "left hand", task="ground", hands="model").boxes
        assert tuple(box) == (42, 28, 63, 56)
