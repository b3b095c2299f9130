"""Where answers go: JSON lines, video, function, terminal."""

from __future__ import annotations

import io
import json
import re
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from rich.console import Console

from egolive.assistant.cli.terminal_view import LineView, Rates, TerminalView
from egolive.assistant.live.answer_text import in_words
from egolive.assistant.live.sinks import CallbackSink, EventSink, Shown, VideoSink
from egolive.assistant.prompts.parsing import parse
from egolive.assistant.schema.answers import Answer, Question, Timing, Usage
from egolive.assistant.schema.profiles import EGOTHINKER_V1
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import SinkError
from egolive.streaming.frames import Box, Frame, Image, Interval
from egolive.streaming.video_writer import VideoWriter

INTENT = Answer(Question("intent"), "make tea", time=3.0, window=Interval(0.0, 3.0))
HAND = Answer(
    Question("ground", "right hand"),
    "right hand",
    boxes=(Box(10, 20, 30.126, 40, "right hand", 0.91239),),
    time=3.5,
    timing=Timing(0.0, 0.1, 0.25),
    usage=Usage(100, 40, 12, 1, 1, 3, 5, 4),
)
ABSENT = Answer(Question("ground", "left hand"), "none", absent=True, time=3.5)


def frame(index: int = 0, time: float = 4.0) -> Frame:
    return Frame(np.full((90, 160, 3), 90, np.uint8), time, index)


def test_an_answer_line_has_exactly_the_keys_that_other_programs_read(tmp_path: Path) -> None:
    sink = EventSink(tmp_path / "events.jsonl")
    sink.emit(Shown(frame(), [HAND], [HAND]))
    sink.close()
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "type": "answer",
        "status": "ok",
        "t": 3.5,
        "shown": 4.0,
        "age": 0.5,
        "task": "ground",
        "phrase": "right hand",
        "text": "right hand",
        "reasoning": "",
        "cut": False,
        "found": "yes",
        "unknown": "",
        "boxes": [
            {
                "label": "right hand",
                "x1": 10,
                "y1": 20,
                "x2": 30.13,
                "y2": 40,
                "score": 0.9124,
                "by": "model",
                "found_by": "model",
                "supported": None,
            }
        ],
        "intervals": [],
        "window": None,
        "approx": [],
        "timing": {"queued": 0.0, "first_token": 0.1, "total": 0.25},
        "usage": {
            "prompt_tokens": 100,
            "prompt_tokens_reused": 40,
            "vision_tokens": 12,
            "completion_tokens": 1,
            "slices_encoded": 1,
            "slices_used": 3,
            "draft_proposed": 5,
            "draft_accepted": 4,
        },
        "score": None,
        "calibrated": False,
        "unsure": False,
        "familiarity": None,
        "domain": None,
    }


def test_only_new_answers_are_written_and_at_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "events.jsonl"
    sink = EventSink(path)
    sink.emit(Shown(frame(0), [INTENT], [INTENT]))
    sink.emit(Shown(frame(1), [INTENT], []))
    sink.note({"type": "gap", "start": 1.0, "end": 2.0})
    # Read before it is closed: a kill would leave just this.
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    sink.close()
    assert [line["type"] for line in lines] == ["answer", "gap"]
    assert lines[0]["window"] == [0.0, 3.0]


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"cannot write .*events.jsonl: .*choose another folder"):
        EventSink(tmp_path / "file" / "events.jsonl")


def test_a_callback_gets_each_new_answer_once() -> None:
    got: list[Answer] = []
    sink = CallbackSink(got.append)
    sink.emit(Shown(frame(0), [INTENT, HAND], [INTENT, HAND]))
    sink.emit(Shown(frame(1), [INTENT, HAND], [HAND]))
    assert got == [INTENT, HAND, HAND]


def test_the_video_has_every_picture_at_its_time(tmp_path: Path) -> None:
    sink = VideoSink(VideoWriter(tmp_path / "overlay.mp4"))
    for index, time in enumerate((0.0, 0.1, 0.5)):
        sink.emit(Shown(frame(index, time), [HAND], []))
    sink.close()
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        times = [picture.time for picture in container.decode(video=0)]
    assert times == pytest.approx([0.0, 0.1, 0.5])


def test_the_overlay_is_drawn_once_and_only_when_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Frame] = []

    def draw(shown: Frame, answers: object, now: float, hands: object) -> Image:
        drawn.append(shown)
        return shown.image

    monkeypatch.setattr("egolive.assistant.live.sinks.draw", draw)
    shown = Shown(frame(), [HAND], [HAND])
    CallbackSink(lambda _: None).emit(shown)
    assert drawn == []
    assert shown.picture is shown.picture
    assert len(drawn) == 1


