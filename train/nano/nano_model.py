"""The nano model: Qwen2-VL's architecture at a few million weights, for trying and testing.

It is never passed off as EgoThinker: it knows the simulator's kitchen and workbench, and nothing else.
"""

from __future__ import annotations

import torch
from transformers import GenerationConfig, Qwen2TokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

__all__ = ["COLUMNS", "HEIGHT", "ROWS", "WIDTH", "nano_config", "new_nano"]

HEIGHT, WIDTH = 140, 224
"""The picture as nano sees it, pixels."""
ROWS, COLUMNS = HEIGHT // 28, WIDTH // 28
"""Merged visual tokens of a picture or slice: 5 x 8 = 40."""


def nano_config(tokenizer: Qwen2TokenizerFast) -> Qwen2VLConfig:
    """Sizes: vision 6 x 192, text 5 x 256; text widths are multiples of 128, as int4 groups need."""
    token = tokenizer.convert_tokens_to_ids
    # A vocabulary padded to a multiple of 128, as the real checkpoints have it.
    vocabulary = -(-len(tokenizer) // 128) * 128
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        # M-RoPE gives columns the slowest frequencies. With the usual theta of 10,000 or more, nano's 8
        # columns would turn by 0.02 radians in all, too little to be told apart; with 8 it is 0.9 to 1.9.
        "rope_parameters": {"rope_type": "default", "rope_theta": 8.0, "mrope_section": [8, 12, 12]},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
    }
    vision = {
        "depth": 6,
        "embed_dim": 192,
        "num_heads": 3,
        "hidden_size": 256,
        "mlp_ratio": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
    }
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        dtype="float32",
    )


def new_nano(tokenizer: Qwen2TokenizerFast, seed: int = 0) -> Qwen2VLForConditionalGeneration:
    """Fresh weights, the same for the same seed."""
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(nano_config(tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        do_sample=False,
    )
    return model
