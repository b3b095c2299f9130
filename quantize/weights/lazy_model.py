"""A Qwen2-VL checkpoint as a model of transformers whose weights stay in their files until they are used.

Norms, biases and the first convolution are in memory, in fp32; they are small. Linear layers and embeddings
are mapped from the files and read a matrix at a time, whatever the checkpoint's size. What comes out is a
model that computes, slowly, exactly what the checkpoint says: it is written to graphs, calibrated on, and
compared with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.initialization import no_init_weights

from egolive.assistant.model.checkpoint import inspect_checkpoint
from egolive.assistant.model.positions import install_rope_override
from egolive.quantize.weights.forms import DenseWeight, Weight
from egolive.quantize.weights.published import Published, published_form
from egolive.quantize.weights.stored_layers import StoredEmbedding, StoredLinear
from egolive.streaming.errors import EngineError

__all__ = ["Tensors", "canonical_name", "model_config", "open_model"]

_TEXT = re.compile(r"^model\.(?=(layers|embed_tokens|norm)\.)")


class Tensors(Mapping[str, torch.Tensor]):
    """The tensors of a checkpoint by canonical name; each is mapped from its file when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Open the files of a checkpoint.

        Raises:
            EngineError: It cannot be used.
        """
        self._files: dict[str, tuple[Any, str]] = {}
        for path in inspect_checkpoint(folder).weights:
            file: Any = safe_open(path, framework="pt")
            # A safetensors file is no mapping.
            self._files |= {canonical_name(name): (file, name) for name in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> torch.Tensor:
        file, stored = self._files[name]
        tensor: torch.Tensor = file.get_tensor(stored)
        return tensor

    def __iter__(self) -> Any:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def stored_name(self, name: str) -> str:
        """The name that the file has for a canonical one."""
        stored: str = self._files[name][1]
        return stored


def canonical_name(name: str) -> str:
    """A tensor's name as transformers 5 has it; checkpoints of before 4.52 have shorter ones."""
    if name.startswith("visual."):
        return f"model.{name}"
    return _TEXT.sub("model.language_model.", name)


def model_config(folder: Path) -> Qwen2VLConfig:
    """The configuration of a checkpoint.

    Raises:
        EngineError: It cannot be read.
    """
    try:
        config = Qwen2VLConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds for a broken configuration
        reason = " ".join(str(error).split())[:300]
        raise EngineError(f"{folder / 'config.json'} cannot be used: {reason}; download it again") from error
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return cast("Qwen2VLConfig", config)


def open_model(
    folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[Qwen2VLForConditionalGeneration, Published | None]:
    """Open a checkpoint without reading its large weights.

    From here on transformers' Qwen2-VL computes positions by the rule of transformers 4.x, in this whole
    process (see `egolive.assistant.model.positions`).

    Args:
        folder: Of the checkpoint; its text layers may be quantised in a published form.
        dtype: To which weights are rounded before they are used; they are computed with in fp32.

    Returns:
        The model, and the form of its text layers; None where they are not quantised.

    Raises:
        EngineError: It cannot be used, or is not whole.
    """
    install_rope_override()
    tensors = Tensors(folder)
    config = model_config(folder)
    form = published_form(folder)
    config._attn_implementation = "sdpa"
    try:
        with torch.device("meta"), no_init_weights():
            model = Qwen2VLForConditionalGeneration(config)
    except Exception as error:  # of a configuration that no model can have
        reason = " ".join(str(error).split())[:300]
        raise EngineError(f"{folder} cannot be loaded: {reason}") from error
    text, visual = model.model.language_model, model.model.visual
    # Tables of frequencies are computed, not stored.
    text.rotary_emb = type(text.rotary_emb)(config=config.text_config)
    visual.rotary_pos_emb = type(visual.rotary_pos_emb)(config.vision_config)
    _fill(model, tensors, form, folder, dtype)
    return model.requires_grad_(requires_grad=False).eval(), form


def _fill(
    model: Qwen2VLForConditionalGeneration,
    tensors: Tensors,
    form: Published | None,
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """Put a checkpoint's tensors where an empty model has its parameters."""
    tied = "lm_head.weight" not in tensors and bool(model.config.tie_word_embeddings)
    # A last layer that is stored counts, whatever the configuration says.
    model.config.tie_word_embeddings = tied

    def tensor(name: str, shape: torch.Size | tuple[int, ...]) -> torch.Tensor:
        if name not in tensors:
            raise EngineError(
                f"{folder} lacks a weight of the model, {name}; download it again or save the whole model"
            )
        found = tensors[name]
        if tuple(found.shape) != tuple(shape):
            raise EngineError(
                f"{folder}: {name} has the shape {tuple(found.shape)}, its configuration says "
                f"{tuple(shape)}; download it again"
            )
        return found

    def rounded(found: torch.Tensor) -> torch.Tensor:
        return found.to(dtype).float()

    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            size = (module.out_features, module.in_features)
            inside = ".language_model." in name
            stored: Weight
            if form is not None and inside and f"{name}.weight" not in tensors:
                stored = form.weight(tensors, name, size)
            else:
                held = "model.language_model.embed_tokens" if tied and name == "lm_head" else name
                stored = DenseWeight(tensor(f"{held}.weight", size), dtype)
            bias = None if module.bias is None else rounded(tensor(f"{name}.bias", module.bias.shape))
            _replace(model, name, StoredLinear(stored, bias))
        elif isinstance(module, nn.Embedding):
            size = (module.num_embeddings, module.embedding_dim)
            _replace(model, name, StoredEmbedding(DenseWeight(tensor(f"{name}.weight", size), dtype)))
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            owner, _, last = name.rpartition(".")
            value = nn.Parameter(rounded(tensor(name, parameter.shape)), requires_grad=False)
            setattr(model.get_submodule(owner), last, value)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, module)
