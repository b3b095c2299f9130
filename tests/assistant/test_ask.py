"""Questions about pictures and videos at hand: all that EgoThinker's model card shows, and the command."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine, text_of
from PIL import Image as PillowImage

from egolive.assistant.ask import ClipOptions, ask, ask_task
from egolive.assistant.cli import main as cli
from egolive.assistant.cli.options import ModelOptions
from egolive.assistant.generation.conversations import Conversation
from egolive.assistant.generation.generate import Sampling
from egolive.assistant.load_local import load_engine
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import EGOTHINKER_V1
from egolive.streaming.errors import ConfigError, UsageError
from egolive.streaming.frames import Image


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """EgoThinker's profile, which keeps the proportions of a picture."""
    fake = FakeEngine(profile=EGOTHINKER_V1)
    monkeypatch.setattr(ModelOptions, "load", lambda self: fake)
    monkeypatch.setattr(ModelOptions, "profile", lambda self: fake.profile)
    return fake


def user(*items: object) -> Conversation:
    content = [{"type": "text", "text": item} if isinstance(item, str) else item for item in items]
    return [{"role": "user", "content": content}]


def seen(engine: FakeEngine, number: int = 0) -> list[Vision]:
    """Pictures in one prompt of the last ask."""
    return [part for part in engine.asked[-1][number].prompt.parts if isinstance(part, Vision)]


@pytest.mark.parametrize(
    "form", ["path", "text", "file", "http", "data", "base64", "bytes", "pillow", "array"]
)
def test_a_picture_is_the_same_from_wherever_it_comes(
    engine: FakeEngine, picture: Path, pixels: Image, server: str, form: str
) -> None:
    encoded = base64.b64encode(picture.read_bytes()).decode()
    forms: dict[str, Any] = {
        "path": picture,
        "text": str(picture),
        "file": picture.as_uri(),
        "http": f"{server}/picture",
        "data": f"data:image/png;base64,{encoded}",
        "base64": encoded,
        "bytes": picture.read_bytes(),
        "pillow": PillowImage.open(io.BytesIO(picture.read_bytes())),
        "array": pixels,
    }
    ask([user({"type": "image", "image": forms[form]}, "What is it?")], engine)
    (vision,) = seen(engine)
    assert (vision.frames[0] == pixels).all()
    assert vision.kind == "image"


def test_several_pictures_and_videos_keep_their_order_among_the_words(
    engine: FakeEngine, pixels: Image, video: Path
) -> None:
    items = [{"type": "image", "image": pixels}, {"type": "video", "video": str(video), "nframes": 4}]
    (answer,) = ask([user("First", *items, "second", items[0], "which?")], engine)
    text = text_of(engine.asked[-1][0].prompt)
    kinds = ["First", "<image>", "<video>", "second", "<image>", "which?"]
    assert [text.index(kind) for kind in kinds[:4]] == sorted(text.index(kind) for kind in kinds[:4])
    assert [vision.kind for vision in seen(engine)] == ["image", "video", "image"]
    assert answer.text == "It is a mug."


def test_a_batch_may_mix_text_pictures_and_system_messages_and_repeat_itself(
    engine: FakeEngine, pixels: Image
) -> None:
    shown = user({"type": "image", "image": pixels}, "What is it?")
    text_only: Conversation = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "What is this about?"},
    ]
    answers = ask([shown, text_only, shown], engine)
    assert [answer.question.phrase for answer in answers] == [
        "What is it?",
        "What is this about?",
        "What is it?",
    ]
    assert len(engine.asked) == 1
    assert [len(seen(engine, number)) for number in range(3)] == [1, 0, 1]
    assert "You are terse." in text_of(engine.asked[-1][1].prompt)
    assert "helpful assistant" not in text_of(engine.asked[-1][1].prompt)


def test_a_conversation_may_have_turns_before_the_question(engine: FakeEngine) -> None:
    turns: Conversation = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ]
    (answer,) = ask([turns], engine)
    assert answer.question.phrase == "Three?"
    assert text_of(engine.asked[-1][0].prompt).index("Two.") > 0


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, (196, 280)),
        ({"min_pixels": 28 * 28, "max_pixels": 100 * 28 * 28}, (56, 84)),
        ({"max_pixels": 28 * 56}, (28, 28)),
        ({"min_pixels": 400 * 28 * 28, "max_pixels": 600 * 28 * 28}, (476, 700)),
        ({"resized_height": 290, "resized_width": 410}, (280, 420)),
    ],
    ids=["profile", "both limits", "most only", "large", "exact"],
)
def test_an_item_decides_how_large_the_model_sees_it(
    engine: FakeEngine, pixels: Image, settings: dict[str, int], size: tuple[int, int]
) -> None:
    ask([user({"type": "image", "image": pixels, **settings}, "What?")], engine)
    (vision,) = seen(engine)
    assert (vision.height, vision.width) == size


