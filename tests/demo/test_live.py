"""The Live tab's server side: visits, the newest picture wins, limits, errors told in one line."""

from __future__ import annotations

import io
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine, FakeSession, nano_script
from fastapi import FastAPI
from PIL import Image as PillowImage
from seen_hands import BrightHands, bright
from starlette.testclient import TestClient

from egolive.assistant.hands import hand_choice
from egolive.assistant.hands.hand_choice import HandChoice, Hands, HandSettings
from egolive.assistant.live.sinks import Shown
from egolive.assistant.runtime.engine_lock import EngineLock, SharedEngine
from egolive.assistant.schema.engine import Delta, Prompt, Request
from egolive.assistant.schema.profiles import SIMULATED_NANO
from egolive.demo.live.browser_source import BrowserSource
from egolive.demo.live.routes import add_live_routes, settings_of
from egolive.demo.live.sessions import VisitorSessions
from egolive.demo.live.state_sink import StateSink
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import EngineError, SourceError, UsageError
from egolive.streaming.frames import Frame
from egolive.streaming.metrics import Metrics
from egolive.streaming.sources.source import Source


def jpeg(width: int = 64, height: int = 48, shade: int = 90) -> bytes:
    file = io.BytesIO()
    PillowImage.new("RGB", (width, height), (shade, shade, shade)).save(file, "JPEG")
    return file.getvalue()


class DyingEngine(FakeEngine):
    """Fails at its first question, and at no later one."""

    def session(self, *_: object) -> FakeSession:
        engine = self

        class Session(FakeSession):
            def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
                if not engine.asked:
                    engine.asked.append(list(requests))
                    raise EngineError("the device is lost; restart")
                return super().ask(requests)

        self.open_sessions += 1
        return Session(self)


Opener = Callable[..., TestClient]


@pytest.fixture
def page() -> Iterator[Opener]:
    """Builds the live routes over an engine and gives a client of them."""
    with ExitStack() as stack:

        def build(
            engine: FakeEngine | None = None,
            source: Callable[[], Source] | None = None,
            visitors: int = 4,
            hands: HandSettings | None = None,
        ) -> TestClient:
            sessions = VisitorSessions(
                SharedEngine(engine or FakeEngine()),
                source,
                most=visitors,
                hands=hands or HandSettings("model"),
            )
            stack.callback(sessions.close)
            app = FastAPI()
            add_live_routes(app, sessions)
            return stack.enter_context(TestClient(app))

        yield build


def begin(client: TestClient, **settings: object) -> str:
    reply = client.post("/live/open", json=settings)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["visit"])


def post(client: TestClient, session: str, time: float, body: bytes | None = None) -> dict[str, Any]:
    told: dict[str, Any] = client.post(f"/live/{session}/picture?time={time}", content=body or jpeg()).json()
    return told


