"""The assistant between frames and engine: what is asked of what, and how tokens become answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fakes import FakeEngine, nano_script, text_of

from egolive.assistant.generation.generate import Sampling
from egolive.assistant.live.assistant import LIVE_QUESTIONS, Assistant, live_questions
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import EGOTHINKER_V1
from egolive.streaming.clock import VirtualClock
from egolive.streaming.frames import Frame, Interval, Slice, Window
from egolive.streaming.pipeline.scheduler import Work


def frame(index: int, width: int = 448, height: int = 252) -> Frame:
    return Frame(np.full((height, width, 3), index, np.uint8), index * 0.5, index)


def window(slices: int = 2) -> Window:
    return Window(tuple(Slice(frame(2 * i), frame(2 * i + 1), i) for i in range(slices)))


def due(assistant: Assistant, window: Window | None, picture: Frame) -> Work[Question]:
    """What the assistant's scheduler makes of a picture and a window."""
    assistant.scheduler.see(picture, window, picture.time)
    work = assistant.scheduler.take(picture.time, everything=True)
    assert work is not None
    return work


def answers_to(assistant: Assistant, window: Window | None, picture: Frame) -> list[Answer]:
    return [result.value for result in assistant(due(assistant, window, picture))]


def visions(engine: FakeEngine) -> dict[str, Vision]:
    """Of the last ask: the text behind the pictures, and the pictures."""
    found = {}
    for request in engine.asked[-1]:
        (vision,) = (part for part in request.prompt.parts if isinstance(part, Vision))
        found[text_of(request.prompt)] = vision
    return found


def test_all_due_questions_go_to_the_engine_in_one_ask() -> None:
    engine = FakeEngine()
    answers = answers_to(Assistant(engine), window(), frame(4))
    assert len(engine.asked) == 1
    assert {answer.question for answer in answers} == set(LIVE_QUESTIONS)


def test_boxes_are_asked_of_the_newest_picture_as_an_image_and_words_of_the_window_as_a_video() -> None:
    engine = FakeEngine()
    newest = frame(9)
    answers_to(Assistant(engine), window(3), newest)
    for text, vision in visions(engine).items():
        if "Find" in text:
            assert vision.kind == "image"
            assert vision.frames[0] is newest.image
        else:
            assert vision.kind == "video"
            assert len(vision.frames) == 6


def test_without_a_new_window_only_boxes_are_asked_for() -> None:
    answers = answers_to(Assistant(FakeEngine()), None, frame(3))
    assert [answer.question.task for answer in answers] == ["ground"] * 4


def test_a_box_comes_back_in_pixels_of_the_source_frame_with_label_score_and_time() -> None:
    question = Question("ground", "right hand")
    (answer,) = Assistant(FakeEngine(probability=0.25)).answer([question], picture=frame(8, 640, 360))
    (box,) = answer.boxes
    assert list(box) == [320, 180, 480, 360]
    assert box.label == "right hand"
    assert box.score == pytest.approx(0.25)
    assert (answer.time, answer.window, answer.status) == (4.0, None, "ok")


def test_a_hand_that_is_not_there_is_an_answer_and_not_a_failure() -> None:
    (answer,) = Assistant(FakeEngine()).answer([Question("ground", "left hand")], picture=frame(0))
    assert answer.absent
    assert answer.status == "ok"
    assert answer.boxes == ()


def test_words_that_cannot_be_read_are_marked_unparsed() -> None:
    engine = FakeEngine(lambda _: "banana")
    (answer,) = Assistant(engine).answer([Question("ground", "left hand")], picture=frame(0))
    assert answer.status == "unparsed"


def test_intervals_count_from_the_start_of_the_window() -> None:
    seen = Window(tuple(Slice(frame(2 * i + 20), frame(2 * i + 21), i) for i in range(4)))
    (answer,) = Assistant(FakeEngine()).answer([Question("when", "pour water")], window=seen)
    assert answer.intervals == (Interval(10.5, 11.5),)
    assert answer.window == Interval(10.0, 13.5)
    assert answer.time == 13.5


def test_answer_keeps_the_order_of_the_questions_while_the_call_gives_the_first_ready_first() -> None:
    def script(prompt: str) -> str:
        return "a very long way to say that tea is made" if "doing" in prompt else nano_script(prompt)

    questions = (Question("intent"), Question("ground", "left hand"))
    assistant = Assistant(FakeEngine(script), questions=questions)
    assert [answer.question for answer in assistant.answer(questions, window=window())] == list(questions)
    assert answers_to(assistant, window(), frame(4))[0].question == questions[1]


def test_the_same_question_may_be_asked_twice() -> None:
    question = Question("ground", "right hand")
    answers = list(Assistant(FakeEngine()).answer([question, question], picture=frame(0)))
    assert len(answers) == 2


def test_timing_counts_from_the_start_of_the_work_by_the_clock() -> None:
    clock = VirtualClock(100.0)
    engine = FakeEngine(lambda _: "make tea", clock=clock, seconds_per_token=0.1)
    assistant = Assistant(engine, clock=clock)
    (answer,) = assistant.answer([Question("intent")], window=window())
    # "make", " ", "tea" and the end of the answer.
    assert answer.timing.first_token == pytest.approx(0.1)
    assert answer.timing.total == pytest.approx(0.4)


