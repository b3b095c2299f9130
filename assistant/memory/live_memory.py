"""The memory of a running stream: it stores moments, and answers the wearer's questions and commands.

where did I put the cup?
forget the last 5 minutes
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from egolive.assistant.generation.generate import AnswerObserver, GenerationRequest
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.memory.encodings import encoding_of, maker_of
from egolive.assistant.memory.memory_writer import MemoryWriter
from egolive.assistant.memory.moment_store import Memory, Moment
from egolive.assistant.memory.recall import Recalled, recall, thing_asked_for
from egolive.assistant.schema.answers import Answer
from egolive.assistant.schema.engine import Engine, Request, Vision
from egolive.streaming.clock import MonotonicClock
from egolive.streaming.errors import EgoliveError
from egolive.streaming.sources.source import Source
from egolive.streaming.sources.wrappers import Interruptible

__all__ = ["LiveMemory", "in_words", "seconds_to_forget"]

_FORGET = re.compile(
    r"^\s*forget\s+(?:the\s+)?(?:last\s+)?(?P<number>\d+(?:\.\d+)?)?\s*(?P<unit>second|minute|hour)s?\s*[.!]?\s*$",
    re.IGNORECASE,
)
_LOOK_EVERY = 0.25
"""Seconds between two looks at whether another process has forgotten something."""
_UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}


class LiveMemory:
    """Stands between a source, an assistant and a memory.

    As a context manager it also obeys other processes that forget, within a quarter of a second; without it
    does so with the next answer. In either case nothing is remembered any more of what they forgot.
    """

    def __init__(
        self,
        memory: Memory,
        engine: Engine,
        *,
        encodings: bool = False,
        started: float | None = None,
        also: Sequence[AnswerObserver] = (),
    ) -> None:
        """Remember nothing yet.

        Args:
            memory: Stays the caller's to close.
            engine: The one that answers.
            encodings: Keep the pictures' encodings too.
            started: When stream time was 0, seconds since 1970; without it, as the first frame tells.
            also: Others who keep answers.
        """
        self._memory = memory
        self._engine = engine
        self._assistant: Assistant | None = None
        self._source: Interruptible | None = None
        self._also = also
        self._started = started
        self._watcher: threading.Thread | None = None
        self._ended = threading.Event()
        self._rememberer = MemoryWriter(
            memory,
            started=self._began,
            encoded=self._encoding if encodings else None,
        )

    def keep(
        self, generation: GenerationRequest, request: Request, answer: Answer, tokens: Sequence[int]
    ) -> None:
        """Take an answer, as an `AnswerObserver` does."""
        self.obey()
        for observer in (self._rememberer, *self._also):
            observer.keep(generation, request, answer, tokens)

    def watch(self, source: Source) -> Source:
        """The source, to be played in its place: what is forgotten is cut out of it."""
        self._source = Interruptible(source)
        return self._source

    def attend(self, assistant: Assistant) -> None:
        """Tell whose answers these are."""
        self._assistant = assistant

    def obey(self) -> bool:
        """Forget all before now where another process has forgotten something; returns whether one has."""
        number = self._memory.forgotten_elsewhere()
        if not number:
            return False
        # What is held is dropped before anything is taken again.
        self._rememberer.drop(self._drop_frames())
        self._memory.obeyed(number)
        return True

    def __enter__(self) -> Self:
        self._watcher = threading.Thread(target=self._watch_others, name="memory", daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()

    def forget(self, seconds: float) -> int:
        """Forget what was seen, encoded, read and written in the last seconds; returns how many moments.

        The stream goes on as behind a gap. Files that other sinks write are not touched.
        """
        # First what needs no file: it is done even if the file cannot be written.
        now = self._drop_frames()
        return self._rememberer.forget(seconds, now)

    def take(self, line: str, tell: Callable[[str], object]) -> bool:
        """Serve a line of the wearer; False where it is none for the memory.

        Args:
            line: What was typed.
            tell: Takes what is answered.
        """
        if re.match(r"\s*forget\b", line, re.IGNORECASE):
            seconds = seconds_to_forget(line)
            if not seconds:
                tell('nothing was forgotten: say how much, as in "forget the last 5 minutes"')
                return True
            try:
                gone = self.forget(seconds)
                tell(f"forgot {gone} moments of the last {seconds:g} s, and all frames before now")
            except EgoliveError as error:
                tell(f"{error}; all frames before now are forgotten")
            return True
        if not re.match(r"\s*where\b", line, re.IGNORECASE):
            return False
        try:
            found = recall(self._memory, self._engine, line)
            tell(in_words(found, () if found else self._memory.search(thing_asked_for(line), limit=1)))
        except EgoliveError as error:
            tell(str(error))
        return True

    def _drop_frames(self) -> float:
        """Let stream and assistant drop what they hold; returns the stream time up to which."""
        now = self._source.now if self._source else 0.0
        # First the cut: a frame that came without it would bring the old window back.
        if self._source is not None:
            self._source.cut()
        if self._assistant is not None:
            self._assistant.forget_soon()
        return now

    def _watch_others(self) -> None:
        while not self._ended.wait(_LOOK_EVERY):
            self.obey()

    def _began(self) -> float:
        """When stream time was 0, seconds since 1970; the first call decides."""
        if self._started is None:
            origin = self._source.origin if self._source else None
            passed = 0.0 if origin is None else MonotonicClock().now() - origin
            self._started = time.time() - passed
        return self._started

    def _encoding(self, vision: Vision) -> bytes | None:
        if self._assistant is None:
            return None
        return encoding_of(self._assistant.engine_session, vision, maker_of(self._engine))


def in_words(found: Recalled | None, spoken: Sequence[Moment] = ()) -> str:
    """What was recalled, in a line.

    Args:
        found: The moment that was found.
        spoken: Where none was, what the timeline says about the words of the question.
    """
    if found is None:
        said = "".join(f'; at {moment.time:.1f} s was noted "{moment.text}"' for moment in spoken)
        return f"nothing that is remembered shows it{said}"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.at))
    how = "put down" if found.put else "last seen"
    sure = "" if found.box.score is None else f", probability {found.box.score:.2f}"
    places = ", ".join(f"{value:.0f}" for value in found.box)
    guess = "guess: " if found.guess else ""
    return (
        f"{guess}{found.phrase}: {how} at {when} ({found.time:.1f} s of that run), box [{places}] of a "
        f"{found.size[0]}x{found.size[1]} picture{sure}; {found.looks} pictures looked at again"
    )


def seconds_to_forget(line: str) -> float | None:
    """How much a line asks to forget: "forget the last 5 minutes" gives 300; None where it does not."""
    match = _FORGET.match(line)
    return None if match is None else float(match["number"] or 1) * _UNITS[match["unit"].lower()]
