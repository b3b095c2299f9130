"""What is thought about next, and what of the outcome may be shown: order, deadlines, pre-emption, counts."""

import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from egolive.streaming import Frame, LatestResults, Result, Scheduler, Slice, TaskRule, Window, Work
from egolive.streaming.pipeline.results import Status

PICTURE = np.zeros((2, 2, 3), np.uint8)
WEARER = TaskRule("window", priority=0)
RULES = {
    "left": TaskRule("picture", priority=1, deadline=2.0),
    "right": TaskRule("picture", priority=1, deadline=2.0),
    "intent": TaskRule("window", priority=2, every=2, deadline=6.0, max_wait=2.0),
    "next": TaskRule("window", priority=2, every=3, deadline=6.0, max_wait=2.0),
}
INTENT = {"intent": TaskRule("window", priority=2)}


def frame(index: int, *, gap: bool = False) -> Frame:
    """One of ten pictures a second."""
    return Frame(PICTURE, index / 10, index, gap)


def window(index: int) -> Window:
    return Window((Slice(frame(index - 5), frame(index), index),))


def take(scheduler: Scheduler[str], now: float = 0.0) -> Work[str]:
    work = scheduler.take(now)
    assert work is not None
    return work


def test_ten_thousand_requests_to_a_moody_engine_are_never_shown_late_or_out_of_order() -> None:
    chance = random.Random(7)
    scheduler, board = Scheduler(RULES), LatestResults[str, str](RULES)
    work: Work[str] | None = None
    ready: dict[str, float] = {}
    on_the_way: list[tuple[float, Result[str, str]]] = []
    shown: dict[str, float] = defaultdict(float)
    statuses: Counter[str] = Counter()
    newest: Window | None = None
    tick = asked = late = 0
    while scheduler.counts.get("requested", 0) < 10_000:
        tick += 1
        now = tick / 10
        picture = frame(tick, gap=chance.random() < 0.004)
        if picture.gap:
            newest = None
            board.gap(now)
            shown.clear()
        if tick % 10 == 0:
            newest = window(tick)
        scheduler.see(picture, newest, now)
        if chance.random() < 0.02:
            asked += 1
            scheduler.ask(f"question {asked}", WEARER)
        if work is None:
            work = scheduler.take(now)
            # Mostly quick, at times so slow that everything is overdue.
            delay = chance.choice((0.02, 0.3, 1.0, 4.0))
            ready = {task: now + chance.expovariate(1 / delay) for task in (work.tasks if work else ())}
        if work is not None:
            finished = [task for task, at in ready.items() if at <= now]
            stopped = work.stopped() and len(finished) < len(ready)
            left = set(ready) - set(finished)
            for task in [*finished, *(left if stopped else ())]:
                del ready[task]
                rule = RULES.get(task, WEARER)
                seen = work.picture if rule.sees == "picture" or work.window is None else work.window.newest
                assert rule.sees == "picture" or work.window is not None
                status: Status = "preempted" if task in left else "ok"
                # Answers travel, and the later one may arrive first.
                arrives = now + chance.expovariate(2)
                on_the_way.append((arrives, Result(task, chance.choice("ab"), seen.time, status)))
            if not ready:
                scheduler.done(work, left if stopped else ())
                work = None
        arrived = [result for arrives, result in on_the_way if arrives <= now]
        on_the_way = [(arrives, result) for arrives, result in on_the_way if arrives > now]
        showing = board.show(picture, now, arrived)
        statuses.update(result.status for result in showing.new)
        late += sum(
            result.status == "ok" and now - result.time > RULES.get(result.task, WEARER).deadline
            for result in arrived
        )
        for result in showing.current:
            if result.task in RULES:
                assert now - result.time <= RULES[result.task].deadline, "expired, yet shown as current"
                assert result.time >= shown[result.task], "older than what was shown before"
                shown[result.task] = result.time
    counts = scheduler.counts
    running = len(work.tasks) if work else 0
    entered = counts["requested"] + counts["retried"]
    assert entered == counts["superseded"] + counts["withdrawn"] + counts["taken"] + scheduler.waiting
    assert counts["taken"] == counts["answered"] + counts["preempted"] + running
    assert {status: board.counts[status] for status in statuses} == statuses
    # Each way for a request to end was really met.
    assert min(counts[name] for name in ("superseded", "withdrawn", "preempted", "retried")) > 10
    assert min(board.counts[name] for name in ("ok", "expired", "preempted", "repeated", "overtaken")) > 10
    assert late > 50
    assert statuses["expired"] >= late