@pytest.mark.parametrize(
    ("settings", "frames", "first", "last"),
    [
        ({}, 20, 0, 99),
        ({"fps": 1.0}, 10, 0, 99),
        ({"nframes": 7}, 6, 0, 99),
        ({"fps": 4.0, "max_frames": 8}, 8, 0, 99),
        ({"fps": 0.1, "min_frames": 4}, 4, 0, 99),
        ({"video_start": 2.0, "video_end": 4.0}, 4, 20, 40),
        ({"video_start": 7.0, "nframes": 2}, 2, 70, 99),
    ],
    ids=["profile's rate", "fps", "nframes made even", "at most", "at least", "a stretch", "from the end"],
)
def test_frames_of_a_video_are_spread_over_what_is_asked_for(
    engine: FakeEngine, video: Path, settings: dict[str, float], frames: int, first: int, last: int
) -> None:
    ask([user({"type": "video", "video": str(video), **settings}, "What?")], engine)
    (vision,) = seen(engine)
    brightness = [int(image.mean()) / 2 for image in vision.frames]
    assert len(brightness) == frames
    assert brightness[0] == pytest.approx(first, abs=1)
    assert brightness[-1] == pytest.approx(last, abs=1)
    assert brightness == sorted(brightness)


def test_a_list_of_pictures_is_a_video(engine: FakeEngine, pixels: Image, picture: Path) -> None:
    ask([user({"type": "video", "video": [pixels, str(picture), pixels], "fps": 1.0}, "What?")], engine)
    (vision,) = seen(engine)
    assert vision.kind == "video"
    # Two make a slice: the last one is shown twice.
    assert len(vision.frames) == 4


def test_total_pixels_are_shared_by_the_frames(engine: FakeEngine, video: Path) -> None:
    item = {
        "type": "video",
        "video": str(video),
        "nframes": 8,
        "min_pixels": 784,
        "total_pixels": 8 * 4 * 784,
    }
    ask([user(item, "What?")], engine)
    (vision,) = seen(engine)
    # Eight frames are four slices of eight tokens.
    assert vision.height * vision.width <= 8 * 784


