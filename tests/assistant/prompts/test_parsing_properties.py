"""What must hold of the parser for any text: recorded answers, mutated ones, runaway ones, rendered ones."""

from __future__ import annotations

import json
import time as clock
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import REAL, needs_real

from egolive.assistant.prompts.parsing import parse
from egolive.assistant.prompts.prompts import render_answer, uses_thinking
from egolive.assistant.schema.answers import Answer, Question, Task
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO, Profile
from egolive.streaming.frames import Box, Interval

RECORDED = REAL / "answers" / "real_answers.jsonl"
SOURCE = (640, 480)
SEEN = (224, 140)
WINDOW = Interval(100.0, 108.0)
GROUND = Question("ground", "cup")
WHEN = Question("when", "pour the water")
ASK = Question("ask", "what is this?")
QUESTIONS = [GROUND, WHEN, ASK, Question("intent"), Question("next", think=True)]
THINKING = replace(NANO, name="thinking", unit="norm1", think_prompts=EGOTHINKER_V1.think_prompts)
PIXELS = replace(NANO, name="pixels", unit="pixels")


def ground(text: str) -> Answer:
    return parse(text, GROUND, EGOTHINKER_V1, source_size=(1000, 1000))


def corners(answer: Answer) -> list[tuple[float, ...]]:
    return [tuple(round(value, 6) for value in box) for box in answer.boxes]


def when(text: str) -> list[tuple[float, float]]:
    answer = parse(text, WHEN, EGOTHINKER_V1, source_size=SOURCE)
    return [(stretch.start, stretch.end) for stretch in answer.intervals]


@cache
def recorded() -> list[dict[str, Any]]:
    if not REAL.is_dir():
        return []
    return [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]


@needs_real
def test_recorded_answers_give_the_boxes_and_times_that_were_judged() -> None:
    judged = [row for row in recorded() if row["expected"]]
    assert judged
    for row in judged:
        expected = row["expected"]
        boxes = corners(ground(row["text"]))
        scale = 1000 if expected.get("space") == "norm1" else 1
        if "boxes" in expected:
            assert boxes == [tuple(value * scale for value in box) for box in expected["boxes"]], row["id"]
        if "n_boxes" in expected:
            assert len(boxes) == expected["n_boxes"], row["id"]
        if "spans" in expected:
            assert when(row["text"]) == [tuple(span) for span in expected["spans"]], row["id"]
        if "time" in expected:
            assert when(row["text"]) == [(expected["time"], expected["time"])], row["id"]


UNJUDGED = {
    "a001": 7,
    "a002": 9,
    "a004": 1,
    "a025": 14,
    "a026": 8,
    "a037": 1,
    "a010": 9,
    "a014": 1,
    "a020": 8,
    "a070": 0,
}


@needs_real
def test_recorded_answers_that_nobody_judged_are_read_sensibly() -> None:
    rows = {row["id"]: row for row in recorded()}
    for name, count in UNJUDGED.items():
        text = rows[name]["text"]
        found = when(text) if rows[name]["kind"] == "time" else corners(ground(text))
        assert len(found) == count, name


