"""What gives no error but does not go on either: an engine that hangs, a sink that blocks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeEngine
from scripted import Screen, Scripted, await_event, name, run, tenths

from egolive.assistant.cli import main as cli
from egolive.assistant.cli.options import ModelOptions
from egolive.assistant.cli.stopping import stopped_by_signal
from egolive.streaming import Frame, Window
from egolive.streaming.errors import EngineError
from egolive.streaming.pipeline.watchdog import Watchdog


@pytest.mark.parametrize("live", [True, False], ids=["live", "recorded"])
def test_thinking_that_hangs_ends_the_run_and_is_left_behind(live: bool) -> None:
    hanging, free = threading.Event(), threading.Event()

    def think(window: Window | None, picture: Frame) -> Iterator[str]:
        yield "first"
        hanging.set()
        await_event(free)

    def before(index: int) -> None:
        if index == 20 and live:
            await_event(hanging)

    source, screen = Scripted(tenths(10_000), live=live, before=before), Screen()
    with pytest.raises(EngineError, match=r"no sign of life for 0\.05 s"):
        run(source, think, screen, timeout=0.05)
    assert source.closed
    (left,) = (thread for thread in threading.enumerate() if thread.name == "egolive-think")
    free.set()
    left.join()


def test_looking_whether_to_stop_is_a_sign_of_life_and_so_is_silence_without_work() -> None:
    watchdog = Watchdog(1e-9)
    stopped = watchdog.watched(lambda: False)
    assert not watchdog.hangs()
    watchdog.begin()
    for _ in range(3):
        assert not stopped()
        assert not watchdog.hangs()
    assert watchdog.hangs()
    watchdog.end()
    assert not watchdog.hangs()


def test_a_machine_that_slept_adds_no_more_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("egolive.streaming.pipeline.watchdog.time.monotonic", lambda: now)
    watchdog = Watchdog(5.0)
    watchdog.begin()
    for _ in range(6):
        assert not watchdog.hangs()
        now += 3600.0
    assert watchdog.hangs()


def test_a_timeout_that_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="timeout"):
        run(Scripted(tenths(3), live=False), name, Screen(), timeout=-1.0)


@pytest.mark.skipif(os.name != "posix", reason="there are no such alarms")
def test_what_blocks_after_a_signal_is_interrupted_with_the_code_of_the_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("egolive.assistant.cli.stopping._GRACE", 0.01)
    before = signal.getsignal(signal.SIGTERM)

    def block() -> None:
        with stopped_by_signal() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.wait(60)
            threading.Event().wait(60)

    with pytest.raises(KeyboardInterrupt) as told:
        block()
    assert told.value.args == (143,)
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MemoryError(), 1, "egolive: memory ran out"),
        (KeyboardInterrupt(143), 143, "egolive: terminated"),
        (KeyboardInterrupt(), 130, "egolive: interrupted"),
    ],
    ids=["memory", "TERM", "Ctrl-C"],
)
def test_what_is_nobodys_mistake_is_one_line_too(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(self: ModelOptions) -> FakeEngine:
        raise error

    monkeypatch.setattr(ModelOptions, "load", fail)
    assert cli.call(["run"]) == code
    told = capsys.readouterr().err
    assert told.startswith(line)
    assert told.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_an_event_file_that_is_a_full_pipe_holds_nothing_back_for_its_end(tmp_path: Path) -> None:
    from egolive.assistant.live.sinks import EventSink

    pipe = tmp_path / "events.jsonl"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = EventSink(pipe)
    sink.note({"type": "gap"})
    assert os.read(reading, 100) == b'{"type": "gap"}\n'
    os.close(reading)
    # Nobody reads any more: a rest in a buffer would fail here.
    sink.close()
