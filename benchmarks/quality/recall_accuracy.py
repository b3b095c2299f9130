"""How often "where did I put X" is answered with the right time and the right box, on simulated sessions.

The stream is the simulator's own, drawn picture by picture as it is asked for; several episodes in a row make
a session of some minutes. `truth` answers from what the simulator knows, which measures the memory alone:
what it keeps, what it finds, and where in time it puts things. A model in its place measures the whole.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from egolive.assistant.cli.options import open_model
from egolive.assistant.live.assistant import LIVE_QUESTIONS, Assistant
from egolive.assistant.live.runner import run_stream
from egolive.assistant.memory.live_memory import LiveMemory
from egolive.assistant.memory.moment_store import Memory
from egolive.assistant.memory.recall import recall
from egolive.assistant.schema.coordinates import from_source
from egolive.assistant.schema.engine import FULL_REUSE, Delta, Engine, EngineInfo, Request, Reuse, Vision
from egolive.assistant.schema.profiles import NANO
from egolive.assistant.system import machine
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import DataError
from egolive.streaming.frames import Box, Frame
from egolive.streaming.metrics import known
from egolive.streaming.sources.source import Source
from egolive.train.simulator.episode import HANDS, FrameTruth, plan_episode, render_frame

__all__ = ["Put", "Session", "TruthEngine", "run_recall"]

_SIZE = (224, 140)
_FPS = 2.0
_CLOSE = 5.0
"""Seconds from the truth within which a time is right."""
_OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class Put:
    """The last time that a thing was let go, and where it was then."""

    thing: str
    time: float
    box: Box


class Session(Source):
    """Episodes of the simulator's test split one after another, until they last so many seconds.

    Args:
        number: Of the session; its episodes are no other session's.
        seconds: Least length.
        seed: Of the simulator.
    """

    def __init__(self, number: int, seconds: float, *, seed: int = 0) -> None:
        self.live = False
        self.name = f"simulated session {number}"
        self.fps: float | None = _FPS
        self.size: tuple[int, int] | None = _SIZE
        self.broken = 0
        self.truths: list[tuple[float, FrameTruth]] = []
        """Stream time and truth of each frame that was handed out."""
        self._first = number * 100
        self._seconds = seconds
        self._seed = seed

    def __iter__(self) -> Iterator[Frame]:
        """Frames at the rate at which the model samples; an episode begins behind a gap."""
        index, begun = 0, 0.0
        for episode in range(self._first, self._first + 100):
            if begun >= self._seconds:
                return
            plan = plan_episode(episode, seed=self._seed, split="test")
            for number in range(math.floor(plan.duration * _FPS)):
                image, truth = render_frame(plan, number / _FPS, _SIZE)
                time = begun + number / _FPS
                self.truths.append((time, truth))
                yield Frame(image, time, index, gap=number == 0 and index > 0)
                index += 1
            begun += plan.duration + 1 / _FPS

    def close(self) -> None:
        """Nothing to free."""

    def puts(self) -> list[Put]:
        """Each thing that was let go in sight, with the last time."""
        last: dict[str, Put] = {}
        before: set[str] = set()
        for time, truth in self.truths:
            held = {thing for hand in HANDS if (thing := truth.held[hand]) is not None}
            for thing in before - held:
                if thing in truth.boxes:
                    last[thing] = Put(thing, time, Box(*truth.boxes[thing]))
            for thing in held:
                # Taken again: where it was put before does not count any more.
                last.pop(thing, None)
            before = held
        return list(last.values())


class TruthEngine:
    """Answers what the simulator knows about a session, in nano's own notation; an `Engine`."""

    def __init__(self, session: Session) -> None:
        self.info = EngineInfo("truth", "simulator", "exact", "cpu", NANO.name, 0)
        self.profile = NANO
        self.tokenizer = None
        self._of = session

    def session(self, reuse: Reuse = FULL_REUSE) -> _TruthSession:
        """What answers; it has no state."""
        return _TruthSession(self._of)

    def close(self) -> None:
        """Nothing to free."""


