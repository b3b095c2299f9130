"""The parts of `egolive bench governor`: the clip in memory, the slowed engine, and what a gate misses."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from fakes import FakeEngine

from egolive.assistant.schema.engine import Prompt, Request
from egolive.benchmarks.stream import contact_changes as contacts
from egolive.benchmarks.stream.governor_runs import KeptClip, SlowedEngine, play
from egolive.streaming.frames import Frame
from egolive.streaming.pipeline.motion_gate import MotionGate

FRAMES = [
    Frame(np.random.default_rng(index).integers(0, 256, (90, 160, 3), dtype=np.uint8), 3 + index / 20, index)
    for index in range(6)
]


def test_a_clip_in_memory_goes_on_and_tells_where_it_begins_anew() -> None:
    clip = KeptClip(FRAMES)
    seen = []
    for frame in clip:
        seen.append(frame)
        if len(seen) == 8:
            clip.close()
    assert [round(frame.time, 2) for frame in seen] == [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
    assert [frame.gap for frame in seen] == [False] * 6 + [True, False]


def test_an_engine_is_slowed_by_a_multiple_of_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks, slept = itertools.count(), list[float]()
    monkeypatch.setattr(time, "thread_time", lambda: float(next(ticks)))
    monkeypatch.setattr(time, "sleep", slept.append)
    engine = SlowedEngine(FakeEngine(), lambda: 4.0)
    with engine.session() as session:
        found = list(session.ask([Request(Prompt(("What is the wearer doing?",)))]))
    assert "".join(delta.text for delta in found) == "make tea"
    # One more for what comes behind the last token.
    assert slept == [3.0] * (len(found) + 1)
    assert engine.calls == 1


def test_a_governed_run_tells_what_was_chosen() -> None:
    run = play(SlowedEngine(FakeEngine(), lambda: 1.0), KeptClip(FRAMES), seconds=0.5, govern=True)
    assert run["answers"] > 0
    assert run["stale"] == 0
    assert run["choices"][0]["reason"] == "costs are not known yet"


@pytest.mark.parametrize("since", [None, 0.0], ids=["open", "closed"])
def test_changes_of_contact_are_missed_where_the_gate_is_closed(
    monkeypatch: pytest.MonkeyPatch, since: float | None
) -> None:
    monkeypatch.setattr(contacts, "_FPS", 2.0)
    monkeypatch.setattr(contacts, "_SIZE", (96, 54))
    monkeypatch.setattr(MotionGate, "push", lambda *_: since)
    found = contacts.contact_changes(1)
    assert found["changes"] > 3
    assert found["missed"] == (0 if since is None else found["changes"])
