"""Sessions of the Live tab: one run of the assistant per visitor with a camera, or one that all watch."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass

from egolive.assistant.hands.hand_choice import HandSettings
from egolive.assistant.live.assistant import Assistant, live_questions
from egolive.assistant.live.governing import governed
from egolive.assistant.live.hands_beside import open_hands
from egolive.assistant.live.runner import run_stream
from egolive.assistant.model.simulated_source import from_simulator
from egolive.assistant.runtime.engine_lock import SharedEngine
from egolive.assistant.schema.answers import Question, Task
from egolive.demo.live.browser_source import BrowserSource
from egolive.demo.live.state_sink import State, StateSink
from egolive.demo.security.names import is_loopback
from egolive.streaming.errors import EgoliveError, SourceError, UsageError
from egolive.streaming.metrics import Metrics
from egolive.streaming.sources.source import Source

__all__ = ["Settings", "VisitorSession", "VisitorSessions"]

_log = logging.getLogger(__name__)

_EVERY = 2
"""Slices from one intent and next step to the following ones, as in `egolive run`."""
_FAULT = "the server met a fault of its own, which its log tells; start again"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked of a stream."""

    tasks: tuple[Task, ...] = ("intent", "next", "ground")
    phrases: tuple[str, ...] = ()
    """Further things to find."""
    think: bool | None = None
    """Reason before the answer, or not; the model's own habit where None."""


