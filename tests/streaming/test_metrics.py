"""Times, counts, shares and memory of a run."""

import json
import math
import mmap
import threading

import pytest

from egolive.streaming import Metrics, VirtualClock
from egolive.streaming.metrics import known, peak_rss_bytes, reset_peak_rss, rss_bytes, slope_per_hour


def test_percentiles_are_of_the_last_times_and_the_most_is_of_all() -> None:
    metrics = Metrics(recent=100)
    metrics.add("encode", 9.0)
    for hundredths in range(1, 101):
        metrics.add("encode", hundredths / 100)
    stage = metrics.stage("encode")
    assert stage is not None
    assert (stage.count, stage.max) == (101, 9.0)
    assert stage.p50 == pytest.approx(0.505)
    assert stage.p95 == pytest.approx(0.9505)
    assert stage.p99 == pytest.approx(0.9901)


def test_stages_stand_in_the_order_in_which_they_first_happened() -> None:
    metrics = Metrics()
    for stage in ("capture", "wait", "capture", "draw"):
        metrics.add(stage, 0.1)
    assert list(metrics.stages()) == ["capture", "wait", "draw"]
    assert metrics.stage("parse") is None


def test_what_fails_is_measured_too() -> None:
    clock = VirtualClock()
    metrics = Metrics(clock)

    def fail() -> None:
        with metrics.measure("draw"):
            clock.advance(0.25)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    stage = metrics.stage("draw")
    assert stage is not None
    assert stage.max == 0.25


def test_shares_are_of_sums_and_none_without_a_whole() -> None:
    metrics = Metrics()
    assert metrics.share("slices_encoded", "slices_used") is None
    for _ in range(3):
        metrics.count({"slices_encoded": 1, "slices_used": 8})
    assert metrics.share("slices_encoded", "slices_used") == pytest.approx(1 / 8)
    # A server tells how many tokens it read, and not how many of them again.
    assert metrics.share("prompt_tokens_reused", "slices_used") is None
    metrics.count({"prompt_tokens_reused": 0})
    assert metrics.share("prompt_tokens_reused", "slices_used") == 0
    assert metrics.counts == {"slices_encoded": 3, "slices_used": 24, "prompt_tokens_reused": 0}


def test_nothing_is_lost_between_threads_and_memory_is_bounded() -> None:
    metrics = Metrics(recent=16)

    def work() -> None:
        for _ in range(2000):
            metrics.add("encode", 0.1)
            metrics.count({"tokens": 1})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stage = metrics.stage("encode")
    assert stage is not None
    assert stage.count == metrics.counts["tokens"] == 8000
    assert len(metrics._times["encode"]) == 16


def test_memory_that_is_held_is_seen() -> None:
    # Memory of its own: the allocator may hand out what other tests had freed.
    with mmap.mmap(-1, 64_000_000) as held:
        before = rss_bytes()
        held.write(b"x" * len(held))
        after = rss_bytes()
    assert after - before > 50_000_000


def test_the_peak_is_counted_anew() -> None:
    with mmap.mmap(-1, 64_000_000) as held:
        held.write(b"x" * len(held))
        assert peak_rss_bytes() >= rss_bytes()
    if not reset_peak_rss():
        pytest.skip("this system cannot count the most memory anew")
    before = peak_rss_bytes()
    with mmap.mmap(-1, 64_000_000) as held:
        held.write(b"x" * len(held))
    assert peak_rss_bytes() - before > 50_000_000


def test_what_is_no_number_is_unknown_in_json() -> None:
    figures = {"a": math.nan, "b": [1.0, -math.inf], "c": {"d": (math.inf, 2)}, "e": "nan", "f": None}
    told = {"a": None, "b": [1.0, None], "c": {"d": [None, 2]}, "e": "nan", "f": None}
    assert json.loads(json.dumps(known(figures), allow_nan=False)) == told


def test_a_slope_is_an_hours_growth() -> None:
    assert slope_per_hour([(0.0, 100.0), (1800.0, 101.0), (3600.0, 102.0)]) == pytest.approx(2.0)
    assert slope_per_hour([(0.0, 5.0), (10.0, 7.0), (20.0, 5.0)]) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="two times"):
        slope_per_hour([(1.0, 5.0), (1.0, 6.0)])
