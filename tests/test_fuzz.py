"""Spoilt input of every kind: nothing but one clear line comes of it, and what was found stays mended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from examples import few
from hypothesis import given
from hypothesis import strategies as st

from egolive.assistant.replaying import settings_of as settings_of_recording
from egolive.benchmarks import fuzz
from egolive.benchmarks.fuzz import SHARES, arranged, feed
from egolive.benchmarks.fuzz_mutate import mutate_bytes, mutate_json, mutate_text
from egolive.benchmarks.fuzz_parser import ANSWERS, fuzz_parser
from egolive.demo.routes import settings_of
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import DataError, EgoliveError, SourceError, UsageError
from egolive.streaming.gstreamer import GstPipe
from egolive.streaming.opening import open_source
from egolive.streaming.recording import Recording
from egolive.streaming.video import without_password

Feed = Callable[[Random], object]


@pytest.fixture(scope="module")
def targets() -> Iterator[Mapping[str, Feed]]:
    with arranged() as found:
        yield found


def test_every_target_has_a_share(targets: Mapping[str, Feed]) -> None:
    assert set(targets) == set(SHARES)
    assert sum(SHARES.values()) == pytest.approx(1)


@pytest.mark.hypothesis
@pytest.mark.parametrize("name", [name for name in SHARES if name not in ("parser", "route")])
def test_bad_input_is_refused_in_one_line_or_taken(targets: Mapping[str, Feed], name: str) -> None:
    @few(25)
    @given(st.randoms(use_true_random=False))
    def spoil(random: Random) -> None:
        with suppress(EgoliveError):
            targets[name](random)

    spoil()


def test_no_route_of_the_page_meets_a_fault(targets: Mapping[str, Feed]) -> None:
    for number in range(15):
        feed(targets, "route", number)


def test_the_same_seed_makes_the_same_input() -> None:
    for mutate, good in (
        (mutate_text, "make tea"),
        (mutate_bytes, b"make tea"),
        (mutate_json, {"a": [1, 2]}),
    ):
        change: Any = mutate
        made = [[repr(change(good, Random(seed))) for seed in range(20)] for _ in range(2)]
        assert made[0] == made[1]
        assert len(set(made[0])) > 10
    assert {"a": [1, 2]} == {"a": [1, 2]}


def test_a_find_is_told_with_its_place_and_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr("egolive.assistant.parsing.split_reasoning", broken)
    monkeypatch.setattr(fuzz, "SHARES", {"parser": 0.6})
    parser = partial(fuzz_parser, answers=ANSWERS)
    monkeypatch.setattr(fuzz, "arranged", lambda _: nullcontext({"parser": parser}))
    figures = fuzz.measure(inputs=20)
    assert figures["targets"]["parser"] == {"inputs": 12, "refused": 0, "finds": 12}
    (find,) = figures["finds"]
    assert (find["target"], find["number"]) == ("parser", 0)
    assert find["error"] == "ZeroDivisionError: no such luck"
    assert find["place"].startswith("parsing.py:")


@pytest.mark.parametrize(
    "spec",
    [
        "\0",
        "~nobody-has-this-name/clip.mp4",
        "x" * 5000,
        "/dev/video" + "9" * 300,
        "9" * 5000,
        "rtsp://u:secret@[:/x",
    ],
    ids=["no character of a name", "unknown user", "long", "long device", "long number", "no address"],
)
def test_a_name_that_no_source_can_have_is_refused(spec: str) -> None:
    with pytest.raises(SourceError) as told:
        open_source(spec)
    assert "secret" not in str(told.value)


def test_what_is_no_address_hides_its_password_too() -> None:
    assert without_password("rtsp://u:secret@[:/x") == "rtsp://***@[:/x"


def test_a_pipeline_with_an_open_quote_is_refused() -> None:
    with pytest.raises(SourceError, match="quotes"):
        GstPipe("gst-launch-1.0 'x", name="gst:'x", size=(64, 36), timeout=1, clock=VirtualClock())


@pytest.mark.parametrize("tasks", [[[]], [{}], [None], [1], "intent", {"intent": 1}])
def test_tasks_of_a_page_that_are_none_are_refused(tasks: object) -> None:
    with pytest.raises(UsageError):
        settings_of({"tasks": tasks})


HEAD: dict[str, Any] = {
    "format": 1,
    "fps": 2.0,
    "slices": 2,
    "seconds": None,
    "source": {"name": "x", "live": False, "fps": 2.0},
    "settings": {"model": "nano", "questions": [{"task": "intent"}], "fps": 2.0, "slices": 2},
}
WORK = {"work": 0, "t": 0.0, "slices": 0, "tasks": [{"task": "intent"}], "outcomes": [[0, "ok", {}]]}
FRAME = {"frame": 0, "t": 0.0, "gap": False}


def recording(folder: Path, head: object = HEAD, lines: tuple[object, ...] = ()) -> Recording:
    (folder / "recording.json").write_text(json.dumps(head))
    (folder / "recording.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in (*lines, FRAME, FRAME | {"frame": 1}))
    )
    return Recording(folder)


def test_a_recording_that_is_whole_is_read(tmp_path: Path) -> None:
    assert len(recording(tmp_path, lines=(WORK,)).works) == 1


@pytest.mark.parametrize(
    "head",
    [
        7,
        [],
        {name: value for name, value in HEAD.items() if name != "source"},
        HEAD | {"fps": 0},
        HEAD | {"fps": "2"},
        HEAD | {"slices": None},
        HEAD | {"slices": True},
        HEAD | {"seconds": float("inf")},
        HEAD | {"source": {"name": "x", "fps": None}},
    ],
    ids=str,
)
def test_a_head_that_no_run_wrote_is_refused(tmp_path: Path, head: object) -> None:
    with pytest.raises(DataError):
        recording(tmp_path, head)


@pytest.mark.parametrize(
    "line",
    [
        [],
        WORK | {"t": [0]},
        WORK | {"outcomes": [[1, "ok", {}]]},
        WORK | {"outcomes": [[0, "fine", {}]]},
        WORK | {"outcomes": [[0, "ok", None]]},
        FRAME | {"frame": 5},
        FRAME | {"t": 2**70},
        {"shown": 0, "now": 0.0, "new": -1},
        {"end": {"captured": "x"}},
        {"end": {"ended": "never"}},
        {"end": {"drops": {"busy": None}}},
    ],
    ids=str,
)
def test_a_line_that_no_run_wrote_is_refused(tmp_path: Path, line: object) -> None:
    with pytest.raises(DataError, match="line"):
        recording(tmp_path, lines=(line,))


@pytest.mark.parametrize(
    "change",
    [
        {"every": 0},
        {"deadline": -1},
        {"fps": None},
        {"questions": [{"task": "sing"}]},
        {"questions": [{"task": "intent", "phrase": {}}]},
        {"questions": [{"task": "intent", "think": []}]},
        {"questions": 3},
        {"model": None},
    ],
    ids=str,
)
def test_settings_that_no_run_had_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"settings|question"):
        settings_of_recording(recording(tmp_path, HEAD | {"settings": HEAD["settings"] | change}))
