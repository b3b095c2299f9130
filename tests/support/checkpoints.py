"""Checkpoints with random weights, in the structure of Qwen2-VL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2TokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEXTS = (
    "You are a helpful assistant.",
    "What is the wearer of this camera trying to do? What comes next?",
    "Find the left hand, the right hand, the red mug. <think></think><answer>[12, 345, 678, 900]</answer>",
    "Una taza de café, eine Tasse Tee, 一杯茶を飲む 🍵",
)
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
}
VISION = {"depth": 2, "embed_dim": 64, "num_heads": 4, "mlp_ratio": 2, "hidden_size": 64}


def make_tokenizer() -> Qwen2TokenizerFast:
    """A byte-level vocabulary of a few hundred tokens, with Qwen2-VL's control tokens."""
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(TEXTS, BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return Qwen2TokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None
    )


def make_checkpoint(
    folder: Path,
    *,
    text: dict[str, Any],
    vision: dict[str, Any],
    tied: bool = False,
    shard_size: str = "5GB",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Path:
    """A whole checkpoint folder with random weights.

    They are wide enough that what the model says depends on all that it has read: with the usual small
    ones it repeats one token whatever the positions, and tests pass for the wrong reason.
    """
    tokenizer = make_tokenizer()
    ids = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    end = {"eos_token_id": ids["<|im_end|>"], "bos_token_id": ids["<|endoftext|>"]}
    # A round number above the tokenizer's, as the real ones have.
    vocabulary = -(-(len(tokenizer) + 1) // 64) * 64
    config = Qwen2VLConfig(
        text_config={**text, "vocab_size": vocabulary, **end},
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
    )
    model = Qwen2VLForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(0.1 * noise + ("norm" in name or "ln_q" in name))
            else:
                gain = 2.5 if "self_attn" in name else 1.5
                weight.copy_(noise * (0.05 if "embed_tokens" in name else gain * weight[0].numel() ** -0.5))
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    tokenizer.save_pretrained(folder)
    return folder
