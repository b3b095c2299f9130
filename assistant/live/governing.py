"""The governor of an assistant: knows what its answers cost, and reads the load of the machine.

How it chooses is in `egolive.streaming.pipeline.governor`. Engines that take any size of pictures may be
given smaller ones; a profile with one fixed size, as that of exported graphs, is left as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from egolive.assistant.live.assistant import Assistant
from egolive.assistant.schema.answers import Answer, Question
from egolive.assistant.system.load_sensors import LoadWatch
from egolive.streaming.pipeline.choice import Choice
from egolive.streaming.pipeline.cost_estimates import Spent
from egolive.streaming.pipeline.governor import Governor, Knob

__all__ = ["choice_in_words", "governed", "held_by"]


def held_by(*, every: object, slices: object) -> frozenset[Knob]:
    """The settings that a user has decided: those that are not None."""
    given: dict[Knob, object] = {"every": every, "slices": slices}
    return frozenset(name for name, value in given.items() if value is not None)


@contextmanager
def governed(
    assistant: Assistant,
    *,
    fps: float,
    slices: int,
    every: int,
    held: Collection[Knob] = (),
    on_contact: bool = False,
) -> Iterator[Governor[Question, Answer]]:
    """A governor for one run of an assistant; the sensors are read meanwhile.

    Args:
        assistant: Whose recurring questions are governed.
        fps: Frames a second that the model sees.
        slices: Slices of a full window, at most.
        every: Slices from one question about the window to the next, at least.
        held: Settings that the user has decided.
        on_contact: Ask when a hand touches, takes or leaves something, and rarely otherwise.
    """
    fixed: set[Knob] = {"size"} if assistant.profile.picture is not None else set()
    with LoadWatch() as load:
        yield Governor(
            assistant.scheduler.rules,
            slices=slices,
            every=every,
            slice_seconds=2 / fps,
            held={*held, *fixed},
            spent=_spent,
            sense=load.newest,
            names=("boxes", "words"),
            on_contact=on_contact,
        )


def choice_in_words(choice: Choice, slice_seconds: float) -> str:
    """A choice in one line, for people.

    Args:
        choice: Of the governor.
        slice_seconds: Length of a slice.
    """
    parts = [
        "" if choice.still_since is None else f"idle, looks again every {choice.heartbeat:.0f} s",
        "asks on contact"
        if choice.contact_since is not None
        else f"words every {choice.every * slice_seconds:g} s",
        f"{choice.pictures} {'box' if choice.pictures == 1 else 'boxes'} at once",
        f"windows of {choice.slices} slices",
        "" if choice.size == 1 else f"pictures of {choice.size:.0%} of their pixels",
        "" if choice.duty == 1 else f"working {choice.duty:.0%} of the time",
    ]
    return f"{', '.join(part for part in parts if part)} ({choice.reason})"


def _spent(answer: Answer) -> Spent:
    usage, timing = answer.usage, answer.timing
    read = usage.prompt_tokens - usage.prompt_tokens_reused
    share = read / usage.prompt_tokens if usage.prompt_tokens else None
    return Spent(timing.first_token, timing.total, share)
