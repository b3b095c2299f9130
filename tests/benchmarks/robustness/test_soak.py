"""Hours of stream by a virtual clock: the same on every machine, and what is watched would be seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egolive.assistant.live.sinks import Shown
from egolive.assistant.schema.answers import Answer, Question
from egolive.benchmarks.robustness.faults import Fault, faults_table, stream_faults, whole_files
from egolive.benchmarks.robustness.soak import measure_virtual, soak
from egolive.benchmarks.robustness.soak_stream import Stream
from egolive.benchmarks.robustness.soak_watch import Judge, Sample, sample, trends
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Frame, Image
from egolive.streaming.pipeline.scheduler import TaskRule
from egolive.streaming.video_writer import VideoWriter

HAND = Question("ground", "right hand")


def pull_the_cable(stream: Stream, now: float, image: Image) -> Image:
    if now == 10.0:
        stream.camera.gone_until = now + 6.0
        stream.judge.expect(now + 6.0)
    stream.engine.seconds = 6.0 if 20.0 <= now < 22.0 else 0.15
    return image


def answers(folder: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["type"] != "metrics"]


def test_a_stream_goes_the_same_way_every_time(tmp_path: Path) -> None:
    told = []
    for name in ("one", "two"):
        folder = tmp_path / name
        stream = Stream(folder, before=pull_the_cable)
        report = stream.run(40.0)
        judge = stream.judge
        assert (report.ended, report.gaps, judge.gaps) == ("seconds", 1, 1)
        assert (judge.out_of_order, judge.expired_shown) == (0, 0)
        (recovery,) = judge.recoveries
        assert recovery <= 1.5
        told.append(answers(folder))
    assert told[0] == told[1]
    assert {"ok", "expired"} <= {event.get("status") for event in told[0]}
    assert max(event["age"] for event in told[0] if event.get("status") == "ok") < 15


def judged(*pictures: tuple[float, Sequence[float], Sequence[float]], gap: float | None = None) -> Judge:
    """Judge pictures: their times, the times of new answers, the times of those shown as current."""
    judge = Judge({HAND: TaskRule(deadline=5.0)})
    for index, (time, new, current) in enumerate(pictures):
        if gap is not None and time >= gap:
            judge.note({"type": "gap", "start": 0.0, "end": gap})
            gap = None
        frame = Frame(np.zeros((2, 2, 3), np.uint8), time, index)
        judge.emit(
            Shown(
                frame,
                [Answer(HAND, "", time=at) for at in current],
                [Answer(HAND, "", time=at) for at in new],
            )
        )
    return judge


@pytest.mark.parametrize(
    ("judge", "out_of_order", "expired"),
    [
        (judged((1.0, [0.5], [0.5]), (2.0, [1.5], [1.5])), 0, 0),
        (judged((1.0, [0.9], []), (2.0, [0.5], [])), 1, 0),
        (judged((1.0, [1.5], [])), 1, 0),
        (judged((2.0, [], []), (1.0, [], [])), 1, 0),
        (judged((9.0, [], [4.0])), 0, 0),
        (judged((9.1, [], [4.0])), 0, 1),
        (judged((9.0, [], [8.0]), (10.0, [], [8.0]), gap=9.5), 0, 1),
        (judged((9.0, [], [8.0]), (10.0, [], [9.9]), gap=9.5), 0, 0),
    ],
    ids=["good", "older", "of the future", "pictures back", "just in time", "late", "old gap", "new gap"],
)
def test_what_must_never_be_shown_is_counted(judge: Judge, out_of_order: int, expired: int) -> None:
    assert (judge.out_of_order, judge.expired_shown) == (out_of_order, expired)


def test_slopes_are_taken_behind_the_warm_up() -> None:
    rss = [10**9] * 5 + [2 * 10**8 + n * 10**5 for n in range(5, 10)]
    samples = [Sample(600.0 * n, rss[n], 1000 + n, 7, 3 + n // 8) for n in range(10)]
    told = trends(samples, 3000.0)
    assert told["rss_slope_mb_h"] == pytest.approx(0.6)
    assert told["rss_slope_error_mb_h"] == pytest.approx(0.0, abs=1e-3)
    shaken = [Sample(600.0 * n, 10**9 + (-1) ** n * 10**6, 1, 7, 3) for n in range(60)]
    shaken_told = trends(shaken, 0.0)
    assert abs(shaken_told["rss_slope_mb_h"]) < shaken_told["rss_slope_error_mb_h"] < 0.2
    assert told["objects_slope_h"] == pytest.approx(6.0)
    assert told["threads"] == {"first": 7, "last": 7, "most": 7}
    assert told["handles"] == {"first": 3, "last": 4, "most": 4}
    # Two moments are no line, and seconds are no hours.
    assert trends(samples[:2], 0.0)["rss_slope_mb_h"] is None
    assert trends([Sample(n, 1, 1, 1, 1) for n in range(9)], 0.0)["rss_slope_mb_h"] is None


def test_a_handle_and_a_thread_that_stay_are_seen(tmp_path: Path) -> None:
    before = sample(0.0)
    with (tmp_path / "open").open("w"):
        assert sample(1.0).handles == before.handles + 1
    assert sample(2.0).handles == before.handles
    assert before.rss > 10**7
    assert before.objects > 10**4


def test_figures_have_the_names_that_others_read() -> None:
    figures, samples = measure_virtual(hours=0.01)
    assert {"hours", "rss_slope_mb_h", "out_of_order", "expired_shown", "threads", "handles"} <= set(figures)
    assert figures["out_of_order"] == figures["expired_shown"] == 0
    assert figures["pictures"] == 72
    assert len(samples) == 2


def test_a_fault_is_survived_with_whole_files() -> None:
    fault = next(stream_faults())
    assert fault.name == "camera gone for 5 s"
    assert fault.outcome == "survived (1 gap)"
    assert fault.good
    assert faults_table([fault]).row_count == 1


@pytest.mark.robustness
def test_every_fault_of_a_stream_is_survived_in_time() -> None:
    # Those of processes are timed by the clock on the wall, and belong to `bench soak` on an idle machine.
    faults = list(stream_faults())
    assert len(faults) >= 8
    assert [fault for fault in faults if not fault.good] == []


@pytest.mark.robustness
@pytest.mark.timeout(1800)
def test_an_hour_of_stream_leaves_nothing_behind() -> None:
    figures, _ = measure_virtual(hours=1)
    assert figures["out_of_order"] == figures["expired_shown"] == 0
    assert figures["pictures"] == 7200
    for count in ("threads", "handles"):
        assert figures[count]["last"] <= figures[count]["first"]


@pytest.mark.parametrize(
    ("fault", "good"),
    [
        (Fault("x", "ended (1): the disk is full", 0.5), True),
        (Fault("x", "survived", 3.5), False),
        (Fault("x", "survived", None), False),
        (Fault("x", "FAILED: it never ended", 0.5), False),
    ],
)
def test_a_fault_is_good_only_in_time(fault: Fault, good: bool) -> None:
    assert fault.good == good


def test_files_that_cannot_be_played_or_read_are_named(tmp_path: Path) -> None:
    assert whole_files(tmp_path) == ["overlay.mp4 cannot be played"]
    with VideoWriter(tmp_path / "overlay.mp4") as writer:
        writer.write(np.zeros((36, 64, 3), np.uint8), 0.0)
    (tmp_path / "events.jsonl").write_text('{"type": "gap"}\n{"cut off')
    assert whole_files(tmp_path) == []
    (tmp_path / "events.jsonl").write_text('{"cut off\n{"type": "gap"}\n')
    assert whole_files(tmp_path) == ["events.jsonl cannot be read"]


def test_hours_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="hours"):
        soak(hours=float("nan"))
