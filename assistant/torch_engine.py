"""The torch engine: Qwen2-VL as transformers has it, in two halves. The reference for every other engine.

Only the weights' modules are used: the tower takes one slice a call, the decoder gets embeddings,
positions and a key-value cache. Nothing is kept in the model between calls, so that sessions do not
disturb each other. How a checkpoint becomes such an engine is in `egolive.assistant.loading`.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, Qwen2VLForConditionalGeneration

from egolive.assistant.engine import EngineInfo
from egolive.assistant.engine_session import Session
from egolive.assistant.preprocess import Preprocessor
from egolive.assistant.profiles import Profile
from egolive.assistant.tokenizer import Tokenizer
from egolive.streaming.errors import EngineError

__all__ = ["TorchDecoder", "TorchEngine", "TorchRow", "TorchTower"]


class TorchTower:
    """The vision half: patches of one slice to visual tokens."""

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        self._visual = model.model.visual
        self._device: torch.device = model.device
        self._dtype: torch.dtype = model.dtype

    def encode(self, patches: NDArray[np.float32], grid: tuple[int, int, int]) -> torch.Tensor:
        """Encode one slice or picture; see `VisionTower`."""
        with _as_engine_errors("encoding a picture"), torch.inference_mode():
            pixels = torch.from_numpy(patches).to(self._device, self._dtype)
            tokens: torch.Tensor = self._visual(
                pixels, grid_thw=torch.tensor([grid], device=self._device)
            ).pooler_output
        return tokens


class TorchDecoder:
    """The text half: embeddings to logits, the last layer in fp32 whatever the weights are."""

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        self.text_model = model.model.language_model
        self.device: torch.device = model.device
        # bf16 logits have 8 bits: neighbours tie. The copy costs memory once; fp32 weights are not copied.
        self.head: torch.Tensor = model.lm_head.weight.detach().float()

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """(n, width) embeddings of token ids."""
        with torch.inference_mode():
            embeddings: torch.Tensor = self.text_model.embed_tokens(torch.tensor(tokens, device=self.device))
        return embeddings

    def row(self) -> TorchRow:
        """A row that has read nothing."""
        return TorchRow(self, DynamicCache())


class TorchRow:
    """One sequence that the decoder has read, its keys and values in a `DynamicCache`."""

    def __init__(self, decoder: TorchDecoder, cache: DynamicCache) -> None:
        self._decoder = decoder
        self._cache = cache

    @property
    def length(self) -> int:
        """Tokens read so far."""
        return int(self._cache.get_seq_length())

    def append(self, embeddings: torch.Tensor, positions: NDArray[np.int64], keep: int = 1) -> torch.Tensor:
        """Read on; see `Row`."""
        decoder = self._decoder
        with _as_engine_errors("reading a prompt"), torch.inference_mode():
            hidden = decoder.text_model(
                inputs_embeds=embeddings[None],
                position_ids=torch.from_numpy(positions).to(decoder.device)[:, None],
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state[0, -keep:]
            return torch.nn.functional.linear(hidden.float(), decoder.head)

    def fork(self, length: int) -> TorchRow:
        """A row of its own that has read the first `length` tokens of this one."""
        if not 0 <= length <= self.length:
            raise ValueError(f"a row of {self.length} tokens cannot be cut to {length}")
        cache = DynamicCache()
        if length:
            # Layers grow by concatenation into new tensors and never write into old ones: sharing is safe.
            cache.layers = [copy.copy(layer) for layer in self._cache.layers]
            cache.crop(length - self.length)
        return TorchRow(self._decoder, cache)


class TorchEngine:
    """A loaded Qwen2-VL checkpoint; an `Engine`."""

    def __init__(
        self,
        model: Qwen2VLForConditionalGeneration,
        *,
        tokenizer: Tokenizer,
        preprocessor: Preprocessor,
        profile: Profile,
        info: EngineInfo,
    ) -> None:
        """Take over a model in evaluation mode, on its device.

        Args:
            model: With weights of one precision, all on one device.
            tokenizer: Of the same checkpoint.
            preprocessor: Of the same checkpoint.
            profile: How it is asked and read.
            info: What to say about it.
        """
        self.info = info
        self.tokenizer = tokenizer
        self.preprocessor = preprocessor
        self.profile = profile
        self._tower: TorchTower | None = TorchTower(model)
        self._decoder: TorchDecoder | None = TorchDecoder(model)
        config = model.config.text_config
        self._context = int(config.max_position_embeddings)
        # Beyond the tokenizer's ids a model has unused outputs, up to a round number.
        banned = sorted(tokenizer.vision_tokens | set(range(len(tokenizer), config.vocab_size)))
        self._banned = torch.tensor(banned, device=model.device)

    def halves(self) -> tuple[TorchTower, TorchDecoder]:
        """The two halves, for measuring and for exporting.

        Raises:
            ValueError: The engine is closed.
        """
        if self._tower is None or self._decoder is None:
            raise ValueError("this engine is closed; load it again")
        return self._tower, self._decoder

    def session(self) -> Session:
        """A fresh stream state; use as a context manager."""
        tower, decoder = self.halves()
        return Session(
            tower,
            decoder,
            tokenizer=self.tokenizer,
            preprocessor=self.preprocessor,
            context=self._context,
            banned=self._banned,
        )

    def close(self) -> None:
        """Free the weights, as soon as no session holds them any more."""
        self._tower = self._decoder = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def _as_engine_errors(doing: str) -> Iterator[None]:
    """Turn failures of the device into the one line that a user can act on."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError(
            f"the device ran out of memory while {doing}: use fewer or smaller pictures, or a smaller model"
        ) from error
    except torch.AcceleratorError as error:
        raise EngineError(f"the device failed while {doing}: {' '.join(str(error).split())[:200]}") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise EngineError(
            f"memory ran out while {doing}: use fewer or smaller pictures, or a smaller model"
        ) from error
