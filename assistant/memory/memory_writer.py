"""Writes moments to the memory from answers: changed texts, and objects that the hands took or put down.

It gets each answer with the picture that it is about, on the model's thread. A hand's hold changes
when two answers in a row say so; the moment is that of the first of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2

from egolive.assistant.generation.generate import GenerationRequest
from egolive.assistant.memory.moment_store import Kind, Memory, Moment
from egolive.assistant.schema.answers import Answer
from egolive.assistant.schema.engine import Request, Vision
from egolive.streaming.frames import Box, Image

__all__ = ["MemoryWriter", "to_jpeg"]

_SURE = 2
"""Answers in a row that make a change."""
_WIDEST = 640
"""Pixels to which pictures are reduced before they are kept."""
_LONGEST_BREAK = 10.0
"""Seconds without an answer after which nothing is known of a hand."""
_SEEN_EVERY = 10.0
"""Seconds between two moments at which the same phrase was seen."""


@dataclass(slots=True)
class _View:
    """A picture with what was found in it."""

    time: float
    size: tuple[int, int]
    vision: Vision
    box: Box | None = None


@dataclass(slots=True)
class _Hand:
    """What is known of one hand's hold."""

    time: float = float("-inf")
    """Of the last answer about it."""
    holds: bool = False
    last: _View | None = None
    """The last picture in which it held something."""
    contrary: list[_View] = field(default_factory=list)
    """Answers that say otherwise, since the last that did not."""


class MemoryWriter:
    """An `AnswerObserver` that stores moments."""

    def __init__(
        self,
        memory: Memory,
        *,
        started: Callable[[], float],
        encoded: Callable[[Vision], bytes | None] | None = None,
    ) -> None:
        """Start with empty hands.

        Args:
            memory: Where moments go; stays the caller's to close.
            started: Tells when stream time was 0, seconds since 1970.
            encoded: Gives a picture's visual tokens, where these shall be kept.
        """
        self._memory = memory
        self._started = started
        self._encoded = encoded
        self._lock = threading.Lock()
        self._hands: dict[str, _Hand] = {}
        self._words: dict[str, str] = {}
        self._seen: dict[str, float] = {}
        self._forgotten_until = float("-inf")

    def keep(
        self, generation: GenerationRequest, request: Request, answer: Answer, tokens: Sequence[int]
    ) -> None:
        """Take an answer, and remember what is new in it."""
        if answer.status != "ok":
            return
        with self._lock:
            # An answer on its way may be about frames from before, though its newest one is later.
            began = answer.time if answer.window is None else min(answer.time, answer.window.start)
            if began <= self._forgotten_until:
                return
            if answer.question.task in ("intent", "next"):
                self._say(answer)
            elif answer.question.task == "ground":
                self._look(generation, answer)

    def forget(self, seconds: float, now: float) -> int:
        """Forget a stretch that ends now, in the memory and here; returns how many moments it had.

        Args:
            seconds: Its length.
            now: Stream time.
        """
        with self._lock:
            self._drop(now)
            return self._memory.forget(self._started() + now - seconds, self._started() + now)

    def drop(self, now: float) -> None:
        """Drop what is held here of the time before now, and take no answer about it any more.

        Args:
            now: Stream time.
        """
        with self._lock:
            self._drop(now)

    def _drop(self, now: float) -> None:
        self._forgotten_until = now
        self._hands.clear()
        self._words.clear()
        self._seen.clear()

    def _say(self, answer: Answer) -> None:
        task = answer.question.task
        if answer.text and self._words.get(task) != answer.text:
            self._words[task] = answer.text
            kind: Kind = "intent" if task == "intent" else "next"
            at = self._started() + answer.time
            self._memory.add(Moment(at=at, time=answer.time, kind=kind, text=answer.text))

    def _look(self, generation: GenerationRequest, answer: Answer) -> None:
        vision = next(part for part in generation.prompt.parts if isinstance(part, Vision))
        box = answer.boxes[0] if answer.boxes else None
        view = _View(answer.time, generation.source_size, vision, box)
        phrase = answer.question.phrase
        held = phrase.removeprefix("object in the ")
        if held != phrase and held.endswith(" hand"):
            self._hold(held, view)
            return
        due = answer.time - self._seen.get(phrase, float("-inf")) >= _SEEN_EVERY
        if box is not None and due and not phrase.endswith(" hand"):
            self._seen[phrase] = answer.time
            self._memory.add(self._moment("seen", f"{phrase} seen", view))

    def _hold(self, name: str, view: _View) -> None:
        hand = self._hands.get(name)
        if hand is None or view.time - hand.time > _LONGEST_BREAK:
            hand = self._hands[name] = _Hand()
        hand.time = view.time
        if (view.box is not None) == hand.holds:
            hand.contrary.clear()
            if hand.holds:
                hand.last = view
            return
        hand.contrary.append(view)
        if len(hand.contrary) < _SURE:
            return
        first, newest = hand.contrary[0], hand.contrary[-1]
        doing = "; ".join(f"{task}: {words}" for task, words in self._words.items())
        if hand.holds:
            if hand.last is not None:
                self._memory.add(self._moment("held", f"{name} still holds it", hand.last))
            self._memory.add(self._moment("put", f"{name} puts something down; {doing}", first))
            hand.last = None
        else:
            text = f"{name} takes something; {doing}"
            self._memory.add(Moment(at=self._started() + first.time, time=first.time, kind="take", text=text))
            hand.last = newest
        hand.holds = not hand.holds
        hand.contrary.clear()

    def _moment(self, kind: Kind, text: str, view: _View) -> Moment:
        return Moment(
            at=self._started() + view.time,
            time=view.time,
            kind=kind,
            text=text,
            size=view.size,
            box=view.box,
            picture=to_jpeg(view.vision.frames[-1]),
            encoding=self._encoded(view.vision) if self._encoded else None,
        )


def to_jpeg(image: Image) -> bytes:
    """A JPEG of a picture, at most 640 pixels wide."""
    width = min(_WIDEST, image.shape[1])
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    return bytes(data.tobytes())
