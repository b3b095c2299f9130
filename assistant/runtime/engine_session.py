"""The inference session of one stream, the same for every backend: requests in, token deltas out.

It runs prefill and decoding over a backend's tower and decoder, with a vision cache, a prefix cache and
speculative decoding. Tasks, boxes and time are not known here. Prefill and prefix reuse are in
`egolive.assistant.runtime.prefill`, the decoding of one request in `egolive.assistant.runtime.sequence`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from inspect import GEN_RUNNING, getgeneratorstate
from types import TracebackType

import torch

from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.model.prompt_tokens import Layout, lay_out
from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.familiarity import Familiarity
from egolive.assistant.runtime.prefill import Prefill
from egolive.assistant.runtime.prefix_cache import PrefixCache
from egolive.assistant.runtime.sequence import SequenceState
from egolive.assistant.runtime.speculative import DraftStore
from egolive.assistant.runtime.torch_threads import torch_threads
from egolive.assistant.runtime.vision_cache import VisionCache
from egolive.assistant.schema.engine import FULL_REUSE, Delta, Prompt, Request, Reuse, Vision
from egolive.assistant.schema.tokenizer import Tokenizer
from egolive.streaming.errors import ConfigError, EngineError

__all__ = ["KV_CACHE_BYTES", "SLICE_CACHE_BYTES", "Session"]

SLICE_CACHE_BYTES = 256 * 1024**2
"""Encoded slices kept by a session: about four minutes of EgoThinker-v1 at 448x252, one slice a second."""
KV_CACHE_BYTES = 1024**3
"""Keys and values kept by a session between questions: three times what EgoThinker-v1 needs at 448x252."""
_COUNTS = (
    "prompt_tokens",
    "prompt_tokens_reused",
    "vision_tokens",
    "completion_tokens",
    "slices_encoded",
    "slices_used",
    "draft_proposed",
    "draft_accepted",
)
_AHEAD = ("prompt_tokens_ahead", "slices_ahead")


class Session:
    """One stream's state over a tower and a decoder; an `EngineSession`. One thread owns it."""

    def __init__(
        self,
        tower: VisionTower,
        decoder: Decoder,
        *,
        tokenizer: Tokenizer,
        preprocessor: Preprocessor,
        context: int,
        banned: torch.Tensor,
        reuse: Reuse = FULL_REUSE,
        slice_cache_bytes: int = SLICE_CACHE_BYTES,
        kv_cache_bytes: int = KV_CACHE_BYTES,
        threads: int | None = None,
        familiarity: Familiarity | None = None,
    ) -> None:
        """Start with nothing seen.

        Args:
            tower: Encodes slices.
            decoder: Runs prefill and decoding.
            tokenizer: Of the same checkpoint.
            preprocessor: Of the same checkpoint.
            context: Tokens that the model can hold, prompt and answer together.
            banned: Ids that are never sampled, on the device of the decoder's logits.
            reuse: Which work of earlier questions is used again.
            slice_cache_bytes: Limit of the encoded slices that are kept.
            kv_cache_bytes: Limit of the keys and values that are kept.
            threads: CPU threads of torch while this session works; None leaves them as they are.
            familiarity: Tells how much pictures resemble those of the training; None where there is no table.
        """
        self.kept = PrefixCache(kv_cache_bytes)
        """KV caches kept from one question to the next; public for memory measurements."""
        self.slices = VisionCache(slice_cache_bytes)
        """Visual tokens by slice name; public for callers that store or load them."""
        self._prefill = Prefill(
            tower,
            decoder,
            tokenizer=tokenizer,
            preprocessor=preprocessor,
            reuse=reuse,
            slices=self.slices,
            prefixes=self.kept,
            familiarity=familiarity,
        )
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._context = context
        self._banned = banned
        self._reuse = reuse
        self._threads = threads
        self.drafts = DraftStore()
        """The last answers; public for callers that add an answer of their own."""
        self._openings: dict[str, tuple[str, ...]] = {}
        """By kind of vision, the text that stood before it in the prompt asked last."""
        self._asked: list[SequenceState] = []
        self._ahead: Counter[str] = Counter()
        self._running: Generator[Delta] | None = None
        self._closed = False

    def see(self, vision: Vision) -> None:
        """Encode slices ahead of questions, and prefill them after the text that preceded the last ones.

        A video's successor is prefilled too. A vision without keys could not be found again and is ignored.
        """
        self._check_open()
        self._stop()
        with torch_threads(self._threads):
            self._prefill.encode_ahead(vision, self._ahead)
            if vision.keys and self._reuse.prefix and vision.kind in self._openings:
                for seen in (vision, _successor(vision)):
                    if seen is not None:
                        self._prefill.prefill_ahead(Prompt((*self._openings[vision.kind], seen)), self._ahead)

    def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
        """Answer all requests together; deltas come interleaved, closing the iterator stops the work.

        The token that ends an answer comes as a delta of its own without text. An `ask` ends the one before
        it. After the last answer the window's successor is prefilled, where there is one.

        Raises:
            EngineError: A prompt is too long or holds tokens for pictures, or the device failed.
            ConfigError: A sampling setting out of its range.
        """
        self._check_open()
        self._stop()
        asked = [
            SequenceState(number, request, self._laid_out(request), self._banned, self._tokenizer)
            for number, request in enumerate(requests)
        ]
        self._asked, self._ahead = asked, Counter()
        self._running = self._on_threads(self._answer_all(asked))
        return self._running

    def usage(self, request: int | None = None) -> dict[str, int]:
        """Counts of one request of the last `ask` so far, or of all of them; see `EngineSession`."""
        if request is not None:
            return {key: self._asked[request].usage[key] for key in _COUNTS}
        total = {key: sum(sequence.usage[key] for sequence in self._asked) for key in _COUNTS}
        return total | {key: self._ahead[key] for key in _AHEAD}

    def familiarity(self, request: int) -> float | None:
        """Mean familiarity of the pictures of one request of the last `ask`; see `KnowsFamiliar`."""
        with torch_threads(self._threads):
            return self._prefill.familiarity(self._asked[request].layout)

    def forget(self) -> None:
        """Drop everything that was seen, and what was said about it."""
        self._stop()
        self._prefill.clear()
        self.drafts.clear()

    def close(self) -> None:
        """Free the session; it cannot be used afterwards.

        Where another thread is still running it, its caches are left to that thread.
        """
        self._closed = True
        if self._running is None or getgeneratorstate(self._running) != GEN_RUNNING:
            self.forget()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("this session is closed; open another one")

    def _stop(self) -> None:
        """End the `ask` that is still running: its forks occupy the KV cache's end."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _laid_out(self, request: Request) -> Layout:
        if request.max_tokens < 1:
            raise ConfigError(f"max_tokens is at least 1, got {request.max_tokens}")
        layout = lay_out(request.prompt, self._tokenizer)
        if len(layout) == 0:
            raise ValueError("a prompt holds at least one token")
        if len(layout) + request.max_tokens > self._context:
            raise EngineError(
                f"the prompt has {len(layout)} tokens and the answer up to {request.max_tokens}, the model "
                f"holds {self._context}: use fewer or smaller pictures, or a shorter answer"
            )
        return layout

    def _on_threads(self, work: Generator[Delta]) -> Generator[Delta]:
        """Set the engine's threads for each step of the work; between the steps the caller has its own."""
        with closing(work):
            while True:
                with torch_threads(self._threads):
                    delta = next(work, None)
                if delta is None:
                    return
                yield delta

    def _answer_all(self, asked: Sequence[SequenceState]) -> Generator[Delta]:
        if self._reuse.together:
            yield from self._answer(asked)
        else:
            for sequence in asked:
                yield from self._answer([sequence])
        if self._reuse.prefix:
            self._follow_up(asked)

    def _answer(self, asked: Sequence[SequenceState]) -> Generator[Delta]:
        """Answer requests as a batch: one forward pass for the next tokens of all of them."""
        if self._reuse.draft:
            for sequence in asked:
                if sequence.request.key is not None and sequence.request.temperature == 0:
                    sequence.draft = self.drafts.of(sequence.request.key)
        shared_prefixes = self._prefill.shared_prefixes(asked)
        try:
            logits = self._prefill.run(shared_prefixes)
            live = [sequence for prefix in shared_prefixes for sequence in prefix.members]
            while True:
                for sequence, found in zip(live, logits, strict=True):
                    yield from sequence.take(found)
                    if sequence.finished and sequence.request.key is not None:
                        self.drafts.keep(sequence.request.key, sequence.tokens)
                live = [sequence for sequence in live if not sequence.finished]
                if not live:
                    return
                logits = self._decoder.forward([sequence.next_input(self._decoder) for sequence in live])
        finally:
            for sequence in asked:
                sequence.end()
            for prefix in shared_prefixes:
                prefix.cache.drop_forks()

    def _follow_up(self, asked: Sequence[SequenceState]) -> None:
        """Remember the text before each vision, and prefill the successors of the windows asked about."""
        prompts = {}
        for sequence in asked:
            parts = sequence.request.prompt.parts
            places = [place for place, part in enumerate(parts) if isinstance(part, Vision)]
            if len(places) != 1:
                continue
            vision = parts[places[0]]
            opening = tuple(part for part in parts[: places[0]] if isinstance(part, str))
            assert isinstance(vision, Vision)
            self._openings[vision.kind] = opening
            successor = _successor(vision)
            if successor is not None:
                prompts[opening, successor.keys] = Prompt((*opening, successor))
        for prompt in prompts.values():
            self._prefill.prefill_ahead(prompt, self._ahead)


def _successor(vision: Vision) -> Vision | None:
    """The video that will take over from this one, as far as it was seen; None where nothing is known."""
    count = vision.successor
    if not (0 < count < len(vision.keys)):
        return None
    return replace(vision, frames=vision.frames[-2 * count :], keys=vision.keys[-count:], successor=0)
