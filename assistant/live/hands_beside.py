"""Opens what was chosen for hands: the detector, on a thread of its own for a live source."""

from __future__ import annotations

from dataclasses import replace

from egolive.assistant.hands.hand_choice import HandChoice, draws_guesses
from egolive.assistant.live.hand_fusion import HandFusion, HandsBeside
from egolive.assistant.schema.answers import Answer
from egolive.assistant.schema.profiles import Profile
from egolive.streaming.clock import Clock
from egolive.streaming.frames import Image
from egolive.streaming.hands import HandDetector, HandWatch, Look
from egolive.streaming.metrics import Metrics
from egolive.streaming.pipeline.hand_watch import LiveHands, SteppedHands

__all__ = ["answer_by_detector", "checked_by_detector", "open_hands"]


def open_hands(
    choice: HandChoice,
    profile: Profile,
    *,
    live: bool,
    metrics: Metrics | None = None,
    clock: Clock | None = None,
) -> HandsBeside | None:
    """The detector beside a run, to be handed to `run_stream`; None where it does not look.

    Args:
        choice: Who is asked about hands.
        profile: Of the model.
        live: Whether the source is live: its pictures do not wait.
        metrics: Takes how long looks take ("hands").
        clock: What the rate of looks is measured with.

    Raises:
        ConfigError: The detector's file cannot be used.
    """
    detector = choice.detector()
    if detector is None:
        return None
    watch: HandWatch
    if live:
        watch = LiveHands(detector, metrics=metrics, clock=clock)
    else:
        watch = SteppedHands(detector, metrics=metrics)
    return HandsBeside(watch, choice.answered, draws_guesses(profile))


def checked_by_detector(answer: Answer, image: Image, detector: HandDetector, *, guesses: bool) -> Answer:
    """An answer about one picture, held against what the detector sees in it.

    Args:
        answer: The model's, about a hand or what it holds; any other one comes back as it is.
        image: (H, W, 3) RGB bytes.
        detector: What looks.
        guesses: Keep boxes that it does not support, as guesses.

    Raises:
        EngineError: The detector failed.
    """
    fusion, look = _look(answer, image, detector, guesses=guesses)
    (settled,) = fusion.settle(fusion.merge([answer], look.time))
    # The model's tokens and times belong to its own words alone.
    return settled


def answer_by_detector(answer: Answer, image: Image, detector: HandDetector) -> Answer:
    """What the detector alone says to a question for a hand.

    Args:
        answer: An empty one to that question, with the time of the picture.
        image: (H, W, 3) RGB bytes.
        detector: What looks.

    Raises:
        EngineError: The detector failed.
    """
    return checked_by_detector(replace(answer, absent=True), image, detector, guesses=False)


def _look(answer: Answer, image: Image, detector: HandDetector, *, guesses: bool) -> tuple[HandFusion, Look]:
    look = Look(answer.time, 0, tuple(detector.detect(image)))
    fusion = HandFusion(questions=(answer.question,), guesses=guesses)
    fusion.see(look)
    return fusion, look