def test_boxes_go_before_words_and_what_ranks_alike_goes_together() -> None:
    scheduler = Scheduler(RULES)
    scheduler.see(frame(10), window(10), 1.0)
    boxes = take(scheduler, 1.0)
    assert boxes.tasks == ("left", "right")
    assert boxes.window is None
    scheduler.done(boxes)
    words = take(scheduler, 1.0)
    assert words.tasks == ("intent", "next")
    assert words.window is not None
    assert scheduler.take(1.0) is None or scheduler.waiting == 0


def test_the_wearer_goes_first_and_stops_what_is_running() -> None:
    scheduler = Scheduler(RULES)
    scheduler.see(frame(10), window(10), 1.0)
    boxes = take(scheduler, 1.0)
    assert not boxes.stopped()
    scheduler.ask("where is my cup?", WEARER)
    assert boxes.stopped()
    scheduler.see(frame(11), None, 1.1)
    scheduler.done(boxes, ["left", "right"])
    assert scheduler.counts["preempted"] == 2
    # The window is gone with a gap or was not there yet: the question waits, boxes do not.
    retried = take(scheduler, 1.1)
    assert retried.tasks == ("left", "right")
    assert retried.picture.index == 11
    scheduler.done(retried)
    scheduler.see(frame(15), window(15), 1.5)
    question = take(scheduler, 1.5)
    assert question.tasks == ("where is my cup?",)
    scheduler.done(question)
    scheduler.see(frame(16), None, 1.6)
    assert take(scheduler, 1.6).tasks == ("left", "right")


def test_what_had_to_make_way_is_tried_again_with_what_is_newest() -> None:
    scheduler = Scheduler({"intent": RULES["intent"], "left": TaskRule(priority=1, every=50)})
    scheduler.see(frame(10), window(10), 1.0)
    scheduler.done(take(scheduler, 1.0))
    words = take(scheduler, 1.0)
    for index in range(11, 61):
        scheduler.see(frame(index), window(index // 10 * 10) if index % 10 == 0 else words.window, index / 10)
    assert words.tasks == ("intent",)
    assert words.stopped()
    scheduler.done(words, ["intent"])
    scheduler.done(take(scheduler, 2.5))
    again = take(scheduler, 6.0)
    assert again.tasks == ("intent",)
    assert again.window is not None
    assert again.window.newest.index == 60


def test_a_task_waits_once_and_sees_what_is_newest_when_it_is_taken() -> None:
    scheduler = Scheduler({"left": TaskRule()})
    for index in range(5):
        scheduler.see(frame(index), None, index / 10)
    assert scheduler.waiting == 1
    assert take(scheduler).picture.index == 4
    assert scheduler.take(0.4) is None
    assert scheduler.counts == {"requested": 5, "superseded": 4, "taken": 1}


def test_words_are_asked_every_few_slices() -> None:
    scheduler = Scheduler({"intent": TaskRule("window", every=3)})
    asked = []
    for index in range(0, 91, 10):
        scheduler.see(frame(index), window(index + 5), index / 10)
        work = scheduler.take(index / 10)
        if work is not None:
            asked.append(index)
            scheduler.done(work)
    assert asked == [0, 30, 60, 90]


def test_quick_pictures_cannot_keep_words_waiting_for_ever() -> None:
    scheduler = Scheduler(RULES)
    newest = window(5)
    taken: list[tuple[float, tuple[str, ...]]] = []
    for index in range(5, 40):
        now = index / 10
        scheduler.see(frame(index), newest, now)
        work = take(scheduler, now)
        # Each takes as long as a picture stays the newest.
        scheduler.done(work)
        taken.append((now, work.tasks))
    first = next(now for now, tasks in taken if "intent" in tasks)
    assert first == pytest.approx(0.5 + 2.0)
    assert next(tasks for now, tasks in taken if now == first) == ("left", "right", "intent", "next")


def test_work_that_carries_overdue_words_is_not_stopped_by_boxes() -> None:
    scheduler = Scheduler(RULES)
    scheduler.see(frame(10), window(10), 1.0)
    scheduler.done(take(scheduler, 1.0))
    words = take(scheduler, 3.0)
    scheduler.see(frame(30), words.window, 3.0)
    assert not words.stopped()
    scheduler.ask("where is my cup?", WEARER)
    assert words.stopped()


def test_a_gap_takes_away_what_waits_for_a_window_but_not_the_wearers_question() -> None:
    scheduler = Scheduler({"intent": TaskRule("window", every=5)})
    scheduler.see(frame(10), window(10), 1.0)
    scheduler.ask("where is my cup?", WEARER)
    scheduler.see(frame(60, gap=True), None, 6.0)
    assert scheduler.take(6.0) is None
    assert scheduler.counts["withdrawn"] == 1
    # The first slice behind the gap is due at once, whatever the period.
    scheduler.see(frame(70), window(70), 7.0)
    assert take(scheduler, 7.0).tasks == ("where is my cup?",)
    assert take(scheduler, 7.0).tasks == ("intent",)


def test_what_was_stopped_before_a_gap_is_not_tried_again_behind_it() -> None:
    scheduler = Scheduler(INTENT)
    scheduler.see(frame(10), window(10), 1.0)
    work = take(scheduler, 1.0)
    scheduler.see(frame(60, gap=True), None, 6.0)
    scheduler.done(work, ["intent"])
    assert scheduler.waiting == 0
    assert scheduler.counts["preempted"] == 1


def test_what_is_forgotten_stops_work_and_questions_wait_for_the_next_picture() -> None:
    scheduler = Scheduler(RULES)
    scheduler.ask("what is this?", WEARER)
    scheduler.see(frame(50), window(50), 5.0)
    work = take(scheduler, 5.0)
    assert not work.stopped()
    scheduler.forget()
    assert work.stopped()
    scheduler.done(work, work.tasks)
    scheduler.ask("and that?", WEARER)
    assert scheduler.take(9.0) is None
    assert not scheduler.wait(timeout=0)
    scheduler.see(frame(90, gap=True), window(90), 9.0)
    # The next picture does not let the old work go on.
    assert work.stopped()
    work = take(scheduler, 9.0)
    assert set(work.tasks) == {"what is this?", "and that?"}
    assert work.picture.index == 90
    assert not work.stopped()


def test_more_questions_than_anybody_can_wait_for_push_out_the_oldest() -> None:
    scheduler = Scheduler(INTENT)
    for number in range(20):
        scheduler.ask(f"question {number}", WEARER)
    scheduler.see(frame(10), window(10), 1.0)
    assert take(scheduler).tasks == tuple(f"question {number}" for number in range(12, 20))
    assert scheduler.counts["superseded"] == 12


def test_closing_stops_running_work_and_lets_nothing_start() -> None:
    scheduler = Scheduler(RULES)
    scheduler.see(frame(10), window(10), 1.0)
    work = take(scheduler, 1.0)
    scheduler.close()
    assert work.stopped()
    assert scheduler.take(1.0) is None
    assert not scheduler.wait()


def test_waiting_ends_when_something_is_due_or_the_time_is_up() -> None:
    scheduler = Scheduler(RULES)
    assert not scheduler.wait(timeout=0.0)
    scheduler.see(frame(0), None, 0.0)
    assert scheduler.wait(timeout=0.0)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"deadline": 0.0}, {"deadline": float("nan")}])