class VisitorSession:
    """One stream with its assistant. A run begins with each change of what is asked; `post` feeds it."""

    def __init__(
        self,
        engine: SharedEngine,
        open_source: Callable[[], Source],
        settings: Settings,
        *,
        pictures: bool,
        fixed: bool = False,
        hands: HandSettings | None = None,
    ) -> None:
        """Begin a run.

        Args:
            engine: What answers.
            open_source: Opens what is seen, anew for each run.
            settings: What is asked.
            pictures: Keep pictures for pages to look at.
            fixed: Do not govern what is asked when.
            hands: Who is asked about hands.

        Raises:
            SourceError: The source cannot be opened.
        """
        self.settings = settings
        self._engine = engine
        self._open = open_source
        self._pictures = pictures
        self._fixed = fixed
        self._hands = hands or HandSettings()
        self._changing_run = threading.Lock()
        self._run = _Run(engine, open_source(), settings, pictures=pictures, fixed=fixed, hands=self._hands)
        self._run.start()

    @property
    def sink(self) -> StateSink:
        """What pages are sent."""
        return self._run.sink

    @property
    def over(self) -> bool:
        """Whether its run has ended, and no other is about to begin."""
        return not self.changing and self.sink.state["over"]

    @property
    def changing(self) -> bool:
        """Whether one run is being exchanged for another."""
        return self._changing_run.locked()

    @property
    def source(self) -> Source:
        """What is seen."""
        return self._run.source

    @property
    def queue(self) -> int:
        """How many visitors wait for the engine now."""
        return self._engine.lock.waiting

    def post(self, jpeg: bytes, time: float) -> Future[State]:
        """Take a picture of the visitor's camera.

        Args:
            jpeg: The picture.
            time: Its capture time by the page's clock, seconds.

        Returns:
            The moment in which it, or a newer one, is shown.

        Raises:
            SourceError: It cannot be taken.
        """
        run = self._run
        if not isinstance(run.source, BrowserSource):
            raise SourceError("this page watches a camera of the server; it takes no pictures")
        return run.sink.wait_for(run.source.put(jpeg, time))

    def ask(self, question: Question) -> None:
        """Ask something once."""
        self._run.assistant.put(question)

    def change(self, settings: Settings) -> None:
        """Ask other things from now on; what was seen is forgotten.

        Raises:
            UsageError: Another change is under way.
            SourceError: The source cannot be opened again.
        """
        # Nobody waits for another: each would take a thread of the server.
        if not self._changing_run.acquire(blocking=False):
            raise UsageError("the change before is not done yet; try again")
        try:
            self._run.stop()
            self._run.join()
            run = _Run(
                self._engine,
                self._open(),
                settings,
                pictures=self._pictures,
                fixed=self._fixed,
                hands=self._hands,
            )
            self.settings, self._run = settings, run
            run.start()
        finally:
            self._changing_run.release()

    @property
    def quiet(self) -> float:
        """Seconds without a picture of the visitor's camera; 0 where the server's is watched."""
        source = self._run.source
        return source.quiet if isinstance(source, BrowserSource) else 0.0

    @property
    def ended(self) -> bool:
        """Whether its thread has ended too."""
        return not self.changing and not self._run.alive

    def close(self) -> None:
        """End the run, without waiting for it."""
        self._run.stop()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the run."""
        self._run.join(timeout)


class _Run:
    """The assistant on one source, on a thread of its own."""

    def __init__(
        self,
        engine: SharedEngine,
        source: Source,
        settings: Settings,
        *,
        pictures: bool,
        fixed: bool,
        hands: HandSettings,
    ) -> None:
        profile = engine.profile
        self.source = source
        self._fixed = fixed
        self._every = _EVERY if source.live else 1
        self._metrics = Metrics()
        think = profile.think if settings.think is None else settings.think
        try:
            self._choice = hands.choose(
                live_questions(settings.tasks, settings.phrases, think=think), source.name
            )
            self.assistant = Assistant(
                engine,
                questions=self._choice.questions,
                every=self._every,
                metrics=self._metrics,
                simulated=from_simulator(source.name),
            )
        except BaseException:
            source.close()
            raise
        self.sink = StateSink(
            self._metrics, waiting=lambda: self.assistant.scheduler.waiting, pictures=pictures
        )
        self._fps, self._slices = profile.fps, profile.window_slices
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, name="egolive-session", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self.source.close()

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _play(self) -> None:
        error = ""
        try:
            with self.assistant, ExitStack() as stack:
                governor = None
                if self.source.live and not self._fixed:
                    governor = stack.enter_context(
                        governed(self.assistant, fps=self._fps, slices=self._slices, every=self._every)
                    )
                hands = open_hands(
                    self._choice, self.assistant.profile, live=self.source.live, metrics=self._metrics
                )
                run_stream(
                    self.source,
                    self.assistant,
                    [self.sink],
                    fps=self._fps,
                    slices=self._slices,
                    stop=self._stop,
                    metrics=self._metrics,
                    governor=governor,
                    hands=hands,
                )
        except EgoliveError as failure:
            error = str(failure)
            _log.warning("a visitor's run ended: %s", error)
        except Exception:
            error = _FAULT
            _log.exception("a visitor's run ended by a fault")
        finally:
            self.sink.end(error)


class VisitorSessions:
    """All sessions of a server, at most so many at once; each has a random identifier.

    Args:
        engine: What answers all of them.
        open_source: Opens the server's own source, which all pages watch; pages bring their cameras
            without it.
        most: Visitors with a camera at once. A place is free again when its thread has ended.
        first_picture: Seconds within which a visitor's camera has to send its first picture, and
            after which one that sends none gives way where others wait.
        fixed: Do not govern what is asked when.
        hands: Who is asked about hands.
    """

    def __init__(
        self,
        engine: SharedEngine,
        open_source: Callable[[], Source] | None = None,
        *,
        most: int = 4,
        first_picture: float = 10.0,
        fixed: bool = False,
        hands: HandSettings | None = None,
    ) -> None:
        self.engine = engine
        self.watched = open_source is not None
        """Whether pages watch a source of the server."""
        self._open = open_source or BrowserSource
        self._most = most
        self._fixed = fixed
        self._hands = hands
        self._patience = first_picture
        self._changing = threading.Lock()
        self._sessions: dict[str, VisitorSession] = {}
        self._address: dict[str, str] = {}
        self._ending: list[VisitorSession] = []
        """Closed ones whose thread has not ended yet: they keep their place."""

    def open(self, settings: Settings, address: str = "127.0.0.1") -> str | None:
        """Begin a session; returns its identifier, or None where the server is full.

        Args:
            settings: What is asked.
            address: Whose it is. One address of the network may have half of the places; this machine all.

        Raises:
            SourceError: The server's source cannot be opened.
            EngineError: The engine has no room for one more.
        """
        with self._changing:
            self._sweep()
            if self.watched and self._sessions:
                return next(iter(self._sessions))
            if len(self._sessions) >= self._most:
                self._close_quiet()
            if len(self._sessions) + len(self._ending) >= self._most:
                return None
            theirs = sum(address == one for one in self._address.values())
            if not is_loopback(address) and theirs >= max(1, self._most // 2):
                return None
            word = secrets.token_urlsafe(16)
            self._sessions[word] = VisitorSession(
                self.engine,
                self._open,
                settings,
                pictures=self.watched,
                fixed=self._fixed,
                hands=self._hands,
            )
            self._address[word] = address
            return word

    def get(self, word: str) -> VisitorSession | None:
        """The session of this identifier; None where it is over. Never waits: the page's event loop asks."""
        return self._sessions.get(word)

    def leave(self, word: str) -> None:
        """A page was closed; what is watched by all goes on."""
        with self._changing:
            if not self.watched and word in self._sessions:
                self._end(word)

    def sweep(self) -> None:
        """End the sessions that never sent a picture, and forget those that have ended."""
        with self._changing:
            self._sweep()

    def close(self) -> None:
        """End all sessions and wait for them."""
        with self._changing:
            for word in list(self._sessions):
                self._end(word)
            sessions = list(self._ending)
        started = time.monotonic()
        for session in sessions:
            session.join(max(0.0, 10.0 - (time.monotonic() - started)))

    def __len__(self) -> int:
        """Places that are taken."""
        with self._changing:
            self._sweep()
            return len(self._sessions) + len(self._ending)

    def _sweep(self) -> None:
        for word, session in list(self._sessions.items()):
            source = session.source
            silent = isinstance(source, BrowserSource) and source.origin is None
            # A run also ends by itself, for example because no picture came any more.
            if session.over or (silent and not session.changing and session.quiet > self._patience):
                self._end(word)
        self._ending = [session for session in self._ending if not session.ended]

    def _close_quiet(self) -> None:
        """Where all places are taken, the one that has sent nothing for longest gives way."""
        word, session = max(self._sessions.items(), key=lambda item: item[1].quiet)
        if session.quiet > self._patience:
            self._end(word)

    def _end(self, word: str) -> None:
        session = self._sessions.pop(word)
        del self._address[word]
        session.close()
        if not session.ended:
            self._ending.append(session)
