"""Which option an answer chooses, and the published forms of multiple-choice rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from egolive.assistant.answers import Question
from egolive.assistant.parsing import parse
from egolive.assistant.profiles import EGOTHINKER_V1
from egolive.streaming.frames import Interval
from egolive.train.choices import choice_from_dict, letter_of, options_in, said_yes, yes_or_no_from_dict
from egolive.train.row_files import RowFile
from egolive.train.rows import RowError

REAL = Path(__file__).parents[2] / "shared" / "real" / "annotations"
OPTIONS = {"A": "put it on a plate", "B": "cut the onion", "C": "take vitamin C", "D": "wash a cup"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("D", "D"),
        ("d", "D"),
        ("a", "A"),
        (" (B). ", "B"),
        ("**C**", "C"),
        ("Option B", "B"),
        ("Answer: C", "C"),
        ("The answer is a.", "A"),
        ("The best option is (D)", "D"),
        ("A. put it on a plate", "A"),
        ("(B) cut the onion", "B"),
        ("b) cut the onion", "B"),
        ("C: take vitamin C", "C"),
        ("C. take vitamin C.", "C"),
        ("B, because the knife is out.", "B"),
        ("A because the plate is near", "A"),
        ("\\boxed{B}", "B"),
        ("Wash a cup.", "D"),
        ("The answer is: cut the onion", "B"),
        ("The wearer holds a knife, so the answer is B.", "B"),
        ("Option A is wrong. The answer is B.", "B"),
        ("I would choose option D here.", "D"),
        ("B is the correct option", "B"),
        # The published parser reads each of these as A.
        ("put it on a plate, so D", "D"),
        ("A person takes a knife, so B", "B"),
        ("a person washes something", ""),
        ("A person washes a cup", ""),
        ("It is a plate", ""),
        # No option, or more than one.
        ("", ""),
        ("   ", ""),
        ("I do not know", ""),
        ("A or B", ""),
        ("The answer is A or B", ""),
        ("The answer is A. No, the answer is B.", ""),
        ("A. put it on a plate B. cut the onion C. take vitamin C", ""),
        ("not A", ""),
        ("The answer is not A", ""),
        ("It isn't D", ""),
        ("E", ""),
        ("(F) something else", ""),
        ("I", ""),
        ("Abandon", ""),
        ("D'Artagnan cuts the bread", ""),
    ],
)
def test_an_answer_counts_by_the_option_that_it_chooses(answer: str, letter: str) -> None:
    assert letter_of(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("<think>It is a plate, or A, or B.</think><answer>D</answer>", "D"),
        ("<think>Not A.</think>\n(B) cut the onion", "B"),
        ("<think>A it is</think><answer></answer>", ""),
        ("<think>The answer is A, but wait", ""),
    ],
)
def test_reasoning_chooses_nothing(text: str, letter: str) -> None:
    answer = parse(text, Question("ask", "?", think=True), EGOTHINKER_V1, source_size=(1, 1))
    assert letter_of(answer.text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("**Yes**, there is a cup.", "yes"),
        ("The answer is no", "no"),
        ("", ""),
        ("There is nobody", ""),
        ("Nothing of the kind", ""),
        ("I know it: yes", ""),
    ],
)
def test_yes_and_no_are_what_an_answer_begins_with(answer: str, said: str) -> None:
    assert said_yes(answer) == said


def choice(**values: Any) -> Any:
    return choice_from_dict(values, where="q:1")


def test_egotaskqa_egoplan_and_egoschema_bring_a_question_and_options() -> None:
    task = choice(q="What is on it?", video_path="27k|P1|1|2.mp4", a="B", option={"A": "a cup", "B": "a pan"})
    assert (task.letter, task.row.videos, task.row.stretch) == ("B", ("27k|P1|1|2.mp4",), None)
    assert task.text.splitlines()[:3] == ["What is on it?", "(A) a cup", "(B) a pan"]
    assert options_in(task.text) == task.options

    plan_values = {
        "sample_id": "0a1b-2c_17",
        "task_goal": "make tea",
        "choice_a": "boil",
        "choice_b": "stir",
        "choice_c": "pour",
        "choice_d": "drink",
        "golden_choice_idx": "C",
        "task_start_frame": 300,
        "current_observation_frame": 900,
    }
    plan = choice(**plan_values)
    assert (plan.row.videos, plan.row.stretch, plan.letter) == (("0a1b-2c.mp4",), Interval(10, 30), "C")
    assert "make tea" in plan.text
    assert list(plan.options.values()) == ["boil", "stir", "pour", "drink"]
    epic = choice(**{**plan_values, "video_basename": "P01_13.MP4"})
    assert epic.row.stretch.end == pytest.approx(900 * 1001 / 60_000)
    assert choice(**{**plan_values, "video_basename": "P01_103.MP4"}).row.stretch.end == 18

    numbered = {f"option {n}": f"thing {n}" for n in range(5)}
    schema = choice(q_uid="001", question="What is C doing?", answer=3, **numbered)
    assert (schema.letter, schema.row.videos, len(schema.options)) == ("D", ("001.mp4",), 5)
    listed = choice(video_idx="001", question="What?", answer="0", option=["A. one", "B. two"])
    assert (listed.letter, dict(listed.options)) == ("A", {"A": "one", "B": "two"})
    with pytest.raises(RowError, match="no true answer"):
        choice(q_uid="001", question="What?", **numbered)


def test_vlnqa_and_qaego4d_bring_a_whole_prompt() -> None:
    prompt = "Pick one.\nQuestion: Where next?\nOption:\nA: Turn right\nB: Stop\nOnly give the best option."
    vln = choice(text=prompt, video_path="left/1.mp4", gt="B")
    assert (vln.text, vln.letter, dict(vln.options)) == (prompt, "B", {"A": "Turn right", "B": "Stop"})
    ego4d = choice(text=prompt, video="x.mp4", gt="A", start=3, end=9.5)
    assert (ego4d.row.videos, ego4d.row.stretch) == (("x.mp4",), Interval(3, 9.5))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"q": "?", "video_path": "x", "a": "E", "option": {"A": "a", "B": "b"}}, "none of the options"),
        ({"q": "?", "video_path": "x", "a": "A", "option": {"A": "a"}}, "fewer than two"),
        ({"q": "?", "video_path": "x", "a": "A", "option": "A"}, "wrong kind"),
        ({"text": "A: x\nB: y", "video": "x", "gt": "A", "start": 9, "end": 3}, "ends before it starts"),
        ({"golden_choice_idx": "A", "sample_id": "1_1"}, "missing"),
    ],
)
def test_a_row_that_cannot_be_right_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        choice_from_dict(values, where="q:1")


def test_rows_of_another_form_are_left_to_others() -> None:
    assert choice(path="x.jpg", object="cup", gt=[1, 2, 3, 4]) is None
    open_turns = [{"from": "human", "value": "<video>What?"}, {"from": "gpt", "value": "A cup."}]
    assert choice(conversations=open_turns, video="x.mp4") is None
    assert yes_or_no_from_dict({"text": "?", "gt": "A"}, where="q:1") is None


def test_pope_asks_for_yes_or_no() -> None:
    values = {"question_id": 1, "image": "1.jpg", "text": "Is there a dog in the image?", "label": "no"}
    found = yes_or_no_from_dict(values, where="q:1")
    assert found is not None
    assert (found.row.images, found.letter) == (("1.jpg",), "no")
    with pytest.raises(RowError, match="yes or no"):
        yes_or_no_from_dict({**values, "label": "maybe"}, where="q:1")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real annotations are not beside this checkout")
def test_every_real_question_of_egoexolearn_has_its_options_and_its_letter() -> None:
    file = RowFile(REAL / "egoexolearn" / "vid_vqa_video_tag_egoexolearn_video_mcq.jsonl")
    found = []
    for number in range(len(file)):
        values = file.raw(number)
        assert isinstance(values, dict)
        said = values["conversations"][1]["value"]
        found.append((choice_from_dict(values, where=file.where(number)), said))
    assert len(found) == 6832
    assert {len(one.options) for one, _ in found if one} == {2, 3, 4, 5, 6}
    assert all(one is not None and one.letter in one.options for one, _ in found)
    # Two of the answers are the words of an option in place of its letter.
    worded = [(one.options[one.letter], said) for one, said in found if one and said != one.letter]
    assert worded == [("Meat slices", "Meat slices"), ("Kitchen knife", "Kitchen knife")]
