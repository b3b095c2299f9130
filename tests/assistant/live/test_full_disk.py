"""A run whose disk is full ends with one line, and what it wrote before opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disks import files_end_at
from fakes import FakeEngine
from scripted import our_threads

from egolive.assistant.generation.generate import GenerationRequest
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.runner import run_stream
from egolive.assistant.live.sinks import EventSink, Sink, VideoSink
from egolive.assistant.memory.live_memory import LiveMemory
from egolive.assistant.memory.moment_store import Memory, Moment
from egolive.assistant.recording.evidence import EvidenceWriter
from egolive.assistant.recording.run_replay import RunSettings, record_into
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.schema.engine import Prompt, Request, Vision
from egolive.benchmarks.robustness.kept_files import kept_files
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import SinkError
from egolive.streaming.frames import Frame
from egolive.streaming.sources.source import Source
from egolive.streaming.video_writer import VideoWriter

QUESTIONS = (Question("intent"), Question("next"))


class Noise(Source):
    """Ten pictures a second that do not get small."""

    live = False
    name = "noise"
    fps: float | None = 10.0
    size: tuple[int, int] | None = (64, 48)
    broken = 0

    def __iter__(self) -> Any:
        rng = np.random.default_rng(0)
        for index in range(60):
            image = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            image[0, 0] = index
            yield Frame(image, index / 10, index)

    def close(self) -> None: ...


OUTPUTS = ("out", "record", "evidence", "memory")


@pytest.mark.parametrize("size", [2_000, 9_000, 33_000, 90_000])
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_output_ends_with_what_is_whole(tmp_path: Path, output: str, size: int) -> None:
    engine, clock = FakeEngine(), VirtualClock()
    # SQLite makes its tables first.
    memory = Memory(tmp_path / "memory") if output == "memory" else None
    observer: Any = None
    sinks: list[Sink] = []
    if memory is not None:
        observer = LiveMemory(memory, engine, started=1e9)
    if output == "evidence":
        observer = EvidenceWriter(
            tmp_path / output, model="nano", info=engine.info, sha256="abc", profile=engine.profile
        )
    settings = RunSettings(model="nano", questions=QUESTIONS, fps=2.0, slices=2)
    ended: list[SinkError] = []
    with files_end_at(size):
        recorder = record_into(tmp_path / output, settings, engine) if output == "record" else None
        if output == "out":
            sinks = [EventSink(tmp_path / "out" / "events.jsonl")]
            sinks.append(VideoSink(VideoWriter(tmp_path / "out" / "overlay.mp4")))
        try:
            with Assistant(engine, questions=QUESTIONS, observer=observer, clock=clock) as assistant:
                run_stream(Noise(), assistant, sinks, fps=2.0, slices=2, clock=clock, recorder=recorder)
        except SinkError as error:
            ended.append(error)
    if memory is not None:
        memory.close()
    for told in map(str, ended):
        assert "\n" not in told
        assert "large" in told or "I/O" in told or "full" in told
    # A small answer, and a few moments, have room on the larger disks.
    assert ended or output == "memory" or (output == "evidence" and size > 20_000)
    kept = kept_files(tmp_path)
    assert kept.wrong == []
    assert not kept.torn
    assert not list(tmp_path.rglob("*.part"))
    assert our_threads() == []


def test_a_memory_on_a_full_disk_is_told_in_one_line_and_stays_whole(tmp_path: Path) -> None:
    with Memory(tmp_path / "memory") as memory:
        for number in range(3):
            memory.add(Moment(at=1e9 + number, time=number, kind="intent", text=f"plan {number}"))
        size = (tmp_path / "memory" / "memory.sqlite").stat().st_size
        large = Moment(at=1e9 + 5, time=5, kind="seen", text="lost", picture=bytes(300_000))
        with (
            files_end_at(size + 10_000),
            pytest.raises(SinkError, match="the memory cannot be written") as told,
        ):
            memory.add(large)
        assert "\n" not in str(told.value)
        # With room again it goes on.
        assert memory.add(large)
    assert kept_files(tmp_path).moments == 4


def test_half_a_bundle_is_never_left_and_never_read(tmp_path: Path) -> None:
    engine = FakeEngine()
    writer = EvidenceWriter(tmp_path, model="nano", info=engine.info, sha256="a", profile=engine.profile)
    rng = np.random.default_rng(0)
    frames = tuple(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8) for _ in range(2))
    prompt = Prompt((Vision(frames, 112, 112, "video"), "What?"))
    generation = GenerationRequest(question=QUESTIONS[0], prompt=prompt, source_size=(112, 112), time=1.0)
    answer = Answer(QUESTIONS[0], "tea", time=1.0)
    with files_end_at(30_000), pytest.raises(SinkError, match="large"):
        writer.keep(generation, Request(prompt), answer, ())
    assert list(tmp_path.iterdir()) == []
    writer.keep(generation, Request(prompt), answer, ())
    assert [path.name for path in tmp_path.iterdir()] == ["000000-1.00s-intent"]
