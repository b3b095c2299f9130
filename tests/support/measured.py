"""Made-up speeds of a machine, cards of engines, and folders with a large model's configuration alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from egolive.assistant.model.engine_folder import EngineCard, Shapes
from egolive.assistant.system.speed import FORMATS, LinearSpeed, Speeds

__all__ = ["config_folder", "engine_card", "speeds"]

SEVEN_B = {"hidden_size": 3584, "intermediate_size": 18_944, "num_attention_heads": 28}


def speeds(
    weight: float = 1e-11, *, row: float | None = None, copy: float = 1e30, without: tuple[str, ...] = ()
) -> Speeds:
    """The same seconds a weight in every format, in passes of one row as of several; a CPU's.

    Args:
        weight: Seconds of a weight in a pass of one or a few rows.
        row: Seconds of a weight and row in a pass of many; as `weight` without it.
        copy: Bytes a second.
        without: Formats that were not measured.
    """
    one = LinearSpeed(weight, weight, weight if row is None else row)
    return Speeds("cpu", 1, 10e9, copy, {name: one for name in FORMATS if name not in without})


def config_folder(folder: Path, **changes: object) -> Path:
    """A folder with nothing but a 7B's `config.json`, in the flat form of the published ones."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "model_type": "qwen2_vl",
        **SEVEN_B,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vision_config": {
            "depth": 32,
            "embed_dim": 1280,
            "num_heads": 16,
            "mlp_ratio": 4,
            "hidden_size": 3584,
        },
    }
    (folder / "config.json").write_text(json.dumps(values | changes), encoding="utf-8")
    return folder


def engine_card(form: str, backend: Literal["onnx", "torch", "tensorrt"] = "onnx") -> EngineCard:
    """What an engine folder says of itself, whose files are not there."""
    return EngineCard(
        name="model",
        backend=backend,
        precision={"tower": "fp32", "decoder": form, "head": "int8", "embeddings": "bf16"},
        shapes=Shapes(
            height=252, width=448, hidden=1, layers=1, kv_heads=1, head_width=1, vocabulary=1, context=1
        ),
        image_token=0,
        video_token=1,
        profile="egothinker-v1",
        source={"name": "model", "sha256": ""},
        versions={},
        files={"decoder.onnx": {"bytes": 1, "sha256": ""}},
    )