MATERIAL = [
    "<|object_ref_start|>cup<|object_ref_end|><|box_start|>(120,300),(400,500)<|box_end|><|im_end|>",
    "<ref>mug</ref><box>(120,300),(400,500)</box>",
    "<think>I see [7, 8, 9, 10]</think><answer>[120, 300, 400, 500]</answer>",
    '```json\n[{"bbox_2d": [120, 300, 400, 500], "label": "mug"}, {"x1": 1, "y1": 2, "x2": 3, "y2": 4}]\n```',
    "{'bbox': '310 94 658 132', 'label': 'mug'}",
    "<think>early</think><answer>(2.00,5.50)</answer>",
    '{"time": [2.0, 5.5], "boxes": {"6": [670, 277, 998, 998]}}',
    "It starts at 00:02.50 and ends at 00:05.",
    "There is no cup in the picture.",
]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A known answer with pieces cut out, doubled, swapped for others or replaced by odd characters."""
    text: str = draw(st.sampled_from([*MATERIAL, *(row["text"][:2000] for row in recorded())]))
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted(draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
        piece = draw(
            st.sampled_from(["", text[start:end] * 2, "<", "]", "{", '"', "'", "9" * 40, "1e999", "-", "\0"])
        )
        text = text[:start] + piece + text[end:]
    return text


@given(
    st.one_of(st.text(), mutated()),
    st.sampled_from(QUESTIONS),
    st.sampled_from([EGOTHINKER_V1, NANO, PIXELS]),
)
def test_no_text_raises_and_every_result_is_inside(text: str, question: Question, profile: Profile) -> None:
    answer = parse(text, question, profile, source_size=SOURCE, window=WINDOW, token_probs=[(text, 0.5)])
    for box in answer.boxes:
        assert 0 <= box.x1 < box.x2 <= SOURCE[0]
        assert 0 <= box.y1 < box.y2 <= SOURCE[1]
        assert box.score == pytest.approx(0.5)
    for stretch in answer.intervals:
        assert WINDOW.start <= stretch.start <= stretch.end <= WINDOW.end
    assert not (answer.absent and (answer.boxes or answer.intervals))


RUNAWAYS = [
    "(",
    "{",
    "[1,2,3,4],",
    "9",
    '\\"',
    '"',
    " ",
    "< ",
    "<answer>",
    "<think>",
    "<ref>",
    "(1,2),",
    '"time": ',
]
RUNAWAYS += ["3,5 to ", "1,2 and ", "3 min 2 ", "3分", "x=1,", "x,y,w,h ", '"1",', "1%,"]
RUNAWAYS += [
    "1.0 to 2.0 and ",
    "1 ",
    "{'",
    "1:",
    "not a ",
    "no a a a ",
    "<|box_start|>",
    '{"a":[1,2,3,4',
    "-",
    "</",
]


@pytest.mark.parametrize("piece", RUNAWAYS)
def test_a_runaway_answer_is_read_in_linear_time(piece: str) -> None:
    text = "[1,2," + piece * (100_000 // len(piece))
    for question in (GROUND, WHEN, ASK):
        begin = clock.thread_time()
        parse(text, question, EGOTHINKER_V1, source_size=SOURCE, token_probs=[(text, 0.5)])
        # Some 0.05 s; one backtracking pattern over 100 kB would take minutes.
        assert clock.thread_time() - begin < 1.0


def test_a_drifting_loop_gives_a_bounded_number_of_boxes() -> None:
    text = ", ".join(f"[1, 2, {n}, 400]" for n in range(10, 900))
    assert len(ground(text).boxes) == 200


words = st.lists(st.sampled_from(["make", "tea", "left", "hand", "2", "mug"]), min_size=1, max_size=4).map(
    " ".join
)


@st.composite
def known_boxes(draw: st.DrawFn, profile: Profile) -> Box:
    """A box whose corners lie on the steps that the profile can write."""
    columns, rows = SEEN if profile.unit == "pixels" else (1000, 1000)
    # From 2 up: where the unit is told by value, a corner box of one thousandth reads as the whole picture.
    x1, x2 = sorted(draw(st.sets(st.integers(2, columns), min_size=2, max_size=2)))
    y1, y2 = sorted(draw(st.sets(st.integers(2, rows), min_size=2, max_size=2)))
    label = draw(st.sampled_from(["red mug", "lid"])) if profile.answer_style == "box_tokens" else "red mug"
    return Box(
        x1 / columns * SOURCE[0],
        y1 / rows * SOURCE[1],
        x2 / columns * SOURCE[0],
        y2 / rows * SOURCE[1],
        label,
    )


@st.composite
def known_answers(draw: st.DrawFn) -> tuple[Profile, Answer]:
    profile = draw(st.sampled_from([EGOTHINKER_V1, NANO, THINKING, PIXELS]))
    task: Task = draw(st.sampled_from(["intent", "next", "ground", "when", "ask"]))
    question = Question(
        task, "red mug" if task in ("ground", "when", "ask") else "", think=draw(st.booleans())
    )
    reasoning = draw(words) if uses_thinking(profile, question) else ""
    answer = Answer(question, "", reasoning=reasoning, window=draw(st.sampled_from([None, WINDOW])))
    if task in ("ground", "when") and draw(st.booleans()):
        return profile, replace(answer, text="none", absent=True)
    if task == "ground":
        boxes = tuple(dict.fromkeys(draw(st.lists(known_boxes(profile), min_size=1, max_size=3))))
        return profile, replace(
            answer, text=", ".join(dict.fromkeys(box.label for box in boxes)), boxes=boxes
        )
    if task == "when":
        base = answer.window.start if answer.window else 0.0
        step = 10**profile.time_decimals
        ends = sorted(draw(st.sets(st.integers(0, 8 * step), min_size=2, max_size=2)))
        stretch = Interval(base + ends[0] / step, base + ends[1] / step)
        return profile, replace(
            answer, text=f"{stretch.start:.2f} to {stretch.end:.2f} s", intervals=(stretch,)
        )
    return profile, replace(answer, text=draw(words))


@given(known_answers())
def test_a_rendered_answer_is_read_back_as_it_was(known: tuple[Profile, Answer]) -> None:
    profile, answer = known
    text = render_answer(profile, answer, source_size=SOURCE, seen_size=SEEN)
    read = parse(
        text + "<|im_end|>",
        answer.question,
        profile,
        source_size=SOURCE,
        seen_size=SEEN,
        window=answer.window,
    )
    assert read == answer


WIDE = str.maketrans("0123456789,()[]:%", "０１２３４５６７８９，（）［］：％")
BOX_FORMS = [
    "[{x1}, {y1}, {x2}, {y2}]",
    "({x1},{y1}),({x2},{y2})",
    "x1={x1}, y1={y1}, x2={x2}, y2={y2}",
    "left {x1}, top {y1}, right {x2}, bottom {y2}",
    "(x={x1}, y={y1}, w={w}, h={h})",
    "x: {x1}, y: {y1}, width: {w}, height: {h}",
    "left: {x1}, top: {y1}, width: {w}, height: {h}",
    "(cx={cx}, cy={cy}, w={w}, h={h})",
    "bbox_xywh: [{x1}, {y1}, {w}, {h}]",
    "[x, y, w, h] = [{x1}, {y1}, {w}, {h}]",
    '["{x1}", "{y1}", "{x2}", "{y2}"]',
    '{{"x": {x1}, "y": {y1}, "width": {w}, "height": {h}}}',
    '{{"bbox_2d": ["{x1}", "{y1}", "{x2}", "{y2}"], "label": "cup"}}',
    "<box>{x1} {y1} {x2} {y2}</box>",
]
TIME_FORMS = [
    "({a:.1f}, {b:.1f})",
    "{a:.1f} to {b:.1f}",
    "{a:.1f}s - {b:.1f}s",
    "between {a:.1f} and {b:.1f} seconds",
    "{ac} to {bc}",
    "From {ac} s until {bc} s.",
    "{am:02d}:{as_:04.1f} - {bm:02d}:{bs:04.1f}",
    "00:{am:02d}:{as_comma},{at}00 --> 00:{bm:02d}:{bs_comma},{bt}00",
    "{am} min {as_:.1f} s to {bm} min {bs:.1f} s",
    "{am} minutes and {as_:.1f} seconds to {bm} minutes and {bs:.1f} seconds",
    "{am}分{as_:.1f}秒到{bm}分{bs:.1f}秒",
    "从{a:.1f}秒到{b:.1f}秒",
    '{{"start": "{a:.1f}", "end": "{b:.1f}"}}',
    '{{"time": ["{a:.1f}", "{b:.1f}"]}}',
]


@given(
    st.sampled_from(BOX_FORMS),
    st.lists(st.integers(0, 500), min_size=2, max_size=2, unique=True).map(sorted),
    st.lists(st.integers(0, 500), min_size=2, max_size=2, unique=True).map(sorted),
    st.sampled_from(["{}", "{}.0", "{}.00", "{}%"]),
    st.booleans(),
)
def test_a_box_in_any_form_and_any_digits_is_the_same_box(
    form: str, xs: list[int], ys: list[int], digits: str, wide: bool
) -> None:
    # Twice the half of even numbers, so that the centre is a whole number.
    x1, x2, y1, y2 = (2 * value for value in (*xs, *ys))
    if digits.endswith("%"):
        x1, x2, y1, y2 = (value // 10 for value in (x1, x2, y1, y2))
        if x1 == x2 or y1 == y2 or (x1 + x2) % 2 or (y1 + y2) % 2:
            return
    numbers = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "w": x2 - x1, "h": y2 - y1}
    numbers |= {"cx": (x1 + x2) // 2, "cy": (y1 + y2) // 2}
    if not digits.endswith("%") and max(x1, y1, x2, y2) <= 1:
        return
    text = form.format(**{name: digits.format(value) for name, value in numbers.items()})
    answer = ground(text.translate(WIDE) if wide else text)
    scale = 10 if digits.endswith("%") else 1
    assert corners(answer) == [tuple(value * scale for value in (x1, y1, x2, y2))]


@given(st.sampled_from(TIME_FORMS), st.integers(0, 5998), st.integers(1, 5999), st.booleans())
def test_an_interval_in_any_form_and_any_digits_is_the_same_interval(
    form: str, first: int, length: int, wide: bool
) -> None:
    last = min(first + length, 5999)
    a, b = first / 10, last / 10
    text = form.format(
        **{"a": a, "b": b, "ac": f"{a:.1f}".replace(".", ","), "bc": f"{b:.1f}".replace(".", ",")},
        **{"am": first // 600, "bm": last // 600, "as_": first % 600 / 10, "bs": last % 600 / 10},
        **{"as_comma": f"{first % 600 // 10:02d}", "bs_comma": f"{last % 600 // 10:02d}"},
        **{"at": first % 10, "bt": last % 10},
    )
    # A comma of full width parts numbers, it is never a decimal comma.
    digits = {key: value for key, value in WIDE.items() if chr(key) not in ",%"}
    (found,) = when(text.translate(digits) if wide else text)
    assert found == pytest.approx((a, b))


PIECES = [
    "x",
    "y=",
    "w",
    "h:",
    "cx",
    "%",
    ",",
    "，",
    "秒",
    "分",
    "到",
    "第",
    " min ",
    " s",
    "-->",
    " and ",
    " to ",
]
PIECES += [
    "1",
    "23",
    "4,5",
    "0.5",
    "６",
    ":",
    '"',
    "'",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "（",
    "xywh",
    "left",
    "box",
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.sampled_from(QUESTIONS))
def test_no_pieces_of_the_forms_make_it_fail(text: str, question: Question) -> None:
    answer = parse(text, question, PIXELS, source_size=SOURCE, window=WINDOW, token_probs=[(text, 0.5)])
    assert all(0 <= box.x1 < box.x2 <= SOURCE[0] for box in answer.boxes)
    assert all(WINDOW.start <= found.start <= found.end <= WINDOW.end for found in answer.intervals)
