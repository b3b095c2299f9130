"""The Clip tab's server side: watching, asking, the timeline, what is served and what is not."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import av
import gradio as gr
import pytest
from clips import write_clip
from fakes import FakeEngine
from fastapi import FastAPI
from PIL import Image as PillowImage
from starlette.testclient import TestClient

from egolive.assistant.hands.hand_choice import HandSettings
from egolive.assistant.runtime.engine_lock import SharedEngine
from egolive.assistant.schema.answers import Answer, Question
from egolive.demo.clips.clip_jobs import (
    ClipSession,
    ClipSessions,
    find_when,
    find_where,
    watch_clip,
    write_evidence,
)
from egolive.demo.clips.clip_routes import UPLOAD, add_clip_routes
from egolive.demo.clips.clip_tab import ClipPage
from egolive.demo.clips.isolated import clip_seconds
from egolive.demo.clips.timeline import rows_of, timeline
from egolive.demo.clips.uploads import Uploads
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import SourceError, UsageError
from egolive.streaming.frames import Box, Interval


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_a_clip_is_watched_to_its_end(clip: Path, out: Path) -> None:
    times: list[float] = []
    watched = watch_clip(FakeEngine(), clip, out, most_seconds=60, progress=times.append)
    assert len(times) == 30
    assert not watched.cut
    assert watched.seconds == pytest.approx(3.0, abs=0.1)
    assert {answer.question.task for answer in watched.answers} == {"intent", "next", "ground"}
    kinds = [json.loads(line)["type"] for line in (out / "events.jsonl").read_text().splitlines()]
    assert kinds.count("answer") == len(watched.answers)
    with av.open(str(out / "overlay.mp4")) as overlay:
        assert sum(1 for _ in overlay.decode(video=0)) == 30
        # In one piece: a browser knows its length and can jump.
        assert overlay.duration == pytest.approx(3.0 * av.time_base, rel=0.1)
    assert sorted(path.name for path in out.iterdir()) == ["events.jsonl", "overlay.mp4"]


def test_no_more_is_watched_than_allowed(clip: Path, out: Path) -> None:
    watched = watch_clip(FakeEngine(), clip, out, most_seconds=1.0)
    assert watched.cut
    assert watched.seconds < 1.0
    assert max(answer.time for answer in watched.answers) < 1.0


def test_watching_can_be_stopped_and_what_was_seen_stays(clip: Path, out: Path) -> None:
    stop = threading.Event()
    watched = watch_clip(
        FakeEngine(),
        clip,
        out,
        most_seconds=60,
        progress=lambda time: stop.set() if time > 1 else None,
        stop=stop,
    )
    assert watched.cut
    assert watched.seconds < 3
    assert (out / "overlay.mp4").exists()


def test_when_and_where_are_answered_and_packed_as_evidence(clip: Path, out: Path) -> None:
    engine = FakeEngine()
    watched = watch_clip(engine, clip, out, most_seconds=60, hands=HandSettings("model"))
    when = find_when(engine, watched, " open  the fridge ")
    assert when.question.phrase == "open the fridge"
    assert when.intervals == (Interval(0.5, 1.5),)
    where, frame = find_where(engine, watched, "right hand", HandSettings("model"))
    assert where.boxes
    assert frame.time > 2
    nowhere, first = find_where(engine, watched, "unicorn")
    assert not nowhere.boxes
    assert first.time == 0
    with ZipFile(write_evidence(engine, watched)) as bundle:
        assert {"engine.json", "asked.json", "events.jsonl", "where.jpg"} == set(bundle.namelist())
        asked = json.loads(bundle.read("asked.json"))
    assert [answer["phrase"] for answer in asked] == ["open the fridge", "right hand", "unicorn"]
    with pytest.raises(UsageError, match="open the fridge"):
        find_when(engine, watched, "  ")


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("not a film")
    with pytest.raises(SourceError, match="not a video"):
        clip_seconds(path)


def test_an_upload_is_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    shown = [PillowImage.new("RGB", (64, 48), (60 * number, 90, 20)) for number in range(4)]
    shown[0].save(path, "WEBP", save_all=True, append_images=shown[1:], duration=500)
    assert clip_seconds(path) == pytest.approx(1.5)
    shown[0].save(path, "JPEG")
    with pytest.raises(SourceError, match="a photo; a video is wanted"):
        clip_seconds(path)
    path.write_text("ffconcat version 1.0\nfile clip.mp4\n")
    with pytest.raises(SourceError, match="a playlist"):
        clip_seconds(path)


def answer(task: Any, time: float, text: str = "", *, phrase: str = "", box: bool = False) -> Answer:
    boxes = (Box(1, 2, 3, 4, phrase),) if box else ()
    return Answer(Question(task, phrase), text, time=time, boxes=boxes)


def test_the_timeline_merges_what_stays_the_same() -> None:
    held = "object in the left hand"
    answers = [
        answer("intent", 1, "make tea"),
        answer("intent", 2, "make tea"),
        answer("intent", 3, "wash up"),
        answer("ground", 1, phrase=held, box=True),
        answer("ground", 2, phrase=held),
        answer("ground", 3, phrase=held, box=True),
    ]
    asked = [Answer(Question("when", "pour"), "", intervals=(Interval(1, 2),))]
    rows = {row.name: [(s.start, s.end, s.text) for s in row.spans] for row in rows_of(answers, asked, 4.0)}
    assert rows["intent"] == [(1, 3, "make tea"), (3, 4, "wash up")]
    assert rows["left hand holds"] == [(1, 2, "holds"), (3, 4, "holds")]
    assert rows["right hand holds"] == []
    assert rows["when: pour"] == [(1, 2, "1.0 to 2.0 s")]


def test_what_a_model_writes_is_never_markup() -> None:
    bad = "<script>alert(1)</script>\" onclick='x'"
    markup = timeline(rows_of([answer("intent", 0, bad)], [answer("when", 0, phrase=bad)], 2.0), 2.0)
    tags: list[tuple[str, set[str]]] = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attrs: tags.append((tag, {name for name, _ in attrs}))  # type: ignore[method-assign]
    reader.feed(markup)
    assert {tag for tag, _ in tags} == {"div", "span", "button"}
    assert not [name for _, names in tags for name in names if name.startswith("on")]


class Desk:
    """The tab's functions as one visitor calls them."""

    def __init__(self, folder: Path) -> None:
        self.uploads = Uploads(
            folder / "uploads", most_bytes=10**6, total_bytes=10**7, taken=folder / "clips"
        )
        self.clips = ClipSessions(folder / "clips")
        hands = HandSettings("model")
        self.page = ClipPage(SharedEngine(FakeEngine()), self.clips, self.uploads, hands)
        app = FastAPI()
        add_clip_routes(app, self.clips, self.uploads)
        self.client = TestClient(app)

    def request(self, name: str) -> gr.Request:
        return gr.Request(SimpleNamespace(), session_hash=name)  # type: ignore[arg-type]

    def upload(self, source: Path) -> str:
        sent = self.client.post(UPLOAD, params={"name": source.name}, content=source.read_bytes())
        return str(sent.json()["upload"])

    def session(self, visitor: str) -> ClipSession:
        session = self.clips.find(visitor)
        assert session is not None
        return session

    def served(self, visitor: str, name: str) -> int:
        return self.client.get(f"/clip/{self.session(visitor).word}/{name}").status_code


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.client.close()


