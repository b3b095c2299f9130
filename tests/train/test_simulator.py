"""The simulator: pictures and labels agree, are the same every time, and the goal follows from the steps."""

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from egolive.streaming.errors import DataError
from egolive.train.simulator import write
from egolive.train.simulator.drawing.drawing import Drawing
from egolive.train.simulator.episode import (
    GOALS,
    HANDS,
    OBJECT_KINDS,
    VERBS,
    Plan,
    goal_steps,
    goals_consistent_with,
    next_steps_possible,
    plan_episode,
    render_frame,
)
from egolive.train.simulator.objects.kinds import KINDS
from egolive.train.simulator.planning.goals import HELD_OUT, goal_rule
from egolive.train.simulator.planning.motion import object_at
from egolive.train.simulator.write import load_episode, simulate

SMALL = (224, 126)


def test_catalogue_is_wide_and_shared() -> None:
    assert len(GOALS) >= 9
    assert len(OBJECT_KINDS) >= 22
    assert set(OBJECT_KINDS) == set(KINDS)
    assert len(VERBS) >= 12
    users: dict[str, set[str]] = {kind: set() for kind in OBJECT_KINDS}
    for goal in GOALS:
        rule = goal_rule(goal)
        assert 1 <= len(rule.orders) <= 3
        for slots in rule.fillings():
            for sequence in rule.sequences(slots):
                assert 3 <= len(sequence) <= 7 or goal in ("make a card", "repair the radio"), (
                    goal,
                    len(sequence),
                )
                for step in sequence:
                    for kind in {step.object, step.target, step.via} - {""}:
                        users[kind].add(goal)
    assert [kind for kind, goals in users.items() if len(goals) < 2] == []


def test_goal_follows_from_the_whole_script() -> None:
    for index in range(60):
        plan = plan_episode(index)
        texts = [step.text for step in plan.steps]
        assert plan.goal in goals_consistent_with(texts)
        assert set(texts) <= set(goal_steps(plan.goal))
    assert goals_consistent_with([]) == set(GOALS)
    assert goals_consistent_with(["stir the mug with the spoon"]) > {"make tea", "make coffee"}
    assert goals_consistent_with(["open the jar", "pour water from the kettle into the mug"]) == {
        "make coffee"
    }
    assert goals_consistent_with(["fly"]) == set()


def test_next_step_is_among_those_the_script_allows() -> None:
    for index in range(60):
        plan = plan_episode(index, split="test")
        texts = [step.text for step in plan.steps]
        for done in range(len(texts)):
            assert texts[done] in next_steps_possible(plan.goal, texts[:done])
    start = next_steps_possible("make tea", [])
    assert "stir the mug with the spoon" not in start
    assert next_steps_possible("make tea", ["stir the mug with the spoon"]) == set()


def test_steps_follow_one_another_in_time() -> None:
    for index in range(60):
        plan = plan_episode(index)
        assert 10 < plan.duration < 45
        for step in plan.steps:
            assert 2 <= step.end - step.start <= 6
        for before, after in pairwise(plan.steps):
            assert 0.2 <= after.start - before.end <= 0.8
        for uses in plan.uses.values():
            assert all(a.end <= b.start for a, b in pairwise(uses))


def test_objects_never_jump() -> None:
    for index in range(12):
        plan = plan_episode(index)
        times = np.arange(0, plan.duration, 1 / 60)
        for kind, track in plan.tracks.items():
            path = np.array([object_at(track, float(t))[:2] for t in times])
            assert np.abs(np.diff(path, axis=0)).max() < 25, (index, kind)


def test_held_out_pairs_are_never_trained_on() -> None:
    def held_out(split: str) -> list[bool]:
        plans = [plan_episode(index, split=split) for index in range(200)]
        return [any((p.goal, slot, kind) in HELD_OUT for slot, kind in p.variant.items()) for p in plans]

    assert not any(held_out("train"))
    assert 0.1 < np.mean(held_out("test")) < 0.5


def test_a_frame_depends_on_plan_and_time_only() -> None:
    plan = plan_episode(5, seed=3)
    first, truth = render_frame(plan, 6.2, SMALL)
    for other in range(14):  # enough other episodes to push this one out of every cache
        render_frame(plan_episode(other, seed=4), 1.0, SMALL)
    again, same = render_frame(plan_episode(5, seed=3), 6.2, SMALL)
    assert np.array_equal(first, again)
    assert truth == same
    assert not np.array_equal(first, render_frame(plan_episode(5, seed=4), 6.2, SMALL)[0])
    assert not np.array_equal(first, render_frame(plan, 6.3, SMALL)[0])


def test_labels_lie_in_the_picture_and_name_what_can_be_seen() -> None:
    for index in range(12):
        plan = plan_episode(index)
        for time in np.linspace(0.2, plan.duration - 0.2, 4):
            image, truth = render_frame(plan, float(time), SMALL)
            assert image.shape == (126, 224, 3)
            assert image.dtype == np.uint8
            for x0, y0, x1, y1 in truth.boxes.values():
                assert 0 <= x0 < x1 <= 224
                assert 0 <= y0 < y1 <= 126
            for hand, kind in truth.held.items():
                assert kind is None or {hand, kind} <= set(truth.boxes)
            running = [k for k, s in enumerate(plan.steps) if s.start <= time < s.end]
            assert truth.step == (running[0] if running else -1)


