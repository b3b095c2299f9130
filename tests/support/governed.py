"""A live run without threads or waiting: pictures by a clock, an engine whose costs are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from egolive.streaming.frames import Frame, Image
from egolive.streaming.pipeline.choice import Choice, LoadReading
from egolive.streaming.pipeline.cost_estimates import Spent
from egolive.streaming.pipeline.governor import Governor, Knob
from egolive.streaming.pipeline.latest_results import LatestResults
from egolive.streaming.pipeline.results import Result
from egolive.streaming.pipeline.scheduler import Scheduler, TaskRule, Work
from egolive.streaming.pipeline.windowing import Windower

BOXES = ("left hand", "right hand", "in left", "in right")
WORDS = ("intent", "next")
FPS = 10.0
_RNG = np.random.default_rng(0)
SCENE = _RNG.integers(0, 256, (72, 128, 3), dtype=np.uint8)


def moving(time: float) -> Image:
    """Another picture at each time."""
    return np.roll(SCENE, round(time * 40), axis=1)


def still(_: float) -> Image:
    return SCENE


def rules(every: int = 2) -> dict[str, TaskRule]:
    """As `recurring_rules` has them."""
    return {name: TaskRule("window", 2, every, 15.0, 2.0) for name in WORDS} | {
        name: TaskRule("picture", 1, deadline=5.0) for name in BOXES
    }


@dataclass
class Costs:
    """Seconds of an engine."""

    picture: float = 0.1
    """To read a picture."""
    piece: float = 0.05
    """To read a slice that is new."""
    word: float = 0.1
    """To write the answers to one ask; each further one takes a fifth of it more."""
    slower: Callable[[float], float] = lambda _: 1.0
    """Factor at a stream time."""


@dataclass
class Played:
    """What came of a run."""

    governor: Governor[str, Spent] | None
    choices: list[tuple[float, Choice]] = field(default_factory=list)
    works: list[Work[str]] = field(default_factory=list)
    shown: list[Result[str, Spent]] = field(default_factory=list)
    expired: list[Result[str, Spent]] = field(default_factory=list)
    stale: int = 0
    """Times that something was shown as current behind its deadline though something had moved."""

    @property
    def held(self) -> float:
        """Share of the answers that came in time."""
        return len(self.shown) / max(1, len(self.shown) + len(self.expired))


def play(
    costs: Costs,
    *,
    seconds: float = 60.0,
    governed: bool = True,
    every: int = 2,
    slices: int = 4,
    held: tuple[Knob, ...] = (),
    picture: Callable[[float], Image] = moving,
    sense: Callable[[], LoadReading] = LoadReading,
    put: dict[int, str] | None = None,
    touched: dict[int, str] | None = None,
) -> Played:
    """Run pictures, scheduler, governor and a simulated engine by the clock of the pictures.

    Args:
        costs: Of the engine.
        seconds: Of the stream.
        governed: Whether a governor chooses.
        every: Slices from one question about the window to the next.
        slices: Of a full window.
        held: Settings that the governor leaves alone.
        picture: The picture at a time.
        sense: The load of the machine.
        put: Questions of the wearer, by index of the frame before which they are asked.
        touched: What hands did, by index of the frame before which it is told; makes tasks wait for that.
    """
    scheduler: Scheduler[str] = Scheduler(rules(every))
    governor: Governor[str, Spent] | None = None
    if governed:
        governor = Governor(
            scheduler.rules,
            slices=slices,
            every=every,
            slice_seconds=1.0,
            held=held,
            spent=lambda spent: spent,
            sense=sense,
            names=("boxes", "words"),
            on_contact=touched is not None,
        )
    windower = Windower(2.0, slices, FPS)
    latest: LatestResults[str, Spent] = LatestResults(scheduler.rules)
    played = Played(governor)
    running: tuple[Work[str], float, list[tuple[Result[str, Spent], float]]] | None = None
    read = -1
    for index in range(round(seconds * FPS)):
        now = index / FPS
        if put and index in put:
            scheduler.ask(put[index], TaskRule("window", 0))
        if governor and touched and index in touched:
            governor.touched(now, touched[index])
        frame = Frame(picture(now), now, index)
        choice = governor.see(frame) if governor else None
        if choice is not None:
            played.choices.append((now, choice))
            windower.resize(choice.slices)
            scheduler.govern(choice)
            latest.hold(choice.still_since)
        sampled = windower.push(frame)
        scheduler.see(frame, sampled.window, now)
        done: list[Result[str, Spent]] = []
        if running is not None and running[1] <= now:
            work, ends, results = running
            if governor is not None:
                governor.worked(work, results)
            scheduler.done(work, now=ends)
            done, running = [result for result, _ in results], None
        showing = latest.show(frame, now, done)
        played.shown += [result for result in showing.new if result.status == "ok"]
        played.expired += [result for result in showing.new if result.status == "expired"]
        for result in showing.current:
            age, rule = now - result.time, scheduler.rules.get(result.task)
            unmoved = choice_holds(played.choices, result.time)
            played.stale += rule is not None and age > rule.deadline and not unmoved
        if running is None and (taken := scheduler.take(now)) is not None:
            played.works.append(taken)
            running, read = _work(taken, costs, now, read)
    return played


def choice_holds(choices: list[tuple[float, Choice]], time: float) -> bool:
    """Whether nothing has moved since a time, by the last choice."""
    since = choices[-1][1].still_since if choices else None
    return since is not None and time >= since


def _work(
    work: Work[str], costs: Costs, now: float, read: int
) -> tuple[tuple[Work[str], float, list[tuple[Result[str, Spent], float]]], int]:
    window = [task for task in work.tasks if task not in BOXES]
    reading = costs.picture * work.size if len(window) < len(work.tasks) else 0.0
    if window and work.window is not None:
        newest = work.window.slices[-1].index
        fresh = min(len(work.window), newest - read)
        reading += costs.piece * fresh * work.size
        read = newest
    writing = costs.word * (1 + 0.2 * (len(work.tasks) - 1))
    factor = costs.slower(now)
    spent = Spent(reading * factor, (reading + writing) * factor, 0.1)
    results = [
        (
            Result(
                task,
                spent,
                work.window.newest.time if task in window and work.window else work.picture.time,
            ),
            spent.total,
        )
        for task in work.tasks
    ]
    return (work, now + spent.total, results), read
