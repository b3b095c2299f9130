"""What models of the family write, and what the parser makes of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from egolive.assistant.prompts.parsing import TokenProbability, parse, split_reasoning
from egolive.assistant.schema.answers import Answer, Question, Task
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO, Profile, Unit
from egolive.streaming.frames import Box, Interval

SOURCE = (640, 480)
GROUND = Question("ground", "cup")
WHEN = Question("when", "pour the water")
ASK = Question("ask", "what is this?")
INTENT = Question("intent")


def ground(text: str, profile: Profile = EGOTHINKER_V1, **settings: Any) -> Answer:
    return parse(text, GROUND, profile, source_size=(1000, 1000), **settings)


def corners(answer: Answer) -> list[tuple[float, ...]]:
    return [tuple(round(value, 6) for value in box) for box in answer.boxes]


def when(text: str, window: Interval | None = None) -> list[tuple[float, float]]:
    answer = parse(text, WHEN, EGOTHINKER_V1, source_size=SOURCE, window=window)
    return [(stretch.start, stretch.end) for stretch in answer.intervals]


ONE = [(120, 300, 400, 500)]
TWO = [(120, 300, 400, 500), (1, 2, 3, 4)]
BOX_FORMS = {
    "qwen2-vl tokens": ("<|box_start|>(120,300),(400,500)<|box_end|><|im_end|>", ONE),
    "qwen2-vl tokens, unclosed": ("<|box_start|>(120,300),(400,500)<|im_end|>", ONE),
    "qwen2-vl without special tokens": ("cup(120,300),(400,500)", ONE),
    "qwen2-vl, two without special tokens": ("cup(120,300),(400,500)(1,2),(3,4)", TWO),
    "qwen2-vl, two boxes": (
        "<|box_start|>(120,300),(400,500)<|box_end|><|box_start|>(1,2),(3,4)<|box_end|>",
        TWO,
    ),
    "qwen-vl v1": ("<ref>mug</ref><box>(120,300),(400,500)</box>", ONE),
    "tag with bare numbers": ("<box>120 300 400 500</box>", ONE),
    "deepseek-vl2": ("<|ref|>mug<|/ref|><|det|>[[120, 300, 400, 500]]<|/det|>", ONE),
    "list": ("[120, 300, 400, 500]", ONE),
    "list without spaces": ("[120,300,400,500].", ONE),
    "list in a sentence": ("The wearer's cup is at [120, 300, 400, 500], it's 1 of 2.", ONE),
    "nested list": ("[[120, 300, 400, 500]]", ONE),
    "two lists": ("[[120, 300, 400, 500], [1, 2, 3, 4]]", TWO),
    "lists on lines": ("[120, 300, 400, 500]\n[1, 2, 3, 4]", TWO),
    "number in front of a nested list": ("[245,[120,300,400,500]]", ONE),
    "round list": ("(120, 300, 400, 500)", ONE),
    "pairs joined by to": ("(120,300) to (400,500)", ONE),
    "corners in words": ("Top-left at (120, 300) and the bottom-right corner at (400, 500).", ONE),
    "pairs in a list": ("[(120,300),(400,500)]", ONE),
    "square pairs": ("[[120,300],[400,500]]", ONE),
    "bare numbers": ("120, 300, 400, 500", ONE),
    "bare numbers with spaces": ("120 300 400 500", ONE),
    "named numbers": ("x1=120, y1=300, x2=400, y2=500", ONE),
    "corner keys": ('{"xmin": 120, "ymin": 300, "xmax": 400, "ymax": 500}', ONE),
    "answer tags": ("<think>I see [7, 8, 9, 10]</think>\n<answer>[120, 300, 400, 500]</answer>", ONE),
    "answer tags, several": ("<answer>[1, 2, 3, 4]</answer> no: <answer>[120, 300, 400, 500]</answer>", ONE),
    "answer tags, last one cut off": ("<answer>[120,300,400,500]</answer><answer>[5, 6", ONE),
    "answer tag unclosed": ("<think>hm</think><answer>[120, 300, 400, 500]", ONE),
    "answer tag closed without its angle": ("<think>hm</think><answer>[120, 300, 400, 500]/answer>", ONE),
    "answer tag never opened": ("<think>hm</think>[120, 300, 400, 500]</answer>", ONE),
    "answer inside the reasoning": ("<think>so <answer>[120, 300, 400, 500]</answer></think>", ONE),
    "unclosed reasoning, then answer": ("<think>so <answer>[120, 300, 400, 500]</answer>", ONE),
    "reasoning never opened": ("so [7, 8, 9, 10]</think>[120, 300, 400, 500]", ONE),
    "json": ('```json\n[{"bbox_2d": [120, 300, 400, 500], "label": "mug"}]\n```', ONE),
    "json, fence broken": ('```\njson\n[{"bbox_2d": [120, 300, 400, 500]}', ONE),
    "json, one object": ('{"label": "mug", "bbox_2d": [120, 300, 400, 500]}', ONE),
    "json cut off": ('[{"bbox_2d": [120, 300, 400, 500], "label": "a"}, {"bbox_2d": [1, 2, 3, 4', ONE),
    "json with a comma too many": ('[{"bbox_2d": [120, 300, 400, 500]}, {"bbox_2d": [1, 2, 3, 4],},]', TWO),
    "json with a bracket too many": (
        '[{ {"bbox_2d": [120, 300, 400, 500]}, }]}]] {"bbox_2d": [1, 2, 3, 4]}',
        TWO,
    ),
    "json with a bracket too few": ('[{"bbox_2d": [120, 300, 400, 500], "label": "a"] [[1, 2, 3, 4}', TWO),
    "json of one quoted list": ('{"answer": "[120, 300, 400, 500]"}', ONE),
    "json within json": ('{"content": "[{\\"bbox_2d\\": [120, 300, 400, 500]}]\\n"}', ONE),
    "python": ("{'bbox': [120, 300, 400, 500], 'label': 'the wearer'}", ONE),
    "html": ('<p data-bbox="120 300 400 500">cup</p>', ONE),
    "boxes key": ('{"boxes": [120, 300, 400, 500]}', ONE),
    "bboxes key": ('{"object": "mug", "bboxes": [[120, 300, 400, 500], [1, 2, 3, 4]]}', TWO),
    "line break in the list": ("[120,\n\n300, 400,\n500]", ONE),
    "points beside": (
        '{"boxes": [120, 300, 400, 500], "points": [[7, 8], [9, 10]], "size": [640, 480]}',
        ONE,
    ),
    "points without a key": ("[120, 300, 400, 500] [[7, 8], [9, 10], [11, 12]]", ONE),
    "text with digits": ('[{"bbox_2d": [120, 300, 400, 500], "text_content": "17,000 [a]"}]', ONE),
    "corners inverted": ("[400, 500, 120, 300]", ONE),
    "corners half inverted": ("[400, 300, 120, 500]", ONE),
    "just outside": ("[-20, 300, 1040, 500]", [(0, 300, 1000, 500)]),
    "repeated": ("[120, 300, 400, 500], " * 40, ONE),
    "fractions": ("[0.12, 0.3, 0.4, 0.5]", ONE),
    "fractions without zero": ("[.12, .3, .4, 0.5]", ONE),
    "x, y, width, height": ("(x=120, y=300, w=280, h=200)", ONE),
    "x, y, width, height without brackets": ("x: 120, y: 300, width: 280, height: 200", ONE),
    "x, y, width, height as an object": ('{"x": 120, "y": 300, "width": 280, "height": 200}', ONE),
    "left, top, width, height": ("left=120, top=300, width=280, height=200", ONE),
    "two of x, y, width, height": ("x=120 y=300 w=280 h=200\nx=1 y=2 w=2 h=2", TWO),
    "centre, width, height": ("(cx=260, cy=400, w=280, h=200)", ONE),
    "key of width and height": ('{"bbox_xywh": [120, 300, 280, 200]}', ONE),
    "form of width and height in words": ("[x, y, w, h]: [120, 300, 280, 200]", ONE),
    "form of the centre in words": ("(x_center, y_center, width, height) = (260, 400, 280, 200)", ONE),
    "x and y of both corners": ("(x=120, y=300), (x=400, y=500)", ONE),
    "numbers behind names": ("left 120 top 300 right 400 bottom 500", ONE),
    "x0 to y1": ("x0=120, y0=300, x1=400, y1=500", ONE),
    "percentages": ("[12%, 30%, 40%, 50%]", ONE),
    "percentages of pairs": ("(12%, 30%), (40%, 50%)", ONE),
    "percentages with names": ("x1=12%, y1=30%, x2=40%, y2=50%", ONE),
    "percentages without brackets": ("12 %, 30 %, 40 %, 50 %", ONE),
    "percentages in a string": ('{"bbox": "12% 30% 40% 50%"}', ONE),
    "quoted box of full width": ('{"bbox": "120，300，400，500"}', ONE),
    "quoted numbers": ('["120","300","400","500"]', ONE),
    "quoted numbers under a key": ('{"bbox_2d": ["120", "300", "400", "500"], "label": "7"}', ONE),
    "quoted numbers with names": ('{"x1": "120", "y1": "300", "x2": "400", "y2": "500"}', ONE),
    "full-width punctuation": ("（120，300），（400，500）", ONE),
    "full-width digits": ("［１２０、３００、４００、５００］", ONE),
    "stutter of brackets": ("{" * 60 + '"bbox_2d": [120, 300, 400, 500]}', ONE),
}


@pytest.mark.parametrize(("text", "expected"), BOX_FORMS.values(), ids=BOX_FORMS.keys())
def test_every_notation_of_a_box_is_read(text: str, expected: list[tuple[float, ...]]) -> None:
    answer = ground(text)
    assert sorted(corners(answer)) == sorted(expected)
    assert answer.status == "ok"
    assert not answer.absent


NO_BOXES = {
    "empty": "",
    "words": "I am not sure what you mean.",
    "runaway digits": "<|ref|>a<|/ref|><|det|>[[0, 50, 55, 9999], [0, 5, 533, 17, " + "9" * 300,
    "cut inside the last number": "[120, 300, 400, 50",
    "far outside": "[120, 300, 400, 5000]",
    "not finite": "[120, 300, 400, 1e400]",
    "no area": "[120, 300, 120, 500]",
    "three numbers": "[120, 300, 400]",
    "five numbers": "[120, 300, 400, 500, 600]",
    "endless reasoning": "<think>the cup is at [120, 300, 400, 500]",
    "points": '{"points": [[120, 300], [400, 500]]}',
    "numbers in a sentence": "Step 120, then 300 and 400 or 500.",
    "empty answer block": "<think>[1, 2, 3, 4]</think><answer></answer>",
    "odd quoted box": '{"bbox": "120 300 400"}',
    "only some percentages": "[12%, 30, 40, 50]",
    "no width": "(x=120, y=300, w=0, h=200)",
    "width and height alone": "(w=120, h=300, d=400, n=500)",
    "point and size": "(x=120, y=300), (w=280, h=200)",
    "spans of x and y": "(x: 120-400, y: 300-500)",
    "y before x": "(y=300, x=120), (y=500, x=400)",
    "decimal commas": "[120,5, 300,5, 400,5, 500,5]",
}


@pytest.mark.parametrize("text", NO_BOXES.values(), ids=NO_BOXES.keys())
def test_what_is_no_box_stays_unparsed(text: str) -> None:
    answer = ground(text)
    assert answer.boxes == ()
    assert answer.status == "unparsed"
    assert not answer.absent


ABSENT = [
    "none",
    "None.",
    "<answer>none</answer>",
    "<think>I look for it.</think>\n<answer>No</answer><|im_end|>",
    "[]",
    "```json\n[]\n```",
    '{"boxes": []}',
    '{"bbox_2d": null, "label": "cup"}',
    "There is no cup in the picture.",
    "The cup is not visible.",
    "No such object.",
    "I cannot see any cup here.",
    "The event doesn’t happen.",
    "The right hand is empty.",
]


@pytest.mark.parametrize("question", [GROUND, WHEN], ids=["ground", "when"])
@pytest.mark.parametrize("text", ABSENT)
def test_saying_that_there_is_none_is_an_answer(text: str, question: Question) -> None:
    answer = parse(text, question, NANO, source_size=SOURCE)
    assert (answer.absent, answer.status, answer.boxes, answer.intervals) == (True, "ok", (), ())
    assert answer.text == "none"


WINDOW = Interval(100.0, 108.0)
TIME_FORMS = {
    "pair": ("(2.0,5.5)", [(2.0, 5.5)]),
    "pair in an answer block": ("<think>from 1 to 9</think><answer>(2.00, 5.50)</answer>", [(2.0, 5.5)]),
    "two pairs": ("(2.0,5.5),(7.0,8.0)", [(2.0, 5.5), (7.0, 8.0)]),
    "list": ("[2.0, 5.5]", [(2.0, 5.5)]),
    "to": ("12.54 to 17.83", [(12.54, 17.83)]),
    "seconds": ("From 5 seconds to 19 seconds.", [(5, 19)]),
    "s": ("2.0s - 5.5s", [(2.0, 5.5)]),
    "between and": ("between 2 and 5.5.", [(2, 5.5)]),
    "starts and ends": ("It starts at 2.0 s and ends at 5.5 s.", [(2.0, 5.5)]),
    "start and end on lines": ("Start time: 2.0 s\nEnd time: 5.5 s", [(2.0, 5.5)]),
    "angle brackets": ("<5.0 seconds> to <12.0 seconds>", [(5, 12)]),
    "t equals": ("t=2.0s to t=5.5s", [(2.0, 5.5)]),
    "ranges without spaces": ("5s-12s, 14-16s, 0:18-0:19", [(5, 12), (14, 16), (18, 19)]),
    "clock": ("The event happens in 01:32.40 - 01:35.60.", [(92.4, 95.6)]),
    "clock with hours": ("1:00:02 to 1:00:04", [(3602, 3604)]),
    "minutes": ("1 to 2 minutes", [(60, 120)]),
    "start and end keys": ('{"start_time": "00:25.00", "end_time": "00:46.00"}', [(25, 46)]),
    "short keys": ('[{"start": 2.0, "end": 5.5}]', [(2.0, 5.5)]),
    "clock keys": ('{"00:02.00 - 00:05.00": "cut", "00:06.00 - 00:08.00": "stir"}', [(2, 5), (6, 8)]),
    "time key beside boxes": ('{"time": [2.0, 5.5], "boxes": {"6": [670, 277, 998, 998]}}', [(2.0, 5.5)]),
    "time key in an unclosed object": ('{"time": [2.0, 5.5]', [(2.0, 5.5)]),
    "srt": ("00:00:03,500 --> 00:00:07,200", [(3.5, 7.2)]),
    "srt without hours": ("00:03,500 --> 00:07,200", [(3.5, 7.2)]),
    "srt keys": ('{"start": "00:01:03,500", "end": "00:01:07,200"}', [(63.5, 67.2)]),
    "minutes and seconds": ("3 min 2 s to 3 min 9 s", [(182, 189)]),
    "minutes and seconds in words": (
        "from 3 minutes and 2 seconds until 3 minutes 9.5 seconds",
        [(182, 189.5)],
    ),
    "minutes and seconds together": ("3m2s-3m9s", [(182, 189)]),
    "hours, minutes and seconds": ("1 h 2 min 3 s to 1 h 2 min 9 s", [(3723, 3729)]),
    "minutes, then with seconds": ("2 min to 2 min 30 s", [(120, 150)]),
    "moment in minutes and seconds": ("It happens 3 min 2 s in.", [(182, 182)]),
    "moment with hours": ("1:02:03", [(3723, 3723)]),
    "decimal commas": ("3,5 to 7,2", [(3.5, 7.2)]),
    "decimal commas with units": ("From 3,5 s to 7,25 s.", [(3.5, 7.25)]),
    "decimal commas and a dash": ("3,5 – 7,2 s", [(3.5, 7.2)]),
    "decimal commas after between": ("between 3,5 and 7,2 s", [(3.5, 7.2)]),
    "decimal comma of a moment": ("at 3,5 s", [(3.5, 3.5)]),
    "list of decimal commas": ("[3,5 s, 7,2 s]", [(3.5, 7.2)]),
    "two pairs without brackets": ("2,5 and 7,9", [(2, 5), (7, 9)]),
    "pair with a unit": ("(2,5 s)", [(2, 5)]),
    "thousands or decimals": ("1,200 to 1,500", []),
    "one decimal comma": ("3,5 to 7", []),
    "minutes and a number": ("3 min 2 to 3 min 9", []),
    "full-width pair": ("（3.5，7.2）", [(3.5, 7.2)]),
    "full-width digits": ("３．５ to ７．２", [(3.5, 7.2)]),
    "chinese to": ("3.5到7.2秒", [(3.5, 7.2)]),
    "chinese to, of something else": ("3到5杯", []),
    "chinese seconds": ("3.5秒到7.2秒", [(3.5, 7.2)]),
    "chinese seconds in a sentence": ("从第3秒至第7秒。", [(3, 7)]),
    "chinese minutes and seconds": ("2分3秒到2分9秒", [(123, 129)]),
    "chinese moment": ("在3.5秒时开始", [(3.5, 3.5)]),
    "chinese counts": ("3杯到5杯", []),
    "quoted seconds": ('{"time": ["2.0", "5.5"]}', [(2.0, 5.5)]),
    "moment under a key": ('{"time": 1.0, "boxes": [1, 2, 3, 4]}', [(1.0, 1.0)]),
    "moment with a unit": ("It happens at around 3.5 s.", [(3.5, 3.5)]),
    "moment after at": ("It happens at 3.5", [(3.5, 3.5)]),
    "moment alone": ("3.5", [(3.5, 3.5)]),
    "moment on the clock": ("00:03.50", [(3.5, 3.5)]),
    "negative start": ("(-1.0,2.0)", [(0, 2.0)]),
    "repeated": ("2.0 to 5.5, " * 30, [(2.0, 5.5)]),
    "reversed": ("(5.5,2.0)", []),
    "frame numbers": ("from frame 000 to frame 200", []),
    "only boxes": ('{"bbox_2d": [12, 34, 56, 78]}', []),
    "a count": ("The wearer takes 2 cups.", []),
    "identifiers": ("chatcmpl-8a7120e5-7e68-9c4e", []),
    "runaway": ("(2.0," + "9" * 500, []),
}


@pytest.mark.parametrize(("text", "expected"), TIME_FORMS.values(), ids=TIME_FORMS.keys())
def test_every_notation_of_an_interval_is_read(text: str, expected: list[tuple[float, float]]) -> None:
    assert [tuple(round(value, 6) for value in stretch) for stretch in when(text)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(2.0,5.5)", [(102.0, 105.5)]),
        ("(2.0,50.0)", [(102.0, 108.0)]),
        ("8.5", [(108.0, 108.0)]),
        ("(40.0,50.0)", []),
    ],
    ids=["inside", "clamped", "just after the end", "outside"],
)
def test_seconds_count_from_the_window_and_stay_inside(
    text: str, expected: list[tuple[float, float]]
) -> None:
    assert when(text, WINDOW) == expected


@pytest.mark.parametrize("task", ["intent", "next"])
def test_words_with_numbers_make_no_phantom_boxes_or_times(task: Task) -> None:
    text = "pour [120, 300, 400, 500] ml from 2 to 5 s<|im_end|>"
    answer = parse(text, Question(task), EGOTHINKER_V1, source_size=SOURCE)
    assert answer.text == "pour [120, 300, 400, 500] ml from 2 to 5 s"
    assert (answer.boxes, answer.intervals, answer.status) == ((), (), "ok")


def test_a_free_question_reads_only_marked_boxes() -> None:
    plain = parse("The pages [1, 20, 300, 400].", ASK, NANO, source_size=(1000, 1000))
    marked = parse("A <|box_start|>(1,2),(3,4)<|box_end|> mug.", ASK, NANO, source_size=(1000, 1000))
    keyed = parse('{"bbox_2d": [1, 2, 3, 4], "label": "mug"}', ASK, NANO, source_size=(1000, 1000))
    assert plain.boxes == ()
    assert marked.boxes == (Box(1, 2, 3, 4),)
    assert marked.text == "A (1,2),(3,4) mug."
    assert keyed.boxes == (Box(1, 2, 3, 4, "mug"),)


def test_an_empty_answer_to_a_free_question_is_unparsed() -> None:
    assert parse("<think>so much to think", INTENT, EGOTHINKER_V1, source_size=SOURCE).status == "unparsed"
    assert parse("<|im_end|>", ASK, EGOTHINKER_V1, source_size=SOURCE).status == "unparsed"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("<|object_ref_start|>left hand<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>", "left hand"),
        ("<ref>mug</ref><box>(1,2),(3,4)</box>", "mug"),
        ('{"bbox_2d": [1, 2, 3, 4], "label": "mug"}', "mug"),
        ('{"label": "mug", "bbox_2d": [1, 2, 3, 4]}', "mug"),
        ('{"bbox_2d": [1, 2, 3, 4], "name_zh": "杯", "name_en": "mug"}', "mug"),
        ('{"bbox_2d": [1, 2, 3, 4], "names": {"zh": "杯", "en": "mug"}}', "mug"),
        ('{"object": "mug", "bboxes": [[1, 2, 3, 4]]}', "mug"),
        ("[1, 2, 3, 4]", "cup"),
        ('{"bbox_2d": [1, 2, 3, 4], "label": ""}', "cup"),
    ],
)
def test_a_box_takes_its_label_from_the_text_or_the_question(text: str, label: str) -> None:
    assert [box.label for box in ground(text, NANO).boxes] == [label]
    assert ground(text, NANO).text == label


def test_labels_hold_until_the_next_one() -> None:
    text = "<ref>a</ref>(1,2),(3,4)(5,6),(7,8)<ref>b</ref>(1,2),(3,4)"
    assert [box.label for box in ground(text, NANO).boxes] == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [
        ("norm1000", "[250, 500, 500, 1000]", (160, 240, 320, 480)),
        ("norm1", "[0.25, 0.5, 0.5, 1]", (160, 240, 320, 480)),
        ("auto", "[250, 500, 500, 1000]", (160, 240, 320, 480)),
        ("auto", "[0.25, 0.5, 0.5, 1.0]", (160, 240, 320, 480)),
        ("pixels", "[56, 70, 112, 140]", (160, 240, 320, 480)),
    ],
)
def test_units_of_the_model_become_pixels_of_the_source(
    unit: Unit, text: str, expected: tuple[int, ...]
) -> None:
    profile = replace(NANO, unit=unit)
    answer = parse(text, GROUND, profile, source_size=SOURCE, seen_size=(224, 140))
    assert corners(answer) == [expected]


def test_the_unit_of_an_answer_is_told_by_all_its_boxes() -> None:
    assert corners(ground("[[0, 0, 1, 1], [0, 0, 900, 900]]")) == [(0, 0, 1, 1), (0, 0, 900, 900)]


def test_a_box_scores_the_geometric_mean_of_its_number_tokens() -> None:
    pieces = [("<think>7</think>", 0.1), ("[", 0.2), ("12", 0.9), ("0", 0.8), (", ", 0.1), ("300", 0.7)]
    pieces += [(", 400", 0.6), (",", 0.3), ("500", 1.0000001), ("]", 0.3), ("<|im_end|>", 0.2)]
    text = "".join(piece for piece, _ in pieces)
    (box,) = ground(text, token_probs=pieces).boxes
    assert box.score == pytest.approx((0.9 * 0.8 * 0.7 * 0.6 * 1.0) ** (1 / 5))


def scored(*probabilities: TokenProbability) -> float | None:
    """The score of a box whose four numbers have these probabilities, everything else 0.1."""
    pieces: list[tuple[str, TokenProbability]] = []
    for sign, number, probability in zip("[,,,", "1234", probabilities, strict=True):
        pieces += [(sign, 0.1), (number, probability)]
    pieces.append(("]", None))
    (box,) = ground("".join(piece for piece, _ in pieces), token_probs=pieces).boxes
    return box.score


@pytest.mark.parametrize("unknown", [None, math.nan, -1.0, 1.5, math.inf])
def test_a_box_has_no_score_where_a_probability_is_missing_or_is_none(unknown: float | None) -> None:
    assert scored(0.9, unknown, 0.9, 0.9) is None
    assert scored(unknown, unknown, unknown, unknown) is None
    assert scored(0.9, 0.9, 0.0, 0.9) == 0.0


def test_numbers_that_the_grammar_forced_do_not_make_a_box_surer() -> None:
    assert scored(0.5, "forced", "forced", 0.5) == pytest.approx(0.5)
    assert scored("forced", "forced", "forced", "forced") is None
    assert scored(0.5, "forced", None, 0.5) is None


def test_tokens_of_another_text_give_no_score() -> None:
    assert [box.score for box in ground("[1, 2, 3, 4]", token_probs=[("[1,", 0.5)]).boxes] == [None]


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("make tea", "", "make tea"),
        ("<think> so </think> make tea", "so", " make tea"),
        ("<think>a</think>b<think>c</think>d", "abc", "d"),
        ("<think>so <answer>tea</answer></think>", "so", "tea"),
        ("<thinking>so</thinking><ANSWER>tea</ANSWER> bye", "so", "tea"),
        ("<answer>x</answer>tea</answer>", "", "x"),
        ("<think>so", "so", ""),
    ],
)
def test_reasoning_and_answer_are_parted(text: str, reasoning: str, answer: str) -> None:
    found, start, end = split_reasoning(text)
    assert (found, text[start:end]) == (reasoning, answer)


def test_an_answer_states_what_it_speaks_of() -> None:
    answer = parse("make tea", INTENT, NANO, source_size=SOURCE, window=WINDOW, time=108.0)
    assert (answer.question, answer.window, answer.time) == (INTENT, WINDOW, 108.0)