def quiet_progress(*_: object, **__: object) -> None:
    """In place of Gradio's, which needs a browser."""


def test_an_upload_is_taken_watched_asked_about_and_deleted_with_its_visitor(desk: Desk, clip: Path) -> None:
    ann = desk.request("ann")
    upload = desk.upload(clip)
    told = desk.page.take_upload(upload, ann)
    assert "clip.mp4, 2.9 s long" in told
    assert "upload it again" in desk.page.take_upload(upload, ann)
    told, result, strip, _ = desk.page.watch(ann, quiet_progress)  # type: ignore[arg-type]
    assert "answers about 2.9 s" in told
    assert "overlay.mp4" in result
    assert "make tea" in strip
    found, strip = desk.page.when("open it", ann)
    assert "0.5 to 1.5 s" in found
    assert "when: open it" in strip
    found, _ = desk.page.where("right hand", ann)
    assert "where.jpg" in found
    for name in ("overlay.mp4", "events.jsonl", "evidence.zip", "where.jpg"):
        assert desk.served("ann", name) == 200
    session = desk.session("ann")
    desk.page.leave(ann)
    assert not session.folder.exists()
    assert desk.client.get(f"/clip/{session.word}/overlay.mp4").status_code == 404


@pytest.mark.parametrize("ends", ["another clip", "the visit"])
def test_what_is_watched_is_stopped_and_dropped_when_it_is_not_wanted_any_more(
    desk: Desk, clip: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    ann = desk.request("ann")
    desk.page.take_upload(desk.upload(clip), ann)
    session = desk.session("ann")
    under_way = threading.Event()

    def seen(*_: object, desc: str = "", **__: object) -> None:
        if "watched" in desc:
            under_way.set()
            # Until it is stopped, so that it is under way when something else comes.
            assert session.stop.wait(10)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(desk.page.watch, ann, seen)  # type: ignore[arg-type]
        assert under_way.wait(10)
        # Nothing else of this visitor waits for it.
        assert "under way" in desk.page.when("open it", ann)[0]
        assert "under way" in desk.page.watch(ann, quiet_progress)[0]  # type: ignore[arg-type]
        if ends == "another clip":
            assert "make_coffee.mp4" in desk.page.take_bundled(ann)
        else:
            desk.page.leave(ann)
        told, *_ = watching.result(10)
    assert "Another clip" in told
    assert session.watched is None
    assert not session.folder.exists() or not list(session.folder.iterdir())
    if ends == "another clip":
        assert session.clip is not None
        assert session.clip.name == "make_coffee.mp4"


def test_only_results_are_served_and_only_to_whom_they_belong(desk: Desk, clip: Path) -> None:
    ann, bob = desk.request("ann"), desk.request("bob")
    desk.page.take_upload(desk.upload(clip), ann)
    session = desk.session("ann")
    assert session.clip is not None
    (session.folder / "secret.txt").write_text("x")
    for name in ("clip.mp4", "secret.txt", "..%2f..%2fsecret.txt", "%2e%2e/events.jsonl"):
        assert desk.served("ann", name) == 404
    for word in ("..", "%2e%2e", session.word + "/..", "ann"):
        assert desk.client.get(f"/clip/{word}/overlay.mp4").status_code == 404
    told, *_ = desk.page.watch(bob, quiet_progress)  # type: ignore[arg-type]
    assert "Bring a clip first" in told
    assert "Watch a clip first" in desk.page.when("open it", bob)[0]


def test_a_file_from_elsewhere_is_not_taken(desk: Desk, clip: Path) -> None:
    taken: list[object] = [str(clip), {"path": str(clip)}, [str(clip)], 7, None, "", "../../etc/hostname"]
    for token in taken:
        assert "upload it again" in desk.page.take_upload(token, desk.request("ann"))
    assert clip.exists()


def test_words_that_are_no_text_are_no_question(desk: Desk, clip: Path) -> None:
    ann = desk.request("ann")
    desk.page.take_upload(desk.upload(clip), ann)
    desk.page.watch(ann, quiet_progress)  # type: ignore[arg-type]
    for words in ({"path": "/etc/hostname"}, ["mug"], 7, None, "   "):
        assert "is empty" in desk.page.when(words, ann)[0]
        assert "is empty" in desk.page.where(words, ann)[0]


def test_an_upload_of_a_visitor_who_has_left_is_not_kept(desk: Desk, clip: Path, tmp_path: Path) -> None:
    ann = desk.request("ann")
    shutil.rmtree(desk.clips.begin("ann").folder)
    assert "page was closed" in desk.page.take_upload(desk.upload(clip), ann)
    assert not list((tmp_path / "uploads").iterdir())


def test_a_clip_that_takes_too_long_ends_with_what_was_watched(clip: Path, out: Path) -> None:
    class Slow(FakeEngine):
        def session(self, *rest: Any) -> Any:
            time.sleep(0.3)
            return super().session(*rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("egolive.demo.clips.clip_jobs._LEAST_PATIENCE", 0.0)
        watched = watch_clip(Slow(), clip, out, most_seconds=60, patience=0.0)
    assert watched.cut
    assert (out / "overlay.mp4").exists()


def test_a_visit_whose_folder_is_gone_can_be_left(tmp_path: Path) -> None:
    clock = VirtualClock()
    clips = ClipSessions(tmp_path, clock=clock)
    shutil.rmtree(clips.begin("ann").folder)
    clips.begin("bob")
    clock.advance(4000)
    clips.sweep()
    assert list(tmp_path.iterdir()) == []


def test_one_address_has_half_of_the_places(tmp_path: Path) -> None:
    clips = ClipSessions(tmp_path, most=4)
    for number in range(2):
        clips.begin(f"a{number}", "192.0.2.1")
    with pytest.raises(UsageError, match="try again"):
        clips.begin("a2", "192.0.2.1")
    assert clips.begin("b", "192.0.2.2")
    assert clips.begin("a0", "192.0.2.1")


def test_whoever_asks_nothing_gives_way_and_is_forgotten(tmp_path: Path) -> None:
    clock = VirtualClock()
    clips = ClipSessions(tmp_path, most=2, clock=clock)
    ann, bob = clips.begin("ann"), clips.begin("bob")
    with pytest.raises(UsageError, match="2 clips are being looked at"):
        clips.begin("eve")
    clock.advance(200)
    clips.find("bob")
    clock.advance(200)
    assert clips.begin("eve").folder.is_dir()
    assert not ann.folder.exists()
    clock.advance(3500)
    clips.sweep()
    assert not bob.folder.exists()
    assert clips.find("eve") is not None


def test_an_upload_that_is_no_video_is_told_and_leaves_nothing(desk: Desk, tmp_path: Path) -> None:
    notes = tmp_path / "notes.mp4"
    notes.write_text("<b>not a film</b>")
    told = desk.page.take_upload(desk.upload(notes), desk.request("ann"))
    assert "notes.mp4" in told
    assert "not a video" in told
    assert str(tmp_path) not in told
    assert not list(desk.session("ann").folder.iterdir())


def test_the_bundled_clip_is_there(desk: Desk) -> None:
    assert "make_coffee.mp4" in desk.page.take_bundled(desk.request("ann"))