def test_reasoning_is_asked_for_in_the_words_of_the_model(engine: FakeEngine, pixels: Image) -> None:
    engine.script = lambda _: "<think>Round.</think><answer>a mug</answer>"
    (answer,) = ask([user({"type": "image", "image": pixels}, "What is it?")], engine, think=True)
    assert "<think>" in text_of(engine.asked[-1][0].prompt)
    assert (answer.text, answer.reasoning) == ("a mug", "Round.")


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        ([{"role": "robot", "content": "x"}], "role is system, user or assistant"),
        (user({"type": "audio", "audio": "x"}, "x"), "holds a text, an image or a video"),
        (user({"image": "x", "fps": 2}, "x"), "unknown setting 'fps'"),
        (user({"image": "x", "min_pixels": -1}, "x"), "min_pixels"),
        (user({"image": "x", "resized_height": 28}, "x"), "resized_width"),
        (user({"image": 3}, "x"), "an image is a path"),
        ([{"role": "user", "content": 3}], "content is a text or a list"),
        ([{"role": "user", "content": ""}], "add the question"),
        ([], "add the question"),
    ],
    ids=[
        "role",
        "kind",
        "setting",
        "value",
        "half a size",
        "no picture",
        "content",
        "no question",
        "nothing",
    ],
)
def test_a_conversation_that_cannot_be_understood_is_told_by_its_place(
    engine: FakeEngine, conversation: Conversation, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        ask([conversation], engine)


def test_a_task_on_a_video_sees_at_most_the_longest_window(engine: FakeEngine, video: Path) -> None:
    answer = ask_task(Question("when", "pour water"), engine, video=str(video), clip=ClipOptions(fps=5))
    (vision,) = seen(engine)
    assert len(vision.frames) == 2 * (2 * EGOTHINKER_V1.window_slices - 1)
    assert answer.window is not None
    assert answer.window.duration == pytest.approx(9.9)


def test_boxes_are_looked_for_in_the_last_frame_of_a_video(engine: FakeEngine, video: Path) -> None:
    engine.script = lambda _: "[500, 500, 1000, 1000]"
    answer = ask_task(Question("ground", "mug"), engine, video=str(video))
    (vision,) = seen(engine)
    assert vision.kind == "image"
    assert int(vision.frames[0].mean()) / 2 == pytest.approx(99, abs=1)
    assert list(answer.boxes[0]) == [42, 28, 84, 56]


def test_a_task_about_time_needs_a_video(engine: FakeEngine, pixels: Image) -> None:
    with pytest.raises(UsageError, match="needs a video"):
        ask_task(Question("intent"), engine, picture=pixels)


def test_the_command_prints_the_answer(
    engine: FakeEngine, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["ask", str(picture), "What is it?", "--max-tokens", "9", "--temperature", "0.5"]) == 0
    assert capsys.readouterr().out == "It is a mug.\n"
    request = engine.asked[-1][0]
    assert (request.max_tokens, request.temperature) == (9, 0.5)
    assert engine.closed


@pytest.mark.parametrize(
    ("arguments", "frames", "size"),
    [
        (["VIDEO", "--task", "intent"], 20, (196, 280)),
        (["VIDEO", "--task", "when", "pour", "--start", "2", "--end", "4"], 4, (196, 280)),
        (["VIDEO", "What?", "--fps", "1", "--height", "56", "--width", "84"], 10, (56, 84)),
        (["PICTURE", "PICTURE", "What?", "--frames"], 2, (196, 280)),
        (["PICTURE", "red mug", "--task", "ground", "--max-pixels", "1568"], 1, (28, 28)),
        (["PICTURE", "What?", "--min-pixels", "313600", "--max-pixels", "470400"], 1, (476, 700)),
    ],
    ids=["intent", "a stretch", "exact size", "frames", "task and size", "large"],
)
def test_the_command_has_the_settings_of_the_call(
    engine: FakeEngine,
    picture: Path,
    video: Path,
    arguments: list[str],
    frames: int,
    size: tuple[int, int],
) -> None:
    files = {"VIDEO": str(video), "PICTURE": str(picture)}
    assert cli.call(["ask", *(files.get(word, word) for word in arguments)]) == 0
    (vision,) = seen(engine)
    assert len(vision.frames) == frames
    assert (vision.height, vision.width) == size


def test_the_command_writes_json_for_programs(
    engine: FakeEngine, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.script = lambda _: "[500, 500, 1000, 1000]"
    assert cli.call(["ask", str(picture), "mug", "--task", "ground", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["task"], answer["phrase"]) == ("ground", "mug")
    place = {"label": "mug", "x1": 42, "y1": 28, "x2": 84, "y2": 56, "score": 0.5}
    assert answer["boxes"][0] == place | {"by": "model", "found_by": "model", "supported": None}


def test_the_command_answers_a_file_of_conversations_together(
    engine: FakeEngine, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = tmp_path / "batch.jsonl"
    rows = [user({"image": str(picture)}, "What?"), [{"role": "user", "content": "Text only?"}]]
    batch.write_text("\n".join(json.dumps(row) for row in rows))
    assert cli.call(["ask", "--batch", str(batch)]) == 0
    assert capsys.readouterr().out == "It is a mug.\n" * 2
    assert len(engine.asked[-1]) == 2
    batch.write_text('{"no": "list"}')
    assert cli.call(["ask", "--batch", str(batch)]) == 1
    assert "line 1" in capsys.readouterr().err


def test_a_real_checkpoint_answers_a_mixed_batch(tiny_checkpoint: Path, pixels: Image, video: Path) -> None:
    engine = load_engine(str(tiny_checkpoint), device="cpu")
    conversations = [
        user({"image": pixels, "max_pixels": 100 * 784, "min_pixels": 784}, "What is it?"),
        user("What is a mug?"),
        user({"video": str(video), "nframes": 4, "resized_height": 56, "resized_width": 56}, "What is done?"),
    ]
    together = ask(conversations, engine, sampling=Sampling(max_tokens=8))
    alone = [ask([turns], engine, sampling=Sampling(max_tokens=8))[0] for turns in conversations]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.usage.vision_tokens for answer in together] == [6, 0, 8]
    assert len({answer.text for answer in together}) == 3
