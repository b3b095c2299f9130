"""A memory loses nothing by a wrong clock, and keeps nothing that any process has forgotten."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine

from egolive.assistant.cli import main as cli
from egolive.assistant.generation.generate import GenerationRequest
from egolive.assistant.memory.live_memory import LiveMemory
from egolive.assistant.memory.moment_store import Limits, Memory, Moment
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Prompt, Request
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import DataError
from egolive.streaming.frames import Frame, Interval
from egolive.streaming.sources.source import Source

DAY, HOUR = 86_400.0, 3600.0
START = 1.7e9


def said(at: float, text: str, **values: Any) -> Moment:
    return Moment(at=at, time=at - START, kind="intent", text=text, **values)


def texts(memory: Memory) -> list[str]:
    return [moment.text for moment in reversed(memory.newest(limit=10_000))]


def fill(memory: Memory, start: float, hours: float, word: str) -> None:
    """A moment each five minutes."""
    for number in range(round(hours * 12)):
        assert memory.add(said(start + number * 300, f"{word} {number}"))


@pytest.mark.parametrize("jump", [30 * DAY, -30 * DAY, float(60 * 365 * DAY)])
def test_a_moment_dated_far_away_erases_nothing(tmp_path: Path, jump: float) -> None:
    with Memory(tmp_path) as memory:
        fill(memory, START, 2, "before")
        assert memory.add(said(START + jump, "odd"))
        fill(memory, START + 2 * HOUR, 2, "after")
        assert len(texts(memory)) == 49
        # Nor does it take away the room for what comes then.
        assert memory.refused == 0


def test_a_clock_that_was_wrong_for_several_runs_erases_nothing(tmp_path: Path) -> None:
    with Memory(tmp_path) as memory:
        fill(memory, START, 6, "morning")
    for run in range(3):
        with Memory(tmp_path) as memory:
            fill(memory, START + 30 * DAY + run * 2 * HOUR, 1.5, f"wrong{run}")
    with Memory(tmp_path) as memory:
        fill(memory, START + 9 * HOUR, 1, "evening")
        assert sum(text.startswith("morning") for text in texts(memory)) == 72


def test_what_is_dated_in_the_future_ages_as_everything_else(tmp_path: Path) -> None:
    with Memory(tmp_path, clock=VirtualClock()) as memory:
        fill(memory, START, 1, "before")
        memory.add(said(START + 30 * DAY, "future"))
        fill(memory, START + HOUR, 24.5, "after")
        kept = texts(memory)
    assert "future" not in kept
    assert not [text for text in kept if text.startswith("before")]
    assert "after 293" in kept
    assert len(kept) == 24 * 12 + 1


def test_a_memory_that_lay_unused_loses_what_is_too_old_once_the_dates_have_held(tmp_path: Path) -> None:
    with Memory(tmp_path) as memory:
        fill(memory, START, 2, "old")
    with Memory(tmp_path) as memory:
        fill(memory, START + 30 * DAY, 5, "new")
        assert "old 0" in texts(memory)
        fill(memory, START + 30 * DAY + 5 * HOUR, 2, "newer")
        assert not [text for text in texts(memory) if text.startswith("old")]
        assert "new 0" in texts(memory)


def test_a_single_moment_after_a_long_rest_of_the_stream_is_not_believed() -> None:
    clock = VirtualClock()
    memory = Memory(clock=clock)
    fill(memory, START, 2, "before")
    clock.advance(10 * HOUR)
    memory.add(said(START + 30 * DAY, "odd"))
    memory.add(said(START + 30 * DAY + 1, "odd too"))
    assert "before 0" in texts(memory)
    # What passed for the process counts, whatever the dates say.
    clock.advance(15 * HOUR)
    memory.add(said(START + 60 * DAY, "later"))
    assert texts(memory) == ["odd", "odd too", "later"]


def test_a_file_of_an_older_version_is_taken_over_with_the_ages_of_its_order(tmp_path: Path) -> None:
    with Memory(tmp_path) as memory:
        fill(memory, START, 2, "old")
    file = sqlite3.connect(tmp_path / "memory.sqlite")
    file.executescript("DROP TABLE ages; DROP TABLE forgotten;")
    file.close()
    with Memory(tmp_path, Limits(seconds=HOUR)) as memory:
        assert len(texts(memory)) == 24
        memory.add(said(START + 2 * HOUR, "new"))
        assert texts(memory)[0] == "old 12"
    with Memory(tmp_path, read_only=True) as memory:
        assert memory.search("old")


def test_the_last_minutes_are_forgotten_by_their_order_too(tmp_path: Path) -> None:
    """The clock was set back by a day: dates alone would leave what was said last."""
    with Memory(tmp_path) as memory:
        fill(memory, START, 1, "early")
        memory.add(said(START + HOUR + DAY, "secret one"))
        memory.add(said(START + HOUR + 60, "secret two"))
        # A jump of the date adds nothing to the memory's own clock, so one moment more goes than has to.
        assert memory.forget_last(240) == 3
        assert texts(memory)[-1] == "early 10"
        assert b"secret" not in whole(tmp_path)


def test_a_forgotten_stretch_binds_every_process_that_has_the_file_open(tmp_path: Path) -> None:
    with Memory(tmp_path) as ours, Memory(tmp_path) as theirs:
        ours.add(said(START + 10, "secret one"))
        assert theirs.forget(START, START + 60) == 1
        # On its way while the other forgot: of the stretch itself, and of any time until it is obeyed.
        assert ours.add(said(START + 30, "secret two")) == 0
        assert ours.add(said(START + 70, "secret three")) == 0
        number = ours.forgotten_elsewhere()
        assert number
        ours.obeyed(number)
        assert not ours.forgotten_elsewhere()
        assert ours.add(said(START + 30, "secret four")) == 0
        assert ours.add(said(START + 80, "later"))
        assert not theirs.forgotten_elsewhere()
    with Memory(tmp_path) as again:
        # It stands in the file.
        assert again.add(said(START + 30, "secret five")) == 0
        assert texts(again) == ["later"]
    assert b"secret" not in whole(tmp_path)


def test_what_both_forget_is_obeyed_by_both(tmp_path: Path) -> None:
    with Memory(tmp_path) as ours, Memory(tmp_path) as theirs:
        theirs.forget(START, START + 10)
        ours.forget(START + 20, START + 30)
        assert ours.forgotten_elsewhere()
        assert theirs.forgotten_elsewhere()


class Frames(Source):
    """Three frames a second that wait to be told."""

    live = True
    name = "frames"
    fps: float | None = 3.0
    size: tuple[int, int] | None = (28, 28)
    broken = 0

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.now = 0.0

    def __iter__(self) -> Any:
        for index in range(1000):
            self.go.acquire()
            self.now = index / 3
            yield Frame(np.zeros((28, 28, 3), np.uint8), index / 3, index)

    def close(self) -> None: ...


def answer(text: str, start: float, end: float) -> tuple[GenerationRequest, Request, Answer]:
    question = Question("intent")
    found = Answer(question, text, time=end, window=Interval(start, end))
    generation = GenerationRequest(question=question, prompt=Prompt(()), source_size=(28, 28), time=end)
    return generation, Request(Prompt(())), found


def test_a_running_stream_obeys_what_another_process_forgets(tmp_path: Path) -> None:
    """What it said of the time before comes no more, nor what is known from it; the window starts anew."""
    dropped: list[str] = []

    class Assistant:
        def forget_soon(self) -> None:
            dropped.append("assistant")

    source = Frames()
    with Memory(tmp_path) as memory, LiveMemory(memory, FakeEngine(), started=START) as live:
        live.attend(Assistant())  # type: ignore[arg-type]
        frames = iter(live.watch(source))
        for _ in range(4):
            source.go.release()
            assert not next(frames).gap
        live.keep(*answer("secret plan", 0.0, 0.6), ())
        assert texts(memory) == ["secret plan"]
        done = subprocess.run(
            [sys.executable, "-m", "egolive", "forget", str(tmp_path), "10"], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, "forgot 1 moments\n"), done.stderr
        until = time.monotonic() + 10
        while not dropped and time.monotonic() < until:
            time.sleep(0.01)
        assert dropped == ["assistant"]
        # An answer that was on its way: its newest frame is from before, or only its oldest.
        live.keep(*answer("secret plan two", 0.3, 0.9), ())
        live.keep(*answer("secret plan three", 0.9, 1.4), ())
        assert texts(memory) == []
        source.go.release()
        assert next(frames).gap
        live.keep(*answer("new plan", 1.34, 1.7), ())
        assert texts(memory) == ["new plan"]
    assert b"secret" not in whole(tmp_path)


def test_the_next_answer_is_refused_even_if_nobody_looked_for_what_others_forgot(tmp_path: Path) -> None:
    with Memory(tmp_path) as memory, Memory(tmp_path) as other:
        live = LiveMemory(memory, FakeEngine(), started=START)
        live.watch(Frames())
        live.keep(*answer("secret", 0.0, 0.0), ())
        other.forget_last(60)
        live.keep(*answer("secret", 0.0, 0.0), ())
        assert texts(memory) == []


def spoil(folder: Path, script: str) -> None:
    file = sqlite3.connect(folder / "memory.sqlite")
    file.executescript(script)
    file.close()


HOSTILE = {
    "trigger": "CREATE TABLE side (text); CREATE TRIGGER keep BEFORE DELETE ON moments BEGIN "
    "INSERT INTO side VALUES (old.text); END;",
    "side table": "CREATE TABLE side AS SELECT * FROM moments;",
    "view": "CREATE VIEW seen AS SELECT text FROM moments;",
    "index": "CREATE INDEX more ON moments (text);",
    "virtual table": "CREATE VIRTUAL TABLE copied USING fts5 (text);",
    "another moments": "ALTER TABLE moments ADD COLUMN more TEXT;",
    "name of many lines": 'CREATE TABLE "a\nTraceback\nb" (text);',
    "statistics": "ANALYZE;",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_with_anything_that_egolive_did_not_make_is_refused_in_one_line(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Memory(tmp_path) as memory:
        memory.add(said(START, "secret"))
    spoil(tmp_path, HOSTILE[kind])
    before = whole(tmp_path)
    assert cli.call(["forget", str(tmp_path), "10"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert "that egolive did not make" in told.err
    for read_only in (False, True):
        with pytest.raises(DataError):
            Memory(tmp_path, read_only=read_only)
    assert whole(tmp_path) == before


DAMAGED = {
    "text as time": "UPDATE moments SET at = 'soon'",
    "no end of time": "UPDATE moments SET time = 9e999",
    "unknown kind": "UPDATE moments SET kind = 'joke'",
    "bytes as text": "UPDATE moments SET text = x'00ff'",
    "a size of text": "UPDATE moments SET width = 'wide', height = 3",
    "an impossible size": "UPDATE moments SET width = -1, height = 3",
    "half a box": "UPDATE moments SET x1 = 3",
    "a picture of text": "UPDATE moments SET picture = 'jpeg'",
    "text that is no UTF-8": "UPDATE moments SET text = CAST(x'ff' AS TEXT)",
    "far too long a text": "UPDATE moments SET text = hex(zeroblob(1000000))",
    "huge bytes": "UPDATE moments SET picture = zeroblob(100000000)",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_values_are_looked_at_when_they_are_read(tmp_path: Path, kind: str) -> None:
    with Memory(tmp_path) as memory:
        memory.add(said(START, "tea"))
    spoil(tmp_path, DAMAGED[kind])

    def read(look: Callable[[Memory], object]) -> None:
        with pytest.raises(DataError) as caught, Memory(tmp_path, read_only=True) as memory:
            look(memory)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400

    read(lambda memory: memory.newest())
    read(lambda memory: memory.search("tea"))


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    with Memory(tmp_path) as memory:
        for number in range(50):
            memory.add(said(START + number, f"tea number {number} " * 20, picture=bytes(2000)))
    path = tmp_path / "memory.sqlite"
    data = bytearray(path.read_bytes())
    # The first page, with the schema, is whole.
    data[5000:] = bytes(len(data) - 5000)
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"), Memory(tmp_path, read_only=True) as memory:
        memory.newest()
    path.write_bytes(b"no SQLite at all" * 1000)
    with pytest.raises(DataError, match="no memory that can be used"):
        Memory(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="is no file"):
        Memory(tmp_path)


def test_who_only_looks_cannot_write(tmp_path: Path) -> None:
    Memory(tmp_path).close()
    with (
        Memory(tmp_path, read_only=True) as memory,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        memory._file.execute("DELETE FROM moments")


def test_a_file_in_another_mode_keeps_no_second_file_with_what_is_forgotten(tmp_path: Path) -> None:
    with Memory(tmp_path) as memory:
        memory.add(said(START, "secret"))
    spoil(tmp_path, "PRAGMA journal_mode = WAL; UPDATE moments SET time = 1;")
    with Memory(tmp_path) as memory:
        assert memory.forget_last(60) == 1
        assert b"secret" not in whole(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["memory.sqlite"]


def whole(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
