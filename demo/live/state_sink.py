"""Sink of the page: the answers of the newest picture as JSON, with their history and the run's figures.

It is used by the same loop (`run_stream`) as the video writer and the terminal view.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TypedDict

import cv2

from egolive.assistant.cli.terminal_view import Rates
from egolive.assistant.live.answer_text import certainty, in_words
from egolive.assistant.live.box_tracking import is_lost
from egolive.assistant.live.overlay import colour_of, coloured_boxes, label_of, short_phrase
from egolive.assistant.live.runner import metrics_event
from egolive.assistant.live.sinks import Shown, answer_event, box_values
from egolive.assistant.schema.answers import Answer
from egolive.streaming.clock import Clock, MonotonicClock
from egolive.streaming.frames import Frame
from egolive.streaming.metrics import Metrics

__all__ = ["State", "StateSink", "answer_for_page"]

_REMEMBERED = 60
"""Entries of the history that a page is shown."""
_FIGURES_PERIOD = 1.0
"""Seconds between two looks at the figures."""
_JPEG_QUALITY = 80


class State(TypedDict):
    """One moment as a page sees it; times are seconds of the stream."""

    index: int
    """Running number of the picture."""
    t: float
    """Its capture time."""
    now: float
    """When it was shown."""
    size: list[int]
    """Its width and height, pixels: the units of the boxes."""
    answers: list[dict[str, object]]
    """What is current, boxes carried to this picture."""
    history: list[dict[str, object]]
    """What was said about the wearer and to their questions, oldest first."""
    figures: dict[str, object]
    still_since: float | None
    """Time since which nothing has moved: what was answered about later pictures is current still."""
    error: str
    """Why the run is over; empty while it goes on or where it was asked to end."""
    over: bool
    """Whether the run has ended."""


class StateSink:
    """Implements `Sink`: keeps the newest moment and hands it to whoever waits for one."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        waiting: Callable[[], int] = lambda: 0,
        pictures: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """Start with nothing shown.

        Args:
            metrics: Of the run.
            waiting: How many requests wait for the engine.
            pictures: Keep the newest picture, for pages that have no camera of their own.
            clock: What rates are measured with.
        """
        self._metrics = metrics
        self._waiting = waiting
        self._pictures = pictures
        self._clock = clock or MonotonicClock()
        self._rates = Rates(self._clock)
        self._changed = threading.Lock()
        self._waiters: list[tuple[int, Future[State]]] = []
        self._history: deque[dict[str, object]] = deque(maxlen=_REMEMBERED)
        self._figures: dict[str, object] = {}
        self._figures_at = -_FIGURES_PERIOD
        self._dropped = 0
        self._gaps = 0
        self._warning = ""
        self._frame: Frame | None = None
        self._jpeg: tuple[int, bytes] = (-1, b"")
        self._state = State(
            index=-1,
            t=0.0,
            now=0.0,
            size=[0, 0],
            answers=[],
            history=[],
            figures={},
            still_since=None,
            error="",
            over=False,
        )

    @property
    def state(self) -> State:
        """The newest moment."""
        return self._state

    def wait_for(self, index: int) -> Future[State]:
        """The first moment that shows picture `index` or a later one; at the end, the last moment."""
        future: Future[State] = Future()
        with self._changed:
            if self._state["index"] >= index or self._state["over"]:
                future.set_result(self._state)
            else:
                # Those who have given up are forgotten here, too: their picture may never come.
                self._waiters = [waiter for waiter in self._waiters if not waiter[1].cancelled()]
                self._waiters.append((index, future))
        return future

    def jpeg(self) -> tuple[State, bytes]:
        """The newest moment with its picture, encoded once for all who look; no bytes where none is kept."""
        with self._changed:
            state, frame = self._state, self._frame
            if frame is not None and self._jpeg[0] != frame.index:
                swapped = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
                _, data = cv2.imencode(".jpg", swapped, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
                self._jpeg = (frame.index, data.tobytes())
            return state, self._jpeg[1]

    def emit(self, shown: Shown) -> None:
        """Take what is shown, and hand it on."""
        frame = shown.frame
        before = self._state["index"]
        self._dropped += frame.index - before - 1
        self._rates.count(shown)
        for answer in shown.new:
            self._remember(answer)
        now = self._clock.now()
        if now - self._figures_at >= _FIGURES_PERIOD:
            self._figures_at = now
            self._figures = self._figures_now(frame.time)
        if shown.governor != self._figures.get("governor", ""):
            # Pages may be reading the figures: they are replaced, never changed.
            self._figures = self._figures | {"governor": shown.governor}
        self._publish(
            State(
                index=frame.index,
                t=round(frame.time, 4),
                now=round(shown.now, 4),
                size=[frame.width, frame.height],
                answers=[answer_for_page(answer, shown.now) for answer in shown.answers],
                history=list(self._history),
                figures=self._figures,
                still_since=shown.still_since,
                error="",
                over=False,
            ),
            frame if self._pictures else None,
        )

    def note(self, event: Mapping[str, object]) -> None:
        """Count gaps, and keep the last warning."""
        self._gaps += event.get("type") == "gap"
        if event.get("type") == "warning":
            self._warning = str(event["text"])

    def close(self) -> None:
        """The run is over; see `end`, which says why."""

    def end(self, error: str = "") -> None:
        """Publish that nothing will follow, and why."""
        self._publish({**self._state, "error": error, "over": True, "answers": []}, self._frame)

    def _publish(self, state: State, frame: Frame | None) -> None:
        with self._changed:
            self._state, self._frame = state, frame
            reached = [state["over"] or index <= state["index"] for index, _ in self._waiters]
            ready = [waiter[1] for waiter, there in zip(self._waiters, reached, strict=True) if there]
            self._waiters = [
                waiter for waiter, there in zip(self._waiters, reached, strict=True) if not there
            ]
        for future in ready:
            # Who waited may have gone.
            if future.set_running_or_notify_cancel():
                future.set_result(state)

    def _remember(self, answer: Answer) -> None:
        """Add to the history what is new in it; the same again only lengthens it."""
        question = answer.question
        if question.task == "ground":
            return
        text = in_words(answer)
        last = next((entry for entry in reversed(self._history) if entry["task"] == question.task), None)
        if question.task in ("intent", "next") and last is not None and last["text"] == text:
            # Pages may be reading the entry: it is replaced, never changed.
            self._history[self._history.index(last)] = last | {"until": round(answer.time, 2)}
            return
        self._history.append(
            {
                "task": question.task,
                "phrase": question.phrase,
                "text": text,
                "t": round(answer.time, 2),
                "until": round(answer.time, 2),
            }
        )

    def _figures_now(self, time: float) -> dict[str, object]:
        event = metrics_event(self._metrics, time)
        rates = self._rates
        return {
            "source": round(rates.source, 1),
            "shown": round(rates.shown, 1),
            "answers": round(rates.answers, 1),
            "overlay_ms": event["glass_to_overlay_ms"],
            "age_s": event["answer_age_s"],
            "behind_s": event["behind_s"],
            "dropped": self._dropped,
            "gaps": self._gaps,
            "reuse": event["reuse"],
            "memory_mb": event["memory_mb"],
            "waiting": self._waiting(),
            "governor": self._figures.get("governor", ""),
            "warning": self._warning,
        }


def answer_for_page(answer: Answer, now: float) -> dict[str, object]:
    """One answer as a page draws it: its event, less what only programs read.

    Args:
        answer: What the model said.
        now: Stream time in seconds.
    """
    event = answer_event(answer, now)
    kept = (
        "status",
        "t",
        "task",
        "phrase",
        "text",
        "reasoning",
        "found",
        "boxes",
        "intervals",
        "window",
        "approx",
    )
    question = answer.question
    red, green, blue = colour_of(question.phrase)
    return {name: event[name] for name in kept} | {
        "guesses": [box_values(box) for box in answer.guesses],
        "labels": [label_of(box) for box, _ in coloured_boxes([answer], now)],
        "by": answer.by,
        "words": in_words(answer),
        "name": short_phrase(question.phrase),
        "colour": f"rgb({red} {green} {blue})",
        "absent": answer.absent,
        "lost": is_lost(answer),
        "calibrated": answer.calibrated,
        "certainty": certainty(answer),
        "unsure": answer.unsure,
        "guess": answer.guess,
    }
