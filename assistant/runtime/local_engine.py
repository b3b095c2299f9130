"""An engine on this machine: a backend's tower and decoder, with the tokenizer and profile of a model.

Every backend builds a tower and a decoder and passes them to `LocalEngine`; sessions are the same for all.
"""

from __future__ import annotations

import gc
from typing import Generic, TypeVar

import torch

from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.runtime.backend import Decoder, VisionTower
from egolive.assistant.runtime.engine_session import Session
from egolive.assistant.runtime.familiarity import Familiarity
from egolive.assistant.schema.engine import FULL_REUSE, EngineInfo, Reuse
from egolive.assistant.schema.profiles import Profile
from egolive.assistant.schema.tokenizer import Tokenizer

__all__ = ["LocalEngine"]

TowerT = TypeVar("TowerT", bound=VisionTower, covariant=True)
DecoderT = TypeVar("DecoderT", bound=Decoder, covariant=True)


class LocalEngine(Generic[TowerT, DecoderT]):
    """A backend's tower and decoder with their weights loaded; an `Engine`."""

    def __init__(
        self,
        tower: TowerT,
        decoder: DecoderT,
        *,
        tokenizer: Tokenizer,
        preprocessor: Preprocessor,
        profile: Profile,
        info: EngineInfo,
        context: int,
        vocabulary: int,
        device: torch.device,
    ) -> None:
        """Take over a tower and a decoder.

        Args:
            tower: Encodes slices.
            decoder: Runs prefill and decoding.
            tokenizer: Of the same checkpoint.
            preprocessor: Of the same checkpoint.
            profile: How it is asked and read.
            info: What to say about it.
            context: Tokens that the model can hold, prompt and answer together.
            vocabulary: Outputs of the decoder.
            device: Of the decoder's logits.
        """
        self.info = info
        self.tokenizer = tokenizer
        self.preprocessor = preprocessor
        self.profile = profile
        self._backend: tuple[TowerT, DecoderT] | None = (tower, decoder)
        self.context = context
        """Tokens that the model can hold, prompt and answer together."""
        self.threads: int | None = None
        """CPU threads of torch while a session works; None leaves them as they are."""
        self.familiarity: Familiarity | None = None
        """Tells how much pictures resemble those of the model's training; None where it has no table."""
        # Beyond the tokenizer's ids a model has unused outputs, up to a round number.
        banned = sorted(tokenizer.vision_tokens | set(range(len(tokenizer), vocabulary)))
        self._banned = torch.tensor(banned, device=device)

    def backend(self) -> tuple[TowerT, DecoderT]:
        """Tower and decoder, for measuring and exporting; called directly they use the caller's threads.

        Raises:
            ValueError: The engine is closed.
        """
        if self._backend is None:
            raise ValueError("this engine is closed; load it again")
        return self._backend

    def session(self, reuse: Reuse = FULL_REUSE) -> Session:
        """A fresh stream state; use as a context manager."""
        tower, decoder = self.backend()
        return Session(
            tower,
            decoder,
            tokenizer=self.tokenizer,
            preprocessor=self.preprocessor,
            context=self.context,
            banned=self._banned,
            reuse=reuse,
            threads=self.threads,
            familiarity=self.familiarity,
        )

    def close(self) -> None:
        """Free the weights, as soon as no session holds them any more."""
        self._backend = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
