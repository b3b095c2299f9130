"""Values of single answers and figures of many, against cases worked out by hand; and paired comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from egolive.assistant.schema.answers import Answer, Question
from egolive.streaming.errors import DataError
from egolive.streaming.frames import Box, Interval
from egolive.train.data.questions import HANDS
from egolive.train.data.rows import RowError
from egolive.train.evaluate.compare_results import compare_records, comparison_table, paired_bootstrap
from egolive.train.evaluate.episode_scores import record, report, scores_of
from egolive.train.evaluate.examples import Example, examples_from_dict
from egolive.train.evaluate.scoring import figures_of, record_of

SIZE = (100, 100)
GROUND = Question("ground", "cup")


def asked(**values: Any) -> Example:
    (example,) = examples_from_dict(values, where=f"file:{values.get('n', 1)}")
    return example


def box(corners: list[float] | None, *said: Box, phrase: str = "cup", absent: bool = False) -> dict[str, Any]:
    example = asked(path="a.jpg", object=phrase, box=corners, size=[100, 100])
    return record_of(example, Answer(GROUND, "", boxes=said, absent=absent), size=SIZE)


def span(start: float | None, end: float | None, *said: Interval, absent: bool = False) -> dict[str, Any]:
    example = asked(video="a.mp4", question="stir", start=start, end=end, clip=[0, 20])
    return record_of(example, Answer(Question("when", "stir"), "", intervals=said, absent=absent), size=SIZE)


def option(letter: str, said: str) -> dict[str, Any]:
    example = asked(q="?", video_path="a.mp4", a=letter, option={"A": "x", "B": "y", "C": "z", "D": "w"})
    return record_of(example, Answer(Question("ask", "?"), said), size=SIZE)


def exists(label: str, said: str) -> dict[str, Any]:
    example = asked(image="a.jpg", text="Is there a cup?", label=label)
    return record_of(example, Answer(Question("ask", "?"), said), size=SIZE)


def test_boxes_are_measured_at_every_threshold_and_by_their_centre() -> None:
    records = [
        box([0, 0, 40, 40], Box(0, 0, 40, 40)),
        # Half of it: IoU 0.5, which counts at 0.5.
        box([0, 0, 40, 40], Box(0, 0, 20, 40), Box(0, 0, 40, 40)),
        # IoU 800 / 2800, centre on the edge.
        box([0, 0, 40, 40], Box(20, 0, 70, 40), phrase="left hand"),
        # Around it: IoU 0.16, centre inside.
        box([30, 30, 70, 70], Box(0, 0, 100, 100), phrase="right hand"),
        # Denied, or not to be read.
        box([0, 0, 40, 40], absent=True),
        box([0, 0, 40, 40]),
    ]
    figures = figures_of(records)
    ious = [1, 0.5, 800 / 2800, 0.16, 0, 0]
    assert figures["n"] == figures["box_miou_n"] == 6
    assert figures["box_miou"] == pytest.approx(np.mean(ious), abs=1e-4)
    assert figures["box_acc_iou25"] == pytest.approx(3 / 6)
    assert figures["box_acc_iou30"] == pytest.approx(2 / 6, abs=1e-4)
    assert figures["box_acc_iou50"] == pytest.approx(2 / 6, abs=1e-4)
    # The third's centre is at 45, outside.
    assert figures["box_centre_in_box"] == pytest.approx(3 / 6)
    assert figures["hand_miou"] == pytest.approx((800 / 2800 + 0.16) / 2, abs=1e-4)
    assert figures["hand_miou_n"] == 2
    assert figures["object_acc_iou50"] == pytest.approx(2 / 4)
    # Constant boxes: all four cups are in one place. Each hand is the only one of its name, so it is told by
    # all others: the left one is where they are, the right one elsewhere, 100 of 3100 in common.
    assert figures["box_miou_chance"] == pytest.approx((5 + 100 / 3100) / 6, abs=1e-4)
    assert figures["box_acc_iou50_chance"] == pytest.approx(5 / 6, abs=1e-4)
    assert figures["object_miou_chance"] == 1
    assert "box_absent_acc" not in figures
    low, high = figures["box_miou_ci"] or (None, None)  # type: ignore[misc]
    assert low is not None
    assert high is not None
    assert low < np.mean(ious) < high


def test_what_is_absent_counts_in_a_balanced_figure_and_not_in_the_overlap() -> None:
    there = [box([0, 0, 40, 40], Box(0, 0, 40, 40)), box([0, 0, 40, 40], absent=True), box([0, 0, 40, 40])]
    absent = [box(None, absent=True), box(None, Box(1, 1, 5, 5)), box(None)]
    figures = figures_of(there + absent)
    assert figures["box_miou"] == pytest.approx(1 / 3, abs=1e-4)
    # One of three seen, one of three denied; what cannot be read is wrong either way.
    assert figures["box_absent_acc"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["box_absent_acc_n"] == 6


def test_intervals_are_measured_at_every_threshold() -> None:
    records = [
        span(2, 12, Interval(2, 12)),
        span(2, 12, Interval(2, 9)),
        span(2, 12, Interval(2, 5), Interval(2, 12)),
        span(2, 12, Interval(2, 2.5)),
        span(2, 12, Interval(2, 2.4)),
        span(2, 12),
    ]
    figures = figures_of(records)
    ious = [1, 0.7, 0.3, 0.05, 0.04, 0]
    assert figures["interval_miou"] == pytest.approx(np.mean(ious), abs=1e-4)
    shares = {"05": 4, "30": 3, "50": 2, "70": 2}
    for threshold, count in shares.items():
        assert figures[f"interval_r1_iou{threshold}"] == pytest.approx(count / 6, abs=1e-4)
    assert figures["interval_miou_chance"] == figures["interval_r1_iou70_chance"] == 1
    # The medians of the others are 0 to 3, 0 to 2 and 0 to 3: IoU 2/3, 1/2 and 2/3.
    spread = figures_of([span(0, 2), span(0, 4), span(0, 2)])
    assert spread["interval_r1_iou50_chance"] == 1
    assert spread["interval_miou_chance"] == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3, abs=1e-4)
    with_absent = figures_of([*records, span(None, None, absent=True)])
    assert with_absent["interval_absent_acc"] == pytest.approx((1 + 5 / 6) / 2, abs=1e-4)


def test_options_that_cannot_be_read_are_wrong_and_stay_in_the_count() -> None:
    records = [
        option("D", "put it on a plate, so D"),
        option("A", ""),
        option("B", "b."),
        option("C", "A or C"),
    ]
    figures = figures_of(records)
    assert figures["choice_acc"] == 0.5
    assert figures["choice_acc_n"] == 4
    assert figures["choice_acc_chance"] == 0.25
    assert figures["unread"] == 0.5


def test_existence_has_precision_recall_and_the_share_of_yes() -> None:
    said = [("yes", "Yes"), ("yes", "yes, a cup"), ("yes", "No"), ("no", "Yes."), ("no", "no"), ("no", "")]
    figures = figures_of([exists(label, answer) for label, answer in said])
    assert figures["exists_acc"] == pytest.approx(3 / 6)
    assert figures["exists_precision"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["exists_recall"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["exists_f1"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["exists_yes"] == 0.5
    assert figures["unread"] == pytest.approx(1 / 6, abs=1e-4)
    silent = figures_of([exists("yes", "")])
    assert (silent["exists_precision"], silent["exists_recall"], silent["exists_f1"]) == (None, 0, 0)


def test_words_are_right_or_wrong() -> None:
    example = asked(video="a.mp4", clip=[0, 5], task="intent", text="make tea")
    records = [
        record_of(example, Answer(Question("intent"), said), size=SIZE) for said in ("Make tea.", "make", "")
    ]
    figures = figures_of(records)
    assert figures["intent_acc"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["intent_acc_chance"] == 1


def test_a_labelled_picture_asks_for_hands_by_side_and_for_what_they_hold() -> None:
    values = {
        "image": "a.png",
        "width": 300,
        "height": 200,
        "boxes": [
            {"label": "hand", "side": "left", "xyxy": [1, 2, 30, 40]},
            {"label": "hand", "side": "right", "xyxy": [100, 2, 130, 40]},
            {"label": "motor", "side": "both", "xyxy": [20, 2, 110, 40]},
        ],
    }
    examples = examples_from_dict(values, where="labels:1")
    phrases = {example.row.question.phrase: example.row.box for example in examples if example.row.question}
    assert phrases == {
        "left hand": Box(1, 2, 30, 40),
        "right hand": Box(100, 2, 130, 40),
        "object in the left hand": Box(20, 2, 110, 40),
        "object in the right hand": Box(20, 2, 110, 40),
    }
    assert len({example.shows for example in examples}) == 1
    assert len({example.id for example in examples}) == 4
    with pytest.raises(RowError, match="left or right hand"):
        examples_from_dict({**values, "boxes": [{"label": "hand", "side": "top"}]}, where="labels:1")


def test_a_conversation_without_options_has_no_measure() -> None:
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A cup."}]
    with pytest.raises(RowError, match="no measure"):
        examples_from_dict({"conversations": turns, "image": "a.jpg"}, where="x:1")


def test_the_paired_interval_is_that_of_the_differences() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(500)
    second = first + 0.05 + 0.02 * rng.standard_normal(500)
    low, high = paired_bootstrap(first.tolist(), second.tolist(), draws=2000)
    half = 1.96 * 0.02 / math.sqrt(500)
    centre = float(np.mean(second - first))
    assert low == pytest.approx(centre - half, abs=half / 3)
    assert high == pytest.approx(centre + half, abs=half / 3)
    assert paired_bootstrap(first.tolist(), first.tolist(), draws=100) == (0, 0)
    assert all(math.isnan(edge) for edge in paired_bootstrap([], []))
    # Questions that go wrong together say less than as many that do not.
    together = [0.0] * 50 + [1.0] * 50
    alone = paired_bootstrap([0.0] * 100, together, draws=500)
    grouped = paired_bootstrap([0.0] * 100, together, groups=[n // 10 for n in range(100)], draws=500)
    assert grouped[1] - grouped[0] > 2 * (alone[1] - alone[0])
    with pytest.raises(ValueError, match="pairs are wanted"):
        paired_bootstrap([1], [1, 2])


def test_models_are_compared_on_the_questions_that_both_were_asked() -> None:
    def line(id: str, **values: float) -> dict[str, Any]:
        return {"id": id, "values": values}

    first = [line("a", x=0), line("b", x=1), line("c", x=0), line("d", y=1)]
    second = [line("c", x=1), line("b", x=1), line("a", x=1, y=1), line("z", x=0)]
    compared = compare_records(first, second, draws=200)
    assert set(compared) == {"x"}
    assert compared["x"]["a"] == pytest.approx(1 / 3, abs=1e-4)
    assert compared["x"]["b"] == 1
    assert compared["x"]["difference"] == pytest.approx(2 / 3, abs=1e-4)
    assert compared["x"]["n"] == 3
    with pytest.raises(DataError, match="no question in common"):
        compare_records(first, [line("q", x=1)])
    other = [line("a", x=1) | {"truth": "B"}, line("b", x=1)]
    with pytest.raises(DataError, match="1 of the questions that bear the same name are not the same"):
        compare_records(first, other)


def test_a_model_that_never_says_none_pays_for_its_boxes_in_the_comparison() -> None:
    place = [0.0, 0.0, 9.0, 9.0]
    truths = [(number, hand, place if number % 3 else None) for number in range(12) for hand in HANDS]

    def lines(seen: Sequence[bool]) -> list[dict[str, Any]]:
        made = []
        for (episode, hand, truth), found in zip(truths, seen, strict=True):
            question = Question("ground", hand)
            answer = Answer(question, "", boxes=(Box(0, 0, 9, 9),) if found else (), absent=not found)
            made.append(record(episode, 1.0, question, truth, answer))
        return made

    careful = lines([truth is not None and number % 4 != 1 for number, _, truth in truths])
    bold = lines([True] * len(truths))
    compared = compare_records(careful, bold, draws=200)
    assert list(compared) == ["hand_absent_none", "hand_miou", "hand_there_given"]
    assert compared["hand_absent_none"] == {
        "a": 1.0, "b": 0.0, "difference": -1.0, "ci": [-1.0, -1.0], "n": 8, "groups": 4,
    }  # fmt: skip
    assert compared["hand_there_given"]["b"] == 1
    assert compared["hand_miou"]["n"] == 16
    # One model's figure is the mean of the two.
    for side, records in (("a", careful), ("b", bold)):
        halves = [compared[name][side] for name in ("hand_absent_none", "hand_there_given")]
        figure = report(scores_of(records), [])["hand_absent_acc"]
        assert figure == pytest.approx(np.mean(np.array(halves, float)), abs=1e-4)
    # Where nothing is absent, there is nothing to deny.
    there = [line for line in careful if line["truth"]]
    assert list(compare_records(there, bold, draws=10)) == ["hand_miou"]


def test_a_comparison_fits_80_columns_with_the_whole_name_of_each_measure() -> None:
    names = ["interval_absent_none", "interval_r1_iou50", "object_centre_in_box"]
    row: dict[str, Any] = {"a": 0.123, "b": 0.111, "difference": -0.012, "ci": [-0.123, -0.003]}
    compared = {name: {**row, "n": 2958, "groups": 200} for name in names}
    compared["next_acc"] = {**row, "n": 12, "groups": 9}
    console = Console(width=80)
    with console.capture() as capture:
        console.print(comparison_table(compared, ("runs/one/samples.jsonl", "runs/two/[x].jsonl")))
    lines = capture.get().splitlines()
    for name in names:
        (line,) = [line for line in lines if f" {name} " in line]
        assert " -0.123 to -0.003 " in line
        assert " 2958 " in line
    assert " 12 * " in capture.get()
    assert "fewer than 10 episodes" in lines[-1]
    title = " ".join(lines[:2])
    assert "a, runs/one/samples.jsonl" in title
    assert "[x].jsonl" in title
