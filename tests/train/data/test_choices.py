"""Which option an answer chooses, and the published forms of multiple-choice rows."""

from __future__ import annotations

import csv
from typing import Any

import pytest
from paths import REAL, needs_real

from egolive.assistant.prompts.parsing import parse
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import EGOTHINKER_V1
from egolive.streaming.frames import Interval
from egolive.train.data.choices import choice_from_dict, letter_of, options_in, said_yes, yes_or_no_from_dict
from egolive.train.data.row_files import RowFile
from egolive.train.data.rows import RowError

ANNOTATIONS = REAL / "annotations"
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
        # With words in front of the letter, whatever their case, and the option's own words behind it.
        ("Option B: cut the onion", "B"),
        ("Option (B) cut the onion", "B"),
        ("Answer: B. cut the onion", "B"),
        ("Answer: (B) cut the onion", "B"),
        ("answer: b) cut the onion", "B"),
        ("The answer is: B. cut the onion", "B"),
        ("The best option is: B) cut the onion", "B"),
        ("The best answer is B", "B"),
        ("**Answer:** B. cut the onion", "B"),
        ("**Option B**: cut the onion", "B"),
        ("The Answer Is B because the knife is out", "B"),
        ("Answer: A, because the plate is near", "A"),
        ("The answer is A as the plate is near", "A"),
        ("The answer is A put it on a plate.", "A"),
        ("The best option is: cut the onion", "B"),
        ("Option A: no plate is near. Option B: the knife is out. The answer is B.", "B"),
        # The published parser reads each of these as A.
        ("put it on a plate, so D", "D"),
        ("A person takes a knife, so B", "B"),
        ("a person washes something", ""),
        ("A person washes a cup", ""),
        ("It is a plate", ""),
        ("Answer: A mug is held", ""),
        ("Answer: A TV is on", ""),
        ("The answer is a mug", ""),
        ("The answer is A mug", ""),
        ("THE ANSWER IS A MUG", ""),
        # No option, or more than one.
        ("", ""),
        ("   ", ""),
        ("I do not know", ""),
        ("A or B", ""),
        ("The answer is A or B", ""),
        ("The answer is A. No, the answer is B.", ""),
        ("Option A or option B", ""),
        ("Option A: put it on a plate\nOption B: cut the onion", ""),
        ("Answer: A or B", ""),
        ("Answer: (A) or (B)", ""),
        ("A) or B)", ""),
        ("Answer: A. put it on a plate B. cut the onion", ""),
        ("Answer: A. put it on a plate. No, the answer is B", ""),
        ("Options: A, B", ""),
        ("A. put it on a plate B. cut the onion C. take vitamin C", ""),
        ("not A", ""),
        ("The answer is not A", ""),
        ("It isn't D", ""),
        ("I would not choose A", ""),
        ("Option B is not right", ""),
        ("Option (B) is wrong", ""),
        ("Option (A) isn't right. The answer is B.", "B"),
        ("Answer: none", ""),
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


def test_egotaskqa_and_egoschema_bring_a_question_and_options() -> None:
    task = choice(q="What is on it?", video_path="27k|P1|1|2.mp4", a="B", option={"A": "a cup", "B": "a pan"})
    assert (task.letter, task.row.videos, task.row.stretch) == ("B", ("27k|P1|1|2.mp4",), None)
    assert task.text.splitlines()[:3] == ["What is on it?", "(A) a cup", "(B) a pan"]
    assert options_in(task.text) == task.options

    numbered = {f"option {n}": f"thing {n}" for n in range(5)}
    schema = choice(q_uid="001", question="What is C doing?", answer=3, **numbered)
    assert (schema.letter, schema.row.videos, len(schema.options)) == ("D", ("001.mp4",), 5)
    listed = choice(video_idx="001", question="What?", answer="0", option=["A. one", "B. two"])
    assert (listed.letter, dict(listed.options)) == ("A", {"A": "one", "B": "two"})
    with pytest.raises(RowError, match="no true answer"):
        choice(q_uid="001", question="What?", **numbered)


