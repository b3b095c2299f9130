"""Memory of a stream: found again by asking, bounded, and forgotten without a trace."""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine, text_of
from numpy.typing import NDArray

from egolive.assistant.cli import main as cli
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import CallbackSink
from egolive.assistant.load_local import load_engine
from egolive.assistant.memory.encodings import encoding_of, give_encoding
from egolive.assistant.memory.live_memory import LiveMemory, seconds_to_forget
from egolive.assistant.memory.moment_store import Kind, Limits, Memory, Moment
from egolive.assistant.memory.recall import recall, thing_asked_for
from egolive.assistant.prompts.prompts import make_vision
from egolive.assistant.runtime.engine_session import Session
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Prompt, Request
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import DataError, UsageError
from egolive.streaming.frames import Box, Frame
from egolive.streaming.sources.source import Source

HELD = Question("ground", "object in the right hand")
QUESTIONS = (Question("intent"), Question("next"), HELD)
PLACE = Box(36, 36, 72, 72)


class Scenes(Source):
    """Ten pictures a second of 144x72: a green cup is held from 3 to 6 s, red paint from 9 to 12 s."""

    def __init__(self, seconds: float, *, live: bool = False) -> None:
        self.live = live
        self.name = "scenes"
        self.fps: float | None = 10.0
        self.size: tuple[int, int] | None = (144, 72)
        self.broken = 0
        self.images: list[tuple[float, weakref.ref[NDArray[np.uint8]]]] = []
        self._seconds = seconds

    def __iter__(self) -> Iterator[Frame]:
        for index in range(round(self._seconds * 10)):
            yield self._frame(index)

    def _frame(self, index: int) -> Frame:
        time = index / 10
        image = np.full((72, 144, 3), 128, np.uint8)
        image[0, 0] = [index % 250, index // 250, 1]
        colour = [20, 200, 20] if time < 8 else [220, 20, 20]
        # In the hand at one place, afterwards at another one.
        held = 3 <= time < 6 or 9 <= time < 12
        left = 36 if held else 96
        image[36:72, left : left + 36] = colour
        image[0, 1] = [255 * held, 255, 0]
        self.images.append((time, weakref.ref(image)))
        return Frame(image, time, index)

    def close(self) -> None: ...


class Sighted(FakeEngine):
    """Looks at the pictures: the cup is green, the paint is red; a blue-white corner says what is held."""

    def session(self, *args: Any) -> Any:
        session = super().session()
        ask = session.ask

        def seeing(requests: Any) -> Any:
            self.script = lambda text: ""
            answers = [self._see(request) for request in requests]
            found = iter(answers)
            self.script = lambda _: next(found)
            return ask(requests)

        session.ask = seeing  # type: ignore[method-assign]
        return session

    def _see(self, request: Request) -> str:
        text = text_of(request.prompt)
        image = request.prompt.parts[1].frames[-1]  # type: ignore[union-attr]
        if "object in the right hand" in text:
            return "<|box_start|>(250,500),(500,1000)<|box_end|>" if image[0, 1, 0] > 128 else "none"
        wanted = {"cup": (1, 0), "paint": (0, 1)}
        for thing, (high, low) in wanted.items():
            if f"Find the {thing}." in text:
                pixels = image.astype(int)
                rows, columns = np.nonzero(pixels[:, :, high] - pixels[:, :, low] > 100)
                if not len(rows):
                    return "none"
                height, width = image.shape[:2]
                corners = [columns.min() / width, rows.min() / height]
                corners += [(columns.max() + 1) / width, (rows.max() + 1) / height]
                a, b, c, d = (round(1000 * value) for value in corners)
                return f"<|box_start|>({a},{b}),({c},{d})<|box_end|>"
        return "none" if "Find" in text else "make tea" if "doing" in text else "pour water"


def remembered(
    folder: Path | None, source: Scenes, engine: FakeEngine | None = None, **options: Any
) -> Memory:
    """Play a source and return what was remembered."""
    memory = Memory(folder)
    engine = engine or Sighted()
    live = LiveMemory(memory, engine, started=1e9, **options)
    clock = VirtualClock()
    with Assistant(engine, questions=QUESTIONS, observer=live, clock=clock) as assistant:
        live.attend(assistant)
        run_stream(live.watch(source), assistant, [], fps=2.0, slices=2, clock=clock)
    return memory


def test_what_was_put_down_is_found_with_its_time_and_place(tmp_path: Path) -> None:
    with remembered(tmp_path, Scenes(16)) as memory:
        cup = recall(memory, Sighted(), "Where did I put the cup?")
        paint = recall(memory, Sighted(), "where is my paint")
    assert cup is not None
    assert paint is not None
    assert cup.put
    assert paint.put
    assert (cup.time, paint.time) == (6.0, 12.0)
    assert cup.at == pytest.approx(1e9 + 6)
    # Where it lies in the picture after it was put down, not where it was held.
    assert cup.box.iou(Box(96, 36, 132, 72)) > 0.8
    assert cup.size == (144, 72)


def test_what_was_never_held_or_seen_is_not_made_up(tmp_path: Path) -> None:
    with remembered(tmp_path, Scenes(8)) as memory:
        assert recall(memory, Sighted(), "where did I put the spoon?") is None
        # It lay about, but no hand had it: seen, not put.
        assert recall(memory, Sighted(), "where is the paint?") is None


def test_words_find_moments_by_their_stems() -> None:
    memory = Memory()
    for number, text in enumerate(["pour water into the mug", "cut the bread", "washes the cups"]):
        memory.add(moment(number, text))
    assert [found.text for found in memory.search("pouring Mugs")] == ["pour water into the mug"]
    assert [found.text for found in memory.search("cup")] == ["washes the cups"]
    assert memory.search("kettle") == memory.search('"); DROP TABLE') == []


@pytest.mark.parametrize(
    ("question", "thing"),
    [
        ("Where did I put the cup?", "cup"),
        ("where is my red cup", "red cup"),
        ("Where have I left the tin of nails?", "tin of nails"),
        ("kettle", "kettle"),
        ("Where did I put?", ""),
    ],
)
def test_the_thing_is_what_is_left_of_the_question(question: str, thing: str) -> None:
    assert thing_asked_for(question) == thing


def test_a_question_that_names_nothing_is_not_looked_for() -> None:
    with pytest.raises(UsageError, match="names nothing"):
        recall(Memory(), FakeEngine(), "where?")


@pytest.mark.parametrize("line", ["forget", "forget everything", "Forget the last 0 minutes"])
def test_what_asks_to_forget_without_saying_how_much_is_told_so(line: str) -> None:
    memory, told = Memory(), list[str]()
    memory.add(moment(0, "kept"))
    assert LiveMemory(memory, FakeEngine()).take(line, told.append)
    assert "nothing was forgotten" in told[0]
    assert memory.newest()


def test_words_of_the_timeline_are_told_where_nothing_is_seen() -> None:
    memory, told = Memory(), list[str]()
    memory.add(moment(3, "make coffee"))
    assert LiveMemory(memory, FakeEngine(lambda _: "none")).take("where is the coffee?", told.append)
    assert told == ['nothing that is remembered shows it; at 3.0 s was noted "make coffee"']


def test_memory_and_disk_stay_bounded_over_eight_hours(tmp_path: Path) -> None:
    limits = Limits(picture_bytes=200_000, encoding_bytes=300_000, encoding_seconds=3600.0, seconds=7200.0)
    rng = np.random.default_rng(0)
    largest = 0
    with Memory(tmp_path, limits) as memory:
        # Each minute all that there is room for, and every tenth time more.
        for number in range(8 * 60):
            data = rng.bytes(10_000)
            words = f"word{number} " * (700 if number % 10 == 9 else 400)
            memory.add(moment(number * 60.0, words, picture=data, encoding=data * 2))
            if number % 40 == 0:
                sizes = memory.sizes()
                assert sizes["pictures"] <= limits.picture_bytes
                assert sizes["encodings"] <= limits.encoding_bytes
                assert sizes["text"] <= 4096 * (limits.seconds / 60 + 1)
                largest = max(largest, (tmp_path / "memory.sqlite").stat().st_size)
        assert memory.refused == 48
        # Within the last two hours' words, their index, and what is kept of pictures.
        assert largest < 3_500_000
        assert not memory.search("word5")
        assert memory.newest(limit=1)


def test_after_forget_nothing_of_the_span_is_left_in_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    secrets = [rng.bytes(3000) for _ in range(4)]
    with Memory(tmp_path) as memory:
        memory.add(moment(0, "kept forever", picture=secrets[0], encoding=secrets[1]))
        memory.add(moment(100, "secret xylophone", picture=secrets[2], encoding=secrets[3]))
        assert b"xylophone" in whole(tmp_path)
        assert secrets[3][:64] in whole(tmp_path)
        assert memory.forget(1e9 + 50, 1e9 + 200) == 1
        assert not memory.search("xylophone")
        assert not memory.add(moment(150, "xylophone again"))
        # The index keeps words apart from their beginnings, so parts are looked for.
        for trace in (b"xylophone", b"xyloph", b"secret", secrets[2][:64], secrets[3][:64], secrets[3][-64:]):
            assert trace not in whole(tmp_path)
        assert [found.text for found in memory.search("forever")] == ["kept forever"]
        assert secrets[0][:64] in whole(tmp_path)
        assert secrets[1][:64] in whole(tmp_path)
        assert memory.add(moment(201, "a new beginning"))


def test_a_file_that_is_busy_costs_a_moment_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Memory(tmp_path) as memory:
        memory._file.execute("PRAGMA busy_timeout = 10")
        other = sqlite3.connect(tmp_path / "memory.sqlite", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        assert memory.add(moment(0, "nobody knows", picture=b"x")) == 0
        assert memory.refused == 1
        assert "could not be remembered" in caplog.text
        assert "nobody" not in caplog.text
        with pytest.raises(DataError, match="forget once more"):
            memory.forget(0, 2e9)
        other.execute("ROLLBACK")
        other.close()
        # What was to be forgotten is not remembered, whatever became of the file.
        assert memory.add(moment(-1e9 + 5, "too late")) == 0
        assert memory.forget(0, 2e9) == 0
    with Memory(tmp_path / "new") as memory:
        assert memory.add(moment(0, "still here"))


def test_forgetting_while_a_stream_runs_leaves_no_frame_encoding_or_key(tmp_path: Path) -> None:
    engine = load_engine("nano", device="cpu")
    memory = Memory(tmp_path)
    live = LiveMemory(memory, engine, encodings=True, started=1e9)
    scenes = Scenes(6)
    sessions: list[Session] = []
    forgot = threading.Event()
    alive: list[float] = []
    before: list[int] = []

    def looked(now: float) -> None:
        if now >= 3.0 and not forgot.is_set():
            (session,) = sessions
            before.extend([len(session.slices), session.kept.nbytes])
            live.forget(60.0)
            forgot.set()

    class Watch(CallbackSink):
        def emit(self, shown: Any) -> None:
            looked(shown.frame.time)

    with Assistant(engine, questions=QUESTIONS[:2], observer=live) as assistant:
        assert isinstance(assistant.engine_session, Session)
        sessions.append(assistant.engine_session)
        live.attend(assistant)
        run_stream(live.watch(scenes), assistant, [Watch(lambda _: None)], fps=2.0, slices=2)
        assert min(before) > 0
        gc.collect()
        # A recording is read some frames ahead of the show, which is where it was forgotten.
        alive += [time for time, image in scenes.images if image() is not None]
        assert not [time for time in alive if time < 3.0]
        assert all(found.time > 3.0 for found in memory.newest(limit=1000))
    memory.close()


def test_an_encoding_stands_in_for_its_picture() -> None:
    engine = load_engine("nano", device="cpu")
    picture = np.random.default_rng(0).integers(0, 256, (140, 224, 3), dtype=np.uint8)
    vision = make_vision([picture], engine.profile, keys=("one",))
    blank = make_vision([np.zeros_like(picture)], engine.profile, keys=("two",))
    words = "<|vision_end|>Find the left hand."

    def ask(session: Any, seen: Any) -> list[tuple[int, float]]:
        request = Request(Prompt(("<|vision_start|>", seen, words)), max_tokens=8)
        return [(delta.token, delta.logprob) for delta in session.ask([request])]

    with engine.session() as session:
        truth = ask(session, vision)
        encoding = encoding_of(session, vision, "nano")
    assert encoding is not None
    with engine.session() as session:
        assert not give_encoding(session, blank, encoding, "another", "cpu")
        assert give_encoding(session, blank, encoding, "nano", "cpu")
        for (token, logprob), (wanted, expected) in zip(ask(session, blank), truth, strict=True):
            assert token == wanted
            assert logprob == pytest.approx(expected, abs=1e-5)
        assert session.usage()["slices_encoded"] == 0


def test_the_wearer_asks_and_lets_forget_by_typing(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    live = LiveMemory(memory, Sighted(), started=time.time())
    told: list[str] = []
    memory.add(Moment(at=time.time(), time=1.0, kind="intent", text="make tea"))
    assert not live.take("What is this?", told.append)
    assert live.take("where did I put the cup?", told.append)
    assert live.take("forget the last 5 minutes", told.append)
    assert "nothing" in told[0]
    assert "forgot" in told[1]
    assert [
        seconds_to_forget(line) for line in ("forget the last 5 minutes", "Forget last hour", "forget it")
    ] == [
        300.0,
        3600.0,
        None,
    ]


def test_a_memory_that_was_left_behind_is_asked_and_forgotten_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remembered(tmp_path, Scenes(8)).close()
    assert cli.call(["forget", str(tmp_path), "0.5"]) == 0
    assert "forgot" in capsys.readouterr().out
    with Memory(tmp_path) as memory:
        assert memory.newest() == []
    assert cli.call(["recall", str(tmp_path / "elsewhere"), "cup"]) == 1
    assert "holds no memory" in capsys.readouterr().err
    assert cli.call(["forget", str(tmp_path), "-1"]) == 2
    assert cli.call(["run", "--record", str(tmp_path / "a"), "--memory", str(tmp_path / "b")]) == 2
    assert "cannot be forgotten" in capsys.readouterr().err


def moment(
    at: float, text: str, *, kind: Kind = "next", picture: bytes | None = None, encoding: bytes | None = None
) -> Moment:
    return Moment(at=1e9 + at, time=at, kind=kind, text=text, picture=picture, encoding=encoding)


def whole(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