def test_usage_counts_visual_tokens_by_what_the_model_sees() -> None:
    (answer,) = Assistant(FakeEngine()).answer([Question("intent")], window=window(3))
    # nano sees 224x140: 40 tokens a slice.
    assert answer.usage.vision_tokens == 120
    assert answer.usage.slices_used == 3
    assert answer.usage.completion_tokens == 4
    assert answer.usage.prompt_tokens == 7


def test_a_question_about_the_window_without_one_is_refused() -> None:
    with pytest.raises(ValueError, match="a window"):
        Assistant(FakeEngine()).answer([Question("intent")], picture=frame(0))


def test_reasoning_gets_room_and_comes_back_apart_from_the_answer() -> None:
    engine = FakeEngine(lambda _: "<think>A kettle.</think><answer>make tea</answer>", profile=EGOTHINKER_V1)
    questions = [Question("intent", think=thinks) for thinks in (False, True)]
    _, answer = Assistant(engine).answer(questions, window=window())
    plain, thinking = engine.asked[-1]
    assert thinking.max_tokens >= plain.max_tokens + 512
    assert (answer.text, answer.reasoning) == ("make tea", "A kettle.")


@pytest.mark.parametrize(
    ("paper_prompt", "first"), [(None, "vision"), (True, "question")], ids=["default", "paper"]
)
def test_the_paper_order_puts_the_question_before_the_picture(paper_prompt: bool | None, first: str) -> None:
    engine = FakeEngine()
    assistant = Assistant(engine, paper_prompt=paper_prompt)
    list(assistant.answer([Question("intent")], window=window()))
    text = text_of(engine.asked[-1][0].prompt)
    assert (text.index("<video>") < text.index("doing")) == (first == "vision")


def test_sampling_settings_reach_the_engine() -> None:
    engine = FakeEngine()
    sampling = Sampling(max_tokens=5, temperature=0.7, top_p=0.9, top_k=20, seed=3)
    list(Assistant(engine, sampling=sampling).answer([Question("intent")], window=window()))
    request = engine.asked[-1][0]
    assert (request.max_tokens, request.temperature, request.top_p) == (5, 0.7, 0.9)
    assert (request.top_k, request.seed) == (20, 3)


def test_what_is_forgotten_is_dropped_at_once_or_as_soon_as_work_has_stopped() -> None:
    engine = FakeEngine()
    assistant = Assistant(engine, questions=[Question("intent")])
    newest = window()
    assistant.scheduler.see(newest.newest, newest, newest.newest.time)
    idle = assistant.scheduler.take(0.0)
    assert idle is not None
    # Nothing runs: what was taken and has not begun is not answered any more.
    assistant.forget_soon()
    assert engine.forgotten == 1
    assert [result.status for result in assistant(idle)] == ["preempted"]
    assert not engine.asked
    assistant.scheduler.done(idle, [Question("intent")])
    assert assistant.scheduler.take(0.0) is None

    assistant.scheduler.see(newest.newest, newest, newest.newest.time)
    running = assistant.scheduler.take(0.0)
    assert running is not None
    stopped: list[int] = []

    def forgetting() -> bool:
        if engine.asked and not stopped:
            stopped.append(engine.forgotten)
            assistant.forget_soon()
            stopped.append(engine.forgotten)
        return running.stopped()

    statuses = [result.status for result in assistant(replace(running, stopped=forgetting))]
    assert statuses == ["preempted"]
    # While it runs the session is its own.
    assert stopped == [1, 1]
    assert engine.forgotten == 2


def test_an_answer_that_the_limit_of_tokens_ends_says_so() -> None:
    engine = FakeEngine(lambda _: "make tea")
    found = {}
    for most in (2, 10):
        assistant = Assistant(engine, sampling=Sampling(max_tokens=most))
        (answer,) = assistant.answer([Question("intent")], window=window())
        found[most] = (answer.text, answer.cut)
    assert found == {2: ("make", True), 10: ("make tea", False)}


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        (lambda: live_questions(["intent"]), ["intent"]),
        (lambda: live_questions(["ground"]), ["ground"] * 4),
        (lambda: live_questions([], ["red mug"]), ["ground"]),
        (lambda: live_questions(["ground"], ["left hand"]), ["ground"] * 4),
    ],
    ids=["one task", "hands", "only a phrase", "a phrase that is asked anyway"],
)
def test_tasks_and_phrases_choose_what_is_asked(
    questions: Callable[[], tuple[Question, ...]], expected: list[str]
) -> None:
    assert [question.task for question in questions()] == expected


def test_closing_the_assistant_frees_the_session() -> None:
    engine = FakeEngine()
    with Assistant(engine):
        assert engine.open_sessions == 1
    assert engine.open_sessions == 0


def test_closing_the_answers_early_stops_the_engine() -> None:
    engine = FakeEngine()
    assistant = Assistant(engine)
    found = assistant(due(assistant, window(), frame(4)))
    next(iter(found))
    found.close()
    assert list(found) == []
