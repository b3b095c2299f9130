"""The torch engine: the modules of transformers' Qwen2-VL. It is the reference for every other engine.

The tower encodes one slice a call; the decoder takes embeddings, positions and a KV cache. The model keeps no
state between calls, so sessions are independent. `egolive.assistant.load_local` loads a checkpoint into it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen2VLForConditionalGeneration

from egolive.assistant.backends.torch.cuda_graphs import cuda_capture
from egolive.assistant.backends.torch.device_errors import as_engine_errors
from egolive.assistant.backends.torch.torch_decoder import TorchDecoder
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.schema.engine import EngineInfo
from egolive.assistant.schema.profiles import Profile
from egolive.assistant.schema.tokenizer import Tokenizer

__all__ = ["TorchEngine", "TorchTower"]


class TorchTower:
    """The vision tower: patches of one slice to visual tokens."""

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        self._visual = model.model.visual
        self._device: torch.device = model.device
        self._dtype: torch.dtype = model.dtype

    def encode(self, patches: NDArray[np.float32], grid: tuple[int, int, int]) -> torch.Tensor:
        """Encode one slice or picture; see `VisionTower`."""
        with as_engine_errors("encoding a picture"), torch.inference_mode():
            pixels = torch.from_numpy(patches).to(self._device, self._dtype)
            tokens: torch.Tensor = self._visual(
                pixels, grid_thw=torch.tensor([grid], device=self._device)
            ).pooler_output
        return tokens


class TorchEngine(LocalEngine[TorchTower, TorchDecoder]):
    """A loaded Qwen2-VL checkpoint; an `Engine`."""

    def __init__(
        self,
        model: Qwen2VLForConditionalGeneration,
        *,
        tokenizer: Tokenizer,
        preprocessor: Preprocessor,
        profile: Profile,
        info: EngineInfo,
        graphs: bool = True,
    ) -> None:
        """Take over a model in evaluation mode, on its device.

        Args:
            model: All of its weights on one device.
            tokenizer: Of the same checkpoint.
            preprocessor: Of the same checkpoint.
            profile: How it is asked and read.
            info: What to say about it.
            graphs: On CUDA, decode by graphs; elsewhere there are none.
        """
        capture = cuda_capture(model.device) if graphs and model.device.type == "cuda" else None
        config = model.config.text_config
        super().__init__(
            TorchTower(model),
            TorchDecoder(model, capture),
            tokenizer=tokenizer,
            preprocessor=preprocessor,
            profile=profile,
            info=info,
            context=int(config.max_position_embeddings),
            vocabulary=int(config.vocab_size),
            device=model.device,
        )
