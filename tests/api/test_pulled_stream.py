"""`Model.stream`: one result a frame, unknown told apart from absent, and every way in which it ends."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fakes import FakeEngine, nano_script
from PIL import Image as PillowImage
from scripted import PATIENCE, Scripted, our_threads, tenths

import egolive
from egolive.assistant.live import governing
from egolive.assistant.live.box_tracking import BoxTracker
from egolive.stream import questions_of
from egolive.streaming.errors import ConfigError, EngineError, SourceError
from egolive.streaming.video_writer import VideoWriter


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    assert our_threads() == []
    yield
    assert our_threads() == []


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def model(engine: FakeEngine) -> egolive.Model:
    return egolive.Model(engine)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of a moving square, 10 pictures a second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path) as writer:
        for index in range(40):
            image = np.full((90, 160, 3), 60, np.uint8)
            image[30:60, 2 * index : 2 * index + 30] = 200
            writer.write(image, index / 10)
    return path


TEN_LINES = """
import cv2, egolive as ego

model = ego.load_model("nano")
print(model.ask("photo.jpg", "left hand", task="ground").boxes)
with ego.open_source("kitchen.mp4") as source:
    for result in model.stream(source, tasks=["intent", "next", "hands"]):
        print(result.time, result.intent, result.age)
        cv2.imshow("live", result.annotated())
        tracks = result.detections()
