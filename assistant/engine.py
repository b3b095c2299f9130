"""What an engine is: weights that are ready, and a session that holds one stream's state.

An engine knows pixels, prompts and tokens; it knows nothing of tasks, boxes or time.
`egolive.assistant.prompts` makes a `Prompt` of a task, `egolive.assistant.parsing` an `Answer` of tokens.
Every backend supplies two halves (a vision tower and a decoder); what makes it fast is written once, above.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol

from egolive.assistant.profiles import Profile
from egolive.streaming.frames import Image

__all__ = ["Delta", "Engine", "EngineInfo", "EngineSession", "Prompt", "Request", "Vision"]


@dataclass(frozen=True, slots=True)
class Vision:
    """Pictures that stand in a prompt: one image, or the frames of a video.

    The markers round them (`<|vision_start|>`, `<|vision_end|>`) belong to the prompt's text.
    """

    frames: tuple[Image, ...]
    """One picture for an image; an even number, oldest first, for a video (two make one slice)."""
    height: int
    """Height in pixels at which the model sees it, a multiple of 28."""
    width: int
    """Width in pixels at which the model sees it, a multiple of 28."""
    kind: Literal["image", "video"] = "image"
    keys: tuple[object, ...] = ()
    """A hashable name for each slice, under which its encoding is kept and found again; empty: never kept."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The whole text that the model reads, chat markup included, with pictures where they stand."""

    parts: tuple[str | Vision, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be answered."""

    prompt: Prompt
    max_tokens: int = 128
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """One new token of one of the requests that were asked together."""

    request: int
    """Place of its request in the list given to `ask`."""
    token: int
    text: str
    """The text that this token completes; may be empty inside a character. Special tokens are text
    too, except the one that ends the answer."""
    logprob: float
    """Natural logarithm of its probability."""
    finished: Literal["", "stop", "length"] = ""
    """Why the request ends with this token, or empty."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What is loaded, for people and logs."""

    name: str
    backend: str
    precision: str
    device: str
    profile: str
    """Name of the checkpoint's profile (prompts, coordinate unit, picture size)."""
    weight_bytes: int


class EngineSession(Protocol):
    """One stream's state. Not thread-safe: one thread owns it."""

    def see(self, vision: Vision) -> None:
        """Encode a picture or slices ahead of the questions that will need them."""
        ...

    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        """Answer all requests together; deltas come interleaved, closing the iterator stops the work.

        Raises:
            EngineError: the prompt is too long, or the device failed.
        """
        ...

    def usage(self) -> dict[str, int]:
        """Counts of the last `ask`, its requests added up.

        prompt_tokens, prompt_tokens_reused, vision_tokens, completion_tokens, slices_encoded, slices_used.
        """
        ...

    def forget(self) -> None:
        """Drop everything that was seen."""
        ...

    def close(self) -> None:
        """Free the session; it cannot be used afterwards."""
        ...

    def __enter__(self) -> EngineSession: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Engine(Protocol):
    """Weights, ready to answer; holds no stream state."""

    @property
    def info(self) -> EngineInfo:
        """What is loaded."""
        ...

    @property
    def profile(self) -> Profile:
        """How the checkpoint is asked and read."""
        ...

    def session(self) -> EngineSession:
        """A fresh stream state; use as a context manager."""
        ...

    def close(self) -> None:
        """Free the weights."""
        ...
