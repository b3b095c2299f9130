"""Messages: every form that Hugging Face and OpenAI write is read, and nothing in them is ignored."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine

from egolive.assistant.ask import ask
from egolive.assistant.generation.conversations import fill_placeholders
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import EGOTHINKER_V1
from egolive.streaming.errors import ConfigError, EgoliveError
from egolive.streaming.frames import Image

TEXT = {"type": "text", "text": "What is it?"}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(profile=EGOTHINKER_V1)


def user(*items: object) -> Any:
    return [{"role": "user", "content": list(items)}]


@pytest.mark.parametrize("form", ["image", "no type", "url", "path", "base64", "image_url", "text url"])
def test_every_form_of_a_picture_shows_the_same(
    engine: FakeEngine, picture: Path, pixels: Image, form: str
) -> None:
    encoded = base64.b64encode(picture.read_bytes()).decode()
    data = f"data:image/png;base64,{encoded}"
    forms: dict[str, dict[str, object]] = {
        "image": {"type": "image", "image": str(picture)},
        "no type": {"image": str(picture)},
        "url": {"type": "image", "url": picture.as_uri()},
        "path": {"type": "image", "path": str(picture)},
        "base64": {"type": "image", "base64": encoded},
        "image_url": {"type": "image_url", "image_url": {"url": data}},
        "text url": {"type": "image_url", "image_url": data},
    }
    ask([user(forms[form], TEXT)], engine)
    (vision,) = (part for part in engine.asked[-1][0].prompt.parts if isinstance(part, Vision))
    assert (vision.frames[0] == pixels).all()


@pytest.mark.parametrize(
    "item",
    [
        {"type": "video", "path": "VIDEO", "nframes": 4},
        {"type": "video_url", "video_url": {"url": "VIDEO"}, "nframes": 4},
    ],
)
def test_other_forms_of_a_video_are_read(engine: FakeEngine, video: Path, item: dict[str, Any]) -> None:
    named = {"VIDEO": str(video)}
    shown = {
        key: {"url": str(video)} if isinstance(value, dict) else named.get(str(value), value)
        for key, value in item.items()
    }
    ask([user(shown, TEXT)], engine)
    (vision,) = (part for part in engine.asked[-1][0].prompt.parts if isinstance(part, Vision))
    assert (vision.kind, len(vision.frames)) == ("video", 4)


@pytest.mark.parametrize(
    "form", ["video_url", "data", "bytes", "video of data", "frames of data", "jpegs", "image files"]
)
def test_every_form_of_a_video_in_qwens_tools_is_read(
    engine: FakeEngine, video: Path, picture: Path, form: str
) -> None:
    clip = "data:video/mp4;base64," + base64.b64encode(video.read_bytes()).decode()
    photo = base64.b64encode(picture.read_bytes()).decode()
    items: dict[str, dict[str, Any]] = {
        "video_url": {"type": "video_url", "video_url": {"url": f"file://{video}"}, "nframes": 4},
        "data": {"type": "video_url", "video_url": {"url": clip}, "video_start": 2.0, "nframes": 4},
        "bytes": {"type": "video", "video": video.read_bytes(), "fps": 1.0, "max_frames": 4},
        "video of data": {
            "type": "video",
            "video": clip,
            "nframes": 4,
            "resized_height": 56,
            "resized_width": 84,
        },
        "frames of data": {"type": "video", "video": ["data:image/png;base64," + photo] * 4, "fps": 2.0},
        "jpegs": {
            "type": "video_url",
            "video_url": {"url": "data:video/jpeg;base64," + ",".join([photo] * 4)},
        },
        "image files": {"type": "video", "video": [f"file://{picture}"] * 4, "sample_fps": 2.0},
    }
    item = items[form]
    ask([user(item, TEXT)], engine)
    (vision,) = (part for part in engine.asked[-1][0].prompt.parts if isinstance(part, Vision))
    assert (vision.kind, len(vision.frames)) == ("video", 4)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + "A" * 5000}},
        {"type": "video_url", "video_url": {"url": "data:video/jpeg;base64," + "A" * 5000}, "nframes": 2},
        {"type": "A" * 5000},
        {"A" * 5000: 1},
        {"type": "text", "text": ["A" * 5000]},
        {"type": "text", "text": "x", "A" * 5000: 1},
        {"video": "x.mp4", "fps": "A" * 5000},
        {"image": "A" * 5000},
    ],
)
def test_no_error_repeats_what_is_long(engine: FakeEngine, item: Any) -> None:
    with pytest.raises(EgoliveError) as told:
        ask([user(item, TEXT)], engine)
    assert len(str(told.value)) < 600
    assert "A" * 300 not in str(told.value)


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        ([{"role": "user", "content": "x", "name": "y"}], "^message 1: unknown key 'name'"),
        (["x"], "^message 1: a message holds role and content, got str"),
        (
            user({"type": "text", "text": "x", "cache": 1}, TEXT),
            "^message 1, item 1: unknown setting 'cache'",
        ),
        (user(TEXT, {"type": "text", "text": None}), "^message 1, item 2: a text is a string, got None"),
        (user(TEXT, {"type": "text"}), "^message 1, item 2: a text is a string"),
        (user(TEXT, {"type": "audio", "text": "x"}), "^message 1, item 2: .* got the type 'audio'"),
        (user(TEXT, {"type": ["text"], "text": "x"}), r"got the type \['text'\]"),
        (user({"type": "image", "video": "x.mp4"}, TEXT), "^message 1, item 1: unknown setting 'video'"),
        (user({"type": "image", "text": "x"}, TEXT), "unknown setting 'text'"),
        (user({"type": "image"}, TEXT), "^message 1, item 1: the type image needs one picture .* got none"),
        (user({"type": "image", "image": "a", "url": "b"}, TEXT), "got image and url"),
        (
            user({"type": "image_url", "image_url": {"url": "a", "detail": "low"}}, TEXT),
            "'detail' in image_url",
        ),
        (user({"image": "a", "min_pixels": 1, "resized_height": 28}, TEXT), "resized_height or min_pixels"),
        (user({"video": "a", "fps": 1, "nframes": 2}, TEXT), "give fps or nframes, not both"),
        (user({"video": "a", "nframes": 2, "max_frames": 2}, TEXT), "give nframes or max_frames"),
        (user({"video": ["a", "b"], "nframes": 2}, TEXT), "so nframes has no effect"),
        (user({"video": 3}, TEXT), "a video is a path, an address, a data URI, bytes, or a list of pictures"),
        (user({"video": ["a", 3]}, TEXT), "^message 1, item 1: an image is a path"),
        ([{"role": "system", "content": "x"}, *user({"image": 3}, TEXT)], "^message 2, item 1: an image is"),
    ],
)
def test_what_is_not_known_is_an_error_that_names_its_place(
    engine: FakeEngine, conversation: Any, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        ask([conversation], engine)
    assert engine.asked == []


def test_an_error_in_a_batch_names_the_conversation(engine: FakeEngine) -> None:
    with pytest.raises(ConfigError, match=r"^conversation 2, message 1, item 1: unknown setting 'size'"):
        ask([user(TEXT), user({"image": "x", "size": 3}, TEXT)], engine)
    with pytest.raises(ConfigError, match=r"^conversation 2, the last message has no text"):
        ask([user(TEXT), user()], engine)


@pytest.mark.parametrize("count", [0, 1])
def test_a_misspelt_key_is_named_before_placeholders_are_counted(count: int) -> None:
    image = {"type": "image", "imge": "photo.jpg"}
    pictures = ["photo.jpg"] * count
    with pytest.raises(ConfigError, match=r"^message 1, item 1: unknown setting 'imge'; known are .*image"):
        fill_placeholders([user(image, TEXT)], images=pictures)
    with pytest.raises(ConfigError, match=r"^conversation 2, message 1: unknown setting 'imge'"):
        fill_placeholders([user(TEXT), user(image)], images=pictures)
