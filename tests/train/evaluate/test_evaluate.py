"""The figures of an evaluation, from answers whose worth is known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from egolive.assistant.cli import main as cli
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.schema.answers import Answer, Question
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Box, Frame, Interval, Window
from egolive.train.evaluate.episode_scores import Scores, report, scores_of
from egolive.train.evaluate.evaluate import (
    PICTURES,
    ask_episode,
    bag_of,
    evaluate,
    grounding_truth,
    render_window,
    training_bags,
)
from egolive.train.evaluate.figures import Figures, markdown, table
from egolive.train.evaluate.result_files import Results
from egolive.train.simulator.episode import FrameTruth, plan_episode

TEA, CAR = frozenset({"mug", "kettle"}), frozenset({"hammer"})
BAGS = [(TEA, "make tea")] * 3 + [(CAR, "repair")] * 3
LEFT, RIGHT = Box(0, 0, 10, 10, label="left hand"), Box(20, 0, 30, 10, label="right hand")
KEYS = (
    "hand_miou",
    "object_miou",
    "hand_absent_acc",
    "object_absent_acc",
    "intent_acc",
    "intent_acc_bag_of_objects",
    "next_acc",
    "interval_miou",
    "interval_r1_iou50",
)


def found(*boxes: Box) -> Answer:
    return Answer(Question("ground", "left hand"), "", boxes=boxes)


def nothing() -> Answer:
    return Answer(Question("ground", "left hand"), "none", absent=True)


def unreadable() -> Answer:
    return Answer(Question("ground", "left hand"), "(1,", status="unparsed")


def span(start: float, end: float) -> Answer:
    return Answer(Question("when", "stir"), "", intervals=(Interval(start, end),))


def scores() -> Scores:
    made = Scores()
    half = Box(0, 0, 5, 10)
    # Right, half right, denied, and wrongly seen; only the first box of an answer counts.
    made.hands = [(LEFT, found(LEFT)), (LEFT, found(half, LEFT)), (RIGHT, nothing()), (None, found(LEFT))]
    made.objects = [(None, nothing()), (None, unreadable()), (LEFT, unreadable()), (LEFT, found(LEFT))]
    made.intents = [("make tea", "Make tea."), ("repair", "make tea"), ("make tea", "make tea")]
    made.bags = [(TEA, "make tea"), (CAR, "repair"), (CAR, "make tea")]
    made.nexts = [("stir", "stir"), ("stir", "pour")]
    made.whens = [
        (Interval(10, 12), span(10, 12), Interval(9, 17)),
        (Interval(30, 34), span(30, 32), Interval(29, 37)),
        (Interval(51, 52), unreadable(), Interval(50, 58)),
    ]
    return made


def test_every_figure_is_what_a_hand_count_gives() -> None:
    figures = report(scores(), BAGS)
    assert figures["n"] == 16
    assert figures["hand_miou"] == pytest.approx((1 + 0.5 + 0) / 3, abs=1e-4)
    assert figures["hand_miou_n"] == 3
    # Each left hand is where the other is; the only right hand is told by them, and is elsewhere.
    assert figures["hand_miou_chance"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["hand_absent_acc"] == pytest.approx((0 + 2 / 3) / 2, abs=1e-4)
    assert figures["object_miou"] == 0.5
    assert figures["object_absent_acc"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert figures["object_absent_acc_n"] == 4
    assert figures["intent_acc"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["intent_acc_chance"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["intent_acc_bag_of_objects"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["next_acc"] == 0.5
    assert figures["interval_miou"] == pytest.approx((1 + 0.5 + 0) / 3, abs=1e-4)
    assert figures["interval_r1_iou50"] == pytest.approx(2 / 3, abs=1e-4)
    # In their windows the intervals are 1-3, 1-5 and 1-2: the others' medians are 1-3.5, 1-2.5 and 1-4.
    chance = (2 / 2.5 + 1.5 / 4 + 1 / 3) / 3
    assert figures["interval_miou_chance"] == pytest.approx(chance, abs=1e-4)


def test_the_keys_are_those_that_other_programs_read() -> None:
    figures = report(scores(), BAGS)
    assert {"n", *KEYS} <= set(figures)
    for name in ("hand_miou", "object_miou", "intent_acc", "next_acc", "interval_miou"):
        assert f"{name}_chance" in figures
        edges, value = figures[f"{name}_ci"], figures[name]
        assert isinstance(edges, list)
        low, high = edges
        assert low is not None
        assert high is not None
        assert isinstance(value, float)
        assert low <= value <= high


def test_what_was_never_asked_is_null_and_not_a_number_that_json_lacks() -> None:
    figures = report(Scores(), BAGS)
    assert figures["n"] == 0
    assert all(figures[name] is None for name in KEYS)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert "hand_miou" in markdown(figures)


def test_tables_show_every_measure_for_people() -> None:
    figures = report(scores(), BAGS)
    drawn = drawn_at_80(table(figures))
    assert "…" not in drawn
    lines = [line for line in markdown(figures).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(KEYS)
    for name in KEYS:
        assert f" {name} " in drawn
        assert sum(line.startswith(f"| {name} |") for line in lines) == 1
    assert "| hand_miou | 0.500 |" in markdown(figures)


def drawn_at_80(drawn: Table) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(drawn)
    return capture.get()


def test_an_interval_of_a_few_episodes_is_marked_and_one_of_many_is_not() -> None:
    # As many questions as there may be: episodes go wrong as a whole.
    made = scores()
    made.nexts = [("stir", "stir")] * 40
    made.owners = {"nexts": [number // 20 for number in range(40)]}
    figures = report(made, BAGS)
    assert figures["next_acc_n"] == 40
    assert figures["next_acc_groups"] == 2
    for text in (markdown(figures), drawn_at_80(table(figures))):
        assert " 40 * " in text
        assert "* fewer than 10 episodes or questions: the interval says little" in text
    # What has no interval has no mark.
    assert "| object_absent_acc | 0.500 |  | 0.500 | 4 |" in markdown(figures)
    many: Figures = {"x_acc": 0.5, "x_acc_ci": [0.4, 0.6], "x_acc_n": 40, "x_acc_groups": 10}
    for text in (markdown(many), drawn_at_80(table(many))):
        assert "*" not in text


def test_a_hidden_thing_in_the_hand_counts_as_absent() -> None:
    boxes = {"left hand": (0.0, 0.0, 9.0, 9.0), "mug": (5.0, 5.0, 8.0, 8.0)}
    truth = FrameTruth(0.0, boxes, {"left hand": "mug", "right hand": "spoon"}, {}, 0)
    told = dict(grounding_truth(truth))
    assert told["object in the left hand"] == Box(5, 5, 8, 8, label="object in the left hand")
    assert told["right hand"] is None
    assert told["object in the right hand"] is None
    assert bag_of([truth]) == {"mug"}


def test_a_rendered_window_carries_the_times_of_its_frames_and_what_can_be_seen() -> None:
    plan = plan_episode(0, split="test")
    window, bag = render_window(plan, 3.0, slices=2)
    assert [frame.time for frame in window.frames] == [3.0, 3.5, 4.0, 4.5]
    assert window.interval == Interval(3.0, 4.5)
    assert bag
    assert bag.isdisjoint({"left hand", "right hand"})


def test_what_the_baseline_learns_from_is_told_of_while_it_is_drawn() -> None:
    with Progress(console=Console(quiet=True)) as progress:
        bags = training_bags(0, 2, progress, episodes=2)
    (task,) = progress.tasks
    assert task.description == "bag-of-objects baseline"
    assert (task.completed, task.total) == (2, 2)
    assert bags == training_bags(0, 2, episodes=2)
    assert [goal for _, goal in bags] == [plan_episode(index, split="train").goal for index in range(2)]


class Onlooker(Assistant):
    """Finds nothing, and does not take a new picture under an old number."""

    def __init__(self) -> None:
        self.known: dict[int, Frame] = {}

    def forget(self) -> None:
        self.known.clear()

    def answer(
        self,
        questions: Sequence[Question],
        *,
        window: Window | None = None,
        picture: Frame | None = None,
        size: float = 1.0,
    ) -> Iterator[Answer]:
        frames = window.frames if window else () if picture is None else (picture,)
        for frame in frames:
            assert self.known.setdefault(frame.index, frame) is frame, "a session would reuse the old picture"
        return iter([Answer(question, "none", absent=True) for question in questions])


def test_an_episode_is_asked_about_picture_by_picture_and_window_by_window() -> None:
    records = ask_episode(Onlooker(), 0, "test", 0, 4)
    # By way of a file, as after an interruption.
    made = scores_of(json.loads(json.dumps(records)))
    assert len(made.hands) == len(made.objects) == 2 * PICTURES
    assert made.whens
    kinds = (made.hands, made.objects, made.intents, made.nexts, made.whens)
    assert len(records) == sum(len(kind) for kind in kinds)
    assert len(made.bags) == len(made.intents)
    for record in records:
        assert json.loads(json.dumps(record)) == record


def test_half_an_episode_is_asked_again_and_a_whole_one_stays_however_often_the_file_is_opened(
    tmp_path: Path,
) -> None:
    path = tmp_path / "results.jsonl"
    settings: dict[str, object] = {"of": ("a", "b")}
    results = Results(path, settings, whole="episode")
    for number, episode in enumerate((0, 0, 1, 1, 2)):
        line = {"id": str(number), "episode": episode, "values": {}}
        results.add(line, last=number in (1, 3))
    results.close()
    for _ in range(2):
        results = Results(path, settings, whole="episode")
        assert [record["id"] for record in results.records] == ["0", "1", "2", "3"]
        results.close()
    with pytest.raises(ConfigError, match="results of another run"):
        Results(path, {"of": "c"}, whole="episode")


def test_settings_that_cannot_work_are_refused_before_any_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not known"):
        evaluate(data="sim:valid")
    with pytest.raises(ConfigError, match="at least one"):
        evaluate(episodes=0)
    with pytest.raises(ConfigError, match="there is no folder"):
        evaluate(json_file=tmp_path / "missing" / "out.json")


def test_no_option_is_offered_that_means_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["evaluate", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--compare" in text
    assert "--no-grammar" in text
    assert "--empty" not in text
    assert "--no-think" not in text
