"""The engine protocol: loaded weights (`Engine`), and the state of one stream (`EngineSession`).

An engine takes prompts of text and pixels and gives tokens; it knows nothing of tasks, boxes or time.
`egolive.assistant.prompts.prompts` makes a `Prompt` of a task, `egolive.assistant.prompts.parsing` an
`Answer` of tokens. A backend supplies a vision tower and a decoder; caching and batching are written once, in
`egolive.assistant.runtime`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from egolive.assistant.schema.profiles import Profile
from egolive.streaming.frames import Image

if TYPE_CHECKING:
    # Who only names an engine does not wait for torch and transformers.
    import torch

    from egolive.assistant.schema.tokenizer import Tokenizer

__all__ = [
    "FULL_REUSE",
    "NO_REUSE",
    "Delta",
    "Engine",
    "EngineInfo",
    "EngineSession",
    "GrammarMatcher",
    "KnowsFamiliar",
    "Message",
    "Prompt",
    "Request",
    "Reuse",
    "Vision",
]


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
    successor: int = 0
    """How many of the newest slices a later video will begin with, once this one has become too long; a
    session may read them ahead. 0 where nothing is known."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: texts and pictures in the order in which they are read."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | Vision, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The whole text that the model reads, chat markup included, with pictures where they stand."""

    parts: tuple[str | Vision, ...]
    messages: tuple[Message, ...] = ()
    """The same as turns of a conversation, without markup and without the turn that the model is to write.
    For engines behind a chat API; empty for a prompt that is no conversation, or that was stored as text."""


class GrammarMatcher(Protocol):
    """The state of a grammar that constrains one answer at a time.

    The caller passes it in its initial state; when the answer ends or is cut off, the session rolls it back
    to that state.
    """

    @property
    def finished(self) -> bool:
        """Whether the answer is complete: no token may follow."""
        ...

    def mask(self, logits: torch.Tensor) -> None:
        """Set the logits of all tokens that may not come next to -inf, in place; (vocabulary,) float32."""
        ...

    def accept(self, token: int) -> None:
        """Step on by the token that was chosen."""
        ...

    def rollback(self, n: int) -> None:
        """Take back the last `n` tokens that were accepted."""
        ...


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
    key: Hashable = None
    """Requests with the same key are the same question asked again: the last answer is likely to be this one
    too. None: nothing is known."""
    matcher: GrammarMatcher | None = None
    """What the answer has to look like."""


@dataclass(frozen=True, slots=True)
class Delta:
    """One new token of one of the requests that were asked together."""

    request: int
    """Place of its request in the list given to `ask`."""
    token: int
    text: str
    """The text that this token completes; may be empty inside a character. Special tokens are text
    too, except the one that ends the answer."""
    logprob: float | None
    """Natural logarithm of its probability; None where the engine does not tell it, and where `forced`."""
    finished: Literal["", "stop", "length", "broken"] = ""
    """Why the request ends with this token, or empty. stop: the answer is complete; length: the limit of
    tokens ended it; broken: the engine ended it early, and what there is of it counts for nothing."""
    margin: float = math.inf
    """By how much the likeliest token's logarithm lies above that of the second; infinite where unknown."""
    forced: bool = False
    """The grammar allowed no other token: it says nothing about how sure the model was."""
    error: str = ""
    """What happened, where, and what to do, in one line, where it is broken."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """What a session reuses of earlier questions; each kind can be switched off to measure its gain.

    All of it is exact: with any of them off the answers are the same tokens, but for ties in rounding.
    """

    slices: bool = True
    """Vision cache: encode a slice or picture once for all windows and questions that hold it."""
    prefix: bool = True
    """Prefix cache: keep the KV caches of the newest windows and picture, and of the text before them, from
    one `ask` to the next."""
    together: bool = True
    """Batching: prefill the shared prefix of the requests of one `ask` once, and decode them as a batch."""
    draft: bool = True
    """Speculative decoding: the last answer under the same key is the draft, verified in one pass."""


FULL_REUSE = Reuse()
"""The default of a session."""
NO_REUSE = Reuse(slices=False, prefix=False, together=False, draft=False)
"""The naive loop: each request by itself, from its pixels to its last token."""


class EngineSession(Protocol):
    """One stream's state. Not thread-safe: one thread owns it."""

    def see(self, vision: Vision) -> None:
        """Encode a picture or slices ahead of the questions that need them, and read them where possible.

        Raises:
            EngineError: The device failed.
        """
        ...

    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        """Answer all requests together; deltas come interleaved, closing the iterator stops the work.

        An `ask` ends the one before it.

        Raises:
            EngineError: the prompt is too long, or the device failed.
        """
        ...

    def usage(self, request: int | None = None) -> dict[str, int]:
        """Counts of one request of the last `ask` so far, or of all of them added up.

        prompt_tokens, prompt_tokens_reused, vision_tokens, completion_tokens, slices_encoded, slices_used,
        draft_proposed, draft_accepted. What several requests share is counted as read for the first of them
        and as reused for the others.

        Args:
            request: Place of the request in the list given to `ask`; without it also prompt_tokens_ahead and
                slices_ahead: what was read and encoded for no request since the `ask` before.
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


@runtime_checkable
class KnowsFamiliar(Protocol):
    """A session that can tell how much pictures resemble those that its model was trained on."""

    def familiarity(self, request: int) -> float | None:
        """Of the pictures of one request of the last `ask`: in [0, 1], above 0.5 where they do.

        Args:
            request: Place of the request in the list given to `ask`.

        Returns:
            None where the model has no measure of it, or the request has no picture of the size that it is
            for.
        """
        ...


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

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Tells text and ids of tokens; None where the engine keeps them to itself, as a remote one does."""
        ...

    def session(self, reuse: Reuse = FULL_REUSE) -> EngineSession:
        """A fresh stream state; use as a context manager.

        Args:
            reuse: Which work of earlier questions is used again; the answers are the same.
        """
        ...

    def close(self) -> None:
        """Free the weights."""
        ...