PLAN = {
    "task_goal": "store cereal",
    "choice_a": "put box into cupboard",
    "choice_b": "take bag",
    "choice_c": "open cupboard",
    "choice_d": "put bag into box",
    "golden_choice_idx": "A",
}
BENCH2 = {
    **PLAN,
    "sample_id": "0a1b-2c_17",
    "task_start_frame": 300,
    "current_observation_frame": 900,
    "task_progress_metadata": [{"narration_text": "take bag", "start_frame": 360, "stop_frame": 420}],
}
VALIDATION = {
    **PLAN,
    "sample_id": 115,
    "video_source": "EpicKitchens",
    "video_id": "P01_13",
    "question": "What action should I take next in order to store cereal?",
    "answer": "put box into cupboard",
    "current_observation_frame": 780,
    "task_progress_metadata": [
        {"narration_text": "take bag", "start_frame": 36, "stop_frame": 105},
        {"narration_text": "open cupboard", "start_frame": 689, "stop_frame": 780},
    ],
}


def test_egoplan_bench2_shows_its_video_from_the_start_of_the_task() -> None:
    plan = choice(**BENCH2)
    assert (plan.row.videos, plan.row.stretch, plan.letter) == (("0a1b-2c.mp4",), Interval(10, 30), "A")
    assert "store cereal" in plan.text
    assert list(plan.options.values()) == [PLAN[f"choice_{letter}"] for letter in "abcd"]


def test_egoplans_validation_shows_its_video_from_the_first_step() -> None:
    epic = choice(**VALIDATION)
    assert (epic.row.videos, epic.row.stretch, epic.row.time) == (("P01_13.MP4",), Interval(0.6, 13), None)
    ego4d = choice(**{**VALIDATION, "video_source": "Ego4D", "video_id": "0a1b-2c"})
    assert (ego4d.row.videos, ego4d.row.stretch) == (("0a1b-2c.mp4",), Interval(1.2, 26))


def test_a_plan_of_which_nothing_is_done_shows_the_one_frame_that_is_seen() -> None:
    plan = choice(**{**VALIDATION, "task_progress_metadata": []})
    assert (plan.row.videos, plan.row.stretch, plan.row.time) == (("P01_13.MP4",), None, 13)
    assert "picture" in plan.text
    assert "video" not in plan.text


@pytest.mark.parametrize(
    ("video", "end"),
    [("P01_13", 15), ("P01_103", 18), ("P01/videos/P01_13.MP4", 15), ("v2/0a1b-2c.mp4", 30)],
)
def test_epic_counts_60_frames_a_second_or_50_in_its_extension_and_ego4d_30(video: str, end: float) -> None:
    assert choice(**{**BENCH2, "video_path": video}).row.stretch.end == end


@needs_real
def test_real_frame_numbers_of_epic_are_60_times_their_seconds() -> None:
    with (ANNOTATIONS / "epic100" / "EPIC_100_validation.csv").open(newline="") as file:
        for segment in csv.DictReader(file):
            hours, minutes, seconds = map(float, segment["stop_timestamp"].split(":"))
            frame = {"task_start_frame": 0, "current_observation_frame": int(segment["stop_frame"])}
            row = choice(**{**VALIDATION, "video_id": segment["video_id"], **frame}).row
            # The numbers are rounded down.
            assert 0 <= 3600 * hours + 60 * minutes + seconds - row.stretch.end < 1 / 59


def test_the_cut_videos_of_seed_bench_r1_are_not_taken_for_whole_ones() -> None:
    cut = {**VALIDATION, "video_basename": "115.mp4", "current_observation_basename": "115.png"}
    assert choice(**cut).row == choice(**VALIDATION).row


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
        ({"golden_choice_idx": "A", "sample_id": 1}, "no video"),
        ({**BENCH2, "task_start_frame": 901}, "ends before it starts"),
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


@needs_real
def test_every_real_question_of_egoexolearn_has_its_options_and_its_letter() -> None:
    file = RowFile(ANNOTATIONS / "egoexolearn" / "vid_vqa_video_tag_egoexolearn_video_mcq.jsonl")
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