"""


def test_the_ten_lines_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with egolive.open_source(egolive.example_clip()) as source:
        frames = [frame for frame, _ in zip(source, range(24), strict=False)]
    PillowImage.fromarray(frames[-1].image).save(tmp_path / "photo.jpg")
    with VideoWriter(tmp_path / "kitchen.mp4") as writer:
        for frame in frames:
            writer.write(frame.image, frame.time)
    monkeypatch.chdir(tmp_path)
    shown: list[np.ndarray[Any, Any]] = []
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture), raising=False)
    names: dict[str, Any] = {}
    exec(TEN_LINES, names)
    assert len(shown) == 24
    # OpenCV shows BGR: the bottom of the picture, where nothing is drawn, has the frame's colours in reverse.
    result = names["result"]
    assert (shown[-1][-1, :, ::-1] == result.frame[-1]).all()
    assert isinstance(result.intent, str)
    assert result.age is not None
    assert len(names["tracks"]) == len(result.boxes) > 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("(Box(")
    # Boxes are known with the first picture, words with the first pair.
    assert second == "0.0 None 0.0"
    names["model"].close()


def test_every_frame_of_a_recording_comes_with_what_is_known_by_then(
    model: egolive.Model, engine: FakeEngine, clip: Path
) -> None:
    results = []
    for result in model.stream(clip, tasks=["intent", "next", "hands"]):
        results.append(result)
        # Slower than the source: everything has to wait.
        time.sleep(0.005)
    assert [result.index for result in results] == list(range(40))
    assert [result.time for result in results] == pytest.approx([index / 10 for index in range(40)])
    new = [answer for result in results for answer in result.new]
    # 8 sampled pictures with two hands each, 4 windows with two questions each.
    assert [answer.question.task for answer in new].count("ground") == 16
    assert len(new) == 16 + 8
    for result in results:
        assert all(answer.time == result.time for answer in result.new)
    assert results[0].intent is None
    assert results[0].next is None
    assert results[-1].intent == "make tea"
    assert results[-1].next == "pour the water"
    assert engine.open_sessions == 0


def test_boxes_carry_age_and_score_and_what_is_absent_is_told(model: egolive.Model, clip: Path) -> None:
    results = list(model.stream(clip, tasks=["hands"], seconds=1, hands="model"))
    (box,) = results[0].boxes
    assert (box.label, box.age) == ("right hand", 0.0)
    assert tuple(box) == (80, 45, 120, 90)
    assert box.score == pytest.approx(0.5)
    assert results[0].absent == ("left hand",)
    assert results[0].age == 0.0
    assert results[3].age == pytest.approx(0.3)
    for result in results:
        assert all(box.age == pytest.approx(result.age) for box in result.boxes)
        assert all(box.score is None or 0 < box.score <= 0.5 for box in result.boxes)


def test_what_is_not_known_is_none(model: egolive.Model, engine: FakeEngine, clip: Path) -> None:
    engine.script = lambda prompt: "" if "doing" in prompt else nano_script(prompt)
    first, *_, last = model.stream(clip, tasks=["intent"])
    assert (first.intent, first.next, first.age) == (None, None, None)
    assert (first.boxes, first.absent, first.answers) == ((), (), ())
    # Asked, but what came back cannot be read.
    assert last.answers[0].status == "unparsed"
    assert last.intent is None


def test_a_live_source_gives_the_newest_frame_and_no_answer_is_lost(model: egolive.Model) -> None:
    results = []
    for result in model.stream("test:160x90@50", tasks=["hands"], fps=20, seconds=2):
        results.append(result)
        time.sleep(0.2)
    times = [result.time for result in results]
    assert times == sorted(set(times))
    assert 3 <= len(results) < 20
    asked = [
        answer.time for result in results for answer in result.new if answer.question.phrase == "left hand"
    ]
    assert asked == sorted(set(asked))
    assert len(asked) > len(results)
    for result in results:
        assert result.now >= result.time
        assert result.age is None or result.age >= 0


@pytest.mark.parametrize("governed", [True, False])
def test_a_live_source_is_governed_unless_told_otherwise(
    model: egolive.Model, monkeypatch: pytest.MonkeyPatch, *, governed: bool
) -> None:
    made: list[tuple[frozenset[Any], bool]] = []

    def spy(assistant: Any, *, held: frozenset[Any], on_contact: bool, **rest: Any) -> Any:
        made.append((held, on_contact))
        return governing.governed(assistant, held=held, on_contact=on_contact, **rest)

    monkeypatch.setattr("egolive.stream.governed", spy)
    source = Scripted(tenths(20), live=True)
    settings = {"slices": 2, "governed": governed, "on_contact": governed}
    assert list(model.stream(source, tasks=["hands"], **settings))  # type: ignore[arg-type]
    assert made == ([(frozenset({"slices"}), True)] if governed else [])


def test_asking_on_contact_needs_the_governor(model: egolive.Model) -> None:
    with pytest.raises(ConfigError, match="leave out governed=False"):
        model.stream(Scripted(tenths(2), live=True), governed=False, on_contact=True)


def test_the_age_of_a_live_result_counts_the_time_that_it_waited(model: egolive.Model) -> None:
    waited = threading.Event()

    def before(index: int) -> None:
        if index == 1:
            assert waited.wait(PATIENCE)

    with model.stream(Scripted(tenths(2), live=True, before=before), tasks=["hands"]) as stream:
        stream.ask("What is it?")
        time.sleep(0.5)
        result = next(stream)
        assert result.now - result.time >= 0.4
        waited.set()


def test_the_picture_is_drawn_in_both_orders(model: egolive.Model, clip: Path) -> None:
    (result,) = model.stream(clip, tasks=["hands"], seconds=0.1)
    before = result.frame.copy()
    bgr, rgb = result.annotated(), result.annotated("rgb")
    assert bgr.dtype == np.uint8
    assert bgr.shape == result.frame.shape
    assert (bgr[..., ::-1] == rgb).all()
    assert (rgb != before).any()
    assert (result.frame == before).all()
    with pytest.raises(egolive.ConfigError, match="order is 'bgr' or 'rgb'"):
        result.annotated("hsv")  # type: ignore[arg-type]


def test_detections_are_those_of_supervision(model: egolive.Model, clip: Path) -> None:
    sv = pytest.importorskip("supervision")
    (result,) = model.stream(clip, tasks=["hands", "mug"], seconds=0.1, hands="model")
    found = result.detections()
    assert isinstance(found, sv.Detections)
    assert found.xyxy.tolist() == [[80, 45, 120, 90]]
    assert found.data["class_name"].tolist() == ["right hand"]
    assert found.data["age"].tolist() == [0.0]
    assert found.confidence.tolist() == [pytest.approx(0.5)]
    nothing = egolive.FrameResult(egolive.Frame(result.frame, 0.0, 0), []).detections()
    assert len(nothing) == 0
    unknown = egolive.Answer(egolive.Question("ground", "a"), "a", boxes=(egolive.Box(0, 0, 9, 9, "a"),))
    unscored = egolive.FrameResult(egolive.Frame(result.frame, 0.0, 0), [unknown])
    assert unscored.boxes[0].score is None
    assert np.isnan(unscored.detections().confidence).all()


def test_detections_without_supervision_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    result = egolive.FrameResult(egolive.Frame(np.zeros((9, 9, 3), np.uint8), 0.0, 0), [])
    with pytest.raises(egolive.ConfigError, match=r"pip install 'egolive\[supervision\]'"):
        result.detections()


@pytest.mark.parametrize("end", ["break", "close", "with", "forgotten", "model", "exception"])
@pytest.mark.parametrize("live", [False, True], ids=["recording", "live"])
def test_a_consumer_who_stops_early_ends_everything(
    model: egolive.Model, engine: FakeEngine, clip: Path, end: str, live: bool
) -> None:
    source = egolive.open_source("test:160x90@50") if live else egolive.open_source(clip)

    def pulled() -> egolive.FrameResult:
        if end == "break":
            for result in model.stream(source):
                return result
        if end == "forgotten":
            return next(model.stream(source))
        stream = model.stream(source)
        if end == "with":
            with stream:
                return next(stream)
        if end == "exception":
            with suppress(ZeroDivisionError), stream:
                result = next(stream)
                raise ZeroDivisionError
            return result
        result = next(stream)
        (model if end == "model" else stream).close()
        assert list(stream) == []
        return result

    began = time.monotonic()
    assert pulled().frame.shape == (90, 160, 3)
    gc.collect()
    assert our_threads() == []
    assert time.monotonic() - began < 20
    assert engine.open_sessions == 0
    assert len(list(source)) <= 1


def test_stopping_early_does_not_wait_for_the_answer_that_is_being_written(
    model: egolive.Model, engine: FakeEngine, clip: Path
) -> None:
    writing = threading.Event()

    class SlowClock:
        def advance(self, seconds: float) -> None:
            writing.set()
            time.sleep(seconds)

    engine.clock = SlowClock()  # type: ignore[assignment]
    # A minute of text.
    engine.script = lambda prompt: "word " * 600
    engine.seconds_per_token = 0.05
    stream = model.stream(clip, tasks=["What is on the table?"], max_tokens=1200)
    for result in stream:
        if result.time > 0.2:
            break
    assert writing.wait(PATIENCE)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 10


def test_an_error_of_the_engine_is_raised_to_who_pulls(
    model: egolive.Model, engine: FakeEngine, clip: Path
) -> None:
    def script(prompt: str) -> str:
        raise EngineError("the device failed")

    engine.script = script
    stream = model.stream(clip, tasks=["hands"])
    with pytest.raises(EngineError, match="the device failed"):
        list(stream)
    assert list(stream) == []
    assert engine.open_sessions == 0


@pytest.mark.parametrize("live", [False, True])
def test_an_error_of_the_source_comes_after_the_frames_before_it(model: egolive.Model, live: bool) -> None:
    def before(index: int) -> None:
        if index == 3:
            raise SourceError("the camera is gone")

    source = Scripted(tenths(9), live=live, before=before)
    times: list[float] = []
    stream = model.stream(source, tasks=["hands"])
    with pytest.raises(SourceError, match="the camera is gone"):
        times.extend(result.time for result in stream)
    assert times == [0.0, 0.1, 0.2] or (live and times)
    assert source.closed


def test_an_engine_that_cannot_begin_leaves_nothing_open(
    model: egolive.Model, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise EngineError("no memory for a session")

    monkeypatch.setattr(engine, "session", refuse)
    source = Scripted(tenths(3), live=False)
    stream = model.stream(source)
    with pytest.raises(EngineError, match="no memory for a session"):
        next(stream)
    assert source.closed
    assert list(stream) == []


def test_a_source_that_is_not_there_is_told_at_once(model: egolive.Model) -> None:
    with pytest.raises(SourceError, match="there is no such file"):
        model.stream("missing.mp4")


def test_a_stream_that_is_never_pulled_starts_nothing_and_closes_its_source(model: egolive.Model) -> None:
    source = Scripted(tenths(3), live=False)
    stream = model.stream(source)
    assert our_threads() == []
    stream.close()
    assert source.closed
    forgotten = Scripted(tenths(3), live=False)
    model.stream(forgotten)
    gc.collect()
    assert forgotten.closed


def test_a_question_may_be_asked_while_the_stream_runs(model: egolive.Model, clip: Path) -> None:
    with model.stream(clip, tasks=["hands"]) as stream:
        asked = False
        texts = []
        for result in stream:
            if result.time > 1.5 and not asked:
                asked = True
                stream.ask("What is it?")
            texts += [answer.text for answer in result.new if answer.question.task == "ask"]
    assert texts == ["It is a mug."]
    with pytest.raises(egolive.ConfigError, match="has ended"):
        stream.ask("And now?")


def test_the_model_answers_others_while_a_stream_runs(model: egolive.Model, clip: Path) -> None:
    for result in model.stream(clip, tasks=["hands"], seconds=1):
        assert model.ask(result.frame, "What is it?").text == "It is a mug."


def test_two_streams_run_side_by_side(clip: Path) -> None:
    with egolive.load_model("nano", device="cpu") as nano:
        alone = [result.boxes for result in nano.stream(clip, tasks=["hands"], seconds=1)]
        one, other = (nano.stream(clip, tasks=["hands"], seconds=1) for _ in range(2))
        both = [(left.boxes, right.boxes) for left, right in zip(one, other, strict=True)]
    assert [left for left, _ in both] == alone
    assert [right for _, right in both] == alone


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ("intent", ["intent:"]),
        (["intent", "next"], ["intent:", "next:"]),
        (["hands"], ["ground:left hand", "ground:right hand"]),
        (["objects"], ["ground:object in the left hand", "ground:object in the right hand"]),
        (["hands", "ground"], ["ground:left hand", "ground:right hand", "ground:object in the left hand"]),
        (["red mug", "Is it hot?"], ["ground:red mug", "ask:Is it hot?"]),
        (
            ["tent", "mask", "the hands", "Next?"],
            ["ground:tent", "ground:mask", "ground:the hands", "ask:Next?"],
        ),
        ([egolive.Question("ground", "hand")], ["ground:hand"]),
        ([egolive.Question("when", "pour")], ["when:pour"]),
    ],
)
def test_tasks_become_questions(tasks: Any, expected: list[str]) -> None:
    asked = [f"{question.task}:{question.phrase}" for question in questions_of(tasks, think=False)]
    assert asked[: len(expected)] == expected
    assert all(question.think for question in questions_of("intent", think=True))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"tasks": []}, "nothing is asked"),
        ({"tasks": [""]}, "a task is a name"),
        ({"tasks": [3]}, "a task is a name"),
        ({"tasks": ["intnet"]}, "no task 'intnet'; did you mean 'intent'"),
        ({"tasks": "Hands"}, "no task 'Hands'; did you mean 'hands'"),
        ({"tasks": ["hands", "objcts"]}, "did you mean 'objects'"),
        ({"tasks": ["grond"]}, r"did you mean 'ground'.*Question\('ground', 'grond'\)"),
        ({"tasks": ["when"]}, r"the task 'when' needs words; give Question\('when', ...\)"),
        ({"fps": 0}, "fps is more than 0"),
        ({"seconds": float("nan")}, "seconds is more than 0"),
        ({"slices": 0}, "slices is 1 or more"),
        ({"every": 0}, "every is 1 or more"),
        ({"max_tokens": 0}, "max_tokens is 1 or more"),
        ({"deadline": -1}, "deadline is more than 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(
    model: egolive.Model, clip: Path, settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(egolive.ConfigError, match=expected):
        model.stream(clip, **settings)


def test_a_score_that_nobody_told_stays_unknown_while_the_box_is_carried() -> None:
    carrier = BoxTracker()
    texture = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    box = egolive.Box(40, 30, 90, 70, "left hand")
    found = egolive.Answer(egolive.Question("ground", "left hand"), "left hand", boxes=(box,))
    carrier.carry(egolive.Frame(texture, 0.0, 0), [found])
    (answer,) = carrier.carry(egolive.Frame(np.roll(texture, 2, axis=1), 0.1, 1), [found])
    assert answer.boxes[0].x1 == pytest.approx(42, abs=1)
    assert answer.boxes[0].score is None
