"""Builds an engine from an engine folder: graphs, tokenizer, profile and description."""

from __future__ import annotations

from pathlib import Path

import torch

from egolive.assistant.backends.onnx.graph_backend import GraphDecoder, GraphTower
from egolive.assistant.model.engine_folder import EngineCard
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.runtime.local_engine import LocalEngine
from egolive.assistant.schema.engine import EngineInfo
from egolive.assistant.schema.profiles import load_profile
from egolive.assistant.schema.tokenizer import load_tokenizer

__all__ = ["graph_engine"]

_WEIGHTS = {
    "onnx": (".onnx", ".data", ".safetensors"),
    "onnx-tensorrt": (".onnx", ".data", ".safetensors"),
    "tensorrt": (".engine", ".safetensors"),
}
"""Endings of the files whose weights each backend loads."""


def graph_engine(
    folder: Path,
    card: EngineCard,
    tower: GraphTower,
    decoder: GraphDecoder,
    *,
    backend: str,
    device: torch.device,
    context: int | None = None,
) -> LocalEngine[GraphTower, GraphDecoder]:
    """Put an engine together.

    Args:
        folder: Of the engine; its files have been verified.
        card: What it says.
        tower: Ready.
        decoder: Ready.
        backend: As `EngineInfo` has it.
        device: Of the decoder's logits.
        context: Tokens that can be held where that is less than the model can.

    Raises:
        EngineError: The tokenizer cannot be used.
        ConfigError: A mistake in the profile.
    """
    profile = load_profile(folder)
    weights = (known["bytes"] for name, known in card.files.items() if Path(name).suffix in _WEIGHTS[backend])
    return LocalEngine(
        tower,
        decoder,
        tokenizer=load_tokenizer(folder, image_token=card.image_token, video_token=card.video_token),
        preprocessor=Preprocessor.from_folder(folder),
        profile=profile,
        info=EngineInfo(
            name=card.name,
            backend=backend,
            precision=card.precision["decoder"],
            device=str(device),
            profile=profile.name,
            weight_bytes=sum(weights),
        ),
        context=min(card.shapes.context, context or card.shapes.context),
        vocabulary=card.shapes.vocabulary,
        device=device,
    )