class _TruthSession:
    def __init__(self, of: Session) -> None:
        self._of = of

    def see(self, vision: Vision) -> None: ...

    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        for number, request in enumerate(requests):
            yield Delta(number, 0, self._answer(request), None)
            yield Delta(number, 0, "", None, "stop")

    def _answer(self, request: Request) -> str:
        text = "".join(part for part in request.prompt.parts if isinstance(part, str))
        (vision,) = (part for part in request.prompt.parts if isinstance(part, Vision))
        if "Find the " not in text:
            return "work"
        key = vision.keys[-1]
        assert isinstance(key, tuple)
        # Live pictures are named by their number, remembered ones by their time.
        number = int(key[1]) if key[0] == "frame" else self._at(float(key[2]))
        truth = self._of.truths[number][1]
        wanted = text.partition("Find the ")[2].partition(".<")[0]
        thing: str | None = wanted
        if wanted.startswith("object in the "):
            thing = truth.held[wanted.removeprefix("object in the ")]
        if thing is None or thing not in truth.boxes:
            return "none"
        seen = (vision.width, vision.height)
        a, b, c, d = from_source(truth.boxes[thing], "norm1000", source_size=_SIZE, seen_size=seen)
        return f"<|box_start|>({a:g},{b:g}),({c:g},{d:g})<|box_end|>"

    def _at(self, time: float) -> int:
        times = [then for then, _ in self._of.truths]
        return min(range(len(times)), key=lambda number: abs(times[number] - time))

    def usage(self, request: int | None = None) -> dict[str, int]:
        return {}

    def forget(self) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> _TruthSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def run_recall(
    *,
    model: str,
    sessions: int,
    seconds: float,
    seed: int,
    json_file: Path | None,
) -> None:
    """Measure, print and write; the arguments are those of `egolive.benchmarks.commands.recall_bench`."""
    asked = close = boxes = found = looks = 0
    length = text = pictures = 0.0
    loaded = None if model == "truth" else open_model(model)
    for number in range(sessions):
        source = Session(number, seconds, seed=seed)
        engine: Engine = loaded or TruthEngine(source)
        with TemporaryDirectory() as folder, closing(Memory(Path(folder))) as memory:
            _live(source, engine, memory)
            length += source.truths[-1][0]
            text += memory.sizes()["text"]
            pictures += memory.sizes()["pictures"]
            for put in source.puts():
                answer = recall(memory, engine, f"Where did I put the {put.thing}?")
                asked += 1
                if answer is None:
                    continue
                found += 1
                looks += answer.looks
                right = abs(answer.time - put.time) <= _CLOSE
                close += right
                boxes += right and answer.box.iou(put.box) >= _OVERLAP
        sys.stderr.write(f"session {number + 1}: {close} of {asked} times, {boxes} boxes right\n")
    if not asked:
        raise DataError(
            "nothing was put down in these sessions, so there is nothing to recall; give more --seconds"
        )
    figures: dict[str, object] = {
        "model": model,
        "sessions": sessions,
        "hours": round(length / 3600, 3),
        "n": asked,
        "found": found,
        "time_within_5s": round(close / asked, 4),
        "box_iou50": round(boxes / asked, 4),
        "looks_a_question": round(looks / found, 2) if found else None,
        "text_bytes_a_minute": round(text / length * 60, 1),
        "picture_bytes_a_minute": round(pictures / length * 60, 1),
    }
    line = json.dumps(known(figures | machine.gather())) + "\n"
    if json_file is not None:
        json_file.write_text(line, encoding="utf-8")
    sys.stdout.write(line)


def _live(source: Session, engine: Engine, memory: Memory) -> None:
    """Play a session with nothing but the questions that the memory lives on."""
    live = LiveMemory(memory, engine, started=0.0)
    clock = VirtualClock()
    questions = [question for question in LIVE_QUESTIONS if question.task != "ground"]
    questions += [question for question in LIVE_QUESTIONS if question.phrase.startswith("object")]
    with Assistant(engine, questions=questions, observer=live, clock=clock) as assistant:
        live.attend(assistant)
        profile = engine.profile
        watched = live.watch(source)
        run_stream(watched, assistant, [], fps=_FPS, slices=profile.window_slices, clock=clock)