def test_rates_tell_source_screen_and_engine_apart() -> None:
    clock = VirtualClock()
    rates = Rates(clock)
    # A 30 Hz source of which every third picture is shown, ten a second; one answer each half second.
    for step in range(31):
        rates.count(Shown(frame(step * 3, step * 0.1), [], [HAND] if step and step % 5 == 0 else []))
        clock.advance(0.1)
    assert rates.source == pytest.approx(30.0)
    assert rates.shown == pytest.approx(10.0)
    assert rates.answers == pytest.approx(2.0)


def test_rates_are_those_of_the_last_seconds() -> None:
    clock = VirtualClock()
    rates = Rates(clock)
    for step in range(20):
        rates.count(Shown(frame(step, step * 1.0), [], []))
        clock.advance(1.0 if step < 10 else 0.5)
    assert rates.shown == pytest.approx(2.0)


def test_without_a_terminal_each_answer_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    view = LineView()
    view.emit(Shown(frame(), [INTENT, HAND, ABSENT], [INTENT, HAND, ABSENT]))
    view.note({"type": "gap"})
    captured = capsys.readouterr()
    assert captured.err == "the source was interrupted: a new window begins\n"
    assert captured.out.splitlines() == [
        "   3.00 s  intent: make tea  (age 1.0 s)",
        "   3.50 s  ground right hand: [10, 20, 30, 40]  (0.91 uncalibrated, age 0.5 s)",
        "   3.50 s  ground left hand: none  (age 0.5 s)",
    ]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("<|box_start|>(100,200),(500,1000)<|box_end|>", "[16, 18, 80, 90]"),
        (
            "<|object_ref_start|>The mug<|object_ref_end|><|box_start|>(100,200),(500, 1000)<|box_end|> and "
            "<|box_start|>(0,0),(500,500)<|box_end|>.",
            "The mug [16, 18, 80, 90] and [0, 0, 80, 45].",
        ),
        (
            '{"bbox_2d": [100, 200, 500, 1000]}',
            '{"bbox_2d": [100, 200, 500, 1000]} (in pixels: [16, 18, 80, 90])',
        ),
        ("Aisle (1,2),(3,4), row 5", "Aisle (1,2),(3,4), row 5"),
        ("It is a mug.", "It is a mug."),
    ],
)
def test_boxes_of_any_answer_are_in_pixels(said: str, expected: str) -> None:
    question = Question("ask", "Where is the mug?")
    assert in_words(parse(said, question, EGOTHINKER_V1, source_size=(160, 90))) == expected


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    assert in_words(Answer(Question("intent"), "make\x1b[2J tea\nnow")) == "make [2J tea now"
    assert in_words(Answer(Question("intent"), "make", cut=True)) == "make …"


@pytest.mark.parametrize(
    ("width", "colours", "picture"),
    [(140, "truecolor", True), (140, None, False), (60, "truecolor", False)],
    ids=["wide and colourful", "no colours", "narrow"],
)
def test_the_terminal_shows_the_picture_where_it_can(width: int, colours: str | None, picture: bool) -> None:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        height=40,
        force_terminal=True,
        color_system=colours,  # type: ignore[arg-type]
    )
    clock = VirtualClock()
    view = TerminalView(console, title="clip · nano", clock=clock)
    shown = Shown(frame(), [INTENT, HAND, ABSENT], [INTENT])
    view.emit(shown)
    view.close()
    text = out.getvalue()
    for expected in ("clip · nano", "make tea", "1.0 s old", "right hand", "[10, 20, 30, 40] 0.91", "none"):
        assert expected in text
    assert "scores uncalibrated" in text
    assert ("▀" in text) == picture
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width


def test_a_terminal_that_does_not_read_holds_up_no_picture() -> None:
    blocked, release = threading.Event(), threading.Event()

    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            if threading.current_thread() is not threading.main_thread():
                blocked.set()
                release.wait(20)
            return super().write(text)

    view = TerminalView(Console(file=Stuck(), width=60, height=30, force_terminal=True), title="x")
    assert blocked.wait(20)
    for index in range(100):
        view.emit(Shown(frame(index, index / 30), [INTENT], []))
    release.set()
    view.close()


def test_pictures_that_were_passed_over_are_counted() -> None:
    out = io.StringIO()
    clock = VirtualClock()
    view = TerminalView(Console(file=out, width=100, height=30, force_terminal=True), title="x", clock=clock)
    for index in (0, 1, 5):
        view.emit(Shown(frame(index, index / 30), [], []))
        clock.advance(1.0)
    view.note({"type": "gap"})
    view.close()
    assert "not shown 3" in out.getvalue()


def test_what_the_governor_chose_is_in_the_view() -> None:
    out = io.StringIO()
    view = TerminalView(Console(file=out, width=100, height=30, force_terminal=True), title="x")
    view.emit(Shown(frame(0, 0.0), [], [], governor="words every 8 s (words take 2.0 s)"))
    view.close()
    assert "words every 8 s (words take 2.0 s)" in out.getvalue()