def test_a_box_is_where_pixels_change_when_the_thing_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Drawing.thing
    checked = 0
    for index in range(8):
        plan = plan_episode(index)
        time = plan.steps[0].start + (1.9 if index % 2 else -0.05)
        drawing = Drawing(plan, time, (448, 252))
        drawing.compose()
        boxes = drawing.truth().boxes
        for kind in set(boxes) - set(HANDS):

            def all_but_one(self: Drawing, name: str, part: str = "whole", left_out: str = kind) -> None:
                if name != left_out:
                    draw(self, name, part)

            monkeypatch.setattr(Drawing, "thing", all_but_one)
            bare = Drawing(plan, time, (448, 252))
            bare.compose()
            monkeypatch.setattr(Drawing, "thing", draw)
            gap = np.abs(bare.canvas.picture.astype(int) - drawing.canvas.picture.astype(int)).max(axis=2)
            ys, xs = np.nonzero(gap > 1)
            x0, y0, x1, y1 = boxes[kind]
            found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            # all four edges are met by changed pixels; only a shadow reaches further, by its cast at most
            assert found[0] <= x0 + 5, (index, kind)
            assert found[1] <= y0 + 5, (index, kind)
            assert found[2] >= x1 - 5, (index, kind)
            assert found[3] >= y1 - 5, (index, kind)
            assert max(x0 - found[0], y0 - found[1], found[2] - x1, found[3] - y1) < 36, (index, kind)
            checked += 1
    assert checked > 30


def test_left_and_right_are_told_apart() -> None:
    """Forearms enter from their own side, so over many frames each hand keeps to its half."""
    middles: dict[str, list[float]] = {hand: [] for hand in HANDS}
    for index in range(20):
        plan = plan_episode(index)
        _, truth = render_frame(plan, plan.steps[0].start + 1.5, SMALL)
        for hand in HANDS:
            if hand in truth.boxes:
                middles[hand].append((truth.boxes[hand][0] + truth.boxes[hand][2]) / 2)
    assert np.mean(middles["left hand"]) < 112 < np.mean(middles["right hand"])


def test_mirroring_swaps_the_hands() -> None:
    plan = next(p for p in map(plan_episode, range(100)) if p.mirror)
    assert plan.variant["handed"] == "left"
    time = next(use for use in plan.uses["right hand"] if use.acting).start + 0.8
    _, truth = render_frame(plan, time, SMALL)
    plan.mirror = False
    _, plain = render_frame(plan, time, SMALL)
    assert truth.held["left hand"] == plain.held["right hand"]
    left, right = truth.boxes["left hand"], plain.boxes["right hand"]
    assert left[0] == pytest.approx(224 - right[2], abs=3)


def test_shares_of_absent_hands_and_empty_hands() -> None:
    absent = dict.fromkeys(HANDS, 0)
    held = dict.fromkeys(HANDS, 0)
    frames = 0
    for index in range(30):
        plan = plan_episode(index)
        for time in np.arange(0.3 + 0.3 * (index % 5), plan.duration, 1.7):
            _, truth = render_frame(plan, float(time), SMALL)
            frames += 1
            for hand in HANDS:
                absent[hand] += hand not in truth.boxes
                held[hand] += truth.held[hand] is not None
    for hand in HANDS:
        seen = frames - absent[hand]
        assert absent[hand] / frames > 0.15, hand
        assert held[hand] / frames > 0.22, hand
        assert 1 - held[hand] / seen > 0.3, hand


def test_states_change_and_are_seen_to_change() -> None:
    plan = next(p for p in map(plan_episode, range(300)) if any(s.verb == "pour" for s in p.steps))
    step = next(s for s in plan.steps if s.verb == "pour")
    _, before = render_frame(plan, step.start, SMALL)
    _, after = render_frame(plan, step.end, SMALL)
    assert before.states[step.target] != after.states[step.target] == "filled"


def test_a_data_set_is_written_once_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "set"
    simulate(out, episodes=1, fps=1.0, size=SMALL, workers=1)
    drawn: list[int] = []

    def noted(index: int, *, seed: int, split: str) -> Plan:
        drawn.append(index)
        return plan_episode(index, seed=seed, split=split)

    monkeypatch.setattr(write, "plan_episode", noted)
    simulate(out, episodes=2, fps=1.0, size=SMALL, workers=1)
    assert drawn == [1]
    assert sorted(p.name for p in out.iterdir()) == [
        "00000.json", "00000.mp4", "00001.json", "00001.mp4", "manifest.json",
    ]  # fmt: skip
    episode, frames = load_episode(out / "00001.mp4")
    plan = plan_episode(1)
    assert episode.goal == plan.goal
    assert episode.steps == plan.steps
    image, truth = render_frame(plan, frames[7].time, SMALL)
    assert truth == frames[7]
    with av.open(str(out / "00001.mp4")) as container:
        pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(pictures) == len(frames)
    assert np.abs(pictures[7].astype(int) - image).mean() < 8


def test_files_are_the_same_on_every_run(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        simulate(tmp_path / folder, episodes=1, fps=2.0, size=SMALL, workers=1)
    for name in ("00000.mp4", "00000.json", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_other_settings_are_refused_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "set"
    simulate(out, episodes=1, fps=0.2, size=SMALL, workers=1)
    with pytest.raises(DataError, match=r"another data set .*seed"):
        simulate(out, episodes=1, fps=0.2, size=SMALL, seed=1, workers=1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        simulate(tmp_path, episodes=1)
    with pytest.raises(DataError, match="cannot read"):
        load_episode(out / "00009.json")
    with pytest.raises(ValueError, match="split"):
        plan_episode(0, split="validation")
