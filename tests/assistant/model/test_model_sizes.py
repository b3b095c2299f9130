"""Sizes of a model from its configuration, against weights that are there and published numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from measured import config_folder

from egolive.assistant.diagnostics.structures import EGOTHINKER, SMALLER, STRUCTURES
from egolive.assistant.model.checkpoint import inspect_checkpoint
from egolive.assistant.model.model_sizes import ModelSizes, model_sizes
from egolive.streaming.errors import EngineError


def sizes(folder: Path) -> ModelSizes:
    return model_sizes(json.loads((folder / "config.json").read_text()), where=str(folder))


def test_the_weights_of_a_checkpoint_are_counted_to_the_last(tiny_checkpoint: Path) -> None:
    there, found = inspect_checkpoint(tiny_checkpoint), sizes(tiny_checkpoint)
    assert found.total == there.elements
    assert found.head == there.head_elements
    assert found.stored_bytes == 4


def test_published_models_have_their_published_sizes(tmp_path: Path) -> None:
    # As the hub tells them: 8,291,375,616 and 2,208,985,600 parameters.
    assert STRUCTURES[EGOTHINKER].total == 8_291_375_616
    assert STRUCTURES[SMALLER].total == 2_208_985_600
    assert sizes(config_folder(tmp_path)) == STRUCTURES[EGOTHINKER]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "llama"}, "no Qwen2-VL model"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"num_hidden_layers": 0}, "no num_hidden_layers"),
        ({"num_hidden_layers": "28"}, "no num_hidden_layers"),
        ({"vision_config": {"mlp_ratio": "wide"}}, "no mlp_ratio"),
        ({"vocab_size": 2**40}, "no vocab_size"),
    ],
)
def test_a_configuration_without_a_size_is_one_line(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    folder = config_folder(tmp_path / "model", **change)
    with pytest.raises(EngineError, match=told) as caught:
        sizes(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
