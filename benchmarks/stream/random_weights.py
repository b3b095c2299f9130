"""Engines with random weights in the true structure of Qwen2-VL, to measure cost without a checkpoint.

    python -m egolive.benchmarks.stream.random_weights 2b random-2b
    egolive quantize random-2b --to int4 --out random-2b-int4
    egolive bench engines random-2b random-2b-int4

What they say means nothing. Widths, heads, vocabulary and prompts' lengths are the real ones; layers may be
left out, each costs the same.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from cyclopts import App
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, Qwen2VLConfig
from transformers.initialization import no_init_weights

from egolive.assistant.backends.torch.torch_engine import TorchEngine
from egolive.assistant.diagnostics.structures import EGOTHINKER, SMALLER
from egolive.assistant.diagnostics.structures import STRUCTURES as PUBLISHED
from egolive.assistant.model.model_sizes import ModelSizes
from egolive.assistant.model.positions import install_rope_override
from egolive.assistant.model.preprocess import Preprocessor
from egolive.assistant.prompts.prompts import build_prompt
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import EngineInfo
from egolive.assistant.schema.profiles import EGOTHINKER_V1, Profile, save_profile
from egolive.assistant.schema.tokenizer import load_tokenizer
from egolive.train.nano.tokenizer_training import SPECIAL_TOKENS, build_tokenizer

__all__ = ["STRUCTURES", "random_checkpoint", "random_engine"]

_CONSOLE = Console(stderr=True)
_FILE_BYTES = 2 * 10**9
"""Of weights in one file, before the last of them."""
_PICTURE = (252, 448)
"""Height and width at which windows and pictures are seen: 144 tokens."""


STRUCTURES = {"2b": PUBLISHED[SMALLER], "7b": PUBLISHED[EGOTHINKER]}
"""Qwen2-VL-2B and Qwen2-VL-7B, of which EgoThinker-v1 was made."""


def random_engine(
    name: str,
    structure: ModelSizes,
    *,
    questions: Sequence[Question],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    graphs: bool = True,
    seed: int = 0,
) -> TorchEngine:
    """An engine with random weights, EgoThinker-v1's prompts and pictures of 448x252.

    Its vocabulary is that of the questions' own texts, where a word is a token as it is in Qwen2-VL's; all
    other outputs are there and never said.

    Args:
        name: What to call it.
        structure: Of the model.
        questions: Those that it will be asked.
        device: Where it runs.
        dtype: Of its weights.
        graphs: On CUDA, decode by graphs.
        seed: Of the weights.
    """
    profile, words, config = _described(structure, questions)
    install_rope_override()
    with torch.device(device), no_init_weights():
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.tie_weights()
    _randomise(model, device, seed)
    model.requires_grad_(requires_grad=False)
    with tempfile.TemporaryDirectory() as folder:
        words.save_pretrained(folder)
        tokenizer = load_tokenizer(
            Path(folder), image_token=config.image_token_id, video_token=config.video_token_id
        )
    info = EngineInfo(
        name=name,
        backend="torch",
        precision="fp32" if dtype == torch.float32 else "bf16",
        device=str(device),
        profile=profile.name,
        weight_bytes=sum(parameter.nbytes for parameter in model.parameters()),
    )
    return TorchEngine(
        model.eval(),
        tokenizer=tokenizer,
        preprocessor=Preprocessor(),
        profile=profile,
        info=info,
        graphs=graphs,
    )


def _described(structure: ModelSizes, questions: Sequence[Question]) -> tuple[Profile, Any, Qwen2VLConfig]:
    """Profile, tokenizer and configuration of a model with random weights."""
    profile = replace(EGOTHINKER_V1, picture=_PICTURE)
    texts = [part for question in questions for part in build_prompt(profile, question, []).parts]
    # A pair of letters is merged where it is met more than once.
    words = build_tokenizer([str(text) for text in texts] * 3)
    ids = {token: words.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": structure.width,
            "intermediate_size": structure.mlp_width,
            "num_hidden_layers": structure.layers,
            "num_attention_heads": structure.heads,
            "num_key_value_heads": structure.kv_heads,
            "vocab_size": structure.vocabulary,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32_768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={"depth": structure.tower_blocks, "hidden_size": structure.width},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=structure.tied,
    )
    return profile, words, config


def _randomise(model: torch.nn.Module, device: torch.device, seed: int) -> None:
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            _draw(name, weight, generator)


def _draw(name: str, weight: torch.Tensor, generator: torch.Generator) -> None:
    """Weights so wide that what is said depends on what is seen: with small ones it is one token again."""
    if weight.ndim == 1:
        weight.normal_(std=0.1, generator=generator)
        if "norm" in name or "ln_q" in name:
            weight.add_(1)
        return
    gain = 2.5 if "self_attn" in name else 1.5
    spread = 0.05 if "embed_tokens" in name else gain * weight[0].numel() ** -0.5
    weight.normal_(std=spread, generator=generator)


def random_checkpoint(
    model: Literal["2b", "7b"],
    out: Path,
    *,
    layers: int | None = None,
    vision_layers: int | None = None,
    dtype: Literal["fp32", "bf16"] = "bf16",
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Write a checkpoint as the hub has it, whose weights are random, to measure what can be made of it.

    The weights are drawn and written one layer at a time: memory holds one file's worth of them.

    Args:
        model: Whose structure.
        out: The new folder.
        layers: Text layers, fewer than the real number where memory or time does not allow them.
        vision_layers: The same for the tower.
        dtype: In which the weights are stored.
        device: Draws the weights: a GPU is faster, and draws other ones.
        seed: Of the weights.
    """
    whole = STRUCTURES[model]
    structure = replace(
        whole,
        layers=layers or whole.layers,
        tower_blocks=vision_layers or whole.tower_blocks,
    )
    questions = [Question("intent"), Question("ground", "left hand")]
    profile, words, config = _described(structure, questions)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    config.dtype = kind
    out.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        empty = AutoModelForImageTextToText.from_config(config, dtype=kind, attn_implementation="sdpa")
    generator = torch.Generator(device).manual_seed(seed)
    index: dict[str, str] = {}
    held: dict[str, torch.Tensor] = {}
    files = 0
    names = dict(empty.named_parameters())
    total = sum(weight.numel() for weight in names.values()) * kind.itemsize
    for number, (name, weight) in enumerate(track(names.items(), "drawing weights", console=_CONSOLE)):
        drawn = torch.empty(weight.shape, device=device)
        _draw(name, drawn, generator)
        held[_hub_name(name)] = drawn.to(kind).cpu()
        if sum(part.nbytes for part in held.values()) > _FILE_BYTES or number == len(names) - 1:
            files += 1
            file = f"model-{files:05d}.safetensors"
            save_file(held, out / file, metadata={"format": "pt"})
            index |= dict.fromkeys(held, file)
            held = {}
    (out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1)
    )
    config.architectures = ["Qwen2VLForConditionalGeneration"]
    config.save_pretrained(out)
    save_profile(profile, out)
    tokenizer: Any = words
    tokenizer.save_pretrained(out)


def _hub_name(name: str) -> str:
    """A weight's name in the checkpoints of the hub, which transformers 4.45 has written."""
    return name.removeprefix("model.").replace("language_model.", "model.", 1) if "." in name else name


if __name__ == "__main__":
    App(default_command=random_checkpoint)()