def until(client: TestClient, session: str, good: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Post pictures, a tenth of a second of stream apart, until what is told is good."""
    for number in range(200):
        told = post(client, session, 100 + 0.1 * number)
        if good(told):
            return told
    raise AssertionError(f"never came: the last was {told}")


def tasks_of(told: dict[str, Any]) -> set[str]:
    return {answer["task"] for answer in told["answers"]}


def test_a_picture_is_answered_with_boxes_in_its_own_pixels_and_with_words(page: Opener) -> None:
    client = page()
    session = begin(client)
    told = until(client, session, lambda told: tasks_of(told) == {"intent", "next", "ground"})
    (box,) = next(one for one in told["answers"] if one["phrase"] == "right hand")["boxes"]
    # A picture of one shade gives nothing to follow, so the box stays where the model saw it.
    assert [round(box[side]) for side in ("x1", "y1", "x2", "y2")] == [32, 24, 48, 48]
    assert told["origin"] == 100
    assert told["size"] == [64, 48]
    assert {entry["text"] for entry in told["history"]} == {"make tea", "pour the water"}
    assert told["figures"]["memory_mb"] is None or told["figures"]["memory_mb"] > 1


@pytest.mark.parametrize("hands", ["detector", "model"])
def test_the_page_is_told_who_found_a_box_and_what_is_not_known(
    page: Opener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hands: Hands
) -> None:
    monkeypatch.setattr(hand_choice, "has_runtime", lambda: True)
    monkeypatch.setattr(hand_choice, "find_model", lambda given=None: tmp_path)
    monkeypatch.setattr(
        HandChoice, "detector", lambda self, stream=True: BrightHands() if self.file is not None else None
    )
    client = page(hands=HandSettings(hands))
    session = begin(client, tasks=["ground"])
    file = io.BytesIO()
    PillowImage.fromarray(bright(0.0, 84).image).save(file, "JPEG", quality=100, subsampling=0)

    def seen(told: dict[str, Any]) -> dict[str, Any]:
        return {answer["phrase"]: answer for answer in told["answers"]}

    for number in range(200):
        told = post(client, session, 5 + number / 20, file.getvalue())
        found = seen(told)
        done = found.get("right hand", {}).get("boxes") and "object in the left hand" in found
        if done and (hands == "model" or found["right hand"]["by"] == "detector"):
            break
        time.sleep(0.05)
    right, left, held = (found[name] for name in ("right hand", "left hand", "object in the left hand"))
    (box,) = right["boxes"]
    assert (right["by"], box["found_by"], box["supported"]) == (
        ("detector", "detector", True) if hands == "detector" else ("model", "model", None)
    )
    # A score that nobody has calibrated is not told at a box.
    assert right["labels"] == [f"right hand {hands}"]
    assert (left["found"], left["words"]) == ("none", "none")
    assert (held["found"], held["words"]) == ("unknown", "unknown (no left hand in sight)")


def test_an_answer_is_about_a_picture_not_newer_than_the_one_it_comes_with(page: Opener) -> None:
    client = page()
    session = begin(client)
    times = [post(client, session, 5 + 0.1 * number) for number in range(20)]
    assert [told["index"] for told in times] == sorted(told["index"] for told in times)
    for number, told in enumerate(times):
        assert told["index"] >= number
        assert all(answer["t"] <= told["t"] for answer in told["answers"])


def test_a_page_is_told_what_a_model_only_guesses_and_what_it_cannot_be_asked(page: Opener) -> None:
    client = page(FakeEngine(profile=SIMULATED_NANO), hands=HandSettings("model"))
    opened = client.post("/live/open", json={}).json()
    assert opened["knows"].startswith("nano knows only simulated scenes; for real ones use --model")
    session = opened["visit"]
    told = until(client, session, lambda told: tasks_of(told) == {"intent", "next", "ground"})
    assert all(answer["guess"] and answer["certainty"] == "" for answer in told["answers"])
    assert all(answer["words"].startswith(("guess: ", "unknown (")) for answer in told["answers"])
    assert {entry["text"] for entry in told["history"]} == {"guess: make tea", "guess: pour the water"}
    reply = client.post(f"/live/{session}/ask", json={"text": "What is this?"})
    assert reply.status_code == 400
    assert "no free questions" in reply.json()["error"]
    assert client.post(f"/live/{session}/ask", json={"text": "pour", "task": "when"}).status_code == 200


def test_two_visitors_get_their_own_answers(page: Opener) -> None:
    client = page()
    first, second = begin(client, tasks=["intent"]), begin(client, tasks=["ground"])
    assert first != second
    of_first = until(client, first, lambda told: told["answers"])
    of_second = until(client, second, lambda told: told["answers"])
    assert (tasks_of(of_first), tasks_of(of_second)) == ({"intent"}, {"ground"})


def test_a_full_server_says_so_and_has_room_once_somebody_leaves(page: Opener) -> None:
    client = page(visitors=1)
    session = begin(client)
    refused = client.post("/live/open", json={})
    assert refused.status_code == 503
    assert "1 visitors" in refused.json()["error"]
    client.post(f"/live/{session}/close")
    # The place is free when the run's thread has ended.
    ends = time.monotonic() + 20
    while client.post("/live/open", json={}).status_code == 503 and time.monotonic() < ends:
        time.sleep(0.02)
    assert client.post("/live/open", json={}).status_code == 503
    assert client.post(f"/live/{session}/picture?time=1", content=jpeg()).json()["gone"]


def test_a_question_is_answered_once_and_stays_in_the_history(page: Opener) -> None:
    client = page()
    session = begin(client, tasks=["ground"])
    assert client.post(f"/live/{session}/ask", json={"text": " What is\nthis? "}).json() == {
        "asked": "What is this?"
    }
    told = until(client, session, lambda told: told["history"])
    (entry,) = told["history"]
    assert (entry["phrase"], entry["text"]) == ("What is this?", "It is a mug.")


def test_other_questions_take_the_place_of_those_before(page: Opener) -> None:
    client = page()
    session = begin(client)
    until(client, session, lambda told: told["answers"])
    wanted = {"tasks": [], "phrases": ["red mug", " red  mug ", ""]}
    assert client.post(f"/live/{session}/settings", json=wanted).json() == {"asked": ["red mug"]}
    told = until(client, session, lambda told: told["answers"])
    assert [answer["phrase"] for answer in told["answers"]] == ["red mug"]
    assert told["over"] is False


def test_an_engine_that_dies_is_told_and_the_next_start_works(page: Opener) -> None:
    client = page(DyingEngine())
    session = begin(client)
    told = until(client, session, lambda told: told["over"])
    assert told["error"] == "the device is lost; restart"
    assert told["answers"] == []
    again = begin(client)
    assert until(client, again, lambda told: told["answers"])["error"] == ""


@pytest.mark.parametrize(
    ("body", "time", "told"),
    [
        (b"not a picture", "1", "not a JPEG"),
        (b"", "1", "not a JPEG"),
        (jpeg(8, 8), "1", "8x8 pixels"),
        (jpeg(), "soon", "not a number"),
        (jpeg(), "nan", "not a number"),
        (jpeg(), "-1e308", "not a number"),
        (b"\xff\xd8" + bytes(4_000_000), "1", "4 MB"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(page: Opener, body: bytes, time: str, told: str) -> None:
    client = page()
    session = begin(client)
    reply = client.post(f"/live/{session}/picture?time={time}", content=body)
    assert reply.status_code == 400
    assert told in reply.json()["error"]
    assert "\n" not in reply.json()["error"]
    assert post(client, session, 1)["index"] >= 0


@pytest.mark.parametrize(
    ("path", "fields", "told"),
    [
        ("open", {"tasks": ["dance"]}, "tasks are"),
        ("open", {"tasks": []}, "nothing is asked"),
        ("open", {"phrases": ["a", "b", "c", "d", "e"]}, "at most 4"),
        ("open", [1], "not a JSON object"),
        ("{session}/ask", {"text": "  "}, "empty"),
        ("{session}/ask", {"text": "hm", "task": "ground"}, "empty"),
        ("{session}/settings", {"phrases": "mug"}, "tasks are"),
        ("{session}/ask", {"text": "x" * 20_000}, "too much"),
    ],
)
def test_requests_that_make_no_sense_are_told_so(page: Opener, path: str, fields: object, told: str) -> None:
    client = page()
    session = begin(client)
    reply = client.post("/live/" + path.format(session=session), json=fields)
    assert reply.status_code == 400
    assert told in reply.json()["error"]


@pytest.mark.parametrize(
    "body",
    [b"[" * 9000, b'{"a":' * 1900, b"9" * 9000, b'{"tasks": NaN}', b"\xff\xfe", b"[" + b"{}," * 3000 + b"0]"],
)
def test_absurd_json_in_a_request_is_refused_in_one_line(page: Opener, body: bytes) -> None:
    reply = page().post("/live/open", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400
    assert "not a JSON object that can be read" in reply.json()["error"]
    assert "\n" not in reply.json()["error"]


def test_the_newest_posted_picture_wins_and_late_ones_are_refused() -> None:
    source = BrowserSource()
    for at in (10.0, 10.1, 10.2):
        source.put(jpeg(), at)
    with pytest.raises(SourceError, match="older"):
        source.put(jpeg(), 10.15)
    frame = next(iter(source))
    assert (frame.index, round(frame.time, 3), source.drops) == (2, 0.2, 2)
    source.close()
    with pytest.raises(SourceError, match="ended"):
        source.put(jpeg(), 11)


def test_a_broken_picture_is_counted_and_the_stream_ends_when_none_comes() -> None:
    source = BrowserSource(timeout=0.05)
    source.put(jpeg(320, 240)[:-400], 1.0)
    assert list(source) == []
    assert source.broken == 1


def test_turns_are_taken_in_the_order_in_which_they_were_asked_for() -> None:
    lock, order = EngineLock(), list[int]()
    threads = []
    with lock.held():
        for number in range(4):

            def work(number: int = number) -> None:
                with lock.held():
                    order.append(number)

            thread = threading.Thread(target=work)
            thread.start()
            threads.append(thread)
            while lock.waiting <= number:
                pass
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3]
    assert lock.waiting == 0


def test_a_session_that_is_left_gives_its_turn_back() -> None:
    engine = SharedEngine(FakeEngine())
    with engine.session() as one, engine.session() as other:
        request = [Request(Prompt(("What are you doing?",)))]
        deltas = one.ask(request)
        next(deltas)
        deltas.close()  # type: ignore[attr-defined]  # a generator
        assert "".join(delta.text for delta in other.ask(request)) == nano_script("doing")


class Pictures(Source):
    """A live source of the server that gives a picture whenever it is told to."""

    def __init__(self) -> None:
        self.live, self.name, self.fps, self.size, self.broken = True, "shelf camera", None, None, 0
        self.gate = threading.Semaphore(3)
        self.closed = False

    def __iter__(self) -> Iterator[Frame]:
        for number in range(1000):
            if not self.gate.acquire(timeout=5) or self.closed:
                return
            yield Frame(np.full((48, 64, 3), 80, np.uint8), number / 10, number)

    def close(self) -> None:
        self.closed = True
        self.gate.release()


def test_a_camera_of_the_server_is_watched_by_all_together(page: Opener) -> None:
    client = page(source=Pictures)
    session = begin(client)
    assert begin(client) == session
    reply = client.get(f"/live/{session}/view?after=0").content
    (length,) = struct.unpack(">I", reply[:4])
    told = json.loads(reply[4 : 4 + length])
    assert told["index"] >= 1
    assert told["source"] == "shelf camera"
    assert told["origin"] is None
    with closing(PillowImage.open(io.BytesIO(reply[4 + length :]))) as picture:
        assert picture.size == (64, 48)
    assert "takes no pictures" in post(client, session, 1)["error"]
    client.post(f"/live/{session}/close")
    assert begin(client) == session


def test_the_board_hands_everybody_the_end() -> None:
    sink = StateSink(Metrics())
    waiting, gone = sink.wait_for(3), sink.wait_for(3)
    gone.cancel()
    sink.end("the camera burnt")
    assert waiting.result(0)["error"] == "the camera burnt"
    assert sink.wait_for(9).result(0)["over"]


@pytest.mark.parametrize("tasks", [[[]], [{}], [None], [1], "intent", {"intent": 1}])
def test_tasks_of_a_page_that_are_none_are_refused(tasks: object) -> None:
    with pytest.raises(UsageError):
        settings_of({"tasks": tasks})


def test_whoever_waits_for_a_picture_that_never_comes_is_forgotten() -> None:
    sink = StateSink(Metrics(), waiting=lambda: 0)
    for _ in range(100):
        sink.wait_for(10**18).cancel()
    assert len(sink._waiters) <= 1


def test_a_page_is_told_what_the_governor_chose_and_since_when_nothing_moves() -> None:
    sink = StateSink(Metrics(VirtualClock()), clock=VirtualClock())
    frame = Frame(np.zeros((4, 4, 3), np.uint8), 0.0, 0)
    sink.emit(Shown(frame, []))
    assert (sink.state["figures"]["governor"], sink.state["still_since"]) == ("", None)
    sink.emit(Shown(replace(frame, time=9.0, index=1), [], governor="idle (nothing moves)", still_since=2.0))
    assert (sink.state["figures"]["governor"], sink.state["still_since"]) == ("idle (nothing moves)", 2.0)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_visitors_run_is_governed_unless_it_is_fixed(fixed: bool) -> None:
    sessions = VisitorSessions(SharedEngine(FakeEngine()), fixed=fixed)
    client_app = FastAPI()
    add_live_routes(client_app, sessions)
    with closing(sessions), TestClient(client_app) as client:
        told = until(client, begin(client), lambda told: told["answers"])
        assert bool(told["figures"]["governor"]) is not fixed
