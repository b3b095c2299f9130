"""Checkpoints with random weights, in the structure of Qwen2-VL, and small pictures, for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2TokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from egolive.streaming.frames import Image
from egolive.streaming.writer import VideoWriter

# Taken before any test loads a model and so puts our rule in its place.
STOCK_ROPE_INDEX = Qwen2VLModel.get_rope_index

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


@pytest.fixture(scope="session")
def stock_rope_index() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """The positions of the transformers that is installed, without our override."""
    rule: Callable[..., tuple[torch.Tensor, torch.Tensor]] = STOCK_ROPE_INDEX
    return rule


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2-VL of width 64 with two layers in each half, in several shards."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny"), text=TEXT, vision=VISION, shard_size="300KB")


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a profile for small pictures, as the tests of training use it."""
    from tuning import with_profile

    return with_profile(tiny_checkpoint, tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="session")
def shallow_2b_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2-VL-2B's own widths, heads and tied embeddings, with 2 of 28 text layers, 2 of 32 vision layers.

    The vocabulary is small as well, the weights are stored in bf16.
    """
    text = {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 2,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    vision = {"depth": 2, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 1536}
    folder = tmp_path_factory.mktemp("shallow-2b")
    return make_checkpoint(folder, text=text, vision=vision, tied=True, dtype=torch.bfloat16)


@pytest.fixture(scope="session")
def nano_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nano's graphs as TensorRT reads them, in full precision, which a CPU can run, for small passes."""
    # Imported here: few tests need what exports.
    from tensorrt_graphs import SIZES

    from egolive.quantize.build import Recipe, build_onnx

    out = tmp_path_factory.mktemp("graphs") / "nano"
    build_onnx("nano", out, Recipe(head_bits=32, standard=True), sizes=SIZES, size=(56, 84))
    return out


@pytest.fixture(scope="session")
def pixels() -> Image:
    """56 x 84 of noise."""
    return np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory, pixels: Image) -> Path:
    path = tmp_path_factory.mktemp("picture") / "a picture.png"
    PillowImage.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds, ten pictures a second; each as bright as its number times two."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    with VideoWriter(path) as writer:
        for index in range(100):
            writer.write(np.full((56, 84, 3), 2 * index, np.uint8), index / 10)
    return path


@pytest.fixture
def server(picture: Path) -> Iterator[str]:
    """Serves the picture at /picture, and answers 404 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/picture" else 404)
            self.end_headers()
            self.wfile.write(picture.read_bytes() if self.path == "/picture" else b"")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=partial(running.serve_forever, poll_interval=0.01))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()
