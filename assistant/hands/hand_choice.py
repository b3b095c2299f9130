"""Whether the hand detector looks beside the model: `--hands auto|model|detector|off`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from egolive.assistant.hands.model_file import DOWNLOAD, find_model, has_runtime
from egolive.assistant.model.simulated_source import from_simulator
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.profiles import SIMULATED_SCENES, Profile
from egolive.streaming.errors import ConfigError
from egolive.streaming.hands import HandDetector

__all__ = [
    "HAND_PHRASES",
    "HandChoice",
    "HandSettings",
    "Hands",
    "choose_hands",
    "draws_guesses",
    "missing_hands",
]

Hands = Literal["auto", "model", "detector", "off"]
HAND_PHRASES = ("left hand", "right hand")
_HELD = tuple(f"object in the {hand}" for hand in HAND_PHRASES)
"""In a folder of simulated episodes, beside `00000.mp4` and `00000.json`."""


@dataclass(frozen=True, slots=True)
class HandChoice:
    """Who is asked about hands."""

    questions: tuple[Question, ...]
    """What the model is asked."""
    file: Path | None = None
    """The detector's networks; None where it does not look."""
    answered: tuple[Question, ...] = ()
    """Questions about hands that the detector answers."""
    missing: str = ""
    """Why it does not look although it would be of use, for people; else empty."""

    def detector(self, *, stream: bool = True) -> HandDetector | None:
        """A new detector, or None where it does not look.

        Args:
            stream: Its pictures will be of one stream.

        Raises:
            ConfigError: Its file cannot be used.
        """
        if self.file is None:
            return None
        from egolive.assistant.hands.detector import MediaPipeHands

        return MediaPipeHands(self.file, stream=stream)


def choose_hands(
    hands: Hands,
    questions: Iterable[Question],
    *,
    model_file: str | Path | None = None,
    simulated: bool = False,
) -> HandChoice:
    """Decide who is asked about hands.

    Args:
        hands: auto: the detector beside the model, where it is installed and the source is a real one. model:
            the model alone. detector: the detector answers for hands, the model is not asked for them. off:
            nothing is asked about hands and what they hold.
        questions: What would be asked.
        model_file: The detector's networks; "download" fetches them.
        simulated: The source shows the simulator's world, whose hands the detector does not know.

    Raises:
        ConfigError: The detector is asked for and cannot be had, or nothing is left to ask.
    """
    asked = tuple(questions)
    if hands not in ("auto", "model", "detector", "off"):
        raise ConfigError(f"hands is auto, model, detector or off, got {hands!r}")
    if hands in ("model", "off") and model_file is not None:
        raise ConfigError(f"a model file of the hand detector has no effect with hands {hands}; leave it out")
    about = tuple(one for one in asked if _is_about_hands(one))
    if hands == "off":
        left = tuple(one for one in asked if one not in about)
        if not left:
            raise ConfigError("nothing is asked: hands are off; ask for other things too")
        return HandChoice(left)
    if hands == "model" or not about or (hands == "auto" and simulated and model_file is None):
        return HandChoice(asked)
    file = find_model(model_file)
    reason = missing_hands(file)
    if reason and (hands == "detector" or model_file is not None):
        raise ConfigError(reason)
    if reason:
        return HandChoice(asked, missing=reason)
    answered = tuple(one for one in asked if one.task == "ground" and one.phrase in HAND_PHRASES)
    if hands == "detector":
        asked = tuple(one for one in asked if one not in answered)
    return HandChoice(asked, file, answered)


@dataclass(frozen=True, slots=True)
class HandSettings:
    """Who is asked about hands, for several sources."""

    hands: Hands = "auto"
    """See `choose_hands`."""
    file: str | Path | None = None
    """The detector's networks; found by themselves where None."""

    def choose(self, questions: Iterable[Question], source: object) -> HandChoice:
        """Decide for one source, by its name or path.

        Raises:
            ConfigError: The detector is asked for and cannot be had, or nothing is left to ask.
        """
        return choose_hands(self.hands, questions, model_file=self.file, simulated=from_simulator(source))


def missing_hands(file: Path | None) -> str:
    """What is missing for the detector and how to mend it, in one line; "" where all is there."""
    if not has_runtime():
        return "no hand detector: it needs the package ai-edge-litert (pip install ai-edge-litert)"
    if file is None:
        return (
            f"no hand detector: its model is not here; fetch it once (7.8 MB) with --hands-model {DOWNLOAD}"
        )
    return ""


def draws_guesses(profile: Profile) -> bool:
    """Whether boxes that the detector does not support are worth showing as guesses.

    nano, trained on drawn hands alone, is right one time in four on real pictures.
    """
    return profile.domain != SIMULATED_SCENES


def _is_about_hands(question: Question) -> bool:
    return question.task == "ground" and question.phrase in (*HAND_PHRASES, *_HELD)