def test_a_rule_that_cannot_work_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        TaskRule(**wrong)  # type: ignore[arg-type]


def test_a_result_that_comes_too_late_is_expired_and_one_that_grows_old_vanishes() -> None:
    board = LatestResults[str, str](RULES)
    showing = board.show(frame(30), 3.0, [Result("left", "here", 0.9), Result("right", "there", 1.1)])
    assert [result.status for result in showing.new] == ["expired", "ok"]
    assert [result.task for result in showing.current] == ["right"]
    assert board.current(3.1) != []
    assert board.current(3.2) == []
    # It was in time when it came.
    assert board.counts["expired"] == 1


def test_an_older_result_does_not_replace_a_newer_one() -> None:
    board = LatestResults[str, str](RULES)
    board.post(Result("left", "new", 1.0), 1.1)
    assert board.post(Result("left", "old", 0.9), 1.2).status == "expired"
    assert [result.value for result in board.current(1.2)] == ["new"]


def test_a_result_from_before_a_gap_is_not_shown_behind_it() -> None:
    board = LatestResults[str, str](RULES)
    board.post(Result("left", "before", 1.0), 1.1)
    board.gap(2.0)
    assert board.current(2.0) == []
    assert board.post(Result("left", "before", 1.5), 2.1).status == "expired"
    assert board.post(Result("left", "behind", 2.0), 2.2).status == "ok"


def test_the_wearers_answer_is_never_too_late_and_gives_way_to_the_next() -> None:
    board = LatestResults[str, str](RULES)
    board.post(Result("where is my cup?", "on the shelf", 0.0), 60.0)
    assert [result.value for result in board.current(100.0)] == ["on the shelf"]
    board.post(Result("and the spoon?", "in the cup", 90.0), 101.0)
    assert [result.value for result in board.current(101.0)] == ["in the cup"]


def test_deadlines_do_not_count_where_time_stands_still() -> None:
    board = LatestResults[str, str](RULES, timely=False)
    assert board.post(Result("left", "here", 0.0), 100.0).status == "ok"
    assert len(board.current(1000.0)) == 1


def test_the_same_found_again_is_counted() -> None:
    board = LatestResults[str, str](RULES, same=lambda one, other: one.lower() == other.lower())
    for time, value in enumerate(("tea", "Tea", "coffee", "tea")):
        board.post(Result("intent", value, float(time)), float(time))
    assert board.counts["repeated"] == 1
