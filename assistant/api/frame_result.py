"""What a stream says with each frame: the picture, what is known about it, and how old that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from egolive.assistant.live.overlay import draw
from egolive.assistant.schema.answers import Answer, Domain, Task
from egolive.streaming.errors import ConfigError
from egolive.streaming.frames import Box, Frame, Image
from egolive.streaming.hands import Hand

if TYPE_CHECKING:
    import supervision

__all__ = ["FrameResult", "TrackedBox"]


@dataclass(frozen=True, slots=True)
class TrackedBox(Box):
    """A box that was carried from the picture in which it was found to the frame of the result.

    Corners are pixels of the source frame, x to the right and y down.

    Example:
        >>> import egolive
        >>> box = egolive.TrackedBox(10, 20, 50, 80, label="left hand", score=0.9, age=0.4)
        >>> box.label, box.age, box.area
        ('left hand', 0.4, 2400)
    """

    age: float = 0.0
    """Seconds since the picture in which it was found was taken."""


class FrameResult:
    """One frame of a stream with what is known at that moment.

    What is not known is None or left out: not asked, not answered yet, answered in a way that cannot be read,
    too old, from before a gap, or a guess about scenes that the model was not trained on, see
    `domain`. What was looked for and is not there stands in `absent`. All that was said stands in `answers`.

    Example:
        >>> import egolive
        >>> with egolive.load_model("nano") as model:
        ...     stream = model.stream(egolive.example_clip(), tasks=["intent", "hands"], seconds=1.6)
        ...     first, *_, last = stream
        >>> first.time, first.intent, first.frame.shape
        (0.0, None, (252, 448, 3))
        >>> isinstance(last.intent, str), round(last.age, 1)
        (True, 0.1)
    """

    __slots__ = ("_answers", "_frame", "_hands", "_new", "_now")

    def __init__(
        self,
        frame: Frame,
        answers: Sequence[Answer],
        *,
        new: Sequence[Answer] = (),
        hands: Sequence[Hand] = (),
        now: float | None = None,
    ) -> None:
        """Hold one frame and what is known about it.

        Args:
            frame: The picture.
            answers: The newest answer to each question that is still current, boxes in pixels of this frame.
            new: Answers that have come in since the result before.
            hands: What the hand detector sees, where it is in this frame.
            now: Stream time in seconds from which ages are counted; the frame's own time without it.
        """
        self._frame = frame
        self._answers = tuple(answers)
        self._new = tuple(new)
        self._hands = tuple(hands)
        self._now = frame.time if now is None else now

    @property
    def time(self) -> float:
        """When the frame was taken, seconds from the start of the stream."""
        return self._frame.time

    @property
    def index(self) -> int:
        """Running number of the frame in the source; frames that were passed over are counted."""
        return self._frame.index

    @property
    def frame(self) -> Image:
        """The picture as it came, RGB, (height, width, 3) uint8; not to be drawn on."""
        return self._frame.image

    @property
    def now(self) -> float:
        """Stream time of this result in seconds: later than `time` for a live source."""
        return self._now

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The newest answer to each question that is current; boxes are where they are in this frame."""
        return self._answers

    @property
    def new(self) -> tuple[Answer, ...]:
        """Answers that have come in since the result before, boxes as the model gave them."""
        return self._new

    @property
    def intent(self) -> str | None:
        """What the wearer is trying to do; None where it is not known, or only guessed (see `domain`)."""
        return self._words("intent")

    @property
    def next(self) -> str | None:
        """What the wearer will do next; None where it is not known, or only guessed (see `domain`)."""
        return self._words("next")

    @property
    def boxes(self) -> tuple[TrackedBox, ...]:
        """Everything that was found and is still in sight, each box with its age and score.

        A score is between 0 and 1, and falls as the tracker becomes less sure; None where the model tells
        none, and where the box is only a guess. It is the probability that the box has an IoU of 0.5 or more,
        where its answer is `calibrated`, else the model's own. What hands hold is left out where it is only
        guessed (see `domain`). `box.by` says who put it there, "tracker" where it was carried on, and
        `box.finder` who found it: "detector" or "model".
        """
        return self._tracked(
            () if answer.guess and _is_held(answer) else answer.boxes for answer in self._answers
        )

    @property
    def guesses(self) -> tuple[TrackedBox, ...]:
        """Boxes of the model that nothing supports, as for what a hand holds that nobody sees."""
        return self._tracked(answer.guesses for answer in self._answers)

    @property
    def hands(self) -> tuple[Hand, ...]:
        """The hands that the hand detector sees, with their 21 joints, moved to this frame."""
        return self._hands

    @property
    def domain(self) -> Domain | None:
        """Whether the model was trained on such scenes as these: "inside", "outside" or "unknown".

        Where it is not "inside", its answers are guesses: `intent` and `next` are None, and boxes have no
        score. None for a model that is not known to be limited, and before the first answer.
        """
        told = {answer.domain for answer in self._answers}
        order: tuple[Domain, ...] = ("outside", "unknown", "inside")
        return next((domain for domain in order if domain in told), None)

    @property
    def absent(self) -> tuple[str, ...]:
        """What was looked for and is not there, where that is more than a guess."""
        return tuple(answer.question.phrase for answer in self._answers if answer.absent and not answer.guess)

    @property
    def unknown(self) -> tuple[str, ...]:
        """What was asked for and of which nobody knows whether it is there: not looked for, or not sure."""
        return tuple(answer.question.phrase for answer in self._answers if answer.found == "unknown")

    @property
    def age(self) -> float | None:
        """Seconds since the oldest of `answers` saw its newest picture; None where nothing is known yet."""
        return max((self._age_of(answer) for answer in self._answers), default=None)

    def annotated(self, order: Literal["bgr", "rgb"] = "bgr") -> Image:
        """A copy of the frame with boxes, labels, words and ages drawn on it, (height, width, 3) uint8.

        Args:
            order: "bgr" for OpenCV (`cv2.imshow`, `cv2.imwrite`), "rgb" for Pillow, matplotlib and notebooks.

        Raises:
            ConfigError: Another order.

        Example:
            >>> import egolive, numpy as np
            >>> frame = egolive.Frame(np.full((120, 160, 3), (200, 0, 0), np.uint8), time=0.0, index=0)
            >>> result = egolive.FrameResult(frame, [])
            >>> result.annotated()[-1, -1].tolist(), result.annotated("rgb")[-1, -1].tolist()
            ([0, 0, 200], [200, 0, 0])
        """
        if order not in ("bgr", "rgb"):
            raise ConfigError(f"order is 'bgr' or 'rgb', got {order!r}")
        picture = draw(self._frame, self._answers, self._now, self._hands)
        return np.ascontiguousarray(picture[..., ::-1]) if order == "bgr" else picture

    def detections(self) -> supervision.Detections:
        """The boxes for the trackers and annotators of supervision, which is an extra of its own.

        Returns:
            `xyxy` in pixels of the frame, `confidence` (NaN where unknown), `data["class_name"]` and
            `data["age"]` (seconds). `class_id` numbers the labels of this frame in alphabetical order.

        Raises:
            ConfigError: supervision is not installed.

        Example:
            >>> import egolive, numpy as np
            >>> frame = egolive.Frame(np.zeros((120, 160, 3), np.uint8), time=2.5, index=5)
            >>> hand = egolive.Box(20, 30, 60, 90, label="left hand", score=0.8)
            >>> question = egolive.Question("ground", "left hand")
            >>> found = egolive.Answer(question, "left hand", boxes=(hand,), time=2.0)
            >>> detections = egolive.FrameResult(frame, [found]).detections()
            >>> detections.xyxy.tolist(), detections.data["age"].tolist()
            ([[20.0, 30.0, 60.0, 90.0]], [0.5])
        """
        try:
            import supervision
        except ImportError as error:
            raise ConfigError(
                "detections() needs the package supervision: pip install 'egolive[supervision]'"
            ) from error
        boxes = self.boxes
        labels = sorted({box.label for box in boxes})
        return supervision.Detections(
            xyxy=np.array([[*box] for box in boxes], dtype=np.float32).reshape(-1, 4),
            confidence=np.array([np.nan if box.score is None else box.score for box in boxes], np.float32),
            class_id=np.array([labels.index(box.label) for box in boxes], dtype=int),
            data={
                "class_name": np.array([box.label for box in boxes], dtype=str),
                "age": np.array([box.age for box in boxes], dtype=np.float64),
            },
        )

    def __repr__(self) -> str:
        return f"FrameResult(t={self.time:.3f} s, #{self.index}, {len(self._answers)} answers)"

    def _tracked(self, boxes: Iterable[Sequence[Box]]) -> tuple[TrackedBox, ...]:
        """The boxes of each answer, with its age."""
        return tuple(
            TrackedBox(
                box.x1,
                box.y1,
                box.x2,
                box.y2,
                box.label,
                box.score,
                by=box.by or "model",
                found_by=box.finder or "model",
                supported=box.supported,
                age=self._age_of(answer),
            )
            for answer, given in zip(self._answers, boxes, strict=True)
            if answer.question.task == "ground"
            for box in given
        )

    def _words(self, task: Task) -> str | None:
        known = (a for a in self._answers if a.status == "ok" and not a.guess)
        return next((a.text for a in known if a.question.task == task), None)

    def _age_of(self, answer: Answer) -> float:
        return max(0.0, self._now - answer.time)


def _is_held(answer: Answer) -> bool:
    return answer.question.phrase.startswith("object in the ")
