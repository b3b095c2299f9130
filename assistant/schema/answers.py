"""What is asked and what comes back: Task, Question, Answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from egolive.streaming.frames import Box, Interval

__all__ = ["Answer", "Domain", "Found", "Question", "Status", "Task", "Timing", "Usage"]

Found = Literal["yes", "none", "unknown"]
"""Whether what was looked for is there. none: it was looked for and is not there. unknown: nobody looked, or
nobody is sure."""

Task = Literal["intent", "next", "ground", "when", "ask"]
Status = Literal["ok", "expired", "preempted", "broken", "unparsed"]
"""broken: the engine, a server mostly, broke it off."""
Domain = Literal["inside", "outside", "unknown"]
"""inside: it is about scenes of the kind that the model was trained on; outside: it is not; unknown: that
could not be told. Of models whose profile names what they know."""


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask the model.

    Example:
        >>> import egolive
        >>> egolive.Question("ground", "left hand").phrase
        'left hand'
    """

    task: Task
    phrase: str = ""
    """ground: what to find ("left hand", "object in the right hand", "the red mug"); when: the event;
    ask: the question itself; intent and next: empty."""
    think: bool = False
    """Let the model reason in <think> before it answers, where its profile knows how."""

    def __post_init__(self) -> None:
        if self.task in ("ground", "when", "ask") and not self.phrase.strip():
            raise ValueError(
                f"a question of the kind {self.task!r} needs words: what to find, or what to answer"
            )


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds spent on one answer."""

    queued: float = 0.0
    """From the capture of the newest frame that was seen to the start of the work."""
    first_token: float = 0.0
    """From the start of the work to the first token, encoding and prefill included."""
    total: float = 0.0
    """From the start of the work to the last token."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and slices of one answer."""

    prompt_tokens: int = 0
    prompt_tokens_reused: int = 0
    """Those that had been read before, for this question's last answer or for others."""
    vision_tokens: int = 0
    completion_tokens: int = 0
    slices_encoded: int = 0
    slices_used: int = 0
    draft_proposed: int = 0
    """Tokens of the last answer that were proposed for this one."""
    draft_accepted: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, in the units of the stream.

    Example:
        >>> import egolive
        >>> with egolive.load_model("nano") as model:
        ...     answer = model.ask(egolive.example_clip(), "left hand", task="ground", end=4)
        >>> answer.text, answer.absent, len(answer.boxes), answer.window
        ('left hand', False, 1, None)
    """

    question: Question
    text: str
    """The answer in words, markup removed."""
    reasoning: str = ""
    boxes: tuple[Box, ...] = ()
    """Pixels of the source frame."""
    intervals: tuple[Interval, ...] = ()
    """Seconds of the stream."""
    absent: bool = False
    """The model said that what was asked for is not there: an answer, not a failure."""
    cut: bool = False
    """The limit of tokens ended it before the model did."""
    status: Status = "ok"
    time: float = 0.0
    """Capture time of the newest frame that was seen, seconds."""
    window: Interval | None = None
    """The stretch that was seen; None where a single picture was."""
    approx: tuple[str, ...] = ()
    """Names of the approximations that were on; empty means exact."""
    timing: Timing = field(default_factory=Timing)
    usage: Usage = field(default_factory=Usage)
    by: Literal["model", "detector"] = "model"
    """Who says it: the model, or the hand detector beside it."""
    guesses: tuple[Box, ...] = ()
    """Boxes of the model that nothing supports: no hand was seen there. They are no part of `boxes`."""
    unknown: str = ""
    """Why it is not known whether what was looked for is there, in a few words; else empty."""

    @property
    def found(self) -> Found | None:
        """Whether what was looked for is there; None where nothing was looked for.

        Example:
            >>> import egolive
            >>> question = egolive.Question("ground", "left hand")
            >>> egolive.Answer(question, "none", absent=True).found, egolive.Answer(question, "?").found
            ('none', 'unknown')
        """
        if self.question.task != "ground":
            return None
        if self.unknown or self.status != "ok":
            return "unknown"
        if self.absent:
            return "none"
        return "yes" if self.boxes else "unknown"

    score: float | None = None
    """Probability in [0, 1] that it is right: that its first box or interval has an IoU of 0.5 or more, or
    that its words are the true ones. The model's own, which may mean nothing, where it is not `calibrated`;
    None where it is unknown."""
    calibrated: bool = False
    """Whether scores, those of the boxes too, are what `egolive calibrate` measured."""
    unsure: bool = False
    """Its calibrated score is below the threshold of the model's profile: it is shown as "not sure"."""
    familiarity: float | None = None
    """How much what was seen resembles the pictures that the model was trained on, in [0, 1], above 0.5 where
    it does; None where the model has no measure of it."""
    domain: Domain | None = None
    """Whether the model was trained on such scenes; None where its profile names no limit."""

    @property
    def guess(self) -> bool:
        """Whether the model is not known to have been trained on such scenes, so that it can only guess.

        Example:
            >>> import egolive
            >>> question = egolive.Question("intent")
            >>> egolive.Answer(question, "make tea", domain="outside").guess
            True
        """
        return self.by == "model" and self.domain in ("outside", "unknown")
